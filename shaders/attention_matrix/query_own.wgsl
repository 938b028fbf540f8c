// The second stream has a query of its own, which is turned by its own phase when it is staged.

fn second_query(work: Work) -> Work {
    var second = work;
    second.head_row.phases = work.head_row.phases.zwxy;
    return second;
}

fn negative(q: MatA) -> MatA {
    return q;
}
