@group(0) @binding(5) var<storage, read_write> q_out: array<Stored>; // [B, H_q, S, D] by strides
@group(0) @binding(6) var<storage, read_write> k_out: array<Stored>; // [B, H_k, S, D] by strides

fn load_stored(is_k: bool, i: u32) -> Stored {
    if (is_k) {
        return k_out[i];
    }
    return q_out[i];
}

fn load_written(is_k: bool, i: u32) -> Stored {
    return load_stored(is_k, i);
}

fn store_stored(is_k: bool, i: u32, x: Stored) {
    if (is_k) {
        k_out[i] = x;
    } else {
        q_out[i] = x;
    }
}

