// Which output heads share a pass over K and V.

// A query head, and its one or two output heads: one for each stream.
struct HeadRow {
    source: u32,       // query head
    head0: u32,        // output head of stream 0
    head1: u32,
    streams: u32,      // how many of them there are; 0: a row that fills up the table
    phases: vec4<f32>, // cos φ0, sin φ0, cos φ1, sin φ1
    sinks: vec2<f32>,  // logits that join the denominator of each stream, in base 2; MASKED: none
    slopes: vec2<f32>, // ALiBi slopes of each stream, in base 2
}

@group(0) @binding(1) var<uniform> head_rows: array<HeadRow, HEAD_ROWS>;

// The output head of a stream.
fn head_of(head_row: HeadRow, stream: u32) -> u32 {
    return select(head_row.head1, head_row.head0, stream == 0u);
}
