// Which keys a row sees, one at a time: for values that are not finite, which stage_v leaves out.

fn sees(work: Work, row: u32, head: u32, key: u32) -> bool {
    let place = i32(row) + work.offset;
    let k = i32(key);
    if (k > max(place, i32(prefix_of(work.batch)) - 1) || k <= hidden_up_to(work.keys, place - params.window)) {
        return false;
    }
    if (BIAS && bias_of(work.batch, head, row, slot_of(key)) <= MASKED) {
        return false;
    }
    if (HOOKS) {
        return mask_mod(work.batch, head, select(i32(row), place, params.causal != 0u), k);
    }
    return true;
}
