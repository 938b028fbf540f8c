// Positive random features of FAVOR+ (arXiv 2009.14794, lemma 1):
//     φ(x)_f = exp(ω_f · x' − |x'|² / 2 − c) / √F        x' = x D^(−1/4)
// For a key, c is a constant of the call. For a query, c makes the largest exponent 0: whatever it
// is, it cancels between numerator and denominator.
//
// One workgroup: FAVOR_ROWS rows of one head. One invocation: every THREADS-th feature of them.

override WORKGROUP: u32; // THREADS

struct Params {
    batch: u32,
    heads: u32,
    seq: u32,
    groups_x: u32,    // workgroups along x
    tiles: u32,       // of FAVOR_ROWS rows
    is_query: u32,
    key_offset: f32,  // −c of the keys
    scale: f32,       // D^(−1/4)
    x: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read_write> features: array<f32>;    // [B, H, S, F]
@group(0) @binding(11) var<storage, read> projection: array<f32>;       // [D, F], ω by columns

var<workgroup> rows: array<f32, FAVOR_ROWS * HEAD_DIM>;
var<workgroup> tops: array<f32, FAVOR_ROWS * THREADS>;
var<workgroup> offsets: array<f32, FAVOR_ROWS>;

@compute @workgroup_size(WORKGROUP)
fn favor(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = group_id.x + group_id.y * params.groups_x;
    let plane = linear / params.tiles;
    if (plane >= params.batch * params.heads) {
        return;
    }
    let first = linear % params.tiles * FAVOR_ROWS;
    let base = params.x.offset + plane / params.heads * params.x.batch
        + plane % params.heads * params.x.head;
    for (var i = tid; i < FAVOR_ROWS * HEAD_DIM / 4u; i += THREADS) {
        let r = i / (HEAD_DIM / 4u);
        let c = i % (HEAD_DIM / 4u);
        // Rows past the last one repeat it; they are never stored.
        let x = params.scale * load_q(base + min(first + r, params.seq - 1u) * params.x.row + c);
        rows[4u * i] = x.x;
        rows[4u * i + 1u] = x.y;
        rows[4u * i + 2u] = x.z;
        rows[4u * i + 3u] = x.w;
    }
    workgroupBarrier(); // rows are staged

    var top: array<f32, FAVOR_ROWS>;
    for (var r = 0u; r < FAVOR_ROWS; r++) {
        top[r] = -3.0e38;
    }
    for (var f = tid; f < FEATURE_DIM; f += THREADS) {
        var sum: array<f32, FAVOR_ROWS>;
        for (var r = 0u; r < FAVOR_ROWS; r++) {
            sum[r] = 0.0;
        }
        for (var c = 0u; c < HEAD_DIM; c++) {
            let w = projection[c * FEATURE_DIM + f];
            for (var r = 0u; r < FAVOR_ROWS; r++) {
                sum[r] = fma(w, rows[r * HEAD_DIM + c], sum[r]);
            }
        }
        for (var r = 0u; r < FAVOR_ROWS; r++) {
            top[r] = max(top[r], sum[r]);
            if (first + r < params.seq) {
                // Read again below, by this very invocation.
                features[(plane * params.seq + first + r) * FEATURE_DIM + f] = sum[r];
            }
        }
    }
    for (var r = 0u; r < FAVOR_ROWS; r++) {
        tops[r * THREADS + tid] = top[r];
    }
    workgroupBarrier(); // largest exponents are written
    if (tid < FAVOR_ROWS) {
        var offset = params.key_offset;
        if (params.is_query != 0u) {
            var most = tops[tid * THREADS];
            for (var i = 1u; i < THREADS; i++) {
                most = max(most, tops[tid * THREADS + i]);
            }
            offset = -most;
        } else {
            for (var c = 0u; c < HEAD_DIM; c++) {
                let x = rows[tid * HEAD_DIM + c];
                offset -= 0.5 * x * x;
            }
        }
        offsets[tid] = offset;
    }
    workgroupBarrier(); // offsets are written
    for (var f = tid; f < FEATURE_DIM; f += THREADS) {
        for (var r = 0u; r < FAVOR_ROWS; r++) {
            if (first + r < params.seq) {
                let i = (plane * params.seq + first + r) * FEATURE_DIM + f;
                features[i] = exp(features[i] + offsets[r]) * inverseSqrt(f32(FEATURE_DIM));
            }
        }
    }
}
