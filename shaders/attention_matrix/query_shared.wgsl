// The imaginary stream takes its query from the fragments of the real one: (a, b) turned is (b,
// -a). Metal has no product of a matrix and a number.

fn second_query(work: Work) -> Work {
    return work;
}

fn negative(q: MatA) -> MatA {
    return q * f16(-1.0);
}
