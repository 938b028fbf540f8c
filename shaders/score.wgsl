// What is done to a score between Q·Kᵀ and the softmax, in attention, its backward pass and decode:
// softcap, ALiBi, bias, the caller's hooks, in this order. Masks by place come after it.
//
// MASKED, in_base_2, in_base_e: softmax.wgsl; bias_of: bias/*.wgsl; slot_of: cache/slots.wgsl,
// attention/keys_*.wgsl or attention_backward/score.wgsl; score_mod, mask_mod: the caller's, or
// attention/*_mod_none.wgsl

// The built-in may lose all digits near 0, and overflow far from it.
fn tanh_of(x: f32) -> f32 {
    let t = exp2(-2.0 * LOG2_E * abs(x));
    let far = sign(x) * (1.0 - t) / (1.0 + t);
    let x2 = x * x;
    let near = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0))));
    return select(far, near, abs(x) < 0.2);
}

// Where a score stands.
struct Place {
    batch: u32,
    head: u32,   // output head
    row: u32,    // query row of its sequence
    query: i32,  // the query's place among the keys
    hook: i32,   // the same, as hooks count
    key: u32,
}

// A score after all of it. With a softcap scores come as multiples of the cap, else in base 2.
fn modified(score: f32, slope: f32, at: Place) -> f32 {
    var s = score;
    if (SOFTCAP && params.softcap != 0.0) {
        s = params.softcap * tanh_of(s);
    }
    if (ALIBI) {
        s -= slope * f32(abs(i32(at.key) - at.query));
    }
    if (BIAS) {
        let bias = bias_of(at.batch, at.head, at.row, slot_of(at.key));
        // Whatever the score of a hidden key is.
        s = select(s + bias, MASKED, bias <= MASKED);
    }
    if (HOOKS) {
        // The caller's functions see scores in base e. What a bias hides stays hidden.
        let hidden = s == MASKED || !mask_mod(at.batch, at.head, at.hook, i32(at.key));
        let x = score_mod(in_base_e(s), at.batch, at.head, at.hook, i32(at.key));
        s = select(in_base_2(x), MASKED, hidden);
    }
    return s;
}

// Whether bias and hooks leave the key visible.
fn shown(at: Place) -> bool {
    if (BIAS && bias_of(at.batch, at.head, at.row, slot_of(at.key)) <= MASKED) {
        return false;
    }
    return !HOOKS || mask_mod(at.batch, at.head, at.hook, i32(at.key));
}
