//! Random attention and decode calls.

use half::f16;
use phasor::attention::{AttentionProblem, AttentionShape, BlockedTile, Outputs, Tile};
use phasor::cache::{CacheFormat, CacheType};
use phasor::decode::DecodeProblem;
use phasor::rotary::{Pairing, RopeConfig};
use phasor::{Bias, DType, HeadMap, Precision};
use phasor_kit::tolerance::Bound;
use proptest::{prelude::*, sample::select, strategy::ValueTree as _};

use super::{Width, dtype, heads, hold, input_place, place, rounding};
use crate::{
    attention::{Case, Places, control, precision, quick_tile, small_tile},
    decode,
    harness::{Ids, Place, Result, Rotation, Slots, lab},
};

/// What changes the shader.
#[derive(Debug, Clone)]
struct Form {
    dims: (u32, u32),
    dtypes: (DType, DType, DType),
    bias: Option<Bias>,
    softcap: Option<f32>,
    alibi: bool,
    sinks: bool,
    prefix: bool,
    rotated: Option<(u32, Pairing)>,
    split: bool,
    tile: Tile,
}

/// The tables' control, as it is in both kernels and with a bias in the quick one.
fn few() -> impl Strategy<Value = Form> {
    let (small, quick) = (small_tile(16), quick_tile(16));
    let additive = (Some(Bias::Additive), quick);
    let forms = vec![(None, small), (None, quick), additive, (Some(Bias::Mask), quick)];
    select(forms).prop_map(|(bias, tile)| Form {
        dims: (16, 16),
        dtypes: (DType::F32, DType::F32, DType::F32),
        bias,
        softcap: None,
        alibi: false,
        sinks: false,
        prefix: false,
        rotated: None,
        split: false,
        tile,
    })
}

/// One of 60: a shader takes a second to compile, a call a millisecond to run.
fn many() -> impl Strategy<Value = Form> {
    let dims = select(vec![(8, 8), (16, 16), (24, 8), (16, 40), (40, 24), (64, 64)]);
    let tiles = select(vec![(4, 4, 1, 1), (2, 8, 1, 2), (8, 2, 2, 1)]);
    let bias = select(vec![None, None, Some(Bias::Additive), Some(Bias::Mask)]);
    let pairing = select(vec![Pairing::Half, Pairing::Interleaved, Pairing::InterleavedToHalf]);
    let rotated = prop::option::of((prop::bool::ANY, pairing));
    let flags = (
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
    );
    let staged = (prop::bool::ANY, prop::bool::ANY);
    let quick = prop::bool::weighted(0.3);
    let tiles = (tiles, staged, quick);
    let one = (dims, (dtype(), dtype(), dtype()), bias, rotated, flags, tiles);
    let one = one.prop_map(|(dims, dtypes, bias, rotated, flags, (shape, staged, quick))| {
        let (tx, ty, row_pairs, key_quads) = shape;
        let (softcap, alibi, sinks, prefix, split) = flags;
        let units = dims.0 / 8 + 1;
        let tiled = BlockedTile {
            tx,
            ty,
            row_pairs,
            key_quads,
            chunk_units: if staged.0 { units } else { units.div_ceil(2) },
            q_resident: staged.0,
            v_quads: 1,
            pv_apart: staged.1 && staged.0,
        };
        let tile = match precision() {
            Precision::F32 if !quick => tiled.into(),
            _ => quick_tile(dims.0),
        };
        Form {
            dims,
            dtypes,
            bias,
            softcap: softcap.then_some(3.5),
            alibi,
            sinks,
            prefix,
            rotated: rotated
                .map(|(part, pairing)| (if part { dims.0 / 2 } else { dims.0 }, pairing)),
            split,
            tile,
        }
    });
    // The same seed for all, so that a run meets each of them many times.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let forms: Vec<Form> =
        (0..60).map(|_| one.new_tree(&mut runner).expect("a form").current()).collect();
    select(forms)
}

fn problem(form: &Form, heads: HeadMap, kv_heads: u32) -> AttentionProblem {
    let outputs = heads.heads().len();
    // Split outputs are for query heads that have both components.
    let both = HeadMap::ropepp(heads.q_heads()).is_ok_and(|both| both == heads);
    AttentionProblem {
        value_dim: form.dims.1,
        q_dtype: form.dtypes.0,
        kv_dtype: form.dtypes.1,
        out_dtype: form.dtypes.2,
        bias: form.bias,
        softcap: form.softcap,
        alibi_slopes: if form.alibi {
            (0..outputs).map(|n| 0.5 / (n + 1) as f32).collect()
        } else {
            Vec::new()
        },
        sinks: if form.sinks { (0..outputs).map(|n| n as f32 - 1.0).collect() } else { Vec::new() },
        prefix: form.prefix,
        rotary_dim: form.rotated.map_or(form.dims.0, |(dim, _)| dim),
        pairing: form.rotated.map_or(Pairing::Half, |(_, pairing)| pairing),
        rotate_q: form.rotated.is_some(),
        outputs: if form.split && both { Outputs::Split } else { Outputs::Merged },
        causal: form.prefix || control().causal,
        lse: true,
        precision: precision(),
        ..AttentionProblem::new(heads, kv_heads, form.dims.0)
    }
}

fn case(width: Width) -> impl Strategy<Value = Case> {
    let form = if width == Width::Few { few().boxed() } else { many().boxed() };
    let counts = select(vec![(1, 1), (2, 1), (2, 2), (4, 2), (3, 1)]);
    (form, counts).prop_flat_map(move |(form, (q_heads, kv_heads))| {
        heads(q_heads, width).prop_flat_map(move |heads| {
            let problem = problem(&form, heads, kv_heads);
            let outputs = problem.heads.heads().len() as u32;
            let stored = if problem.outputs == Outputs::Split { q_heads } else { outputs };
            let numbers = (0..4u32, 0..40u32, 0..50u32, prop::option::of(-45..60i32));
            let masks = (
                prop::bool::ANY,
                prop::option::of(1..50u32),
                prop::option::of(prop::collection::vec(0..55u32, 3)),
            );
            let places =
                (input_place(q_heads), input_place(kv_heads), input_place(kv_heads), place(stored));
            let rest = (
                prop::array::uniform3(prop::bool::ANY),
                0..1000u64,
                select(vec![0.01f32, 1.0, 2.0, 30.0]),
                prop::bool::ANY,
                0.05..2.0f32,
            );
            let form = form.clone();
            (numbers, masks, places, rest).prop_map(move |(numbers, masks, places, rest)| {
                let (batch, seq_q, seq_k, query_offset) = numbers;
                let (causal, window, lens) = masks;
                let (broadcast, seed, size, lse, scale) = rest;
                let mut problem = problem.clone();
                problem.causal = problem.prefix || causal;
                problem.window = window;
                problem.lse = lse;
                problem.softmax_scale *= scale;
                let mut case = Case::tiled(&problem, form.tile).expect("a plan");
                case.shape = AttentionShape { batch, seq_q, seq_k, query_offset };
                let kept = |lens: Vec<u32>| lens[..batch as usize].to_vec();
                // What lies behind a length is NaN: no batch may share it with another.
                let shared = [places.1, places.2].contains(&Place::Broadcast);
                case.kv_lens = lens.filter(|_| !shared).map(kept);
                case.prefix_lens =
                    problem.prefix.then(|| vec![3, 17, 60][..batch as usize].to_vec());
                let extent = |n: usize, all: u32| if broadcast[n] { 1 } else { all };
                case.bias_extent = [extent(0, batch), extent(1, outputs), extent(2, seq_q)];
                case.rotation = form.rotated.map(|(rotary_dim, pairing)| {
                    let config = RopeConfig {
                        rotary_dim,
                        pairing,
                        ..RopeConfig::new(form.dims.0, 10_000.0)
                    };
                    Rotation::new(config, if broadcast[0] { Ids::PerBatch } else { Ids::From(3) })
                });
                case.places = Places { q: places.0, k: places.1, v: places.2, out: places.3 };
                case.size = size;
                case.seed = seed;
                case
            })
        })
    })
}

fn cache_types(width: Width) -> BoxedStrategy<(CacheType, CacheType, u32)> {
    if width == Width::Few {
        return Just((CacheType::F32, CacheType::F32, 16)).boxed();
    }
    let types = vec![
        (CacheType::F32, CacheType::F32, 16),
        (CacheType::F16, CacheType::F16, 40),
        (CacheType::Int8, CacheType::F16, 24),
        (CacheType::Q4, CacheType::Q4, 64),
        (CacheType::F16, CacheType::Int8, 8),
    ];
    select(types).boxed()
}

fn decode_case(width: Width) -> impl Strategy<Value = decode::Case> {
    let counts = match width {
        Width::Few => vec![(4, 2)],
        Width::Many => vec![(1, 1), (4, 2), (6, 2), (3, 3)],
    };
    let form = (cache_types(width), select(counts), prop::bool::ANY, prop::bool::weighted(0.3));
    form.prop_flat_map(move |((k, v, dim), (q_heads, kv_heads), paged, rotated)| {
        let lens = prop::collection::vec(5..90u32, 1..4);
        let many = width == Width::Many;
        let sizes = (lens, 1..=(if many { 5u32 } else { 1 }), prop::option::of(1..60u32), 1..6u32);
        let rest = (prop::bool::ANY, prop::bool::ANY, 0..1000u64, dtype());
        (heads(q_heads, width), sizes, rest).prop_map(move |(heads, sizes, rest)| {
            let (lens, seq_q, window, splits) = sizes;
            let (causal, sinks, seed, out) = rest;
            let mut case = decode::small(heads, kv_heads, dim, &lens);
            let longest = lens.iter().copied().max().unwrap_or(0);
            let outputs = case.problem.heads.heads().len();
            let value_dim = dim;
            case.problem = DecodeProblem {
                cache: CacheFormat { k, v, value_dim, ..CacheFormat::new(kv_heads, dim) },
                causal,
                window,
                sinks: if sinks {
                    (0..outputs).map(|n| n as f32 - 2.0).collect()
                } else {
                    Vec::new()
                },
                out_dtype: if many { out } else { DType::F32 },
                ..case.problem
            };
            case.seq_q = seq_q;
            case.slots = if paged && many {
                Slots::Paged { page_size: 16, max_pages: longest.div_ceil(16) + 1 }
            } else {
                Slots::Contiguous { capacity: longest + 3 }
            };
            case.splits = Some(splits);
            case.rope = (rotated && many).then(|| RopeConfig::new(dim, 10_000.0));
            case.seed = seed;
            case
        })
    })
}

fn check(case: &Case) -> Result {
    let p = case.plan.problem();
    let inputs = case.inputs();
    let mut reference = case.reference(&inputs)?;
    // Padding is NaN, and taken out by the maximum.
    let epsilon = f64::from(match p.precision {
        Precision::F16Products => f16::EPSILON.to_f32(),
        _ => f32::EPSILON,
    });
    let (dim, scale, q, k) = (p.head_dim, p.softmax_scale, &inputs.q, &inputs.k);
    let more = rounding(epsilon, dim, scale, q, k, &inputs.v);
    let widen = |bound: &mut Bound, more: f64| {
        if let Bound::Uniform(bound) = bound {
            *bound += more;
        }
    };
    widen(&mut reference.out, more);
    widen(&mut reference.lse, rounding(epsilon, dim, scale, q, k, &[1.0]));
    case.hold(&case.run(lab(), &inputs)?, &reference)
}

#[test]
pub fn attention_sample() {
    hold(Width::Few, 40, case(Width::Few), check);
}

#[test]
#[ignore = "long: minutes on a software adapter"]
fn attention_long() {
    lab();
    hold(Width::Many, 900, case(Width::Many), check);
}

#[test]
pub fn decode_sample() {
    hold(Width::Few, 15, decode_case(Width::Few), decode::Case::check);
}

#[test]
#[ignore = "long: minutes on a software adapter"]
fn decode_long() {
    hold(Width::Many, 500, decode_case(Width::Many), decode::Case::check);
}
