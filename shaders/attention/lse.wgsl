// [B, H_out, S_q] or [H_out, rows], natural log
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;

fn write_lse(i: u32, x: f32) {
    lse[i] = x;
}
