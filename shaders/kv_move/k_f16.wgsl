// [planes, H_kv, rows, D] by strides, four f16 channels an entry
@group(0) @binding(5) var<storage, read_write> k_cache: array<vec2<u32>>;

