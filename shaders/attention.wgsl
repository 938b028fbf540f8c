// Flash attention that returns the real and the imaginary attention of RoPE++ from one pass over
// K and V.
//
// With the members of a rotated pair a|b, the turned query (−π/2) makes (a, b) into (b, −a):
//     S_re = Qa·Ka + Qb·Kb      S_im = Qb·Ka − Qa·Kb      S_φ = cos φ · S_re + sin φ · S_im
// so one K tile feeds both scores and one V tile both outputs. A stream is one softmax over keys.
//
// One workgroup: BLOCK_Q queries of one query head, against all keys they may see, for STREAMS
// output heads. TX × TY invocations: in Q·Kᵀ, invocation (tx, ty) owns 2 ROW_PAIRS queries and
// 4 KEY_QUADS keys; in P·V the same queries and 4 COLS channels of V.
//
// Tiles hold groups of four vectors that one invocation reads together, so that the bounds of one
// index are checked for four reads; a fifth that is never used keeps neighbouring groups in
// different banks:
//     q  [unit, row pair]  four pairs: (a of row 0, a of row 1, b of row 0, b of row 1)
//     k  [unit, a|b, key quad]  four pairs: four keys, BLOCK_K / 4 apart; quads turned by the unit
//     v  [key quad, column]  four keys: four channels
//     p  [key quad, row pair]  four keys: (re 0, re 1, im 0, im 1); with one stream
//        [key quad, two row pairs]  each of them: (0, 1 of keys 0 and 1), (0, 1 of keys 2 and 3)
//
// work_of, out_row, store_*: attention/work.wgsl; stage_*, k_slot: attention/stage.wgsl; value:
// attention/load.wgsl; modified_quad, masked, any_hidden: attention/score.wgsl; sees:
// attention/sees.wgsl; kept_state, keep_state: attention/state_*.wgsl; block_visited:
// attention/blocks_*.wgsl; with_sink: softmax.wgsl; not_finite: finite.wgsl

const V_COLS: u32 = TX * COLS;            // columns a V tile, padding included
const P_GROUPS: u32 = (ROW_PAIRS * STREAMS + 1u) / 2u; // groups of p an invocation and key quad
const V_STEPS: u32 = BLOCK_KQ / V_QUADS;  // V tiles a K tile

@compute @workgroup_size(WORKGROUP)
fn attention(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let in_part = group_id.x + group_id.y * params.groups_x;
    if (in_part >= params.part_groups) {
        return;
    }
    let work = work_of(in_part);
    let head_row = work.head_row;
    let q_first = work.tile * BLOCK_Q;
    if (q_first >= work.rows.count) {
        return; // a shorter sequence than the longest
    }
    let tx = tid % TX;
    let ty = tid / TX;
    let row0 = q_first + ROWS * ty; // of this invocation

    if (tid == 0u) {
        atomicStore(&non_finite, 0u); // a barrier away from the first value
    }

    var m: array<f32, 4u * STATE_VECS>;  // running maximum, in base 2
    var l: array<f32, 4u * STATE_VECS>;  // running sum over this invocation's keys alone
    for (var i = 0u; i < 4u * STATE_VECS; i++) {
        m[i] = MASKED;
        l[i] = 0.0;
    }
    var acc: array<vec4<f32>, STATES * COLS>;
    for (var i = 0u; i < STATES * COLS; i++) {
        acc[i] = vec4(0.0);
    }
    let state_at = in_part * STATE_LEN * THREADS + tid;
    if (RESUMABLE && params.first_step > 0u) {
        for (var i = 0u; i < STATE_VECS; i++) {
            let top = kept_state(state_at + i * THREADS);
            let sum = kept_state(state_at + (STATE_VECS + i) * THREADS);
            for (var c = 0u; c < 4u; c++) {
                m[4u * i + c] = top[c];
                l[4u * i + c] = sum[c];
            }
        }
        for (var i = 0u; i < STATES * COLS; i++) {
            acc[i] = kept_state(state_at + (2u * STATE_VECS + i) * THREADS);
        }
    }

    if (Q_RESIDENT) {
        stage_q(tid, work, q_first, 0u, UNITS);
    }
    for (var first = work.start; first < work.end; first += BLOCK_K) {
        if (BLOCKS && !block_visited(work.batch, work.tile, first / BLOCK_K)) {
            continue;
        }
        if (PLACES_STAGED) {
            if (!PV_ALIASED) {
                workgroupBarrier(); // places of the last tile's values are read
            }
            stage_places(tid, work, first);
            workgroupBarrier(); // places are staged
        }
        // S = Q·Kᵀ, a chunk of channels at a time.
        var s: array<vec4<f32>, STATES * KEY_QUADS>;
        for (var i = 0u; i < STATES * KEY_QUADS; i++) {
            s[i] = vec4(0.0);
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            let unit0 = chunk * CHUNK_UNITS;
            // A constant where the last chunk is as long as the others: compilers unroll more then.
            var units = CHUNK_UNITS;
            if (UNITS % CHUNK_UNITS != 0u) {
                units = min(CHUNK_UNITS, UNITS - unit0);
            }
            if (!Q_RESIDENT) {
                stage_q(tid, work, q_first, unit0, units);
            }
            let q_first_at = Q_AT + select(0u, unit0 * BLOCK_QP, Q_RESIDENT) + ty * ROW_PAIRS;
            stage_k(tid, work, first, unit0, units);
            workgroupBarrier(); // q and k are staged
            for (var u = 0u; u < units; u++) {
                let turns = TAIL_QUADS == 0u || unit0 + u < PAIR_QUADS;
                let k_at = K_AT + 2u * u * BLOCK_KQ;
                let q_at = q_first_at + u * BLOCK_QP;
                for (var pair = 0u; pair < 4u; pair++) {
                    var ka: array<vec4<f32>, KEY_QUADS>;
                    var kb: array<vec4<f32>, KEY_QUADS>;
                    for (var j = 0u; j < KEY_QUADS; j++) {
                        let slot = k_slot(j * TX + tx, u);
                        ka[j] = shared_tile[k_at + slot][pair];
                        kb[j] = shared_tile[k_at + BLOCK_KQ + slot][pair];
                    }
                    for (var r = 0u; r < ROW_PAIRS; r++) {
                        let q4 = shared_tile[q_at + r][pair];
                        for (var j = 0u; j < KEY_QUADS; j++) {
                            let i0 = 2u * r * KEY_QUADS + j;
                            let i1 = i0 + KEY_QUADS;
                            s[i0] = fma(vec4(q4.z), kb[j], fma(vec4(q4.x), ka[j], s[i0]));
                            s[i1] = fma(vec4(q4.w), kb[j], fma(vec4(q4.y), ka[j], s[i1]));
                            if (STREAMS == 2u && turns) {
                                let i2 = i0 + ROWS * KEY_QUADS;
                                let i3 = i2 + KEY_QUADS;
                                s[i2] = fma(vec4(-q4.x), kb[j], fma(vec4(q4.z), ka[j], s[i2]));
                                s[i3] = fma(vec4(-q4.y), kb[j], fma(vec4(q4.w), ka[j], s[i3]));
                            }
                        }
                    }
                }
            }
            if (CHUNKS > 1u) {
                workgroupBarrier(); // q and k are read before the next chunk
            }
        }
        if (MIX) {
            for (var i = 0u; i < ROWS * KEY_QUADS; i++) {
                let re = s[i];
                let im = s[i + ROWS * KEY_QUADS];
                s[i] = head_row.phases.x * re + head_row.phases.y * im;
                s[i + ROWS * KEY_QUADS] = head_row.phases.z * re + head_row.phases.w * im;
            }
        }

        if (SOFTCAP || ALIBI || BIAS || HOOKS) {
            for (var i = 0u; i < STATES * KEY_QUADS; i++) {
                let state = i / KEY_QUADS;
                let key = first + i % KEY_QUADS * TX + tx;
                s[i] = modified_quad(s[i], work, state / ROWS, row0 + state % ROWS, key);
            }
        }
        if (any_hidden(work, first)) {
            for (var i = 0u; i < STATES * KEY_QUADS; i++) {
                let row = row0 + i / KEY_QUADS % ROWS;
                s[i] = masked(s[i], work, row, first + i % KEY_QUADS * TX + tx);
            }
        }

        // Row maximum: this invocation's keys, then the row's.
        var tile_max: array<f32, 4u * STATE_VECS>;
        for (var i = 0u; i < STATES; i++) {
            var top = s[i * KEY_QUADS];
            for (var j = 1u; j < KEY_QUADS; j++) {
                top = max(top, s[i * KEY_QUADS + j]);
            }
            tile_max[i] = max(max(top.x, top.y), max(top.z, top.w));
        }
        for (var i = 0u; i < STATE_VECS; i++) {
            let at = tid * STATE_VECS + i;
            shared_tile[RED_AT + at / 4u][at % 4u] = vec4(
                tile_max[4u * i],
                tile_max[4u * i + 1u],
                tile_max[4u * i + 2u],
                tile_max[4u * i + 3u],
            );
        }
        workgroupBarrier(); // maxima are written, k is read
        for (var i = 0u; i < STATE_VECS; i++) {
            var top = vec4(MASKED);
            for (var x = 0u; x < TX; x++) {
                let at = (ty * TX + x) * STATE_VECS + i;
                top = max(top, shared_tile[RED_AT + at / 4u][at % 4u]);
            }
            tile_max[4u * i] = top.x;
            tile_max[4u * i + 1u] = top.y;
            tile_max[4u * i + 2u] = top.z;
            tile_max[4u * i + 3u] = top.w;
        }
        if (RED_ALIASED) {
            workgroupBarrier(); // maxima are read before p or v covers them
        }

        // P = exp2(S − m), and the old state rescaled where a maximum moved.
        var moved = false;
        var alpha: array<f32, STATES>;
        for (var i = 0u; i < STATES; i++) {
            let top = max(m[i], tile_max[i]);
            // A row without a visible key yet keeps p = 0: exp2(MASKED − 0).
            let base = select(top, 0.0, top == MASKED);
            alpha[i] = exp2(m[i] - base);
            moved = moved || top != m[i];
            m[i] = top;
            var sum = vec4(0.0);
            for (var j = 0u; j < KEY_QUADS; j++) {
                let p = exp2(s[i * KEY_QUADS + j] - vec4(base));
                s[i * KEY_QUADS + j] = p;
                sum += p;
            }
            l[i] = l[i] * alpha[i] + ((sum.x + sum.y) + (sum.z + sum.w));
        }
        if (moved) {
            for (var i = 0u; i < STATES; i++) {
                for (var j = 0u; j < COLS; j++) {
                    acc[i * COLS + j] *= alpha[i];
                }
            }
        }
        for (var j = 0u; j < KEY_QUADS; j++) {
            for (var r = 0u; r < ROW_PAIRS; r++) {
                let at = P_AT + (j * TX + tx) * P_ROW + ty * P_GROUPS + r * STREAMS / 2u;
                let x = s[2u * r * KEY_QUADS + j];
                let y = s[(2u * r + 1u) * KEY_QUADS + j];
                if (STREAMS == 2u) {
                    let z = s[(ROWS + 2u * r) * KEY_QUADS + j];
                    let w = s[(ROWS + 2u * r + 1u) * KEY_QUADS + j];
                    shared_tile[at][0] = vec4(x.x, y.x, z.x, w.x);
                    shared_tile[at][1] = vec4(x.y, y.y, z.y, w.y);
                    shared_tile[at][2] = vec4(x.z, y.z, z.z, w.z);
                    shared_tile[at][3] = vec4(x.w, y.w, z.w, w.w);
                } else {
                    shared_tile[at][r % 2u * 2u] = vec4(x.x, y.x, x.y, y.y);
                    shared_tile[at][r % 2u * 2u + 1u] = vec4(x.z, y.z, x.w, y.w);
                }
            }
        }

        // acc += P·V, a range of keys at a time.
        for (var step = 0u; step < V_STEPS; step++) {
            if (step > 0u) {
                workgroupBarrier(); // v is read before the next range
            }
            stage_v(tid, work, first, step * V_QUADS);
            workgroupBarrier(); // p and v are staged
            for (var kq = 0u; kq < V_QUADS; kq++) {
                let p_at = P_AT + (step * V_QUADS + kq) * P_ROW + ty * P_GROUPS;
                let v_at = V_AT + kq * V_COLS + tx;
                for (var c = 0u; c < 4u; c += 3u - STREAMS) {
                    var v4: array<vec4<f32>, COLS>;
                    for (var j = 0u; j < COLS; j++) {
                        v4[j] = shared_tile[v_at + j * TX][c];
                    }
                    if (STREAMS == 2u) {
                        for (var r = 0u; r < ROW_PAIRS; r++) {
                            let p = shared_tile[p_at + r][c];
                            for (var j = 0u; j < COLS; j++) {
                                let i0 = 2u * r * COLS + j;
                                let i2 = (ROWS + 2u * r) * COLS + j;
                                acc[i0] = fma(vec4(p.x), v4[j], acc[i0]);
                                acc[i0 + COLS] = fma(vec4(p.y), v4[j], acc[i0 + COLS]);
                                acc[i2] = fma(vec4(p.z), v4[j], acc[i2]);
                                acc[i2 + COLS] = fma(vec4(p.w), v4[j], acc[i2 + COLS]);
                            }
                        }
                    } else {
                        var w4: array<vec4<f32>, COLS>;
                        for (var j = 0u; j < COLS; j++) {
                            w4[j] = shared_tile[v_at + j * TX][c + 1u];
                        }
                        for (var r = 0u; r < ROW_PAIRS; r++) {
                            let p = shared_tile[p_at + r / 2u][r % 2u * 2u + c / 2u];
                            for (var j = 0u; j < COLS; j++) {
                                let i0 = 2u * r * COLS + j;
                                let i1 = i0 + COLS;
                                acc[i0] = fma(vec4(p.z), w4[j], fma(vec4(p.x), v4[j], acc[i0]));
                                acc[i1] = fma(vec4(p.w), w4[j], fma(vec4(p.y), v4[j], acc[i1]));
                            }
                        }
                    }
                }
            }
        }
        if (PV_ALIASED) {
            workgroupBarrier(); // p and v are read before k covers them
        }
    }

    workgroupBarrier(); // the last tile is read
    if (atomicLoad(&non_finite) != 0u) {
        for (var key = work.start; key < work.end; key++) {
            if (BLOCKS && !block_visited(work.batch, work.tile, key / BLOCK_K)) {
                continue;
            }
            var seen: array<bool, STATES>;
            for (var i = 0u; i < STATES; i++) {
                let row = min(row0 + i % ROWS, work.rows.count - 1u);
                seen[i] = sees(work, i / ROWS, row, key);
            }
            for (var j = 0u; j < COLS; j++) {
                let x = value(work, key, rows_of_key(work, key).y, j * TX + tx);
                let bad = select(vec4(0.0), x, not_finite(x));
                for (var i = 0u; i < STATES; i++) {
                    acc[i * COLS + j] += select(vec4(0.0), bad, seen[i]);
                }
            }
        }
    }

    if (RESUMABLE && params.last_part == 0u) {
        for (var i = 0u; i < STATE_VECS; i++) {
            let j = 4u * i;
            keep_state(state_at + i * THREADS, vec4(m[j], m[j + 1u], m[j + 2u], m[j + 3u]));
            let sums = vec4(l[j], l[j + 1u], l[j + 2u], l[j + 3u]);
            keep_state(state_at + (STATE_VECS + i) * THREADS, sums);
        }
        for (var i = 0u; i < STATES * COLS; i++) {
            keep_state(state_at + (2u * STATE_VECS + i) * THREADS, acc[i]);
        }
        return;
    }

    // The row sums, over the invocations that share a row.
    for (var i = 0u; i < STATE_VECS; i++) {
        let at = tid * STATE_VECS + i;
        shared_tile[at / 4u][at % 4u] =
            vec4(l[4u * i], l[4u * i + 1u], l[4u * i + 2u], l[4u * i + 3u]);
    }
    workgroupBarrier(); // sums are written
    for (var i = 0u; i < STATE_VECS; i++) {
        var sum = vec4(0.0);
        for (var x = 0u; x < TX; x++) {
            let at = (ty * TX + x) * STATE_VECS + i;
            sum += shared_tile[at / 4u][at % 4u];
        }
        l[4u * i] = sum.x;
        l[4u * i + 1u] = sum.y;
        l[4u * i + 2u] = sum.z;
        l[4u * i + 3u] = sum.w;
    }

    for (var i = 0u; i < STATES; i++) {
        let row = row0 + i % ROWS;
        let stream = i / ROWS;
        if (row >= work.rows.count || stream >= head_row.streams) {
            continue;
        }
        if (SINKS) {
            let sum = with_sink(m[i], l[i], head_row.sinks[stream]);
            m[i] = sum.m;
            l[i] = sum.l;
            for (var j = 0u; j < COLS; j++) {
                acc[i * COLS + j] *= sum.scale;
            }
        }
        // No visible key: the output is zero and the log-sum-exp minus infinity.
        let empty = l[i] == 0.0;
        let inverse = 1.0 / l[i];
        let out_at = out_row(work, stream, row);
        for (var j = 0u; j < COLS; j++) {
            let column = j * TX + tx;
            if (column < VALUE_DIM / 4u) {
                let x = select(acc[i * COLS + j] * inverse, vec4(0.0), empty);
                store_quad(stream, out_at + column, x);
            }
        }
        if (params.store_lse != 0u && tx == 0u) {
            store_lse(work, stream, row, m[i], l[i]);
        }
    }
}
