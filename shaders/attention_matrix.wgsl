// The same attention as attention.wgsl with every product on matrix units: f16 operands, f32 sums.
// With X3, operands of more than f16's bits have two parts, and products are sums of three (two,
// where one operand has all its bits in f16): attention_matrix/parts.wgsl.
//
// One workgroup is SUBGROUPS runs of LANES invocations, each a subgroup. A subgroup keeps M queries
// as fragments for good, and the accumulators of their outputs. A step stages BLOCK_K keys and
// values; K and V fragments are loaded once for both streams. Scores leave the matrix units through
// single_tile, where invocations mask and weigh parts of rows; weights come back through half_tile.
// Accumulators stay where they are until a maximum moves far (softmax.wgsl), which is rare.
//
// Neither subgroup operations nor early returns: drivers are reported to crash and to compute wrong
// numbers where a module has them beside matrices. Of a store, the index is worked out before it:
// naga panics over one that is not.
//
// work_of, out_row, store_*: attention/work.wgsl; any_hidden: attention/score.wgsl; sees:
// attention/sees.wgsl; block_visited: attention/blocks_*.wgsl; with_sink: softmax.wgsl; stage_*,
// too_large: attention_matrix/stage.wgsl; scores_of, weigh: attention_matrix/softmax.wgsl;
// value_matrix: attention_matrix/value_*.wgsl; negative, second_query:
// attention_matrix/query_*.wgsl; prepare_query: attention_matrix/parts.wgsl; shrunk_*:
// attention_matrix/side_*.wgsl

const RUN_QUADS: u32 = K_FRAGMENTS * M4 / PARTS; // of a row of a run of o, of an invocation

// What a workgroup works on. One too many, or past the end of a shorter sequence than the longest,
// has nothing to walk over or store.
fn work_or_none(in_part: u32) -> Work {
    var work = work_of(min(in_part, params.part_groups - 1u));
    if (in_part >= params.part_groups || work.tile * BLOCK_Q >= work.rows.count) {
        work.end = work.start;
        work.rows.count = 0u;
    }
    return work;
}

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

// Products of first members and of second ones, added to scores.
fn members(a: MatA, b: MatA, ka: MatB, kb: MatB, s: MatC) -> MatC {
    return coopMultiplyAdd(b, kb, coopMultiplyAdd(a, ka, s));
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

// Streams go through functions, which get theirs as a constant: a loop that a compiler does not
// unroll would index what lies in registers, and have it in memory.
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
        let scores = (*s)[t * K_FRAGMENTS + j];
        let at = own.subgroup_s + j * M4;
        let pitch = 4u * S_ROW;
        coopStoreT(scores, &single_tile[at][0], pitch);
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
            let part_o = (*o)[t * V_FRAGMENTS + n + j];
            let at = own.subgroup_s + j * M4;
            let pitch = 4u * S_ROW;
            coopStoreT(part_o, &single_tile[at][0], pitch);
        }
        workgroupBarrier(); // accumulators are written
        for (var i = 0u; i < RUN_QUADS; i++) {
            let at = own.s_at + i * PARTS + own.part;
            put_single(at, alpha * single(at));
        }
        workgroupBarrier(); // and rescaled
        for (var j = 0u; j < K_FRAGMENTS; j++) {
            let at = own.subgroup_s + j * M4;
            (*o)[t * V_FRAGMENTS + n + j] = coopLoadT<MatC>(&single_tile[at][0], 4u * S_ROW);
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
            let at = own.subgroup_s + j * M4;
            (*o)[t * V_FRAGMENTS + n * K_FRAGMENTS + j] =
                coopLoadT<MatC>(&single_tile[at][0], 4u * S_ROW);
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
            let part_o = run[j];
            let at = own.subgroup_s + j * M4;
            let pitch = 4u * S_ROW;
            coopStoreT(part_o, &single_tile[at][0], pitch);
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

@compute @workgroup_size(WORKGROUP)
fn attention(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let in_part = group_id.x + group_id.y * params.groups_x;
    let work = work_or_none(in_part);
    let q_first = work.tile * BLOCK_Q;
    let subgroup = tid / LANES;
    let subgroup_q = subgroup * M * K_ROW;
    var own: Own;
    own.row_in = subgroup * M + tid % LANES / PARTS;
    own.row = q_first + own.row_in;
    own.part = tid % PARTS;
    own.s_at = own.row_in * S_ROW;
    own.subgroup_s = subgroup * M * S_ROW;

    if (tid == 0u) {
        atomicStore(&moved, 0u);
        atomicStore(&non_finite, 0u);
    }
    own.scale = params.q_scale;
    if (X3) {
        own.scale *= prepare_query(tid, work, own.row, own.part);
    }
    var ra: array<MatA, OWN_FRAGMENTS>; // of the second stream
    var rb: array<MatA, OWN_FRAGMENTS>;
    if (QUERY_OWN) {
        for (var n = 0u; n < Q_SETS; n++) {
            stage_q(tid, second_query(work), q_first, n, 0u);
            workgroupBarrier(); // the second stream's q is staged
            for (var c = 0u; c < Q_FRAGMENTS; c++) {
                let at = subgroup_q + c * M4;
                ra[n * Q_FRAGMENTS + c] = coopLoadT<MatA>(&half_tile[at][0], 4u * K_ROW);
                rb[n * Q_FRAGMENTS + c] =
                    coopLoadT<MatA>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW);
            }
            workgroupBarrier(); // and read
        }
    }
    var qa: array<MatA, Q_SETS * Q_FRAGMENTS>; // first members
    var qb: array<MatA, Q_SETS * Q_FRAGMENTS>; // second members
    for (var n = 0u; n < Q_SETS; n++) {
        let to = select(0u, Q_AT, Q_STAYS && n == 1u);
        stage_q(tid, work, q_first, n, to);
        workgroupBarrier(); // q is staged
        for (var c = 0u; c < Q_FRAGMENTS; c++) {
            let at = to + subgroup_q + c * M4;
            qa[n * Q_FRAGMENTS + c] = coopLoadT<MatA>(&half_tile[at][0], 4u * K_ROW);
            qb[n * Q_FRAGMENTS + c] = coopLoadT<MatA>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW);
        }
        workgroupBarrier(); // q is read
    }

    var sums = array(Sums(MASKED, vec2(0.0)), Sums(MASKED, vec2(0.0)));
    var o: Outputs;
    for (var i = 0u; i < STREAMS * V_FRAGMENTS; i++) {
        o[i] = MatC();
    }
    let state_at = array(state_of(0u, tid, in_part), state_of(1u, tid, in_part));
    if (RESUMABLE && params.first_step > 0u) {
        sums[0] = take_up(0u, state_at[0], own, &o);
        if (STREAMS == 2u) {
            sums[1] = take_up(1u, state_at[1], own, &o);
        }
    }

    for (var first = work.start; first < work.end; first += BLOCK_K) {
        if (BLOCKS && !block_visited(work.batch, work.tile, first / BLOCK_K)) {
            continue;
        }
        if (PLACES_STAGED) {
            stage_places(tid, work, first);
            workgroupBarrier(); // places are staged
        }
        stage_k(tid, work, first);
        let largest = stage_v(tid, work, first);
        let hidden = any_hidden(work, first);
        workgroupBarrier(); // k and v are staged

        var s: Scores;
        for (var i = 0u; i < STREAMS * K_FRAGMENTS; i++) {
            s[i] = MatC();
        }
        // The tail that does not rotate is part of real scores alone.
        if (K_PARTS == 2u) {
            for (var c = 0u; c < Q_FRAGMENTS; c++) {
                let imaginary = !QUERY_OWN && STREAMS == 2u && c < PAIR_FRAGMENTS;
                for (var j = 0u; j < K_FRAGMENTS; j++) {
                    let i = K_FRAGMENTS + j;
                    let n = Q_SHRUNK + c;
                    let at = K_QUADS + j * M * K_ROW + c * M4;
                    let la = coopLoad<MatB>(&half_tile[at][0], 4u * K_ROW);
                    let lb = coopLoad<MatB>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW);
                    s[j] = members(qa[n], qb[n], la, lb, s[j]);
                    if (QUERY_OWN) {
                        s[i] = members(ra[n], rb[n], la, lb, s[i]);
                    } else if (imaginary) {
                        s[i] = members(qb[n], negative(qa[n]), la, lb, s[i]);
                    }
                }
            }
            for (var i = 0u; i < STREAMS * K_FRAGMENTS; i++) {
                s[i] = shrunk_sums(s[i]);
            }
        }
        for (var c = 0u; c < Q_FRAGMENTS; c++) {
            let imaginary = !QUERY_OWN && STREAMS == 2u && c < PAIR_FRAGMENTS;
            var qa_low = qa[Q_LOW + c];
            var qb_low = qb[Q_LOW + c];
            if (Q_STAYS) {
                let at = Q_AT + subgroup_q + c * M4;
                qa_low = coopLoadT<MatA>(&half_tile[at][0], 4u * K_ROW);
                qb_low = coopLoadT<MatA>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW);
            }
            for (var j = 0u; j < K_FRAGMENTS; j++) {
                let i = K_FRAGMENTS + j;
                let at = j * M * K_ROW + c * M4;
                let ka = coopLoad<MatB>(&half_tile[at][0], 4u * K_ROW);
                let kb = coopLoad<MatB>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW);
                s[j] = members(qa[c], qb[c], ka, kb, s[j]);
                if (QUERY_OWN) {
                    s[i] = members(ra[c], rb[c], ka, kb, s[i]);
                } else if (imaginary) {
                    s[i] = members(qb[c], negative(qa[c]), ka, kb, s[i]);
                }
                if (Q_PARTS == 2u) {
                    s[j] = members(qa_low, qb_low, ka, kb, s[j]);
                    if (QUERY_OWN) {
                        s[i] = members(ra[Q_LOW + c], rb[Q_LOW + c], ka, kb, s[i]);
                    } else if (imaginary) {
                        s[i] = members(qb_low, negative(qa_low), ka, kb, s[i]);
                    }
                }
            }
        }

        let mend = largest >= TOO_LARGE;
        sums[0] = weigh_stream(0u, tid, own, work, first, hidden, mend, &s, &o, sums[0]);
        if (STREAMS == 2u) {
            sums[1] = weigh_stream(1u, tid, own, work, first, hidden, false, &s, &o, sums[1]);
        }

        for (var i = 0u; i < K_FRAGMENTS; i++) {
            var p: array<MatA, P_SETS * STREAMS>;
            for (var n = 0u; n < P_SETS * STREAMS; n++) {
                let at = (n * BLOCK_Q + subgroup * M) * P_ROW + i * M4;
                p[n] = coopLoadT<MatA>(&half_tile[at][0], 4u * P_ROW);
            }
            for (var n = 0u; n < V_FRAGMENTS; n++) {
                let v = value_matrix(i, n, 0u);
                for (var t = 0u; t < STREAMS; t++) {
                    o[t * V_FRAGMENTS + n] = coopMultiplyAdd(p[t], v, o[t * V_FRAGMENTS + n]);
                }
                if (P_PARTS == 2u) {
                    for (var t = 0u; t < STREAMS; t++) {
                        let low = p[(P_PARTS - 1u) * STREAMS + t];
                        o[t * V_FRAGMENTS + n] = coopMultiplyAdd(low, v, o[t * V_FRAGMENTS + n]);
                    }
                }
                if (V_PARTS == 2u) {
                    let w = value_matrix(i, n, 1u);
                    for (var t = 0u; t < STREAMS; t++) {
                        let x = shrunk_weights(p[t], p[P_SHRUNK + t]);
                        o[t * V_FRAGMENTS + n] = coopMultiplyAdd(x, w, o[t * V_FRAGMENTS + n]);
                    }
                }
            }
        }
        workgroupBarrier(); // p and v are read
    }

    finish(0u, tid, state_at[0], own, work, &o, sums[0]);
    if (STREAMS == 2u) {
        finish(1u, tid, state_at[1], own, work, &o, sums[1]);
    }
}
