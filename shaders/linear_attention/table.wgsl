fn pair_cos_sin(plane: u32, batch: u32, s: u32, pair: u32) -> vec2<f32> {
    return cos_sin_of(plane, batch, s, pair);
}
