// Keys turn by the distance that they move, since rotations compose: R(t) = R(t − s) R(s).

var<workgroup> key: array<vec4<f32>, HEAD_DIM / 4u>;
var<workgroup> turned: array<vec4<f32>, HEAD_DIM / 4u>;

// The row in workgroup memory, as the files that store keys ask for it.
struct Source {
    unused: u32,
}

fn key_quad(source: Source, quad: u32) -> vec4<f32> {
    return turned[quad];
}

// Channel d of the key, turned forward or back.
fn turned_channel(d: u32, distance: u32, back: bool) -> f32 {
    let x = key[d / 4u][d % 4u];
    if (d >= 2u * PAIRS) {
        return x;
    }
    var j = d / (2u * BLOCK_PAIRS) * BLOCK_PAIRS + d % BLOCK_PAIRS;
    var second = d % (2u * BLOCK_PAIRS) >= BLOCK_PAIRS;
    var other = select(d + BLOCK_PAIRS, d - BLOCK_PAIRS, second);
    if (INTERLEAVED) {
        j = d / 2u;
        second = d % 2u == 1u;
        other = d ^ 1u;
    }
    let y = key[other / 4u][other % 4u];
    // A factor of the table's own (YaRN) is in the keys already: it is the cosine of position 0.
    let t = cos_sin_of(0u, 0u, distance, j) / cos_sin_of(0u, 0u, 0u, j).x;
    // The other member enters the first with −sin, the second with +sin.
    return x * t.x + select(y, -y, second == back) * t.y;
}

fn move_key(tid: u32, from_row: u32, to_row: u32, distance: i32) {
    if (distance == 0) {
        for (var i = tid; i < K_ENTRIES; i += WORKGROUP) {
            k_cache[to_row + i] = k_cache[from_row + i];
        }
        return;
    }
    for (var quad = tid; quad < HEAD_DIM / 4u; quad += WORKGROUP) {
        key[quad] = cached_quad(from_row, quad);
    }
    workgroupBarrier(); // the key is read; the one before is stored
    let back = distance < 0;
    for (var quad = tid; quad < HEAD_DIM / 4u; quad += WORKGROUP) {
        let d = 4u * quad;
        let far = u32(abs(distance));
        turned[quad] = vec4(
            turned_channel(d, far, back),
            turned_channel(d + 1u, far, back),
            turned_channel(d + 2u, far, back),
            turned_channel(d + 3u, far, back),
        );
    }
    workgroupBarrier(); // the key is turned
    for (var piece = tid; piece < K_PIECES; piece += WORKGROUP) {
        store_key(to_row, Source(0u), piece);
    }
}

