// Flash decode: few query rows of each sequence against its cache, the keys cut into splits.
//
// One workgroup: ROWS query rows of one kv head (its query heads times the rows of the sequence),
// against one split of the keys of one sequence, for STREAMS output heads a row. So K and V are
// read once for all of them, and for both components of RoPE++:
//     S_re = Qa·Ka + Qb·Kb      S_im = Qb·Ka − Qa·Kb      S_φ = cos φ · S_re + sin φ · S_im
//
// One invocation: in Q·Kᵀ, KEYS_EACH keys, against all rows; in P·V, COLS groups of four channels
// of V, over every KEY_GROUPS-th key, RUN keys at once. A state is one softmax: row r of stream t
// is state t · ROWS + r. Where KEY_LANES invocations share their keys, each takes every
// KEY_LANES-th unit of all of them, so that one load reads neighbouring channels, and what they
// have summed up goes to the invocation whose key it is.
//
// key_place: cache/slots.wgsl; kv_len: lists/kv_lens.wgsl or decode/one_buffer.wgsl; stage_q:
// decode/load.wgsl; load_unit: units.wgsl; key_quad, value_quad: cache/read_*.wgsl; row_at:
// strides.wgsl; modified_score, head_row_of, dot_add: decode/score.wgsl; offered, passed:
// decode/pass_*.wgsl; key_lane, of_lane, with_lane: decode/keys_*.wgsl; store_result:
// decode/store_*.wgsl

@compute @workgroup_size(WORKGROUP)
fn decode(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = group_id.x + group_id.y * params.groups_x;
    let split = linear % params.splits;
    let row_block = linear / params.splits % params.row_blocks;
    let kv_head = linear / params.splits / params.row_blocks % params.kv_heads;
    let batch = linear / params.splits / params.row_blocks / params.kv_heads;
    if (batch >= params.batch) {
        return;
    }
    let row_first = row_block * ROWS;

    // The sequence's keys are oldest .. length; a bad length never leaves its own slots.
    var length = kv_len(batch);
    var oldest = 0u;
    if (params.cache.rolling == 0u) {
        length = min(length, params.cache.capacity);
    } else {
        oldest = length - min(length, params.cache.capacity);
    }
    // Place of row 0 among the keys: negative in a sequence that is shorter than the call.
    let place0 = i32(length) - i32(params.seq_q);
    if (params.window != 0u) {
        let past = u32(max(place0 + 1, 0));
        oldest = max(oldest, past - min(past, params.window));
    }
    // An even share for every split.
    let share = (length - oldest) / params.splits;
    let rest = (length - oldest) % params.splits;
    let begin = oldest + split * share + min(split, rest);
    let end = begin + share + select(0u, 1u, split < rest);

    stage_q(tid, batch, kv_head, row_first, place0);

    // Keys that each row sees.
    var low: array<u32, ROWS>;
    var high: array<u32, ROWS>;
    var last_low = 0u; // every row sees the keys last_low .. first_high
    var first_high = length;
    for (var r = 0u; r < ROWS; r++) {
        let i = (row_first + r) / params.head_rows;
        // One past its own place; 0 for rows before the first key.
        let past = length + i + 1u;
        let own = past - min(past, params.seq_q);
        low[r] = 0u;
        high[r] = select(length, own, params.causal != 0u);
        if (params.window != 0u) {
            low[r] = own - min(own, params.window);
            if (params.causal == 0u) {
                // As far after its place as before it.
                high[r] = u32(clamp(place0 + i32(i + params.window), 0, i32(length)));
            }
        }
        if (i >= params.seq_q) {
            high[r] = 0u;
        } else {
            last_low = max(last_low, low[r]);
            first_high = min(first_high, high[r]);
        }
    }

    var m: array<vec4<f32>, VECS>; // running maxima, in base 2
    var l: array<vec4<f32>, VECS>; // running sums over this invocation's keys alone
    for (var i = 0u; i < VECS; i++) {
        m[i] = vec4(MASKED);
        l[i] = vec4(0.0);
    }
    var acc: array<vec4<f32>, STATES * COLS>;
    for (var i = 0u; i < STATES * COLS; i++) {
        acc[i] = vec4(0.0);
    }
    let zero = select(0u, params.zero, COMPACT);
    var group = 0u;
    var lane = tid;
    if (KEY_GROUPS > 1u) {
        group = tid / LANES;
        lane = tid % LANES;
    }
    let unit0 = key_lane(tid);
    workgroupBarrier(); // q is staged

    for (var first = begin; first < end; first += BLOCK_K) {
        // S = Q·Kᵀ
        var places: array<vec2<u32>, KEYS_EACH>;
        var key_rows: array<u32, KEYS_SHARED>;
        for (var k = 0u; k < KEYS_EACH; k++) {
            // Keys past the last one repeat it; they are masked.
            places[k] = key_place(batch, min(first + k * THREADS + tid, end - 1u));
            let row = row_of(params.cache.k, places[k], kv_head);
            for (var n = 0u; n < KEY_LANES; n++) {
                key_rows[k * KEY_LANES + n] = of_lane(row, n);
            }
        }
        // Over this invocation's units: of its own key k at k · KEY_LANES, of other lanes' behind.
        var sums: array<f32, KEYS_SHARED * STATES>;
        for (var i = 0u; i < KEYS_SHARED * STATES; i++) {
            sums[i] = 0.0;
        }
        var next: array<Pairs, KEYS_SHARED>;
        for (var k = 0u; k < KEYS_SHARED && PREFETCH; k++) {
            next[k] = load_unit(true, key_rows[k], existing_unit(unit0));
        }
        for (var step = 0u; step < UNITS_EACH + zero; step++) {
            let own_unit = step * KEY_LANES + unit0;
            let u = existing_unit(own_unit);
            let turns = TAIL_QUADS == 0u || u < PAIR_QUADS;
            var x: array<Pairs, KEYS_SHARED>;
            for (var k = 0u; k < KEYS_SHARED; k++) {
                if (PREFETCH) {
                    x[k] = next[k];
                    next[k] = load_unit(true, key_rows[k], min(own_unit + KEY_LANES, UNITS - 1u));
                } else {
                    x[k] = load_unit(true, key_rows[k], u);
                }
            }
            let q_at = Q_AT + 2u * u * ROWS;
            var own: array<vec4<f32>, Q_OFFERS>;
            for (var i = 0u; i < Q_OFFERS; i++) {
                // May read past q within the tile; `passed` never uses those values.
                own[i] = offered(q_at + i * SUB, 1u, tid);
            }
            for (var r = 0u; r < ROWS; r++) {
                let i = 2u * r;
                let qa = passed(own[i / SUB], q_at + i, i % SUB);
                let qb = passed(own[(i + 1u) / SUB], q_at + i + 1u, (i + 1u) % SUB);
                for (var k = 0u; k < KEYS_SHARED; k++) {
                    // A lane may have a unit less than others.
                    if (UNITS % KEY_LANES == 0u || own_unit < UNITS) {
                        let i = k * STATES + r;
                        sums[i] = dot_add(qb, x[k].b, dot_add(qa, x[k].a, sums[i]));
                        if (STREAMS == 2u && turns) {
                            let im = dot_add(qb, x[k].a, sums[i + ROWS]);
                            sums[i + ROWS] = dot_add(-qa, x[k].b, im);
                        }
                    }
                }
            }
        }
        // Sums of half of the lanes' keys change hands, then of a quarter, and so on. Both sides of
        // an exchange add the same two numbers, so that no score depends on its key's lane.
        for (var level = 0u; level < KEY_LEVELS; level++) {
            let distance = KEY_LANES >> (level + 1u);
            for (var k = 0u; k < KEYS_SHARED; k++) {
                if (k % KEY_LANES < distance) {
                    for (var t = 0u; t < STATES; t++) {
                        let i = k * STATES + t;
                        sums[i] = with_lane(sums[i], sums[i + distance * STATES], distance);
                    }
                }
            }
        }
        var s: array<f32, KEYS_EACH * STATES>;
        for (var k = 0u; k < KEYS_EACH; k++) {
            for (var i = 0u; i < STATES; i++) {
                s[k * STATES + i] = sums[k * KEY_LANES * STATES + i];
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            let head_row = head_row_of(kv_head, row_first + r);
            // Rows past the last one repeat it; they are never stored.
            let i = min((row_first + r) / params.head_rows, params.seq_q - 1u);
            for (var k = 0u; k < KEYS_EACH; k++) {
                let key = first + k * THREADS + tid;
                let sees = key < end && key >= low[r] && key < high[r];
                let at = k * STATES + r;
                if (MIX) {
                    let re = s[at];
                    let im = s[at + ROWS];
                    s[at] = head_row.phases.x * re + head_row.phases.y * im;
                    s[at + ROWS] = head_row.phases.z * re + head_row.phases.w * im;
                }
                for (var t = 0u; t < STREAMS; t++) {
                    let score = modified_score(s[at + t * ROWS], head_row, t, batch, i,
                        place0 + i32(i), min(key, end - 1u));
                    s[at + t * ROWS] = select(MASKED, score, sees);
                }
            }
        }

        // Maxima: of this invocation's keys, of a segment, of the block.
        for (var v = 0u; v < VECS; v++) {
            var top = vec4(MASKED);
            for (var j = 0u; j < 4u; j++) {
                if (4u * v + j < STATES) {
                    for (var k = 0u; k < KEYS_EACH; k++) {
                        top[j] = max(top[j], s[k * STATES + 4u * v + j]);
                    }
                }
            }
            tile[RED_AT + tid * VECS + v] = top;
        }
        workgroupBarrier(); // maxima of invocations; p and rows of v of the last step are read
        for (var k = 0u; k < KEYS_EACH; k++) {
            value_rows[k * THREADS + tid] = row_of(params.cache.v, places[k], kv_head);
        }
        for (var n = tid; n < SEGMENTS * VECS; n += THREADS) {
            var top = vec4(MASKED);
            for (var i = n; i < THREADS * VECS + zero; i += SEGMENTS * VECS) {
                top = max(top, tile[RED_AT + i]);
            }
            tile[SEG_AT + n] = top;
        }
        workgroupBarrier(); // maxima of segments

        // P = exp2(S − m), and the old state rescaled where a maximum moved.
        for (var v = 0u; v < VECS; v++) {
            var top = m[v];
            for (var i = 0u; i < SEGMENTS; i++) {
                top = max(top, tile[SEG_AT + i * VECS + v]);
            }
            // A row without a visible key yet keeps p = 0: exp2(MASKED − 0).
            let base = select(top, vec4(0.0), top == vec4(MASKED));
            let alpha = exp2(m[v] - base);
            if (any(top != m[v])) {
                for (var j = 0u; j < 4u; j++) {
                    if (4u * v + j < STATES) {
                        for (var c = 0u; c < COLS; c++) {
                            acc[(4u * v + j) * COLS + c] *= alpha[j];
                        }
                    }
                }
            }
            m[v] = top;
            l[v] *= alpha;
            for (var k = 0u; k < KEYS_EACH; k++) {
                var p = vec4(MASKED);
                for (var j = 0u; j < 4u; j++) {
                    if (4u * v + j < STATES) {
                        p[j] = s[k * STATES + 4u * v + j];
                    }
                }
                p = exp2(p - base);
                l[v] += p;
                tile[P_AT + (k * THREADS + tid) * VECS + v] = p;
            }
        }
        workgroupBarrier(); // p and rows of v

        // acc += P·V
        let keys = min(BLOCK_K, end - first);
        for (var base = 0u; base < keys; base += KEY_GROUPS * RUN) {
            let next = base + KEY_GROUPS * RUN;
            let whole = next <= keys && first + base >= last_low && first + next <= first_high;
            if (!BIAS && !HOOKS && whole) {
                // A run of keys that every row sees: all of its values first, so that their loads
                // are on the way together.
                let own_row = offered_row(base, tid);
                var x: array<vec4<f32>, RUN * COLS>;
                for (var n = 0u; n < RUN; n++) {
                    let row = passed_row(own_row, min(base + n * KEY_GROUPS + group, keys - 1u), n);
                    for (var c = 0u; c < COLS; c++) {
                        x[n * COLS + c] = value_quad(row, min(c * LANES + lane, V_QUADS - 1u));
                    }
                }
                for (var v = 0u; v < VECS; v++) {
                    let own = offered(P_AT + base * VECS + v, VECS, tid);
                    for (var n = 0u; n < RUN; n++) {
                        let key = min(base + n * KEY_GROUPS + group, keys - 1u);
                        let p = passed(own, P_AT + key * VECS + v, n);
                        for (var j = 0u; j < 4u; j++) {
                            if (STATES % 4u == 0u || 4u * v + j < STATES) {
                                for (var c = 0u; c < COLS; c++) {
                                    let i = (4u * v + j) * COLS + c;
                                    acc[i] = fma(vec4(p[j]), x[n * COLS + c], acc[i]);
                                }
                            }
                        }
                    }
                }
            } else if (group < KEY_GROUPS) {
                for (var key = base + group; key < min(next, keys); key += KEY_GROUPS) {
                    let row = value_rows[key];
                    let everyone = !BIAS && !HOOKS
                        && first + key >= last_low && first + key < first_high;
                    for (var c = 0u; c < COLS; c++) {
                        let x = value_quad(row, min(c * LANES + lane, V_QUADS - 1u));
                        for (var i = 0u; i < STATES; i++) {
                            let weight = tile[P_AT + key * VECS + i / 4u][i % 4u];
                            // A weight of 0 would not silence a value that is not finite.
                            if (everyone || weight != 0.0) {
                                acc[i * COLS + c] = fma(vec4(weight), x, acc[i * COLS + c]);
                            }
                        }
                    }
                }
            }
        }
    }

    // Sums over all keys of the split, in a fixed order.
    for (var v = 0u; v < VECS; v++) {
        tile[RED_AT + tid * VECS + v] = l[v];
    }
    workgroupBarrier(); // sums of invocations
    for (var n = tid; n < SEGMENTS * VECS; n += THREADS) {
        var sum = vec4(0.0);
        for (var i = n; i < THREADS * VECS + zero; i += SEGMENTS * VECS) {
            sum += tile[RED_AT + i];
        }
        tile[SEG_AT + n] = sum;
    }
    if (tid == 0u) {
        for (var v = 0u; v < VECS; v++) {
            maxima[v] = m[v];
        }
    }
    workgroupBarrier(); // sums of segments
    for (var v = tid; v < VECS; v += THREADS) {
        var sum = vec4(0.0);
        for (var i = 0u; i < SEGMENTS + zero; i++) {
            sum += tile[SEG_AT + i * VECS + v];
        }
        totals[v] = sum;
    }

    // Outputs, over the key groups: as many states at once as there is room for.
    for (var base = 0u; base < STATES; base += AT_ONCE) {
        workgroupBarrier(); // the memory below is read, and the totals are written
        // Every index of acc is a constant of the unrolled loop: a compiler that must look one up
        // keeps all of acc in memory, as NVIDIA's does.
        for (var i = 0u; i < STATES; i++) {
            if (i >= base && i - base < AT_ONCE) {
                for (var c = 0u; c < COLS; c++) {
                    tile[((i - base) * COLS + c) * THREADS + tid] = acc[i * COLS + c];
                }
            }
        }
        workgroupBarrier(); // accumulators are written
        for (var n = tid; n < min(AT_ONCE, STATES - base) * V_QUADS; n += THREADS) {
            let i = base + n / V_QUADS;
            let column = n % V_QUADS;
            let row = row_first + i % ROWS;
            let stream = i / ROWS;
            let head_row = head_row_of(kv_head, row);
            if (row / params.head_rows >= params.seq_q || stream >= head_row.streams) {
                continue;
            }
            let at = (n / V_QUADS * COLS + column / LANES) * THREADS + column % LANES;
            var x = tile[at];
            for (var g = 1u; g < KEY_GROUPS + zero; g++) {
                x += tile[at + g * LANES];
            }
            let top = maxima[i / 4u][i % 4u];
            let sum = totals[i / 4u][i % 4u];
            let head = head_of(head_row, stream);
            let sink = select(head_row.sinks.x, head_row.sinks.y, stream == 1u);
            let place = Output(split, batch, head, row / params.head_rows, column);
            store_result(place, x, top, sum, sink);
        }
    }
}
