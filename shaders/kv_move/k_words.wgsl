// [planes, H_kv, rows, words] by strides
@group(0) @binding(5) var<storage, read_write> k_cache: array<u32>;

