//! Every shader that plans hand out: each choice that changes a shader, on devices of all sizes.

use std::collections::BTreeMap;

use phasor::attention::{AttentionPlan, AttentionProblem, Keys, Outputs, Tile};
use phasor::cache::CacheFormat;
use phasor::decode::{self, DecodePlan, DecodeProblem};
use phasor::linear_attention::{FeatureHook, FeatureMap, LinearAttentionProblem};
use phasor::linear_attention_backward::LinearAttentionBackwardProblem;
use phasor::rope::{Direction, RopeProblem};
use phasor::rotary::Pairing;
use phasor::scores::{ComponentOrder, Output, ScoresProblem};
use phasor::shader::Shader;
use phasor::{Capabilities, DType, Error, HeadMap, Matrices, MatrixSide, Precision, Trust};

use crate::{attention, serving};

/// A shader with a name to be found by.
pub struct Variant {
    pub name: String,
    /// The device that it was planned for.
    pub device: Capabilities,
    /// Some tensor is stored in f16.
    pub f16: bool,
    pub shader: Shader,
}

/// A plan that was refused.
pub struct Refusal {
    pub name: String,
    pub device: Capabilities,
    /// Storage buffers of the call.
    pub tensors: u32,
    pub error: Error,
}

/// All variants, each distinct shader once, and the problems that a device had no room for.
pub fn all() -> (Vec<Variant>, Vec<Refusal>) {
    let mut variants = BTreeMap::new();
    let mut refusals = Vec::new();
    for problem in rope_problems() {
        let device = Capabilities::webgpu_default();
        let plan = problem.plan(&device).expect("room for every rotation");
        let f16 = problem.dtype == DType::F16;
        add(&mut variants, &device, f16, &format!("{problem:?}"), plan.shader());
    }
    for problem in linear_attention_problems() {
        let device = Capabilities::webgpu_default();
        let f16 = [problem.q_dtype, problem.kv_dtype, problem.out_dtype].contains(&DType::F16);
        let plan = problem.plan(&device).expect("room for every linear attention");
        for shader in plan.shaders() {
            add(&mut variants, &device, f16, &format!("{problem:?}"), shader);
        }
        if problem.feature_map == FeatureMap::EluPlusOne {
            let problem = LinearAttentionBackwardProblem::new(problem);
            let plan = problem.plan(&device).expect("room for every gradient of it");
            for shader in plan.shaders() {
                add(&mut variants, &device, f16, &format!("{problem:?}"), shader);
            }
        }
    }
    for problem in scores_problems() {
        let device = Capabilities::webgpu_default();
        let f16 = [problem.q_dtype, problem.k_dtype].contains(&DType::F16);
        let plan = problem.plan(&device).expect("room for all scores");
        add(&mut variants, &device, f16, &format!("{problem:?}"), plan.shader());
    }
    for device in devices().into_iter().take(2) {
        for problem in serving::appends() {
            let plan = problem.plan(&device).expect("room for every append");
            let f16 = problem.dtype == DType::F16 || serving::halves(&problem.cache);
            add(&mut variants, &device, f16, &format!("{problem:?}"), plan.shader());
        }
        for problem in serving::moves() {
            let plan = problem.plan(&device).expect("room for every move");
            let f16 = serving::halves(&problem.cache);
            add(&mut variants, &device, f16, &format!("{problem:?}"), plan.shader());
        }
        for problem in serving::merges() {
            let plan = problem.plan(&device).expect("room for every merge");
            let f16 = [problem.part_dtype, problem.out_dtype].contains(&DType::F16);
            add(&mut variants, &device, f16, &format!("{problem:?}"), plan.shader());
        }
    }
    for device in devices() {
        for problem in attention::problems_of_gradients() {
            let p = &problem.attention;
            let f16 = [p.q_dtype, p.kv_dtype, p.out_dtype].contains(&DType::F16);
            match problem.plan(&device) {
                Ok(plan) => {
                    for shader in plan.shaders() {
                        add(&mut variants, &device, f16, &format!("{problem:?}"), shader);
                    }
                }
                // Bias, its gradient and a table are more than 8 tensors.
                Err(Error::Limit { limit: "max_storage_buffers_per_shader_stage", .. })
                    if device.max_storage_buffers == 8 && p.bias.is_some() => {}
                Err(error) => panic!("{problem:?} on {}: {error}", device.adapter),
            }
        }
    }
    // Decode fetches more at once on a GPU with wide subgroups, may share keys there, and shuffles
    // where software has some.
    let mut wide = Capabilities::webgpu_default();
    (wide.adapter, wide.subgroup) = ("GPU, subgroups of 32".into(), Some((32, 32)));
    let shared = DecodeProblem::new(HeadMap::ropepp(4).unwrap(), CacheFormat::new(1, 72), 1, 4096);
    let tiles = decode::Tile::candidates(&shared, &wide).expect("tiles of decode");
    for tile in tiles.into_iter().filter(|tile| (tile.threads, tile.run) == (128, 4)) {
        let plan = DecodePlan::with_parts(&shared, &wide, tile, 8).expect("a candidate");
        add(&mut variants, &wide, false, &format!("{shared:?} in {tile}"), plan.shader());
    }
    for device in devices().into_iter().take(4).chain([wide]) {
        for problem in serving::decodes() {
            let plan = problem.plan(&device).expect("room for every decode");
            let f16 = [problem.q_dtype, problem.out_dtype].contains(&DType::F16)
                || serving::halves(&problem.cache);
            add(&mut variants, &device, f16, &format!("{problem:?}"), plan.shader());
            if let Some(merge) = plan.merge() {
                let name = format!("merge of {problem:?}");
                add(&mut variants, &device, problem.out_dtype == DType::F16, &name, merge.shader());
            }
        }
    }
    // Sizes decide on the tile, and the tile on the device; the other choices are the same on any.
    let sized = devices().into_iter().map(|device| (device, attention::sizes()));
    let chosen = devices().into_iter().take(2).map(|device| (device, attention::choices()));
    for (device, problems) in sized.chain(chosen) {
        for problem in problems {
            let f16 = [problem.q_dtype, problem.kv_dtype, problem.out_dtype].contains(&DType::F16)
                || matches!(problem.keys, Keys::Cache(cache) if serving::halves(&cache));
            match problem.plan(&device) {
                Ok(plan) => {
                    add(&mut variants, &device, f16, &format!("{problem:?}"), plan.shader())
                }
                Err(error) => refusals.push(Refusal {
                    name: format!("{problem:?} on {}", device.adapter),
                    device: device.clone(),
                    tensors: tensors(&problem),
                    error,
                }),
            }
        }
    }
    let tiers = [Precision::F16Products, Precision::F16x3Products];
    for (device, precision) in
        matrix_devices().into_iter().flat_map(|device| tiers.map(|tier| (device.clone(), tier)))
    {
        for problem in attention::sizes().into_iter().chain(attention::choices()) {
            let problem = AttentionProblem { precision, ..problem };
            let name = format!("{problem:?}");
            match problem.plan(&device) {
                Ok(plan) => add(&mut variants, &device, true, &name, plan.shader()),
                // What the kernel does not do is refused by name.
                Err(Error::Invalid { what: "head_dim and value_dim", .. })
                    if problem.head_dim.max(problem.value_dim) > 256 => {}
                // Keys in two parts, of which a step has 16 where two invocations share a row.
                Err(Error::Limit { limit: "max_compute_workgroup_storage_size", .. })
                    if problem.head_dim == 256 && precision == Precision::F16x3Products => {}
                Err(error) => panic!("{name} on {}: {error}", device.adapter),
            }
        }
        // Every tile that a tuner tries.
        for heads in [HeadMap::plain(3), HeadMap::ropepp(3)] {
            let problem = attention::attention(&heads.unwrap(), 72);
            let problem = AttentionProblem { precision, ..problem };
            for tile in Tile::candidates(&problem, &device).expect("tiles for matrices") {
                let plan = AttentionPlan::with_tile(&problem, &device, tile);
                let plan = plan.expect("a tile that fits");
                add(&mut variants, &device, true, &format!("{problem:?} {tile}"), plan.shader());
            }
        }
    }
    (variants.into_values().collect(), refusals)
}

/// A subgroup of each side and width that GPUs have, and lavapipe's.
fn matrix_devices() -> Vec<Capabilities> {
    let device = |adapter: &str, software, kib: u32, side, lanes| {
        let mut device = Capabilities::webgpu_default();
        device.adapter = adapter.into();
        device.software = software;
        (device.max_workgroup_bytes, device.max_storage_buffers) = (kib << 10, 64);
        device.matrices = Matrices::Listed { side, lanes, trust: Trust::Insisted };
        device
    };
    vec![
        device("GPU, 16 x 16, subgroups of 32, 48 KiB", false, 48, MatrixSide::M16, 32),
        device("GPU, 16 x 16, subgroups of 64, 64 KiB", false, 64, MatrixSide::M16, 64),
        device("Apple, 8 x 8, subgroups of 32, 32 KiB", false, 32, MatrixSide::M8, 32),
        device("lavapipe, 8 x 8", true, 32, MatrixSide::M8, 8),
    ]
}

/// Buffers that an attention call binds at least: q, k, v, out, one of lengths and tables, and
/// whatever the problem adds.
fn tensors(problem: &AttentionProblem) -> u32 {
    let out_im = u32::from(problem.outputs == Outputs::Split);
    let table_and_ids = if problem.rotate_q { 2 } else { 0 };
    let lse_and_bias = u32::from(problem.lse) + u32::from(problem.bias.is_some());
    5 + out_im + table_and_ids + lse_and_bias + u32::from(problem.resumable)
}

type Key = (String, Vec<(&'static str, u64)>);

fn add(
    variants: &mut BTreeMap<Key, Variant>,
    device: &Capabilities,
    f16: bool,
    problem: &str,
    shader: &Shader,
) {
    let overrides = shader.overrides.iter().map(|&(name, value)| (name, value.to_bits())).collect();
    variants.entry((shader.source.clone(), overrides)).or_insert_with(|| Variant {
        name: format!("{} of {problem} on {}", shader.label, device.adapter),
        device: device.clone(),
        f16,
        shader: shader.clone(),
    });
}

fn devices() -> Vec<Capabilities> {
    let device = |adapter: &str, software, kib: u32, invocations, storage_buffers| {
        let mut device = Capabilities::webgpu_default();
        device.adapter = adapter.into();
        device.software = software;
        device.max_workgroup_bytes = kib << 10;
        device.max_invocations = invocations;
        device.max_workgroup_size = invocations;
        device.max_storage_buffers = storage_buffers;
        device
    };
    let with_subgroups = |adapter: &str, size, kib| {
        let mut device = device(adapter, true, kib, 1024, 64);
        device.subgroup = Some((size, size));
        device
    };
    vec![
        Capabilities::webgpu_default(),
        device("software, 32 KiB", true, 32, 1024, 64),
        with_subgroups("lavapipe", 8, 32),
        with_subgroups("SwiftShader", 4, 16),
        device("GPU, 32 KiB", false, 32, 1024, 64),
        device("GPU, 48 KiB", false, 48, 1024, 64),
        device("GPU, 64 KiB", false, 64, 1024, 64),
    ]
}

pub const PAIRINGS: [Pairing; 4] =
    [Pairing::Half, Pairing::Interleaved, Pairing::InterleavedToHalf, Pairing::HalfBlocks(2)];

fn rope_problems() -> Vec<RopeProblem> {
    let mut problems = Vec::new();
    // The fast path, the same not aligned, a tail, and blocks of an odd number of pairs.
    let paths = [(64, 64, true), (64, 64, false), (96, 32, true), (24, 12, true)];
    for pairing in PAIRINGS {
        for dtype in [DType::F32, DType::F16] {
            for direction in [Direction::Forward, Direction::Inverse] {
                for (head_dim, rotary_dim, aligned) in paths {
                    for in_place in [false, true] {
                        if in_place && pairing == Pairing::InterleavedToHalf {
                            continue;
                        }
                        let mut problem = RopeProblem::new(3, 1, head_dim);
                        problem.rotary_dim = rotary_dim;
                        problem.pairing = pairing;
                        problem.dtype = dtype;
                        problem.direction = direction;
                        problem.in_place = in_place;
                        problem.aligned = aligned;
                        problems.push(problem);
                    }
                }
            }
        }
    }
    problems
}

fn scores_problems() -> Vec<ScoresProblem> {
    let outputs = [Output::Scores(ComponentOrder::Pairs), Output::Statistics { distance: 9 }];
    let mut problems = Vec::new();
    for output in outputs {
        let plain = ScoresProblem { output, ..ScoresProblem::new(2, 1, 64) };
        problems.extend([
            ScoresProblem { rotary_dim: 22, ..plain.clone() },
            ScoresProblem { pairing: Pairing::Interleaved, k_dtype: DType::F16, ..plain.clone() },
            ScoresProblem { pairing: Pairing::HalfBlocks(2), q_dtype: DType::F16, ..plain },
        ]);
    }
    problems
}

fn linear_attention_problems() -> Vec<LinearAttentionProblem> {
    let plain = LinearAttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 64);
    let both = LinearAttentionProblem { heads: HeadMap::ropepp(2).unwrap(), ..plain.clone() };
    let hook = "fn feature_map(x: f32) -> f32 { return log(1.0 + exp(x)); }";
    let favor = FeatureMap::Favor { features: 100, key_offset: 1.0 };
    let f16 = DType::F16;
    vec![
        LinearAttentionProblem { causal: false, ..plain.clone() },
        LinearAttentionProblem { rotary_dim: 0, ..plain.clone() },
        LinearAttentionProblem { value_dim: 20, state: true, ..both.clone() },
        LinearAttentionProblem {
            feature_map: FeatureMap::Custom(FeatureHook::new(hook).unwrap()),
            pairing: Pairing::Interleaved,
            rotary_dim: 22,
            ..both.clone()
        },
        LinearAttentionProblem { feature_map: favor, ..both.clone() },
        LinearAttentionProblem { pairing: Pairing::InterleavedToHalf, ..both.clone() },
        LinearAttentionProblem {
            pairing: Pairing::HalfBlocks(2),
            q_dtype: f16,
            kv_dtype: f16,
            out_dtype: f16,
            ..LinearAttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 256)
        },
        plain,
        both,
    ]
}
