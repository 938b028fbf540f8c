// What a stream does with its scores and outputs, fragments of them at a time: they leave the
// matrix units and come back through the subgroup's rows of single_tile, where invocations have
// parts of rows.
//
// Streams go through functions, which get theirs as a constant: a loop that a compiler does not
// unroll would index what lies in registers, and have it in memory.
//
// out_row, store_*: attention/work.wgsl; kept_state, keep_state: attention/state_*.wgsl; value,
// rows_of_key: attention/load_keys.wgsl; sees: attention/sees.wgsl; block_visited:
// attention/blocks_*.wgsl; with_sink: softmax.wgsl; too_large, mend_v: attention_matrix/stage.wgsl;
// modify, scores_of, top_of, weigh, *_share*: attention_matrix/softmax.wgsl

const RUN_QUADS: u32 = K_FRAGMENTS * M4 / PARTS; // of a row of a run of o, of an invocation

// What the values that f16 cannot hold add to four channels of a row. The last part of a call that
// was cut looks at the keys of all.
fn beyond_f16(work: Work, stream: u32, row: u32, column: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    var start = work.start;
    if (RESUMABLE) {
        start -= params.first_step * BLOCK_K;
    }
    for (var key = start; key < work.end; key++) {
        if (BLOCKS && !block_visited(work.batch, work.tile, key / BLOCK_K)) {
            continue;
        }
        let x = value(work, key, rows_of_key(work, key).y, column);
        let counts = too_large(x) & vec4(sees(work, stream, row, key));
        sum += select(vec4(0.0), -params.minus_infinity * x, counts);
    }
    return sum;
}

// What an invocation has of its workgroup's queries.
struct Own {
    row: u32,        // of its sequence
    row_in: u32,     // of the tile
    part: u32,       // of the row: which quads
    s_at: u32,       // where its row of single_tile starts
    subgroup_s: u32, // and the first row of its subgroup
    scale: f32,      // on scores
}

// Fragment j of a row's BLOCK_K, in the subgroup's rows of single_tile.
fn put_fragment(own: Own, j: u32, x: MatC) {
    let at = own.subgroup_s + j * M4;
    let pitch = 4u * S_ROW;
    coopStoreT(x, &single_tile[at][0], pitch);
}

fn fragment(own: Own, j: u32) -> MatC {
    return coopLoadT<MatC>(&single_tile[own.subgroup_s + j * M4][0], 4u * S_ROW);
}

alias Scores = array<MatC, STREAMS * K_FRAGMENTS>;
alias Outputs = array<MatC, STREAMS * V_FRAGMENTS>;

// What a row's scores are taken relative to, in base 2, and sums of this invocation's weights, as
// rounded and not.
struct Sums {
    m: f32,
    l: vec2<f32>,
}

// A stream's scores through single_tile into weights. Scores are done with then, and their
// registers free.
fn weigh_stream(
    t: u32,
    tid: u32,
    own: Own,
    work: Work,
    first: u32,
    hidden: bool,
    mend: bool,
    s: ptr<function, Scores>,
    o: ptr<function, Outputs>,
    before: Sums,
) -> Sums {
    for (var j = 0u; j < K_FRAGMENTS; j++) {
        put_fragment(own, j, (*s)[t * K_FRAGMENTS + j]);
    }
    workgroupBarrier(); // scores are written; at t = 0, k is read
    if (MODIFIED) {
        modify(work, t, own.row, own.s_at, own.scale, own.part, first);
    }
    let x = scores_of(work, own.row, own.s_at, own.scale, own.part, first, hidden);
    if (top_of(x) > before.m + LAZY) {
        atomicStore(&moved, 1u);
    }
    let p_at = (t * BLOCK_Q + own.row_in) * P_ROW;
    var sums = before;
    sums.l += weigh(x, before.m, p_at, own.part);
    workgroupBarrier(); // weights are written
    if (atomicLoad(&moved) != 0u) {
        if (mend) {
            mend_v(tid, work, first);
        }
        let x = scores_of(work, own.row, own.s_at, own.scale, own.part, first, hidden);
        shares[tid] = vec2(top_of(x));
        workgroupBarrier(); // maxima are written
        let top = largest_share(tid);
        var alpha = 1.0;
        sums.m = before.m;
        if (top > before.m + LAZY) {
            alpha = exp2(before.m - (top + LIFT));
            sums.m = top + LIFT;
        }
        sums.l = alpha * before.l + weigh(x, sums.m, p_at, own.part);
        rescale(t, own, alpha, o);
        if (tid == 0u) {
            atomicStore(&moved, 0u);
        }
    }
    return sums;
}

// What was accumulated for each row, times its alpha.
fn rescale(t: u32, own: Own, alpha: f32, o: ptr<function, Outputs>) {
    workgroupBarrier(); // scores and maxima are read
    for (var n = 0u; n < V_FRAGMENTS; n += K_FRAGMENTS) {
        for (var j = 0u; j < K_FRAGMENTS; j++) {
            put_fragment(own, j, (*o)[t * V_FRAGMENTS + n + j]);
        }
        workgroupBarrier(); // accumulators are written
        for (var i = 0u; i < RUN_QUADS; i++) {
            let at = own.s_at + i * PARTS + own.part;
            put_single(at, alpha * single(at));
        }
        workgroupBarrier(); // and rescaled
        for (var j = 0u; j < K_FRAGMENTS; j++) {
            (*o)[t * V_FRAGMENTS + n + j] = fragment(own, j);
        }
        workgroupBarrier(); // and read
    }
}

// Where an invocation's state of a stream begins: its sums, then quads of accumulators.
fn state_of(t: u32, tid: u32, in_part: u32) -> u32 {
    return (in_part * STREAMS + t) * (STATE_LEN / STREAMS) * THREADS + tid;
}

// Takes up what an earlier part of the call left.
fn take_up(t: u32, state_at: u32, own: Own, o: ptr<function, Outputs>) -> Sums {
    for (var n = 0u; n < V_RUNS; n++) {
        for (var i = 0u; i < RUN_QUADS; i++) {
            let x = kept_state(state_at + (1u + n * RUN_QUADS + i) * THREADS);
            put_single(own.s_at + i * PARTS + own.part, x);
        }
        workgroupBarrier(); // accumulators are written
        for (var j = 0u; j < K_FRAGMENTS; j++) {
            (*o)[t * V_FRAGMENTS + n * K_FRAGMENTS + j] = fragment(own, j);
        }
        workgroupBarrier(); // and read
    }
    let kept = kept_state(state_at);
    if (kept.w != 0.0) {
        atomicStore(&non_finite, 1u);
    }
    return Sums(kept.x, kept.yz);
}

// Outputs of a stream, and its log-sum-exps; or its state, before the last part of a call.
fn finish(
    t: u32,
    tid: u32,
    state_at: u32,
    own: Own,
    work: Work,
    o: ptr<function, Outputs>,
    sums: Sums,
) {
    let l = sums.l;
    let m = sums.m;
    shares[tid] = select(l, l.yy, vec2(X3)); // weights in two parts are not rounded
    workgroupBarrier(); // sums are written
    var total = sum_of_shares(tid);
    var top = m;
    var scale = 1.0;
    if (SINKS) {
        let sink = work.head_row.sinks[t];
        let exact = with_sink(m, total.y, sink);
        total = vec2(with_sink(m, total.x, sink).l, exact.l);
        top = exact.m;
        scale = exact.scale;
    }
    // No visible key: the output is zero and the log-sum-exp minus infinity. A weight that is
    // not a number may have been lost by rounding, but not in the other sum.
    let sane = (bitcast<u32>(total.y) & 0x7f800000u) != 0x7f800000u;
    scale = select(total.y - params.minus_infinity, scale / total.x, sane);
    let last = !RESUMABLE || params.last_part != 0u;
    let kept = !last && work.rows.count > 0u;
    if (kept) {
        keep_state(state_at, vec4(m, l, f32(atomicLoad(&non_finite))));
    }
    let stored = last && own.row < work.rows.count && t < work.head_row.streams;
    let out_at = out_row(work, t, own.row);
    for (var n = 0u; n < V_RUNS; n++) {
        // Accumulators are chosen by comparison: an index that is not constant, where a
        // compiler does not unroll this loop, would have all of them in memory.
        var run: array<MatC, K_FRAGMENTS>;
        for (var r = 0u; r < V_RUNS; r++) {
            if (r == n) {
                for (var j = 0u; j < K_FRAGMENTS; j++) {
                    run[j] = (*o)[t * V_FRAGMENTS + r * K_FRAGMENTS + j];
                }
            }
        }
        for (var j = 0u; j < K_FRAGMENTS; j++) {
            put_fragment(own, j, run[j]);
        }
        workgroupBarrier(); // accumulators are written
        for (var i = 0u; i < RUN_QUADS; i++) {
            let column = n * K4 + i * PARTS + own.part;
            if (kept) {
                let x = single(own.s_at + i * PARTS + own.part);
                keep_state(state_at + (1u + n * RUN_QUADS + i) * THREADS, x);
            } else if (stored && column < VALUE_DIM / 4u) {
                var x = scale * single(own.s_at + i * PARTS + own.part);
                if (atomicLoad(&non_finite) != 0u) {
                    x += beyond_f16(work, t, own.row, column);
                }
                store_quad(t, out_at + column, select(x, vec4(0.0), total.y == 0.0));
            }
        }
        workgroupBarrier(); // and read
    }
    if (params.store_lse != 0u && stored && own.part == 0u) {
        store_lse(work, t, own.row, top, total.y);
    }
    workgroupBarrier(); // sums are read
}
