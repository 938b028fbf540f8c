// cos/sin of a position, from a table that the host made in double precision. Shared by the
// kernels that rotate; each has a member `rotary: Rotary` in its `params`.

struct Rotary {
    first_position: u32,     // position of row 0 where no ids are given
    use_ids: u32,            // 1: positions come from position_ids
    ids_stream_stride: u32,  // entries between position streams (M-RoPE, axial)
    ids_batch_stride: u32,   // entries between batches; 0: one list for all
    table_positions: u32,    // rows of the table
    pairs: u32,              // pairs a row, rotary_dim / 2
    use_axes: u32,           // 1: each pair reads the position stream that `axes` names
    planes: u32,             // 1, or 2 where keys have a plane of their own (xPos)
    axes: array<vec4<u32>, 4>, // 2 bits a pair: its position stream
}

@group(0) @binding(8) var<storage, read> cos_sin: array<vec2<f32>>; // [planes, positions, pairs]
@group(0) @binding(9) var<storage, read> position_ids: array<u32>;  // [streams, B, S] by strides

struct CosSin {
    cos: vec4<f32>,
    sin: vec4<f32>,
}

// Table row of position s of batch b in one stream. Ids past the table read its last row: they
// give a wrong angle, never another buffer's bytes.
fn table_row(batch: u32, s: u32, stream: u32) -> u32 {
    var position = params.rotary.first_position + s;
    if (params.rotary.use_ids != 0u) {
        position = position_ids[stream * params.rotary.ids_stream_stride
            + batch * params.rotary.ids_batch_stride + s];
    }
    return min(position, params.rotary.table_positions - 1u);
}

fn pair_stream(pair: u32) -> u32 {
    return (params.rotary.axes[pair / 64u][(pair / 16u) % 4u] >> (2u * (pair % 16u))) & 3u;
}

fn cos_sin_of(plane: u32, batch: u32, s: u32, pair: u32) -> vec2<f32> {
    // Pairs past the last one pad a group of four; their channels are zero.
    let j = min(pair, params.rotary.pairs - 1u);
    var stream = 0u;
    if (params.rotary.use_axes != 0u) {
        stream = pair_stream(j);
    }
    let row = plane * params.rotary.table_positions + table_row(batch, s, stream);
    return cos_sin[row * params.rotary.pairs + j];
}

// cos and sin of the pairs 4 quad .. 4 quad + 3.
fn cos_sin_quad(plane: u32, batch: u32, s: u32, quad: u32) -> CosSin {
    let t0 = cos_sin_of(plane, batch, s, 4u * quad);
    let t1 = cos_sin_of(plane, batch, s, 4u * quad + 1u);
    let t2 = cos_sin_of(plane, batch, s, 4u * quad + 2u);
    let t3 = cos_sin_of(plane, batch, s, 4u * quad + 3u);
    return CosSin(vec4(t0.x, t1.x, t2.x, t3.x), vec4(t0.y, t1.y, t2.y, t3.y));
}

// The turn of a query at a place that may lie before position 0, in a sequence that is shorter than
// the call: by −|place|, the transpose of the turn by |place|. With xPos the keys' plane has the
// scale of −|place|, but for the centre's, which the entries of position 0 tell.
fn query_turn(batch: u32, place: i32, quad: u32) -> CosSin {
    let before = place < 0;
    let own = before && params.rotary.planes == 2u;
    var t = cos_sin_quad(select(0u, 1u, own), batch, u32(abs(place)), quad);
    t.sin = select(t.sin, -t.sin, before);
    if (own) {
        let centre = cos_sin_quad(0u, batch, 0u, quad).cos / cos_sin_quad(1u, batch, 0u, quad).cos;
        t = CosSin(t.cos * centre, t.sin * centre);
    }
    return t;
}
