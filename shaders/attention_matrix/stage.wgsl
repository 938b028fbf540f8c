// Rows of q, k and v on their way into workgroup memory as f16, as attention_matrix/sizes.wgsl lays
// them out.
//
// query_unit, half_unit, load_qk: attention/load.wgsl; key_row, value_row: attention/places_*.wgsl;
// value_quad: cache/read_v_*.wgsl; part_of, part_of_query: attention_matrix/parts.wgsl

// The unit that lies at a quad of either half of a row; UNITS where there is padding. Pairs are
// padded to whole fragments, and so is the tail behind them.
fn unit_at(quad: u32) -> u32 {
    const TAIL_AT = PAIR_FRAGMENTS * M4;
    if (quad < TAIL_AT) {
        return select(UNITS, quad, quad < PAIR_QUADS);
    }
    return min(PAIR_QUADS + quad - TAIL_AT, UNITS);
}

// Part n of the queries from a tile's first on.
fn stage_q(tid: u32, work: Work, first: u32, n: u32, to: u32) {
    for (var i = tid; i < BLOCK_Q * HALF_QUADS; i += THREADS) {
        let row = i / HALF_QUADS;
        let quad = i % HALF_QUADS;
        let u = unit_at(quad);
        var x = Pairs(vec4(0.0), vec4(0.0));
        if (u < UNITS) {
            var factor = 1.0;
            if (X3) {
                factor = shares[row * PARTS].x;
            }
            x = query_unit(work, first + row, u, factor);
        }
        let at = to + row * K_ROW + quad;
        put_half(at, part_of_query(x.a, n));
        put_half(at + HALF_QUADS, part_of_query(x.b, n));
    }
}

// Invocations that stage rows of keys and values keep to a column, as far as there are columns for
// all: what follows from it is worked out once. Neighbouring ones have neighbouring columns.
//
// What does not exist is staged as something that does: a key past the last one, or gone, has
// weight 0, and channels past a value's last one are not stored.

const K_COLUMNS: u32 = 2u * HALF_QUADS;
const K_ACROSS: u32 = min(K_COLUMNS, THREADS);
const K_DOWN: u32 = THREADS / K_ACROSS;
const K_EVEN: bool =
    THREADS % K_ACROSS == 0u && K_COLUMNS % K_ACROSS == 0u && BLOCK_K % K_DOWN == 0u;

fn stage_k(tid: u32, work: Work, first: u32) {
    for (var c = 0u; c < K_COLUMNS; c += K_ACROSS) {
        let n = c + tid % K_ACROSS;
        let quad = select(n % HALF_QUADS, n / 2u, K_INTERLEAVED);
        let half = select(n / HALF_QUADS, n % 2u, K_INTERLEAVED);
        let u = unit_at(quad);
        for (var r = 0u; r < BLOCK_K; r += K_DOWN) {
            let row = r + tid / K_ACROSS;
            if (K_EVEN || (n < K_COLUMNS && row < min(BLOCK_K, r + K_DOWN))) {
                stage_key(work, first + row, row * K_ROW + quad, u, half);
            }
        }
    }
}

// Half of a unit of a key. Units of whole groups of channels skip what asks whether there are all.
fn key_channels(row: u32, u: u32, half: u32) -> vec4<f32> {
    let whole = PAIRS % 4u == 0u && (K_INTERLEAVED || ALIGNED);
    if (!whole || (TAIL_QUADS > 0u && u >= PAIR_QUADS)) {
        return half_unit(true, row, u, half);
    }
    if (K_INTERLEAVED) {
        return load_qk(true, row, 2u * u + half);
    }
    var channel = 4u * u + half * BLOCK_PAIRS;
    if (BLOCK_PAIRS < PAIRS) {
        channel += 4u * u / BLOCK_PAIRS * BLOCK_PAIRS;
    }
    return load_qk(true, row, channel / 4u);
}

fn stage_key(work: Work, key: u32, at: u32, u: u32, half: u32) {
    var x = vec4(0.0);
    if (HALF_QUADS == UNITS || u < UNITS) {
        x = key_channels(key_row(work, key), u, half);
    }
    for (var n = 0u; n < K_PARTS; n++) {
        let to = at + n * K_QUADS;
        let y = part_of(x, K_PARTS, n);
        if (interleaved(true, u)) {
            let z = vec4<f16>(y);
            half_tile[to][2u * half] = z.x;
            half_tile[to + HALF_QUADS][2u * half] = z.y;
            half_tile[to][2u * half + 1u] = z.z;
            half_tile[to + HALF_QUADS][2u * half + 1u] = z.w;
        } else {
            put_half(to + half * HALF_QUADS, y);
        }
    }
}

// Whether f16 has no finite number for a value. The weight 0 of a hidden key would not silence it,
// as 0 * NaN is NaN: zeros are staged in its place, and the end of the kernel gives it to the rows
// that see its key.
var<workgroup> non_finite: atomic<u32>;

const TOO_LARGE: u32 = 0x477ff000u; // 65520, and what is infinite or NaN

fn sizes_of(x: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(x) & vec4(0x7fffffffu);
}

fn too_large(x: vec4<f32>) -> vec4<bool> {
    return sizes_of(x) >= vec4(TOO_LARGE);
}

// At least TOO_LARGE where one of the four is.
fn largest_size(x: vec4<f32>) -> u32 {
    if (V_F16) {
        // Exponents of ones carry into the sign. Compilers see that the words are those stored.
        let words = vec2(pack2x16float(x.xy), pack2x16float(x.zw));
        let carried = (words & vec2(0x7c007c00u)) + vec2(0x04000400u);
        return (carried.x | carried.y) & 0x80008000u;
    }
    let sizes = sizes_of(x);
    return max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
}

fn staged_value(work: Work, key: u32, column: u32) -> vec4<f32> {
    return value_quad(value_row(work, key), min(column, VALUE_DIM / 4u - 1u));
}

fn put_value(quad: u32, x: vec4<f32>) {
    for (var n = 0u; n < V_PARTS; n++) {
        put_half(quad + n * V_QUADS, part_of(x, V_PARTS, n));
    }
}

const V_COLUMNS: u32 = select(DV4, K4, VALUE_TURNED);
const V_LINES: u32 = select(BLOCK_K, DV4, VALUE_TURNED);
const V_ACROSS: u32 = min(V_COLUMNS, THREADS);
const V_DOWN: u32 = THREADS / V_ACROSS;
const V_EVEN: bool =
    THREADS % V_ACROSS == 0u && V_COLUMNS % V_ACROSS == 0u && V_LINES % V_DOWN == 0u;

// The largest size of what this invocation staged: from TOO_LARGE on it has to be mended, where the
// step makes up for maxima that moved.
fn stage_v(tid: u32, work: Work, first: u32) -> u32 {
    var largest = 0u;
    for (var c = 0u; c < V_COLUMNS; c += V_ACROSS) {
        for (var r = 0u; r < V_LINES; r += V_DOWN) {
            largest = max(largest, stage_values(tid, work, first, c, r, false));
        }
    }
    if (largest >= TOO_LARGE) {
        atomicStore(&non_finite, 1u);
        atomicStore(&moved, 1u);
    }
    return largest;
}

// The same once more, with zeros for what is too large. It is rare: the loops stay loops.
fn mend_v(tid: u32, work: Work, first: u32) {
    for (var c = 0u; c < V_COLUMNS + params.zero; c += V_ACROSS) {
        for (var r = 0u; r < V_LINES + params.zero; r += V_DOWN) {
            stage_values(tid, work, first, c, r, true);
        }
    }
}

// Four channels of a key, or of four keys. With `mended`, zeros for what is too large.
fn stage_values(tid: u32, work: Work, first: u32, c: u32, r: u32, mended: bool) -> u32 {
    let n = c + tid % V_ACROSS;
    let line = r + tid / V_ACROSS;
    if (!V_EVEN && (n >= V_COLUMNS || line >= min(V_LINES, r + V_DOWN))) {
        return 0u;
    }
    if (!VALUE_TURNED) {
        let x = staged_value(work, first + line, n);
        put_value(V_AT + line * V_ROW + n, select(x, vec4(0.0), too_large(x) & vec4(mended)));
        return largest_size(x);
    }
    let key = first + 4u * n;
    let x0 = staged_value(work, key, line);
    let x1 = staged_value(work, key + 1u, line);
    let x2 = staged_value(work, key + 2u, line);
    let x3 = staged_value(work, key + 3u, line);
    var y = mat4x4(x0, x1, x2, x3);
    if (mended) {
        for (var i = 0u; i < 4u; i++) {
            y[i] = select(y[i], vec4(0.0), too_large(y[i]));
        }
    }
    y = transpose(y);
    let at = V_AT + 4u * line * V_ROW + n;
    for (var i = 0u; i < 4u; i++) {
        put_value(at + i * V_ROW, y[i]);
    }
    return max(max(largest_size(x0), largest_size(x1)), max(largest_size(x2), largest_size(x3)));
}
