//! Problems without gradients and calls that do not fit: typed errors.

use phasor::attention::{AttentionProblem, AttentionShape, Keys, Outputs};
use phasor::attention_backward::{
    AttentionBackwardBindings, AttentionBackwardProblem, BackwardRotation,
};
use phasor::cache::CacheFormat;
use phasor::rotary::{CosSin, Positions, RopeConfig, TableShape};
use phasor::{Bias, Budget, DType, Error, Layout, ScoreHook, Tensor};

use super::{Case, control, of};
use crate::harness::lab;
use crate::wrong_calls::TOO_FAR;

#[test]
pub fn what_has_no_gradient_is_refused() {
    let score = "fn score_mod(s: f32, b: u32, h: u32, q: i32, k: i32) -> f32 { return s; }";
    let forward = control().attention;
    let changed = |change: &dyn Fn(&mut AttentionProblem)| {
        let mut attention = forward.clone();
        change(&mut attention);
        of(attention)
    };
    let cached = |p: &mut AttentionProblem| p.keys = Keys::Cache(CacheFormat::new(1, 16));
    let score_mod = |p: &mut AttentionProblem| p.score_mod = Some(ScoreHook::new(score).unwrap());
    let problems = [
        ("score_mod", changed(&score_mod)),
        ("block_list", changed(&|p| p.block_list = true)),
        ("keys", changed(&cached)),
        ("head_dim", changed(&|p| (p.head_dim, p.value_dim) = (264, 256))),
        ("outputs", changed(&|p| p.outputs = Outputs::Split)),
        ("resumable", changed(&|p| p.resumable = true)),
        ("d_sinks", AttentionBackwardProblem { d_sinks: true, ..control() }),
        ("d_bias", AttentionBackwardProblem { d_bias: true, ..control() }),
        (
            "d_bias",
            AttentionBackwardProblem { d_bias: true, ..changed(&|p| p.bias = Some(Bias::Mask)) },
        ),
        ("position_streams", AttentionBackwardProblem { position_streams: 0, ..control() }),
        ("head_dim", changed(&|p| p.head_dim = 12)),
        (
            "rotary_dim",
            AttentionBackwardProblem { unrotate: true, ..changed(&|p| p.rotary_dim = 7) },
        ),
    ];
    let caps = lab().gpu.capabilities();
    for (name, problem) in problems {
        match problem.plan(&caps) {
            Err(Error::Invalid { what, .. }) => assert_eq!(what, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// With the limits that every WebGPU has, gradients of un-rotated vectors take 8 storage buffers.
#[test]
fn the_common_case_fits_the_least_limits() {
    let caps = phasor::Capabilities::webgpu_default();
    for dim in [64, 128, 256] {
        let mut forward = control().attention;
        forward =
            AttentionProblem { rotate_q: true, ..AttentionProblem::new(forward.heads, 1, dim) };
        let plan = of(forward.clone()).plan(&caps).unwrap();
        assert!(plan.shaders().iter().all(|shader| shader.storage_buffers <= 8), "{plan}");
        let biased = AttentionProblem { bias: Some(Bias::Additive), ..forward };
        let limit = of(biased).plan(&caps).unwrap_err();
        let named = "max_storage_buffers_per_shader_stage";
        assert!(matches!(limit, Error::Limit { limit, .. } if limit == named));
    }
}

#[test]
pub fn calls_that_do_not_fit_are_refused() {
    let gpu = &lab().gpu;
    let plan = Case::small(&control()).unwrap().plan;
    let kernel = lab().attention_backward(&plan).unwrap();
    let shape = AttentionShape::new(1, 5, 6);
    let buffer = |n: u32| gpu.output(n as usize, DType::F32);
    let (q, k, v, out, d_out) = (buffer(160), buffer(96), buffer(96), buffer(320), buffer(320));
    let (lse, dq, dk, dv) = (buffer(20), buffer(160), buffer(96), buffer(96));
    let workspace = buffer(plan.workspace_bytes(&shape, 5) as u32 / 4);
    let tensor = |buffer, shape| Tensor::new(buffer, DType::F32, Layout::bhsd(shape).unwrap());
    let (q_shape, k_shape, out_shape) = ([1, 2, 5, 16], [1, 1, 6, 16], [1, 4, 5, 16]);
    let bindings = || {
        AttentionBackwardBindings::new(
            [tensor(&q, q_shape), tensor(&k, k_shape), tensor(&v, k_shape)],
            (tensor(&out, out_shape), lse.as_entire_buffer_binding()),
            tensor(&d_out, out_shape),
            [tensor(&dq, q_shape), tensor(&dk, k_shape), tensor(&dv, k_shape)],
            workspace.as_entire_buffer_binding(),
        )
    };
    let bind = |change: &dyn Fn(&mut AttentionBackwardBindings<'_>)| {
        let mut bindings = bindings();
        change(&mut bindings);
        kernel.bind(&gpu.device, &shape, &bindings).map(drop)
    };
    bind(&|_| ()).unwrap();
    let small = buffer(16);
    let refused = |change: &dyn Fn(&mut AttentionBackwardBindings<'_>)| bind(change).unwrap_err();
    let wrong = |tensor: &str, error: Error| {
        let text = error.to_string();
        assert!(text.contains(tensor), "{tensor}: {text}");
    };
    macro_rules! refuse {
        ($name:literal, $bindings:ident, $change:expr) => {{
            let mut $bindings = bindings();
            $change;
            wrong($name, kernel.bind(&gpu.device, &shape, &$bindings).map(drop).unwrap_err());
        }};
    }
    let binding = || small.as_entire_buffer_binding();
    refuse!("workspace", b, b.workspace = binding());
    refuse!("lse", b, b.lse = binding());
    refuse!("d_lse", b, b.d_lse = Some(binding()));
    refuse!("d_sinks", b, b.d_sinks = Some(binding()));
    refuse!("d_bias", b, b.d_bias = Some(binding()));
    refuse!("cu_seqlens_q", b, b.cu_seqlens_q = Some(binding()));
    refuse!("prefix_lens", b, b.prefix_lens = Some(binding()));
    let scores = Layout::bhsd([1, 4, 5, 6]).unwrap();
    refuse!("bias", b, b.bias = Some((scores, binding())));
    let table = CosSin {
        binding: binding(),
        shape: TableShape { positions: 1, pairs: 8, planes: 1, axes: None },
    };
    let rotation = BackwardRotation {
        table,
        q_positions: Positions::From(0),
        k_positions: Positions::From(0),
    };
    refuse!("rotation", b, b.rotation = Some(rotation));
    // Gradients over what is still read, or over each other.
    refuse!("dq", b, b.dq = b.q.clone());
    refuse!("dv", b, b.dv = b.dk.clone());
    assert!(matches!(refused(&|b| b.d_out.layout.shape[3] = 8), Error::Shape { .. }));
    assert!(matches!(refused(&|b| b.dq.dtype = DType::F16), Error::DType { .. }));
    for offset in [i32::MIN, -TOO_FAR, TOO_FAR, i32::MAX] {
        let far = AttentionShape { query_offset: Some(offset), ..shape };
        let error = kernel.bind(&gpu.device, &far, &bindings()).unwrap_err();
        assert!(matches!(error, Error::IndexOverflow { .. }), "{error}");
    }
    let none = Budget::flops(1);
    assert!(kernel.bind_within(&gpu.device, &shape, &bindings(), none).is_err());
}

#[test]
fn a_table_that_is_too_short_is_refused() {
    let problem = AttentionBackwardProblem { unrotate: true, ..control() };
    // The harness's tables have 150 positions, and 37 rows from 140 on reach further.
    let turned = |first| {
        let rotation = crate::harness::Rotation::new(
            RopeConfig::new(16, 1e4),
            crate::harness::Ids::From(first),
        );
        Case { rotations: Some([rotation.clone(), rotation]), ..Case::new(&problem).unwrap() }
    };
    let case = turned(100);
    let inputs = case.inputs();
    case.run(lab(), &inputs).unwrap();
    let error = turned(140).run(lab(), &inputs).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::TableTooShort { .. })), "{error}");
}
