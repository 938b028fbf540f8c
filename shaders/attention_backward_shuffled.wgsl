// The same gradients as attention_backward.wgsl for adapters where workgroup memory is slow and a
// subgroup always has the same size: software adapters, whose lanes take turns to read and write
// it.
//
// One workgroup is one subgroup of TY lanes, and a lane owns ROWS rows for good. Every lane loads
// one walked row, and the lanes pass them round, so that a load serves TY · ROWS rows. Own rows and
// sums lie in workgroup memory for want of another place that a loop may index; no lane reads what
// another wrote, and there are no barriers.
//
//     own     [unit, row, lane]  four pairs: first members, second members; sums likewise
//     values  [column, stream of dO, row, lane]  four channels; behind them the sums, without
//             streams
//
// Loops over units and columns have bounds that the compiler does not know, and so are never
// unrolled.

const ROUNDS: u32 = BLOCK_C / TY;                       // walked rows a lane and step
const OWN_STREAMS: u32 = select(STREAMS, 1u, KEYS_OWN); // tiles of own values
const WALKED_STREAMS: u32 = select(1u, STREAMS, KEYS_OWN);
const VALUES: u32 = VALUE_DIM / 4u * OWN_STREAMS * ROWS * TY;
const VALUE_SUMS: u32 = select(0u, VALUE_DIM / 4u * ROWS * TY, KEYS_OWN);
const CAPS: u32 = select(1u, STATES * BLOCK_C, SOFTCAP);

var<workgroup> own: array<vec4<f32>, 2u * UNITS * ROWS * TY>;
var<workgroup> sums: array<vec4<f32>, 2u * UNITS * ROWS * TY>;
var<workgroup> values: array<vec4<f32>, VALUES + VALUE_SUMS>;

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
    let row0 = work.own + ROWS * tid; // of this lane
    let units = UNITS + params.zero;
    let columns = VALUE_DIM / 4u + params.zero;
    for (var i = 0u; i < 2u * units * ROWS; i++) {
        sums[i * TY + tid] = vec4(0.0);
    }
    if (KEYS_OWN) {
        for (var i = 0u; i < columns * ROWS; i++) {
            values[VALUES + i * TY + tid] = vec4(0.0);
        }
    }
    var phase = vec2(1.0, 0.0);

    for (var n = 0u; n < params.head_rows; n++) {
        let head_row = head_rows[n];
        if (!owned(work, head_row)) {
            continue;
        }
        work.head_row = head_row;
        phase = head_row.phases.xy;
        for (var i = 0u; i < units * ROWS; i++) {
            let x = own_pairs(work, row0 + i % ROWS, i / ROWS);
            own[2u * i * TY + tid] = x.a;
            own[(2u * i + 1u) * TY + tid] = x.b;
        }
        for (var i = 0u; i < columns * OWN_STREAMS * ROWS; i++) {
            values[i * TY + tid] =
                own_value(work, i / ROWS % OWN_STREAMS, row0 + i % ROWS, i / (ROWS * OWN_STREAMS));
        }
        var own_numbers: array<vec2<f32>, STATES>;
        if (!KEYS_OWN) {
            for (var i = 0u; i < STATES; i++) {
                own_numbers[i] = row_numbers(work, i / ROWS, row0 + i % ROWS);
            }
        }

        for (var first = work.start; first < work.end; first += BLOCK_C) {
            // S
            var s: array<f32, STATES * BLOCK_C>;
            for (var i = 0u; i < STATES * BLOCK_C; i++) {
                s[i] = 0.0;
            }
            for (var u = 0u; u < units; u++) {
                let turns = TAIL_QUADS == 0u || u < PAIR_QUADS;
                var xa: array<vec4<f32>, ROWS>;
                var xb: array<vec4<f32>, ROWS>;
                for (var r = 0u; r < ROWS; r++) {
                    let at = 2u * (u * ROWS + r) * TY + tid;
                    xa[r] = own[at];
                    xb[r] = own[at + TY];
                }
                for (var n = 0u; n < ROUNDS; n++) {
                    let mine = walked_pairs(work, first + n * TY + tid, u);
                    for (var lane = 0u; lane < TY; lane++) {
                        let a = subgroupShuffle(mine.a, lane);
                        let b = subgroupShuffle(mine.b, lane);
                        for (var r = 0u; r < ROWS; r++) {
                            let i = r * BLOCK_C + n * TY + lane;
                            s[i] += dot(xa[r], a) + dot(xb[r], b);
                            if (STREAMS == 2u && turns) {
                                s[i + ROWS * BLOCK_C] += SIGN * (dot(xb[r], a) - dot(xa[r], b));
                            }
                        }
                    }
                }
            }
            if (MIX) {
                for (var i = 0u; i < ROWS * BLOCK_C; i++) {
                    let re = s[i];
                    let im = s[i + ROWS * BLOCK_C];
                    s[i] = head_row.phases.x * re + head_row.phases.y * im;
                    s[i + ROWS * BLOCK_C] = head_row.phases.z * re + head_row.phases.w * im;
                }
            }

            // P, from the log-sum-exp of the forward pass.
            var walked_numbers: array<vec2<f32>, STREAMS * ROUNDS>;
            if (KEYS_OWN) {
                for (var i = 0u; i < STREAMS * ROUNDS; i++) {
                    let walked = first + i % ROUNDS * TY + tid;
                    walked_numbers[i] = row_numbers(work, i / ROUNDS, walked);
                }
            }
            var cap: array<f32, CAPS>;
            if (SOFTCAP) {
                for (var i = 0u; i < STATES * BLOCK_C; i++) {
                    cap[i % CAPS] = cap_slope(s[i]);
                }
            }
            if (MODIFIED || any_hidden(work, first)) {
                for (var i = 0u; i < STATES * BLOCK_C; i++) {
                    let stream = i / (ROWS * BLOCK_C);
                    let row = row0 + i / BLOCK_C % ROWS;
                    let query = select(row, first + i % BLOCK_C, KEYS_OWN);
                    let key = select(first + i % BLOCK_C, row, KEYS_OWN);
                    var x = s[i];
                    if (MODIFIED) {
                        x = modified_at(x, work, stream, query, key);
                    }
                    s[i] = select(MASKED, x, sees(work, query, key));
                }
            }
            for (var i = 0u; i < STATES; i++) {
                for (var c = 0u; c < BLOCK_C; c++) {
                    var lse = own_numbers[i].x;
                    if (KEYS_OWN) {
                        let numbers = walked_numbers[i / ROWS * ROUNDS + c / TY];
                        lse = subgroupShuffle(numbers.x, c % TY);
                    }
                    s[i * BLOCK_C + c] = exp2(s[i * BLOCK_C + c] - lse);
                }
            }

            // dP = dO·V, and dV += Pᵀ dO of the same dO. A row at a time, and both streams of dO at
            // once: what is added up stays in registers.
            var dp: array<f32, STATES * BLOCK_C>;
            for (var i = 0u; i < STATES * BLOCK_C; i++) {
                dp[i] = 0.0;
            }
            var walked: array<ValueRow, WALKED_STREAMS * ROUNDS>; // of this lane
            for (var i = 0u; i < WALKED_STREAMS * ROUNDS; i++) {
                let row = first + i % ROUNDS * TY + tid;
                walked[i] = value_row(KEYS_OWN, work, i / ROUNDS, row);
            }
            for (var column = 0u; column < columns; column++) {
                var x: array<vec4<f32>, OWN_STREAMS * ROWS>;
                for (var i = 0u; i < OWN_STREAMS * ROWS; i++) {
                    x[i] = values[(column * OWN_STREAMS * ROWS + i) * TY + tid];
                }
                var sum: array<vec4<f32>, ROWS>;
                if (KEYS_OWN) {
                    for (var r = 0u; r < ROWS; r++) {
                        sum[r] = values[VALUES + (column * ROWS + r) * TY + tid];
                    }
                }
                for (var n = 0u; n < ROUNDS; n++) {
                    var mine: array<vec4<f32>, WALKED_STREAMS>;
                    for (var stream = 0u; stream < WALKED_STREAMS; stream++) {
                        mine[stream] = value_quad_of(KEYS_OWN, walked[stream * ROUNDS + n], column);
                    }
                    for (var r = 0u; r < ROWS; r++) {
                        for (var lane = 0u; lane < TY; lane++) {
                            var weighted = vec4(0.0);
                            for (var stream = 0u; stream < STREAMS; stream++) {
                                let y = subgroupShuffle(mine[stream % WALKED_STREAMS], lane);
                                let i = (stream * ROWS + r) * BLOCK_C + n * TY + lane;
                                dp[i] += dot(x[(stream * ROWS + r) % (OWN_STREAMS * ROWS)], y);
                                weighted += s[i] * y;
                            }
                            if (KEYS_OWN) {
                                sum[r] += weighted;
                            }
                        }
                    }
                }
                if (KEYS_OWN) {
                    for (var r = 0u; r < ROWS; r++) {
                        values[VALUES + (column * ROWS + r) * TY + tid] = sum[r];
                    }
                }
            }

            // dS, and Z of all streams.
            for (var i = 0u; i < STATES; i++) {
                for (var c = 0u; c < BLOCK_C; c++) {
                    var delta = own_numbers[i].y;
                    if (KEYS_OWN) {
                        let numbers = walked_numbers[i / ROWS * ROUNDS + c / TY];
                        delta = subgroupShuffle(numbers.y, c % TY);
                    }
                    var ds = s[i * BLOCK_C + c] * (dp[i * BLOCK_C + c] - delta);
                    if (D_BIAS) {
                        store_d_bias(work, i / ROWS, row0 + i % ROWS, first + c, ds);
                    }
                    if (SOFTCAP) {
                        ds *= cap[i * BLOCK_C + c];
                    }
                    s[i * BLOCK_C + c] = ds;
                }
            }
            if (MIX) {
                for (var i = 0u; i < ROWS * BLOCK_C; i++) {
                    let first_stream = s[i];
                    let second = s[i + ROWS * BLOCK_C];
                    s[i] = head_row.phases.x * first_stream + head_row.phases.z * second;
                    s[i + ROWS * BLOCK_C] =
                        head_row.phases.y * first_stream + head_row.phases.w * second;
                }
            }

            // dQ += Z K or dK += conj(Z)ᵀ Q
            for (var u = 0u; u < units; u++) {
                let turns = TAIL_QUADS == 0u || u < PAIR_QUADS;
                var sa: array<vec4<f32>, ROWS>;
                var sb: array<vec4<f32>, ROWS>;
                for (var r = 0u; r < ROWS; r++) {
                    let at = 2u * (u * ROWS + r) * TY + tid;
                    sa[r] = sums[at];
                    sb[r] = sums[at + TY];
                }
                for (var n = 0u; n < ROUNDS; n++) {
                    let mine = walked_pairs(work, first + n * TY + tid, u);
                    for (var lane = 0u; lane < TY; lane++) {
                        let a = subgroupShuffle(mine.a, lane);
                        let b = subgroupShuffle(mine.b, lane);
                        for (var r = 0u; r < ROWS; r++) {
                            let i = r * BLOCK_C + n * TY + lane;
                            sa[r] += s[i] * a;
                            sb[r] += s[i] * b;
                            if (STREAMS == 2u && turns) {
                                let im = SIGN * s[i + ROWS * BLOCK_C];
                                sa[r] -= im * b;
                                sb[r] += im * a;
                            }
                        }
                    }
                }
                for (var r = 0u; r < ROWS; r++) {
                    let at = 2u * (u * ROWS + r) * TY + tid;
                    sums[at] = sa[r];
                    sums[at + TY] = sb[r];
                }
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = row0 + r;
        if (row >= work.own_count) {
            continue;
        }
        for (var u = 0u; u < units; u++) {
            let at = 2u * (u * ROWS + r) * TY + tid;
            store_unit(work, row, u, Pairs(sums[at], sums[at + TY]), phase);
        }
        if (KEYS_OWN) {
            for (var column = 0u; column < columns; column++) {
                store_value(work, row, column, values[VALUES + (column * ROWS + r) * TY + tid]);
            }
        }
    }
}
