// [planes, H_kv, rows, words] by strides
@group(0) @binding(6) var<storage, read_write> v_cache: array<u32>;

