//! Problems without gradients and calls that do not fit: typed errors.

use phasor::linear_attention::{
    FeatureHook, FeatureMap, LinearAttentionProblem, LinearAttentionShape,
};
use phasor::linear_attention_backward::LinearAttentionBackwardProblem;
use phasor::recipe::{
    CosSin, LinearAttentionBackwardBindings, Plan as _, Positions, Range, Rotation, State, Tensor,
};
use phasor::rotary::TableShape;
use phasor::{Capabilities, DType, Error, HeadMap, Layout};

fn plain() -> LinearAttentionProblem {
    LinearAttentionProblem {
        rotary_dim: 0,
        ..LinearAttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 16)
    }
}

#[test]
pub fn what_has_no_gradient_is_refused() {
    let hook = "fn feature_map(x: f32) -> f32 { return exp(x); }";
    let custom = FeatureMap::Custom(FeatureHook::new(hook).unwrap());
    let favor = FeatureMap::Favor { features: 16, key_offset: 0.0 };
    for (what, problem) in [
        ("feature_map", LinearAttentionProblem { feature_map: custom, ..plain() }),
        ("feature_map", LinearAttentionProblem { feature_map: favor, ..plain() }),
        ("head_dim", LinearAttentionProblem { head_dim: 6, ..plain() }),
        ("rotary_dim", LinearAttentionProblem { rotary_dim: 18, ..plain() }),
    ] {
        let problem = LinearAttentionBackwardProblem::new(problem);
        match problem.plan(&Capabilities::webgpu_default()) {
            Err(Error::Invalid { what: named, .. }) => assert_eq!(named, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// Gradients with a rotation take the 8 storage buffers that every WebGPU has.
#[test]
fn the_common_case_fits_the_least_limits() {
    let turned = LinearAttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 16);
    let problem = LinearAttentionBackwardProblem::new(turned);
    let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
    assert!(plan.shaders().iter().all(|shader| shader.storage_buffers <= 8), "{plan}");
}

type Bindings = LinearAttentionBackwardBindings<Range>;
/// What is wrong with a call.
type Change<'a> = &'a dyn Fn(&mut Bindings);

/// Every tensor in a buffer of its own, over ranges that are numbers: no device is asked.
#[test]
pub fn calls_that_do_not_fit_are_refused() {
    let problem = LinearAttentionProblem { state: true, ..plain() };
    let plan = LinearAttentionBackwardProblem::new(problem);
    let plan = plan.plan(&Capabilities::webgpu_default()).unwrap();
    let shape = LinearAttentionShape::new(1, 5);
    let range = |buffer: u64| Range { buffer, offset: 0, size: 1 << 16 };
    let tensor = |buffer, heads| {
        let layout = Layout::bhsd([1, heads, 5, 16]).unwrap();
        Tensor { binding: range(buffer), dtype: DType::F32, layout }
    };
    let right = || {
        let mut b = Bindings::new(
            [tensor(0, 2), tensor(1, 1), tensor(2, 1)],
            tensor(3, 2),
            tensor(4, 2),
            [tensor(5, 2), tensor(6, 1), tensor(7, 1)],
            range(8),
        );
        b.state = Some(State { s: range(9), z: range(10) });
        b.d_state = Some(State { s: range(11), z: range(12) });
        b
    };
    plan.recipe(&shape, &right()).unwrap();
    let small = Range { buffer: 13, offset: 0, size: 16 };
    let table = TableShape { positions: 9, pairs: 8, planes: 1, axes: None };
    let rotation = Rotation::new(CosSin { binding: small, shape: table }, Positions::From(0));
    let refused: [(&str, Change<'_>); 12] = [
        ("workspace", &|b| b.workspace = small),
        ("state", &|b| b.state = None),
        ("d_state", &|b| b.d_state = None),
        ("state s", &|b| b.state.as_mut().unwrap().s = small),
        ("d_state z", &|b| {
            b.d_state.as_mut().unwrap().z = Range { size: 32, ..small };
        }),
        ("rotation", &|b| b.rotation = Some(rotation.clone())),
        ("q_positions", &|b| b.q_positions = Some(Positions::From(0))),
        // Gradients over what is still read, or over each other.
        ("dq", &|b| b.dq = b.q.clone()),
        ("dv", &|b| b.dv = b.dk.clone()),
        ("d_state", &|b| b.d_state = b.state.clone()),
        ("d_out", &|b| b.d_out.layout.shape[3] = 8),
        ("dk", &|b| b.dk.dtype = DType::F16),
    ];
    for (name, change) in refused {
        let mut bindings = right();
        change(&mut bindings);
        let error = plan.recipe(&shape, &bindings).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    for shape in [
        LinearAttentionShape { seq_k: 6, ..shape },
        LinearAttentionShape { batch: 1 << 20, ..shape },
    ] {
        assert!(plan.recipe(&shape, &right()).is_err(), "{shape:?}");
    }
}
