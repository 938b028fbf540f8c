// What a workgroup works on lies in workgroup memory and is read where it is used: about twenty
// numbers that no register holds meanwhile.

var<workgroup> shared_work: Work;

fn keep_work(tid: u32, work: Work) {
    if (tid == 0u) {
        shared_work = work;
    }
    workgroupBarrier(); // it is there
}

fn keep_head_row(tid: u32, head_row: HeadRow) {
    workgroupBarrier(); // the one before has been read
    if (tid == 0u) {
        shared_work.head_row = head_row;
    }
    workgroupBarrier(); // it is there
}

fn kept_work(work: Work) -> Work {
    return shared_work;
}
