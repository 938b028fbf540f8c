// The gradients of fused attention, of its real and imaginary heads from one pass over what they
// share. Twice the same program: for dQ a workgroup owns queries and walks over keys, for dK and dV
// it owns keys and walks over the queries of all heads of their group. Nothing is added up across
// workgroups.
//
// With Z = cos φ dS + i sin φ dS, added up over the output heads of a query head, and pairs read as
// complex numbers, dQ = Z K and dK = conj(Z)ᵀ Q: one accumulator for both streams.
//     P = exp2(S − lse)    dP = dO·V    dS = P (dP − δ) · the derivative of what was done to S
//     dQa = Z_re Ka − Z_im Kb   dQb = Z_re Kb + Z_im Ka        (the tail: Z_re alone)
//     dKa = Z_re Qa + Z_im Qb   dKb = Z_re Qb − Z_im Qa        dV = Σ P dO
//
// One workgroup: BLOCK_R own rows of a head. TX × TY invocations: of S and dP, invocation (tx, ty)
// has 2 ROW_PAIRS own rows and 4 COL_QUADS walked rows; of the gradients the same own rows and the
// units j TX + tx of eight channels. In workgroup memory groups of four vectors, and a fifth that
// is never used and keeps neighbouring groups in different banks:
//     own rows     [unit, row pair]  four pairs: (a of row 0, a of row 1, b of row 0, b of row 1)
//     walked rows  [unit, a|b, quad]  four pairs: four rows, BLOCK_C / 4 apart
//     or           [a|b, quad, unit]  four rows: four channels
//     weights      [quad, row pair]   see put_weights
// FEW_REGISTERS: see unknown_zero, and attention_backward/work_shared.wgsl

const V_COLS: u32 = select(1u, ROWS * VALUE_COLS * 2u, KEYS_OWN);
const CAPS: u32 = select(1u, STATES * COL_QUADS, SOFTCAP);

// 0, which compilers do not know where there are few registers. A loop with it in its bound is not
// unrolled, and a number that it is added to is formed again, not held since it was last needed.
fn unknown_zero() -> u32 {
    return select(0u, params.zero, FEW_REGISTERS);
}

@compute @workgroup_size(WORKGROUP)
fn attention_backward(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let in_part = group_id.x + group_id.y * params.groups_x;
    if (in_part >= params.part_groups) {
        return;
    }
    var work = work_of(in_part);
    if (work.own >= work.own_count) {
        return; // a shorter sequence than the longest
    }
    let tx = tid % TX;
    let ty = tid / TX;
    let row0 = work.own + ROWS * ty; // of this invocation

    var acc: array<vec4<f32>, ROWS * COLS * 2u>;
    for (var i = 0u; i < ROWS * COLS * 2u; i++) {
        acc[i] = vec4(0.0);
    }
    var acc_v: array<vec4<f32>, V_COLS>;
    for (var i = 0u; i < V_COLS; i++) {
        acc_v[i] = vec4(0.0);
    }
    var phase = vec2(1.0, 0.0);
    keep_work(tid, work);

    for (var n = 0u; n < params.head_rows; n++) {
        let head_row = head_rows[n];
        if (!owned(work, head_row)) {
            continue;
        }
        work.head_row = head_row;
        phase = head_row.phases.xy;
        keep_head_row(tid, head_row);
        var own_lse: array<f32, STATES>;
        var own_delta: array<f32, STATES>;
        if (!KEYS_OWN) {
            for (var i = 0u; i < STATES; i++) {
                let numbers = row_numbers(work, i / ROWS, row0 + i % ROWS);
                own_lse[i] = numbers.x;
                own_delta[i] = numbers.y;
            }
        }
        for (var first = work.start; first < work.end; first += BLOCK_C) {
            // S, a chunk of channels at a time.
            var s: array<vec4<f32>, STATES * COL_QUADS>;
            for (var i = 0u; i < STATES * COL_QUADS; i++) {
                s[i] = vec4(0.0);
            }
            for (var unit0 = 0u; unit0 < UNITS; unit0 += CHUNK_UNITS) {
                let units = min(CHUNK_UNITS, UNITS - unit0);
                stage_pairs(tid, kept_work(work), first, unit0, units);
                workgroupBarrier(); // both sides are staged
                for (var u = 0u; u < units; u++) {
                    let turns = TAIL_QUADS == 0u || unit0 + u < PAIR_QUADS;
                    let x_at = R_AT + u * R_PITCH + ty * ROW_PAIRS;
                    let y_at = C_AT + 2u * u * BLOCK_CQ;
                    for (var pair = 0u; pair < 4u; pair++) {
                        var ya: array<vec4<f32>, COL_QUADS>;
                        var yb: array<vec4<f32>, COL_QUADS>;
                        for (var j = 0u; j < COL_QUADS; j++) {
                            let at = y_at + slot(j * TX + tx, u);
                            ya[j] = shared_tile[at][pair];
                            yb[j] = shared_tile[at + BLOCK_CQ][pair];
                        }
                        for (var r = 0u; r < ROW_PAIRS; r++) {
                            let x = shared_tile[x_at + r][pair];
                            for (var j = 0u; j < COL_QUADS; j++) {
                                let i0 = 2u * r * COL_QUADS + j;
                                let i1 = i0 + COL_QUADS;
                                s[i0] = fma(vec4(x.z), yb[j], fma(vec4(x.x), ya[j], s[i0]));
                                s[i1] = fma(vec4(x.w), yb[j], fma(vec4(x.y), ya[j], s[i1]));
                                if (STREAMS == 2u && turns) {
                                    let im = SIGN * x;
                                    let i2 = i0 + ROWS * COL_QUADS;
                                    let i3 = i2 + COL_QUADS;
                                    s[i2] = fma(vec4(-im.x), yb[j], fma(vec4(im.z), ya[j], s[i2]));
                                    s[i3] = fma(vec4(-im.y), yb[j], fma(vec4(im.w), ya[j], s[i3]));
                                }
                            }
                        }
                    }
                }
                workgroupBarrier(); // both are read before the next chunk
            }
            if (MIX) {
                for (var i = 0u; i < ROWS * COL_QUADS; i++) {
                    let re = s[i];
                    let im = s[i + ROWS * COL_QUADS];
                    s[i] = head_row.phases.x * re + head_row.phases.y * im;
                    s[i + ROWS * COL_QUADS] = head_row.phases.z * re + head_row.phases.w * im;
                }
            }

            // P, from the log-sum-exp of the forward pass.
            var cap: array<vec4<f32>, CAPS>;
            let hidden = any_hidden(kept_work(work), first);
            for (var i = 0u; i < STATES; i++) {
                let stream = i / ROWS;
                let row = row0 + i % ROWS;
                for (var j = 0u; j < COL_QUADS; j++) {
                    var x = s[i * COL_QUADS + j];
                    if (SOFTCAP) {
                        cap[i * COL_QUADS + j] =
                            vec4(cap_slope(x.x), cap_slope(x.y), cap_slope(x.z), cap_slope(x.w));
                    }
                    if (MODIFIED || hidden) {
                        for (var c = 0u; c < 4u; c++) {
                            let walked = first + j * TX + tx + c * BLOCK_CQ;
                            let query = select(row, walked, KEYS_OWN);
                            let key = select(walked, row, KEYS_OWN);
                            var score = x[c];
                            if (MODIFIED) {
                                score = modified_at(score, kept_work(work), stream, query, key);
                            }
                            x[c] = select(MASKED, score, sees(kept_work(work), query, key));
                        }
                    }
                    var lse = vec4(own_lse[i]);
                    if (KEYS_OWN) {
                        let walked = first + j * TX + tx;
                        lse = vec4(
                            row_numbers(kept_work(work), stream, walked).x,
                            row_numbers(kept_work(work), stream, walked + BLOCK_CQ).x,
                            row_numbers(kept_work(work), stream, walked + 2u * BLOCK_CQ).x,
                            row_numbers(kept_work(work), stream, walked + 3u * BLOCK_CQ).x,
                        );
                    }
                    s[i * COL_QUADS + j] = exp2(x - lse);
                }
            }

            // dV += Pᵀ dO, a stream and a range of queries at a time.
            if (KEYS_OWN) {
                for (var j = 0u; j < COL_QUADS; j++) {
                    for (var r = 0u; r < ROW_PAIRS; r++) {
                        let at = W_AT + (j * TX + tx) * W_PITCH + ty * W_GROUPS + r * STREAMS / 2u;
                        let i0 = 2u * r * COL_QUADS + j;
                        let i2 = (i0 + ROWS * COL_QUADS) % (STATES * COL_QUADS);
                        let i3 = (i2 + COL_QUADS) % (STATES * COL_QUADS);
                        put_weights(at, r, s[i0], s[i0 + COL_QUADS], s[i2], s[i3]);
                    }
                }
                for (var part = 0u; part < STREAMS * Y_STEPS; part++) {
                    let stream = part / Y_STEPS;
                    let quad0 = part % Y_STEPS * Y_QUADS;
                    stage_values_by_row(tid, kept_work(work), stream, first, quad0);
                    workgroupBarrier(); // weights and dO are staged
                    for (var kq = 0u; kq < Y_QUADS + unknown_zero(); kq++) {
                        let w_at = W_AT + (quad0 + kq) * W_PITCH + ty * W_GROUPS;
                        let y_at = Y_AT + kq * Y_COLS + tx;
                        for (var c = 0u; c < 4u; c++) {
                            var ya: array<vec4<f32>, VALUE_COLS>;
                            var yb: array<vec4<f32>, VALUE_COLS>;
                            for (var j = 0u; j < VALUE_COLS; j++) {
                                ya[j] = shared_tile[y_at + j * TX][c];
                                yb[j] = shared_tile[y_at + j * TX + Y_HALF][c];
                            }
                            for (var r = 0u; r < ROW_PAIRS; r++) {
                                var w = weights_of(w_at, r, c);
                                if (STREAMS == 2u) {
                                    w = select(w, w.zwxy, stream == 1u);
                                }
                                for (var j = 0u; j < VALUE_COLS; j++) {
                                    let i0 = 2u * (2u * r * VALUE_COLS + j);
                                    let i1 = i0 + 2u * VALUE_COLS;
                                    acc_v[i0] = fma(vec4(w.x), ya[j], acc_v[i0]);
                                    acc_v[i0 + 1u] = fma(vec4(w.x), yb[j], acc_v[i0 + 1u]);
                                    acc_v[i1] = fma(vec4(w.y), ya[j], acc_v[i1]);
                                    acc_v[i1 + 1u] = fma(vec4(w.y), yb[j], acc_v[i1 + 1u]);
                                }
                            }
                        }
                    }
                    workgroupBarrier(); // they are read before the next range
                }
            }

            // dP = dO·V, a chunk of channels at a time.
            var dp: array<vec4<f32>, STATES * COL_QUADS>;
            for (var i = 0u; i < STATES * COL_QUADS; i++) {
                dp[i] = vec4(0.0);
            }
            for (var unit0 = 0u; unit0 < VALUE_UNITS; unit0 += CHUNK_UNITS) {
                let units = min(CHUNK_UNITS, VALUE_UNITS - unit0);
                stage_values(tid, kept_work(work), first, unit0, units);
                workgroupBarrier(); // both sides are staged
                for (var u = 0u; u < units; u++) {
                    for (var pair = 0u; pair < 4u; pair++) {
                        for (var stream = 0u; stream < STREAMS; stream++) {
                            let x_stream = select(stream, 0u, KEYS_OWN);
                            let y_stream = select(0u, stream, KEYS_OWN);
                            let x_unit = x_stream * CHUNK_UNITS + u;
                            let y_unit = y_stream * CHUNK_UNITS + u;
                            let x_at = R_AT + x_unit * R_PITCH + ty * ROW_PAIRS;
                            let y_at = VALUES_AT + 2u * y_unit * BLOCK_CQ;
                            var ya: array<vec4<f32>, COL_QUADS>;
                            var yb: array<vec4<f32>, COL_QUADS>;
                            for (var j = 0u; j < COL_QUADS; j++) {
                                let at = y_at + slot(j * TX + tx, u);
                                ya[j] = shared_tile[at][pair];
                                yb[j] = shared_tile[at + BLOCK_CQ][pair];
                            }
                            for (var r = 0u; r < ROW_PAIRS; r++) {
                                let x = shared_tile[x_at + r][pair];
                                for (var j = 0u; j < COL_QUADS; j++) {
                                    let i0 = (stream * ROWS + 2u * r) * COL_QUADS + j;
                                    let i1 = i0 + COL_QUADS;
                                    dp[i0] = fma(vec4(x.z), yb[j], fma(vec4(x.x), ya[j], dp[i0]));
                                    dp[i1] = fma(vec4(x.w), yb[j], fma(vec4(x.y), ya[j], dp[i1]));
                                }
                            }
                        }
                    }
                }
                workgroupBarrier(); // both are read before the next chunk, or the weights
            }

            // dS, and Z of all streams.
            for (var i = 0u; i < STATES; i++) {
                let stream = i / ROWS;
                for (var j = 0u; j < COL_QUADS; j++) {
                    let walked = first + j * TX + tx + unknown_zero();
                    var delta = vec4(own_delta[i]);
                    if (KEYS_OWN) {
                        delta = vec4(
                            row_numbers(kept_work(work), stream, walked).y,
                            row_numbers(kept_work(work), stream, walked + BLOCK_CQ).y,
                            row_numbers(kept_work(work), stream, walked + 2u * BLOCK_CQ).y,
                            row_numbers(kept_work(work), stream, walked + 3u * BLOCK_CQ).y,
                        );
                    }
                    var ds = s[i * COL_QUADS + j] * (dp[i * COL_QUADS + j] - delta);
                    if (D_BIAS) {
                        for (var c = 0u; c < 4u; c++) {
                            let key = walked + c * BLOCK_CQ;
                            store_d_bias(kept_work(work), stream, row0 + i % ROWS, key, ds[c]);
                        }
                    }
                    if (SOFTCAP) {
                        ds *= cap[i * COL_QUADS + j];
                    }
                    s[i * COL_QUADS + j] = ds;
                }
            }
            if (MIX) {
                for (var i = 0u; i < ROWS * COL_QUADS; i++) {
                    let first_stream = s[i];
                    let second = s[i + ROWS * COL_QUADS];
                    s[i] = head_row.phases.x * first_stream + head_row.phases.z * second;
                    s[i + ROWS * COL_QUADS] =
                        head_row.phases.y * first_stream + head_row.phases.w * second;
                }
            }
            for (var j = 0u; j < COL_QUADS; j++) {
                for (var r = 0u; r < ROW_PAIRS; r++) {
                    let column = j * TX + tx + unknown_zero();
                    let at = W_AT + column * W_PITCH + ty * W_GROUPS + r * STREAMS / 2u;
                    let i0 = 2u * r * COL_QUADS + j;
                    let i2 = (i0 + ROWS * COL_QUADS) % (STATES * COL_QUADS);
                    let i3 = (i2 + COL_QUADS) % (STATES * COL_QUADS);
                    put_weights(at, r, s[i0], s[i0 + COL_QUADS], s[i2], s[i3]);
                }
            }

            // dQ += Z K or dK += conj(Z)ᵀ Q, a range of walked rows at a time.
            for (var step = 0u; step < Y_STEPS; step++) {
                stage_pairs_by_row(tid, kept_work(work), first, step * Y_QUADS);
                workgroupBarrier(); // weights and walked rows are staged
                for (var kq = 0u; kq < Y_QUADS + unknown_zero(); kq++) {
                    let w_at = W_AT + (step * Y_QUADS + kq) * W_PITCH + ty * W_GROUPS;
                    let y_at = Y_AT + kq * Y_COLS + tx;
                    for (var c = 0u; c < 4u; c++) {
                        var ya: array<vec4<f32>, COLS>;
                        var yb: array<vec4<f32>, COLS>;
                        for (var j = 0u; j < COLS; j++) {
                            ya[j] = shared_tile[y_at + j * TX][c];
                            yb[j] = shared_tile[y_at + j * TX + Y_HALF][c];
                        }
                        for (var r = 0u; r < ROW_PAIRS; r++) {
                            let w = weights_of(w_at, r, c);
                            for (var j = 0u; j < COLS; j++) {
                                let i0 = 2u * (2u * r * COLS + j);
                                let i1 = i0 + 2u * COLS;
                                acc[i0] = fma(vec4(w.x), ya[j], acc[i0]);
                                acc[i0 + 1u] = fma(vec4(w.x), yb[j], acc[i0 + 1u]);
                                acc[i1] = fma(vec4(w.y), ya[j], acc[i1]);
                                acc[i1 + 1u] = fma(vec4(w.y), yb[j], acc[i1 + 1u]);
                                if (STREAMS == 2u) {
                                    var im = SIGN * w.zw;
                                    if (TAIL_QUADS > 0u) {
                                        im = select(vec2(0.0), im, j * TX + tx < PAIR_QUADS);
                                    }
                                    acc[i0] = fma(vec4(-im.x), yb[j], acc[i0]);
                                    acc[i0 + 1u] = fma(vec4(im.x), ya[j], acc[i0 + 1u]);
                                    acc[i1] = fma(vec4(-im.y), yb[j], acc[i1]);
                                    acc[i1 + 1u] = fma(vec4(im.y), ya[j], acc[i1 + 1u]);
                                }
                            }
                        }
                    }
                }
                workgroupBarrier(); // they are read before the next range, or tile
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        let row = row0 + i;
        if (row >= kept_work(work).own_count) {
            continue;
        }
        for (var j = 0u; j < COLS; j++) {
            let u = j * TX + tx;
            if (u < UNITS) {
                let at = 2u * (i * COLS + j);
                store_unit(kept_work(work), row, u, Pairs(acc[at], acc[at + 1u]), phase);
            }
        }
        if (KEYS_OWN) {
            for (var j = 0u; j < VALUE_COLS; j++) {
                let u = j * TX + tx;
                if (u < VALUE_UNITS) {
                    let at = 2u * (i * VALUE_COLS + j) % V_COLS;
                    store_value(kept_work(work), row, 2u * u, acc_v[at]);
                    store_value(kept_work(work), row, 2u * u + 1u, acc_v[(at + 1u) % V_COLS]);
                }
            }
        }
    }
}
