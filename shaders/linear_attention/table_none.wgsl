// Nothing rotates.
fn pair_cos_sin(plane: u32, batch: u32, s: u32, pair: u32) -> vec2<f32> {
    return vec2(1.0, 0.0);
}
