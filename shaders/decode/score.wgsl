// The scores of a row with a key of the cache.
//
// modified, Place: score.wgsl

// q · k + sum
fn dot_add(q: vec4<f32>, k: vec4<f32>, sum: f32) -> f32 {
    return fma(q.w, k.w, fma(q.z, k.z, fma(q.y, k.y, fma(q.x, k.x, sum))));
}

// The query head and the output heads of a row of a kv head.
fn program_of(kv_head: u32, row: u32) -> Program {
    return programs[kv_head * params.programs + row % params.programs];
}

// A score of stream t of row i of a sequence, after softcap, ALiBi, bias and hooks.
fn modified_score(
    score: f32, program: Program, t: u32, batch: u32, i: u32, query: i32, key: u32,
) -> f32 {
    let head = select(program.head0, program.head1, t == 1u);
    let slope = select(program.slope0, program.slope1, t == 1u);
    return modified(score, slope, Place(batch, head, i, query, query, key));
}
