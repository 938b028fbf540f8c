// What a workgroup works on, and where its results go.
//
// HeadRow, head_of: head_rows.wgsl; rows_of: attention/rows_*.wgsl; keys_of, hidden_up_to:
// attention/keys_*.wgsl; prefix_of, before_window: attention/prefix_*.wgsl; store_out,
// store_out_im: io/; write_lse: attention/lse*.wgsl; log_sum_exp: softmax.wgsl

fn work_of(in_part: u32) -> Work {
    let linear = params.first_group + in_part;
    // Heads whose keys and values fit a cache together go together, and within such a bundle late
    // tiles first, since they see the most keys under a causal mask.
    let first_line = linear / (params.bundle * params.tiles) * params.bundle;
    let bundle = min(params.bundle, params.head_rows * params.batch - first_line);
    let within = linear - first_line * params.tiles;
    let line = first_line + within % bundle;
    var work: Work;
    work.tile = params.tiles - 1u - within / bundle;
    work.batch = line / params.head_rows;
    work.head_row = head_rows[line % params.head_rows];
    work.rows = rows_of(work.batch);
    work.keys = keys_of(work.batch);
    work.offset = params.offset;
    if (params.align_last != 0u) {
        work.offset = i32(work.keys) - i32(work.rows.count);
    }
    let kv_head = work.head_row.source / params.group;
    work.k_head = params.cache.k.offset + kv_head * params.cache.k.head;
    work.v_head = params.cache.v.offset + kv_head * params.cache.v.head;

    let q_first = work.tile * BLOCK_Q;
    let last_row = i32(min(q_first + BLOCK_Q, work.rows.count)) - 1;
    work.prefix = i32(prefix_of(work.batch));
    let visible = min(work.keys, u32(max(last_row + work.offset + params.ahead + 1, work.prefix)));
    // Whole tiles before the first row's window are left out.
    let first = before_window(work.prefix, i32(q_first) + work.offset);
    let oldest = hidden_up_to(work.keys, first) + 1;
    work.start = u32(max(oldest, 0)) / BLOCK_K * BLOCK_K;
    work.end = visible;
    if (RESUMABLE) {
        work.end = min(visible, work.start + params.end_step * BLOCK_K);
        work.start += params.first_step * BLOCK_K;
    }
    return work;
}

// Where the outputs of a row start. Apart from the stores, which compilers repeat for every column.
fn out_row(work: Work, stream: u32, row: u32) -> u32 {
    let head = select(head_of(work.head_row, stream), work.head_row.source, SPLIT);
    if (stream == 0u) {
        return params.out.offset + work.batch * params.out.batch
            + head * params.out.head + (work.rows.first + row) * params.out.row;
    }
    return params.out_im.offset + work.batch * params.out_im.batch
        + head * params.out_im.head + (work.rows.first + row) * params.out_im.row;
}

fn store_quad(stream: u32, at: u32, x: vec4<f32>) {
    if (stream == 0u) {
        store_out(at, x);
    } else {
        store_out_im(at, x);
    }
}

fn store_lse(work: Work, stream: u32, row: u32, m: f32, l: f32) {
    let head = head_of(work.head_row, stream);
    let at = work.batch * params.lse_batch + head * params.lse_head + work.rows.first + row;
    write_lse(at, log_sum_exp(m, l, params.minus_infinity));
}
