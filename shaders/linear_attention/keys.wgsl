// Features of a unit of a key that exists, not rotated.
fn key_features(row: u32, unit: u32) -> vec2<f32> {
    let c = channels_read(unit);
    let x = load_k(row + c.x / 4u)[c.x % 4u];
    let y = load_k(row + c.y / 4u)[c.y % 4u];
    return vec2(feature_map(x), feature_map(y));
}
