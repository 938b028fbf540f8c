//! Shaders with a fault in them: each is one that a kernel had, or that one of two copies of a rule
//! had and the other had not. What holds the rule must find it, in every kernel that has it.

use phasor::attention::AttentionProblem;
use phasor::attention_backward::AttentionBackwardProblem;
use phasor::rotary::{RopeConfig, RopeRule};
use phasor::{Bias, HeadMap, ScoreHook};

use crate::{
    attention::{Case, control, variants::EDGY},
    attention_backward::{self as backward, Case as Backward},
    decode::short,
    edges::far,
    harness::{Fault, Ids, Result, Rotation, with_fault},
    linear_attention_backward as linear, merge,
};

/// A fault, and what has to find it.
struct Mutation {
    name: &'static str,
    fault: Fault,
    found_by: Vec<fn() -> Result>,
    /// In every run of the tests, not in long ones alone.
    quick: bool,
}

fn prefill(hook: bool, bias: bool, filler: f32) -> Result {
    let problem = AttentionProblem {
        score_mod: hook.then(|| ScoreHook::new(EDGY).unwrap()),
        bias: bias.then_some(Bias::Additive),
        ..control()
    };
    let case = Case::quick(&problem)?;
    let filler = bias.then_some(filler);
    far::attend(&Case { bias_filler: filler, bias_extent: [2, 4, 37], ..case })
}

fn decoded(splits: u32, hook: bool, bias: bool, filler: f32) -> Result {
    far::decoded(&far::few_rows(|c| {
        c.problem.score_mod = hook.then(|| ScoreHook::new(EDGY).unwrap());
        c.problem.bias = bias.then_some(Bias::Additive);
        (c.splits, c.bias_filler) = (Some(splits), bias.then_some(filler));
        c.bias_extent = [3, 8, 4];
    }))
}

/// Rows before key 0 that see keys.
fn turned_back() -> Result {
    short::case(|c| {
        (c.problem.causal, c.lens) = (false, vec![1, 2, 3, 5, 40]);
    })
    .check()
}

fn turned_back_prefill() -> Result {
    let case = short::case(|c| {
        (c.problem.causal, c.lens) = (false, vec![1, 2, 3, 5, 40]);
    });
    case.hold(&case.inputs()?, &short::prefilled(&case)?)
}

fn mutations() -> Vec<Mutation> {
    vec![
        Mutation {
            name: "decode counts rows from key 0 where a sequence is short",
            quick: false,
            fault: [
                "let place0 = i32(length) - i32(params.seq_q);",
                "let place0 = max(i32(length) - i32(params.seq_q), 0);",
            ],
            found_by: vec![|| short::case(|_| ()).check(), turned_back],
        },
        Mutation {
            name: "prefill takes a place before key 0 for key 0",
            quick: false,
            fault: ["place += work.offset;", "place = max(place + work.offset, 0);"],
            found_by: vec![turned_back_prefill],
        },
        Mutation {
            name: "a turn back goes forward",
            quick: true,
            fault: ["t.sin = select(t.sin, -t.sin, before);", ""],
            found_by: vec![turned_back, turned_back_prefill],
        },
        Mutation {
            name: "a hook's NaN is masked",
            quick: true,
            fault: [
                "s = select(in_base_2(x), MASKED, hidden);",
                "s = select(max(in_base_2(x), MASKED), MASKED, hidden);",
            ],
            found_by: vec![|| prefill(true, false, 0.0), || decoded(1, true, false, 0.0)],
        },
        Mutation {
            name: "a hook shows what a bias hides",
            quick: false,
            fault: ["let hidden = s == MASKED || ", "let hidden = "],
            found_by: vec![|| prefill(true, true, 1.0), || decoded(1, true, true, 1.0)],
        },
        Mutation {
            name: "a finite number past a bound is a mask",
            quick: false,
            fault: ["const MASKED: f32 = -3.4e38;", "const MASKED: f32 = -1.0e38;"],
            found_by: vec![
                || prefill(false, true, -3e38),
                || decoded(1, false, true, -3e38),
                || decoded(3, false, true, -3e38),
            ],
        },
        Mutation {
            name: "numbers far out overflow in base 2",
            quick: false,
            fault: [
                "return select(LOG2_E * x, 0.5 * x + FAR_STEP * sign(x), abs(x) > FAR);",
                "return LOG2_E * x;",
            ],
            found_by: vec![
                || prefill(false, true, f32::MIN),
                || decoded(1, false, true, f32::MIN),
                far_parts,
            ],
        },
        Mutation {
            name: "log-sum-exps far out come back as if they were near",
            quick: false,
            fault: ["return select(LN_2 * x, far, abs(x) > LOG2_E * FAR);", "return LN_2 * x;"],
            found_by: vec![
                || prefill(false, true, f32::MIN),
                || decoded(1, false, true, f32::MIN),
                far_parts,
            ],
        },
        Mutation {
            name: "a split whose sum is NaN counts as empty",
            quick: true,
            fault: ["!(state[n].y == 0.0)", "(state[n].y > 0.0 && state[n].y < 1e30)"],
            found_by: vec![|| decoded(3, true, false, 0.0)],
        },
        Mutation {
            name: "splits weigh the same where their maxima are far out",
            quick: false,
            fault: ["sum += weight * state[n].y;", "sum += weight * min(state[n].y, 12.0);"],
            found_by: vec![|| decoded(3, false, true, f32::MIN)],
        },
        Mutation {
            name: "a sink is no lower than a bound",
            quick: true,
            fault: ["let top = max(m, sink);", "let top = max(m, max(sink, -1e38));"],
            found_by: vec![|| far::attend(&far::sunk(0)?), || far::decoded(&far::sunk_rows(1))],
        },
        Mutation {
            name: "the merge has a bound for sinks",
            quick: true,
            fault: ["var top = sink;", "var top = max(sink, -1e38);"],
            found_by: vec![|| far::decoded(&far::sunk_rows(3))],
        },
    ]
}

fn far_parts() -> Result {
    far::merged(&merge::Case::new(3, 8))
}

fn gradients(change: impl FnOnce(&mut AttentionBackwardProblem)) -> Result {
    let mut problem = backward::control();
    change(&mut problem);
    Backward::new(&problem)?.check()
}

/// By a table with a scale.
fn gradients_turned_back() -> Result {
    let problem = AttentionBackwardProblem { unrotate: true, ..backward::control() };
    let rule = RopeRule::YarnRotations {
        factor: 4.0,
        original_max_position_embeddings: 64,
        alpha: 1.0,
        beta: 4.0,
    };
    let config = RopeConfig { rule, ..RopeConfig::new(16, 1e4) };
    let rotation = Rotation::new(config, Ids::From(3));
    Backward { rotations: Some([rotation.clone(), rotation]), ..Backward::new(&problem)? }.check()
}

fn gradients_of_groups() -> Result {
    let forward = AttentionProblem::new(HeadMap::ropepp(4)?, 2, 16);
    Backward::new(&AttentionBackwardProblem::new(forward))?.check()
}

/// Faults that a loss which falls does not show.
fn mutations_of_gradients() -> Vec<Mutation> {
    let mutation = |quick, name, fault, find: fn() -> Result| Mutation {
        name,
        fault,
        found_by: vec![find],
        quick,
    };
    let linear = || linear::scaled()?.check();
    vec![
        mutation(
            true,
            "keys take the imaginary part with the sign of queries",
            ["const SIGN: f32 = select(1.0, -1.0, KEYS_OWN);", "const SIGN: f32 = 1.0;"],
            || gradients(|_| ()),
        ),
        mutation(
            false,
            "a gradient is divided by the scale of the table",
            [
                "return Pairs(x.a * t.cos + x.b * t.sin, x.b * t.cos - x.a * t.sin);",
                "let m = t.cos * t.cos + t.sin * t.sin;
                return Pairs((x.a * t.cos + x.b * t.sin) / m, (x.b * t.cos - x.a * t.sin) / m);",
            ],
            gradients_turned_back,
        ),
        mutation(
            true,
            "the gradient of the log-sum-exp has another sign",
            ["delta -= d_lse[i];", "delta += d_lse[i];"],
            || gradients(|p| p.d_lse = true),
        ),
        mutation(
            false,
            "keys are seen by all queries",
            ["let limit = min(", "let limit = select(0, 1 << 29u, KEYS_OWN) + min("],
            || gradients(|_| ()),
        ),
        mutation(
            false,
            "the kv head of a query head by its place in a group",
            [
                "let kv_head = select(work.head / params.group, work.head, KEYS_OWN);",
                "let kv_head = select(work.head % params.group, work.head, KEYS_OWN);",
            ],
            gradients_of_groups,
        ),
        mutation(
            false,
            "linear: a head's gradient is turned by its phase once more",
            ["vec2(-x.y, x.x) * head.sin", "vec2(x.y, -x.x) * head.sin"],
            linear,
        ),
        mutation(
            false,
            "linear: the denominator has no gradient",
            ["select(r, 0.0, sum == 0.0), 0.0, 0.0)", "0.0, 0.0, 0.0)"],
            linear,
        ),
        mutation(
            true,
            "linear: the gradient of the state is scanned forward",
            ["select(n, params.chunks - 1u - n, BACK)", "n"],
            linear,
        ),
        mutation(
            false,
            "linear: keys turn back by the plane of queries",
            ["n == 1u), params.plane_k, work", "n == 1u), params.plane_q, work"],
            linear,
        ),
    ]
}

/// One or two of every kernel.
#[test]
fn faults_are_found() {
    hold(mutations().into_iter().filter(|mutation| mutation.quick));
}

#[test]
fn faults_of_gradients_are_found() {
    hold(mutations_of_gradients().into_iter().filter(|mutation| mutation.quick));
}

/// They say of tests what they are worth, and each compiles its kernels anew: to be run where a
/// shader or what holds it is rewritten.
///
/// `cargo test --test gpu -- --ignored all_faults_are_found`
#[test]
#[ignore = "long: a software adapter compiles for minutes"]
fn all_faults_are_found() {
    hold(mutations().into_iter().chain(mutations_of_gradients()));
}

fn hold(mutations: impl Iterator<Item = Mutation>) {
    for Mutation { name, fault, found_by, .. } in mutations {
        for (n, find) in found_by.into_iter().enumerate() {
            find().unwrap_or_else(|error| panic!("{name}, {n}, without the fault: {error}"));
            let found = with_fault(fault, find);
            assert!(found.is_err(), "{name}: test {n} does not find it");
        }
    }
}
