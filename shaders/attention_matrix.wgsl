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
// work_of: attention/work.wgsl; any_hidden: attention/score.wgsl; block_visited:
// attention/blocks_*.wgsl; stage_*: attention_matrix/stage.wgsl; take_up, weigh_stream, finish:
// attention_matrix/streams.wgsl; value_matrix: attention_matrix/value_*.wgsl; negative,
// second_query: attention_matrix/query_*.wgsl; prepare_query: attention_matrix/parts.wgsl;
// shrunk_*: attention_matrix/side_*.wgsl

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

// Products of first members and of second ones, added to scores.
fn members(a: MatA, b: MatA, ka: MatB, kb: MatB, s: MatC) -> MatC {
    return coopMultiplyAdd(b, kb, coopMultiplyAdd(a, ka, s));
}

alias Query = array<MatA, Q_SETS * Q_FRAGMENTS>;

// Set n of a query's fragments, first members and second ones: high parts, low parts, shrunk ones.
// Low parts may stay at low_at.
fn fetch_set(
    n: u32,
    tid: u32,
    work: Work,
    first: u32,
    subgroup_q: u32,
    low_at: u32,
    qa: ptr<function, Query>,
    qb: ptr<function, Query>,
) {
    let to = select(0u, low_at, n == 1u);
    stage_q(tid, work, first, n, to);
    workgroupBarrier(); // q is staged
    for (var c = 0u; c < Q_FRAGMENTS; c++) {
        let at = to + subgroup_q + c * M4;
        (*qa)[n * Q_FRAGMENTS + c] = coopLoadT<MatA>(&half_tile[at][0], 4u * K_ROW);
        (*qb)[n * Q_FRAGMENTS + c] = coopLoadT<MatA>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW);
    }
    workgroupBarrier(); // q is read
}

fn fetch_query(
    tid: u32,
    work: Work,
    first: u32,
    subgroup_q: u32,
    low_at: u32,
    qa: ptr<function, Query>,
    qb: ptr<function, Query>,
) {
    // A compiler that does not unroll this loop has fragments in memory; where low parts stay, it
    // unrolls it, and needs fewer registers than for three calls.
    if (Q_STAYS) {
        for (var n = 0u; n < Q_SETS; n++) {
            fetch_set(n, tid, work, first, subgroup_q, low_at, qa, qb);
        }
    } else {
        fetch_set(0u, tid, work, first, subgroup_q, low_at, qa, qb);
        if (Q_SETS > 1u) {
            fetch_set(1u, tid, work, first, subgroup_q, low_at, qa, qb);
        }
        if (Q_SETS > 2u) {
            fetch_set(2u, tid, work, first, subgroup_q, low_at, qa, qb);
        }
    }
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
    var ra: Query; // of the second stream
    var rb: Query;
    if (QUERY_OWN) {
        fetch_query(tid, second_query(work), q_first, subgroup_q, 0u, &ra, &rb);
    }
    var qa: Query; // first members
    var qb: Query; // second members
    fetch_query(tid, work, q_first, subgroup_q, select(0u, Q_AT, Q_STAYS), &qa, &qb);

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
