// Keys and values wherever they lie; what does not exist is zero, whatever memory holds.
//
// key_place, oldest_of: attention/keys_*.wgsl; half_unit: attention/load.wgsl;
// value_quad: cache/read_v_*.wgsl

// Where the rows of a key and of its value start; of a key that does not exist, those of one that
// does.
fn rows_of_key(work: Work, key: u32) -> vec2<u32> {
    let place = key_place(work.batch, min(key, work.keys - 1u));
    return vec2(
        work.k_head + place.x * params.cache.k.batch + place.y * params.cache.k.row,
        work.v_head + place.x * params.cache.v.batch + place.y * params.cache.v.row,
    );
}

// Whether there is such a key: not past the last one, and not gone from a cache that rolls.
fn key_exists(work: Work, key: u32) -> bool {
    return key < work.keys && key >= oldest_of(work.keys);
}

// Four channels of one key, whose row it is; of a key that does not exist, zeros, whatever memory
// holds.
fn key_half(work: Work, key: u32, row: u32, u: u32, half: u32) -> vec4<f32> {
    return select(vec4(0.0), half_unit(true, row, u, half), key_exists(work, key));
}

// Four channels of the value of one key, whose row it is; of a key that does not exist, zeros,
// whatever memory holds.
fn value(work: Work, key: u32, row: u32, column: u32) -> vec4<f32> {
    let x = value_quad(row, min(column, VALUE_DIM / 4u - 1u));
    return select(vec4(0.0), x, key_exists(work, key) && column < VALUE_DIM / 4u);
}

