// What a workgroup works on stays with every invocation.
fn keep_work(tid: u32, work: Work) {
}

fn keep_head_row(tid: u32, head_row: HeadRow) {
}

fn kept_work(work: Work) -> Work {
    return work;
}
