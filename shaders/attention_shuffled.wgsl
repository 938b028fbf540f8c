// The same attention as attention.wgsl for adapters where workgroup memory is slow and a subgroup
// always has the same size: software adapters, whose lanes take turns to read and write memory.
//
// One workgroup is one subgroup of TY lanes, and a lane owns ROWS queries for good: its softmax
// needs nobody else. Every lane loads one key, or the value of one key, and the lanes pass them
// round, so a load serves TY · ROWS queries. Rotated queries and un-normalised outputs live in
// workgroup memory, because private arrays are slow under a dynamic index; no lane reads what
// another wrote, and there are no barriers.
//
//     queries  [unit, row, lane]  four pairs: first members, second members
//     outputs  [column, state, lane]  four channels
//
// Loops over units and columns have bounds that the compiler does not know, and so are never
// unrolled: the code is as short for every head dimension. Loops over lanes and states must unroll:
// they index private arrays.
//
// work_of, out_row, store_*: attention/work.wgsl; query_unit, key_pairs, value:
// attention/load.wgsl; modified_quad, masked, any_hidden: attention/score.wgsl; sees:
// attention/sees.wgsl; kept_state, keep_state: attention/state_*.wgsl; block_visited:
// attention/blocks_*.wgsl; with_sink: softmax.wgsl; not_finite: finite.wgsl

const ROUNDS: u32 = BLOCK_K / TY;  // keys a lane and step

fn key_pairs(work: Work, key: u32, row: u32, u: u32) -> Pairs {
    return in_members(true, u, key_half(work, key, row, u, 0u), key_half(work, key, row, u, 1u));
}

var<workgroup> queries: array<vec4<f32>, 2u * UNITS * ROWS * TY>;
var<workgroup> outputs: array<vec4<f32>, VALUE_DIM / 4u * STATES * TY>;

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
    let row0 = q_first + ROWS * tid; // of this lane

    var m: array<f32, 4u * STATE_VECS>;  // running maximum, in base 2
    var l: array<f32, 4u * STATE_VECS>;  // running sum
    for (var i = 0u; i < 4u * STATE_VECS; i++) {
        m[i] = MASKED;
        l[i] = 0.0;
    }
    let state_at = in_part * STATE_LEN * THREADS + tid;
    let resumed = RESUMABLE && params.first_step > 0u;
    if (resumed) {
        for (var i = 0u; i < STATE_VECS; i++) {
            let top = kept_state(state_at + i * THREADS);
            let sum = kept_state(state_at + (STATE_VECS + i) * THREADS);
            for (var c = 0u; c < 4u; c++) {
                m[4u * i + c] = top[c];
                l[4u * i + c] = sum[c];
            }
        }
    }
    for (var i = 0u; i < (VALUE_DIM / 4u + params.zero) * STATES; i++) {
        var x = vec4(0.0);
        if (resumed) {
            x = kept_state(state_at + (2u * STATE_VECS + i) * THREADS);
        }
        outputs[i * TY + tid] = x;
    }
    for (var i = 0u; i < (UNITS + params.zero) * ROWS; i++) {
        let x = query_unit(work, row0 + i % ROWS, i / ROWS, params.q_scale);
        queries[2u * i * TY + tid] = x.a;
        queries[(2u * i + 1u) * TY + tid] = x.b;
    }

    // Whether a value was not finite. A masked key's weight of 0 would not silence it, as 0 · NaN
    // is NaN: zero takes its place, and the end of the kernel gives it to the rows that see its
    // key.
    var non_finite = false;
    for (var first = work.start; first < work.end; first += BLOCK_K) {
        if (BLOCKS && !block_visited(work.batch, work.tile, first / BLOCK_K)) {
            continue;
        }
        var rows: array<vec2<u32>, ROUNDS>; // of this lane's keys and values
        for (var n = 0u; n < ROUNDS; n++) {
            rows[n] = rows_of_key(work, first + n * TY + tid);
        }
        // S = Q·Kᵀ
        var s: array<f32, STATES * BLOCK_K>;
        for (var i = 0u; i < STATES; i++) {
            for (var key = 0u; key < BLOCK_K; key++) {
                s[i * BLOCK_K + key] = 0.0;
            }
        }
        for (var u = 0u; u < UNITS + params.zero; u++) {
            let turns = TAIL_QUADS == 0u || u < PAIR_QUADS;
            var qa: array<vec4<f32>, ROWS>;
            var qb: array<vec4<f32>, ROWS>;
            for (var r = 0u; r < ROWS; r++) {
                let at = 2u * (u * ROWS + r) * TY + tid;
                qa[r] = queries[at];
                qb[r] = queries[at + TY];
            }
            for (var n = 0u; n < ROUNDS; n++) {
                let own = key_pairs(work, first + n * TY + tid, rows[n].x, u);
                for (var lane = 0u; lane < TY; lane++) {
                    let a = subgroupShuffle(own.a, lane);
                    let b = subgroupShuffle(own.b, lane);
                    for (var r = 0u; r < ROWS; r++) {
                        let i = r * BLOCK_K + n * TY + lane;
                        s[i] += dot(qa[r], a) + dot(qb[r], b);
                        if (STREAMS == 2u && turns) {
                            s[i + ROWS * BLOCK_K] += dot(qb[r], a) - dot(qa[r], b);
                        }
                    }
                }
            }
        }
        if (MIX) {
            for (var r = 0u; r < ROWS; r++) {
                for (var key = 0u; key < BLOCK_K; key++) {
                    let re = s[r * BLOCK_K + key];
                    let im = s[(ROWS + r) * BLOCK_K + key];
                    s[r * BLOCK_K + key] = head_row.phases.x * re + head_row.phases.y * im;
                    s[(ROWS + r) * BLOCK_K + key] = head_row.phases.z * re + head_row.phases.w * im;
                }
            }
        }
        let hidden = any_hidden(work, first);
        if (SOFTCAP || ALIBI || BIAS || HOOKS || hidden) {
            for (var i = 0u; i < STATES; i++) {
                let row = row0 + i % ROWS;
                for (var j = 0u; j < KEY_QUADS; j++) {
                    var x = vec4(
                        s[i * BLOCK_K + j],
                        s[i * BLOCK_K + BLOCK_KQ + j],
                        s[i * BLOCK_K + 2u * BLOCK_KQ + j],
                        s[i * BLOCK_K + 3u * BLOCK_KQ + j],
                    );
                    x = modified_quad(x, work, i / ROWS, row, first + j);
                    if (hidden) {
                        x = masked(x, work, row, first + j);
                    }
                    s[i * BLOCK_K + j] = x.x;
                    s[i * BLOCK_K + BLOCK_KQ + j] = x.y;
                    s[i * BLOCK_K + 2u * BLOCK_KQ + j] = x.z;
                    s[i * BLOCK_K + 3u * BLOCK_KQ + j] = x.w;
                }
            }
        }

        // P = exp2(S − m), and the factor that takes the old state to the new maximum.
        var alpha: array<f32, STATES>;
        for (var i = 0u; i < STATES; i++) {
            var top = m[i];
            for (var key = 0u; key < BLOCK_K; key++) {
                top = max(top, s[i * BLOCK_K + key]);
            }
            // A row without a visible key yet keeps p = 0: exp2(MASKED − 0).
            let base = select(top, 0.0, top == MASKED);
            alpha[i] = exp2(m[i] - base);
            m[i] = top;
            var sum = 0.0;
            for (var key = 0u; key < BLOCK_K; key++) {
                let p = exp2(s[i * BLOCK_K + key] - base);
                s[i * BLOCK_K + key] = p;
                sum += p;
            }
            l[i] = l[i] * alpha[i] + sum;
        }

        // O += P·V
        for (var column = 0u; column < VALUE_DIM / 4u + params.zero; column++) {
            var acc: array<vec4<f32>, STATES>;
            for (var i = 0u; i < STATES; i++) {
                acc[i] = alpha[i] * outputs[(column * STATES + i) * TY + tid];
            }
            for (var n = 0u; n < ROUNDS; n++) {
                let x = value(work, first + n * TY + tid, rows[n].y, column);
                let bad = not_finite(x);
                non_finite = non_finite || any(bad);
                let own = select(x, vec4(0.0), bad);
                for (var lane = 0u; lane < TY; lane++) {
                    let v = subgroupShuffle(own, lane);
                    for (var i = 0u; i < STATES; i++) {
                        acc[i] += s[i * BLOCK_K + n * TY + lane] * v;
                    }
                }
            }
            for (var i = 0u; i < STATES; i++) {
                outputs[(column * STATES + i) * TY + tid] = acc[i];
            }
        }
    }

    if (subgroupAny(non_finite)) {
        for (var key = work.start; key < work.end; key++) {
            if (BLOCKS && !block_visited(work.batch, work.tile, key / BLOCK_K)) {
                continue;
            }
            for (var i = 0u; i < STATES; i++) {
                let row = min(row0 + i % ROWS, work.rows.count - 1u);
                if (!sees(work, i / ROWS, row, key)) {
                    continue;
                }
                for (var column = 0u; column < VALUE_DIM / 4u + params.zero; column++) {
                    let x = value(work, key, rows_of_key(work, key).y, column);
                    let at = (column * STATES + i) * TY + tid;
                    outputs[at] += select(vec4(0.0), x, not_finite(x));
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
        for (var i = 0u; i < (VALUE_DIM / 4u + params.zero) * STATES; i++) {
            keep_state(state_at + (2u * STATE_VECS + i) * THREADS, outputs[i * TY + tid]);
        }
        return;
    }

    for (var i = 0u; i < STATES; i++) {
        let row = row0 + i % ROWS;
        let stream = i / ROWS;
        if (row >= work.rows.count || stream >= head_row.streams) {
            continue;
        }
        var scale = 1.0;
        if (SINKS) {
            let sum = with_sink(m[i], l[i], head_row.sinks[stream]);
            m[i] = sum.m;
            l[i] = sum.l;
            scale = sum.scale;
        }
        // No visible key: the output is zero and the log-sum-exp minus infinity.
        let empty = l[i] == 0.0;
        let inverse = scale / l[i];
        let out_at = out_row(work, stream, row);
        for (var column = 0u; column < VALUE_DIM / 4u + params.zero; column++) {
            let x = outputs[(column * STATES + i) * TY + tid] * inverse;
            store_quad(stream, out_at + column, select(x, vec4(0.0), empty));
        }
        if (params.store_lse != 0u) {
            store_lse(work, stream, row, m[i], l[i]);
        }
    }
}
