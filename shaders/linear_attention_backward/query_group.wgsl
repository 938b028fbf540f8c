fn query_group(work: Work, s: u32, group: u32) -> vec4<f32> {
    let head = heads[work.slot];
    return vec4(
        query(work.batch, head, s, 2u * group).rotated,
        query(work.batch, head, s, 2u * group + 1u).rotated,
    );
}
