// What the keys of one chunk add to the state.
//
// One workgroup: BLOCK features and BLOCK values of S, over the keys of one chunk of one kv head;
// the workgroup of the first values adds up z as well.
//
// row_at: strides.wgsl; state_place, rotate, channels_written: linear_attention.wgsl; key_features:
// keys.wgsl; feature_map: elu.wgsl, mapped.wgsl or the caller's; load_k, load_v: io/*.wgsl

override WORKGROUP: u32; // THREADS

// [B, H_kv, chunks + 1, STATE_QUADS]
@group(0) @binding(6) var<storage, read_write> workspace: array<vec4<f32>>;

// STEP keys are staged at once.
const FEATURE_BLOCKS: u32 = (FEATURE_DIM + BLOCK - 1u) / BLOCK;

var<workgroup> feature_tile: array<vec4<f32>, STEP * BLOCK_QUADS>; // [key, group]
var<workgroup> value_tile: array<vec4<f32>, STEP * BLOCK_QUADS>;   // [key, column quad]

// Features of a unit, of a key that may lie past the last one: those are zero, whatever memory
// holds.
fn rotated_key(batch: u32, kv_head: u32, key: u32, unit: u32) -> vec2<f32> {
    if (key >= params.seq_k) {
        return vec2(0.0);
    }
    let x = key_features(row_at(params.k, batch, kv_head, key), unit);
    return rotate(x, params.plane_k, batch, key, unit);
}

@compute @workgroup_size(WORKGROUP)
fn sums(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let blocks = FEATURE_BLOCKS * VALUE_BLOCKS;
    let linear = group_id.x + group_id.y * params.groups_x;
    if (linear >= blocks * params.chunks * params.kv_heads * params.batch) {
        return;
    }
    let value_block = linear % VALUE_BLOCKS;
    let feature_block = linear / VALUE_BLOCKS % FEATURE_BLOCKS;
    let chunk = linear / blocks % params.chunks;
    let kv_head = linear / blocks / params.chunks % params.kv_heads;
    let batch = linear / blocks / params.chunks / params.kv_heads;
    let group0 = feature_block * BLOCK_QUADS;
    let column0 = value_block * BLOCK_QUADS;
    let tx = tid % TX;
    let ty = tid / TX;

    let more = zero();
    var acc: array<vec4<f32>, ROWS * COLS>;
    for (var i = 0u; i < ROWS * COLS; i++) {
        acc[i] = vec4(0.0);
    }
    for (var first = chunk * BLOCK; first < (chunk + 1u) * BLOCK; first += STEP) {
        for (var i = tid; i < STEP * BLOCK_QUADS; i += THREADS) {
            let key = first + i / BLOCK_QUADS;
            let group = group0 + i % BLOCK_QUADS;
            var x = vec4(0.0);
            if (group < GROUPS) {
                x = vec4(
                    rotated_key(batch, kv_head, key, 2u * group),
                    rotated_key(batch, kv_head, key, 2u * group + 1u),
                );
            }
            feature_tile[i] = x;
            let column = column0 + i % BLOCK_QUADS;
            var y = vec4(0.0);
            if (key < params.seq_k && column < VALUE_QUADS) {
                y = load_v(row_at(params.v, batch, kv_head, key) + column);
            }
            value_tile[i] = y;
        }
        workgroupBarrier(); // features and values are staged
        for (var key = 0u; key < STEP + more; key++) {
            var values: array<vec4<f32>, COLS>;
            for (var j = 0u; j < COLS; j++) {
                values[j] = value_tile[key * BLOCK_QUADS + j * TX + tx];
            }
            for (var g = 0u; g < ROW_QUADS; g++) {
                let x = feature_tile[key * BLOCK_QUADS + ty * ROW_QUADS + g];
                for (var j = 0u; j < COLS; j++) {
                    let at = 4u * g * COLS + j;
                    acc[at] = fma(vec4(x.x), values[j], acc[at]);
                    acc[at + COLS] = fma(vec4(x.y), values[j], acc[at + COLS]);
                    acc[at + 2u * COLS] = fma(vec4(x.z), values[j], acc[at + 2u * COLS]);
                    acc[at + 3u * COLS] = fma(vec4(x.w), values[j], acc[at + 3u * COLS]);
                }
            }
        }
        workgroupBarrier(); // and read, before the next keys
    }

    let state = state_place(batch, kv_head, chunk);
    for (var r = 0u; r < ROWS; r++) {
        let row = feature_block * BLOCK + ty * ROWS + r;
        if (row < FEATURE_DIM) {
            let channel = channels_written(row / 2u)[row % 2u];
            for (var j = 0u; j < COLS; j++) {
                let column = column0 + j * TX + tx;
                if (column < VALUE_QUADS) {
                    workspace[state + channel * VALUE_QUADS + column] = acc[r * COLS + j];
                }
            }
        }
    }
    if (value_block == 0u) {
        let last = min((chunk + 1u) * BLOCK, params.seq_k);
        let group_end = min(group0 + BLOCK_QUADS, GROUPS);
        for (var group = group0 + tid; group < group_end; group += THREADS) {
            var z = vec4(0.0);
            for (var key = chunk * BLOCK; key < last; key++) {
                let x = load_k(row_at(params.k, batch, kv_head, key) + group);
                z += vec4(feature_map(x.x), feature_map(x.y), feature_map(x.z), feature_map(x.w));
            }
            workspace[state + FEATURE_DIM * VALUE_QUADS + group] = z;
        }
    }
}
