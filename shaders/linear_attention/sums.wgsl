// What the rows of one chunk add to a state: keys to that of the forward pass.
//
// One workgroup: BLOCK features and BLOCK values of S, over the rows of one chunk of one kv head;
// the workgroup of the first values adds up z as well.
//
// state_place, channels_written: linear_attention.wgsl; sources, enters, rows_entering,
// entering_features, entering_value, entering_plain: entering_*.wgsl

override WORKGROUP: u32; // THREADS

// [B, H_kv, chunks + 1, STATE_QUADS]
@group(0) @binding(6) var<storage, read_write> workspace: array<vec4<f32>>;

// STEP rows are staged at once.
const FEATURE_BLOCKS: u32 = (FEATURE_DIM + BLOCK - 1u) / BLOCK;

var<workgroup> feature_tile: array<vec4<f32>, STEP * BLOCK_QUADS>; // [row, group]
var<workgroup> value_tile: array<vec4<f32>, STEP * BLOCK_QUADS>;   // [row, column quad]

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
    for (var source = 0u; source < sources(); source++) {
        if (!enters(kv_head, source)) {
            continue;
        }
        for (var first = chunk * BLOCK; first < (chunk + 1u) * BLOCK; first += STEP) {
            for (var i = tid; i < STEP * BLOCK_QUADS; i += THREADS) {
                // Rows past the last one are zero, whatever memory holds.
                let row = first + i / BLOCK_QUADS;
                let group = group0 + i % BLOCK_QUADS;
                var x = vec4(0.0);
                if (row < rows_entering() && group < GROUPS) {
                    x = entering_features(batch, kv_head, source, row, group);
                }
                feature_tile[i] = x;
                let column = column0 + i % BLOCK_QUADS;
                var y = vec4(0.0);
                if (row < rows_entering() && column < VALUE_QUADS) {
                    y = entering_value(batch, kv_head, source, row, column);
                }
                value_tile[i] = y;
            }
            workgroupBarrier(); // features and values are staged
            for (var row = 0u; row < STEP + more; row++) {
                var values: array<vec4<f32>, COLS>;
                for (var j = 0u; j < COLS; j++) {
                    values[j] = value_tile[row * BLOCK_QUADS + j * TX + tx];
                }
                for (var g = 0u; g < ROW_QUADS; g++) {
                    let x = feature_tile[row * BLOCK_QUADS + ty * ROW_QUADS + g];
                    for (var j = 0u; j < COLS; j++) {
                        let at = 4u * g * COLS + j;
                        acc[at] = fma(vec4(x.x), values[j], acc[at]);
                        acc[at + COLS] = fma(vec4(x.y), values[j], acc[at + COLS]);
                        acc[at + 2u * COLS] = fma(vec4(x.z), values[j], acc[at + 2u * COLS]);
                        acc[at + 3u * COLS] = fma(vec4(x.w), values[j], acc[at + 3u * COLS]);
                    }
                }
            }
            workgroupBarrier(); // and read, before the next rows
        }
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
        let last = min((chunk + 1u) * BLOCK, rows_entering());
        let group_end = min(group0 + BLOCK_QUADS, GROUPS);
        for (var group = group0 + tid; group < group_end; group += THREADS) {
            var z = vec4(0.0);
            for (var row = chunk * BLOCK; row < last; row++) {
                z += entering_plain(batch, kv_head, row, group);
            }
            workspace[state + FEATURE_DIM * VALUE_QUADS + group] = z;
        }
    }
}
