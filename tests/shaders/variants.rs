//! Every shader that plans hand out: each choice that changes a shader, on devices of all sizes.

use std::collections::BTreeMap;

use phasor::attention::{Alignment, AttentionPlan, AttentionProblem, Keys, Outputs, Queries, Tile};
use phasor::attention_backward::AttentionBackwardProblem;
use phasor::cache::{CacheFormat, CacheType::*};
use phasor::linear_attention::{FeatureHook, FeatureMap, LinearAttentionProblem};
use phasor::linear_attention_backward::LinearAttentionBackwardProblem;
use phasor::rope::{Direction, RopeProblem};
use phasor::rotary::Pairing;
use phasor::scores::{ComponentOrder, Output, ScoresProblem};
use phasor::shader::Shader;
use phasor::{
    Bias, Capabilities, DType, Error, HeadMap, MaskHook, Matrices, MatrixSide, OutputHead, Phase,
    Precision, ScoreHook, Trust,
};

use crate::serving;

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
        for problem in backward_problems() {
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
    // Decode fetches more at once on a GPU with wide subgroups, and shuffles where software has
    // some.
    let mut wide = Capabilities::webgpu_default();
    (wide.adapter, wide.subgroup) = ("GPU, subgroups of 32".into(), Some((32, 32)));
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
    let sized = devices().into_iter().map(|device| (device, attention_sizes()));
    let chosen = devices().into_iter().take(2).map(|device| (device, attention_choices()));
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
    for device in matrix_devices() {
        for problem in attention_sizes().into_iter().chain(attention_choices()) {
            let problem = AttentionProblem { precision: Precision::F16Products, ..problem };
            let name = format!("{problem:?}");
            match problem.plan(&device) {
                Ok(plan) => add(&mut variants, &device, true, &name, plan.shader()),
                // What the kernel does not do is refused by name.
                Err(Error::Invalid { what: "resumable" | "head_dim and value_dim", .. })
                    if problem.resumable || problem.head_dim.max(problem.value_dim) > 128 => {}
                Err(error) => panic!("{name} on {}: {error}", device.adapter),
            }
        }
        // Every tile that a tuner tries.
        for heads in [HeadMap::plain(3), HeadMap::ropepp(3)] {
            let problem = attention(&heads.unwrap(), 72);
            let problem = AttentionProblem { precision: Precision::F16Products, ..problem };
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

const PAIRINGS: [Pairing; 4] =
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

fn backward_problems() -> Vec<AttentionBackwardProblem> {
    let plain = HeadMap::plain(3).unwrap();
    let both = HeadMap::ropepp(3).unwrap();
    let turned = HeadMap::imagx(3).unwrap();
    let of = |attention| AttentionBackwardProblem::new(attention);
    let mut problems = Vec::new();
    for head_dim in [8, 64, 72, 128, 256] {
        for heads in [&plain, &both] {
            problems.push(of(attention(heads, head_dim)));
        }
    }
    problems.push(of(AttentionProblem { value_dim: 128, ..attention(&turned, 64) }));
    let head = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let mixed = HeadMap::new(2, vec![head(0, 0.3), head(0, 2.0), head(1, 0.5)]).unwrap();
    problems.push(of(attention(&mixed, 64)));
    for pairing in PAIRINGS {
        for rotary_dim in [80, 32] {
            let rotating =
                AttentionProblem { pairing, rotary_dim, rotate_q: true, ..attention(&both, 80) };
            problems.push(of(rotating.clone()));
            problems.push(AttentionBackwardProblem { unrotate: false, ..of(rotating) });
        }
    }
    let f16 = DType::F16;
    let stored =
        AttentionProblem { q_dtype: f16, kv_dtype: f16, out_dtype: f16, ..attention(&both, 64) };
    let ragged = AttentionProblem {
        queries: Queries::Ragged,
        keys: Keys::Ragged,
        alignment: Alignment::LastKey,
        ..attention(&both, 64)
    };
    let mask = "fn mask_mod(b: u32, h: u32, q: i32, k: i32) -> bool { return q / 64 == k / 64; }";
    let hooked =
        AttentionProblem { mask_mod: Some(MaskHook::new(mask).unwrap()), ..attention(&both, 64) };
    let prefix = AttentionProblem { prefix: true, ..attention(&both, 64) };
    let masked = AttentionProblem { bias: Some(Bias::Mask), ..attention(&both, 64) };
    problems.extend([stored, ragged, hooked, prefix, masked].map(of));
    let all = AttentionProblem {
        window: Some(100),
        softcap: Some(30.0),
        alibi_slopes: vec![0.5; 6],
        sinks: vec![1.0; 6],
        bias: Some(Bias::Additive),
        ..attention(&both, 64)
    };
    let (d_lse, d_sinks, d_bias) = (true, true, true);
    problems.push(AttentionBackwardProblem { d_lse, d_sinks, d_bias, ..of(all) });
    problems
}

fn attention(heads: &HeadMap, head_dim: u32) -> AttentionProblem {
    AttentionProblem::new(heads.clone(), 1, head_dim)
}

fn attention_sizes() -> Vec<AttentionProblem> {
    let plain = HeadMap::plain(3).unwrap();
    let both = HeadMap::ropepp(3).unwrap();
    let turned = HeadMap::imagx(3).unwrap();
    let mut problems = Vec::new();
    for head_dim in [8, 40, 64, 72, 80, 96, 112, 128, 192, 256] {
        for heads in [&plain, &both, &turned] {
            problems.push(attention(heads, head_dim));
        }
        problems.push(AttentionProblem { rotate_q: true, ..attention(&both, head_dim) });
    }
    for (head_dim, value_dim) in [(64, 128), (72, 40), (192, 128), (8, 256), (256, 8)] {
        for heads in [&plain, &both] {
            problems.push(AttentionProblem { value_dim, ..attention(heads, head_dim) });
        }
    }
    problems
}

fn attention_choices() -> Vec<AttentionProblem> {
    let plain = HeadMap::plain(3).unwrap();
    let both = HeadMap::ropepp(3).unwrap();
    let turned = HeadMap::imagx(3).unwrap();
    let head = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let mixed = HeadMap::new(1, vec![head(0, 0.3), head(0, 2.0)]).unwrap();
    // Two outputs of one query head and one of the other: a row of the table with a stream unused.
    let uneven = HeadMap::new(2, vec![head(0, 0.0), head(0, 1.0), head(1, 0.5)]).unwrap();

    let mut problems = Vec::new();
    for rotate_q in [false, true] {
        for heads in [&plain, &both, &turned, &mixed, &uneven] {
            problems.push(AttentionProblem { rotate_q, ..attention(heads, 64) });
        }
        for (causal, lse) in [(false, false), (false, true), (true, true)] {
            problems.push(AttentionProblem { rotate_q, causal, lse, ..attention(&both, 64) });
        }
    }
    let dtypes = [DType::F32, DType::F16];
    for q_dtype in dtypes {
        for kv_dtype in dtypes {
            for out_dtype in dtypes {
                for (heads, outputs) in [(&plain, Outputs::Merged), (&both, Outputs::Split)] {
                    let problem = attention(heads, 128);
                    let problem = AttentionProblem { q_dtype, kv_dtype, out_dtype, ..problem };
                    problems.push(AttentionProblem { outputs, ..problem });
                }
            }
        }
    }
    for pairing in PAIRINGS {
        for (head_dim, rotary_dim) in [(96, 96), (80, 32)] {
            for (outputs, rotate_q) in
                [(Outputs::Merged, false), (Outputs::Merged, true), (Outputs::Split, true)]
            {
                let problem = attention(&both, head_dim);
                let problem = AttentionProblem { pairing, rotary_dim, ..problem };
                problems.push(AttentionProblem { outputs, rotate_q, ..problem });
            }
        }
    }
    // More than eight buffers, unless lengths and tables share one.
    let paged = CacheFormat { paged: true, ..CacheFormat::new(1, 64) };
    let crowded = AttentionProblem {
        queries: Queries::Ragged,
        rotate_q: true,
        lse: true,
        prefix: true,
        block_list: true,
        ..AttentionProblem::over(both.clone(), paged)
    };
    let keys = Keys::Ragged;
    problems.push(AttentionProblem { keys, ..crowded.clone() });
    problems.push(AttentionProblem { outputs: Outputs::Split, lse: false, ..crowded.clone() });
    // Nine are nine.
    problems.push(AttentionProblem { outputs: Outputs::Split, ..crowded.clone() });
    problems.push(crowded);
    for queries in [Queries::Batched, Queries::Ragged] {
        let paged = CacheFormat { paged: true, ..CacheFormat::new(1, 64) };
        for keys in [Keys::Batched, Keys::Ragged, Keys::Cache(paged)] {
            for rotate_q in [false, true] {
                let problem = attention(&both, 64);
                let problem = AttentionProblem { queries, keys, rotate_q, ..problem };
                problems.push(AttentionProblem { alignment: Alignment::LastKey, ..problem });
            }
        }
    }
    // Caches of every format: both sides in each storage, slots that are used again, both at once.
    for (k, v) in [(F16, F16), (Int8, Int8), (Q4, Q4), (Int8, Q4), (F32, Int8)] {
        for (paged, rolling) in [(false, false), (true, false), (false, true)] {
            let cache = CacheFormat { k, v, paged, rolling, ..CacheFormat::new(1, 64) };
            let problem = AttentionProblem::over(both.clone(), cache);
            problems.push(AttentionProblem { bias: rolling.then_some(Bias::Mask), ..problem });
        }
    }
    for heads in [&plain, &both] {
        let n = heads.heads().len();
        let softcap = AttentionProblem { softcap: Some(30.0), ..attention(heads, 64) };
        let alibi = AttentionProblem { alibi_slopes: vec![0.5; n], ..attention(heads, 64) };
        let sinks = AttentionProblem { sinks: vec![1.0; n], ..attention(heads, 64) };
        let window = AttentionProblem { window: Some(100), ..attention(heads, 64) };
        let (alibi_slopes, softcap_too) = (alibi.alibi_slopes.clone(), softcap.softcap);
        let all = AttentionProblem { alibi_slopes, softcap: softcap_too, ..sinks.clone() };
        let prefix = AttentionProblem { prefix: true, ..attention(heads, 64) };
        problems.extend([softcap, alibi, sinks, window, all, prefix]);
        let mask =
            "fn mask_mod(b: u32, h: u32, q: i32, k: i32) -> bool { return q / 64 == k / 64; }";
        let score = "fn score_mod(s: f32, b: u32, h: u32, q: i32, k: i32) -> f32 { return s; }";
        let mask_mod = Some(MaskHook::new(mask).unwrap());
        let score_mod = Some(ScoreHook::new(score).unwrap());
        problems.extend([
            AttentionProblem { score_mod, ..attention(heads, 64) },
            AttentionProblem { mask_mod, block_list: true, ..attention(heads, 64) },
            AttentionProblem { resumable: true, ..attention(heads, 64) },
            AttentionProblem { resumable: true, rotate_q: true, ..attention(heads, 128) },
        ]);
        for bias in [Some(Bias::Additive), Some(Bias::Mask)] {
            problems.push(AttentionProblem { bias, ..attention(heads, 64) });
            problems.push(AttentionProblem { bias, rotate_q: true, ..attention(heads, 64) });
        }
    }
    // Pairs that do not fill groups of four, with a tail behind them.
    for rotary_dim in [2, 20, 36, 54] {
        problems.push(AttentionProblem { rotary_dim, rotate_q: true, ..attention(&both, 72) });
    }
    problems
}
