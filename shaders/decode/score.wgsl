// The scores of a row with a key of the cache.
//
// modified, Place: score.wgsl

// q · k + sum
fn dot_add(q: vec4<f32>, k: vec4<f32>, sum: f32) -> f32 {
    return fma(q.w, k.w, fma(q.z, k.z, fma(q.y, k.y, fma(q.x, k.x, sum))));
}

// The query head and the output heads of a row of a kv head.
fn head_row_of(kv_head: u32, row: u32) -> HeadRow {
    return head_rows[kv_head * params.head_rows + row % params.head_rows];
}

// A score of stream t of row i of a sequence, after softcap, ALiBi, bias and hooks.
fn modified_score(
    score: f32, head_row: HeadRow, t: u32, batch: u32, i: u32, query: i32, key: u32,
) -> f32 {
    let head = head_of(head_row, t);
    let slope = select(head_row.slopes.x, head_row.slopes.y, t == 1u);
    return modified(score, slope, Place(batch, head, i, query, query, key));
}
