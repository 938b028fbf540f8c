// Which keys a row sees, one at a time: for values that are not finite, which stage_v leaves out.
//
// hidden_up_to: attention/keys_*.wgsl; before_window: attention/prefix_*.wgsl; shown: score.wgsl

fn sees(work: Work, stream: u32, row: u32, key: u32) -> bool {
    let place = i32(row) + work.offset;
    let k = i32(key);
    let hidden = hidden_up_to(work.keys, before_window(work.prefix, place));
    if (k > max(place + params.ahead, work.prefix - 1) || k <= hidden) {
        return false;
    }
    return shown(place_of_score(work, stream, row, key));
}
