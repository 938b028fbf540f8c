//! Problems, tiles and layouts that no device can run, and plans that one device cannot.

use phasor::attention::{Attention, AttentionPlan, AttentionProblem, BlockedTile, Outputs};
use phasor::cache::{CacheFormat, CacheType};
use phasor::kv_append::KvAppendProblem;
use phasor::kv_move::KvMoveProblem;
use phasor::rope::RopeProblem;
use phasor::rotary::Pairing;
use phasor::{Capabilities, HeadMap, Layout, OutputHead, Phase};

use super::{Expected, attention::problem as full, error, problems};
use crate::{
    attention::small_blocks,
    harness::{Result, lab, narrow, run_table},
};

fn plain() -> AttentionProblem {
    AttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 64)
}

fn ropepp() -> AttentionProblem {
    AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64)
}

#[test]
pub fn attention_problems() {
    let one = problems! { plain(), |p|
        "head_dim 0": p.head_dim = 0 => Invalid { what: "head_dim", .. };
        "head_dim 12": p.head_dim = 12 => Invalid { what: "head_dim", .. };
        "head_dim 584": p.head_dim = 584 => Invalid { what: "head_dim", .. };
        "value_dim 0": p.value_dim = 0 => Invalid { what: "value_dim", .. };
        "value_dim 20": p.value_dim = 20 => Invalid { what: "value_dim", .. };
        "value_dim 520": p.value_dim = 520 => Invalid { what: "value_dim", .. };
        "no kv heads": p.kv_heads = 0 => Invalid { what: "kv_heads", .. };
        "3 kv heads for 2": p.kv_heads = 3 => Invalid { what: "kv_heads", .. };
        "a scale that is no number": p.softmax_scale = f32::NAN
            => Invalid { what: "softmax_scale", .. };
        "an infinite scale": p.softmax_scale = f32::INFINITY
            => Invalid { what: "softmax_scale", .. };
        "rotary_dim above head_dim": { p.rotary_dim = 66; p.rotate_q = true }
            => Invalid { what: "rotary_dim", .. };
        "split outputs of one stream": p.outputs = Outputs::Split
            => Invalid { what: "output heads of a query head, for split outputs", .. };
        "a window of no keys": p.window = Some(0) => Invalid { what: "window", .. };
        "a prefix without a mask": { p.prefix = true; p.causal = false }
            => Invalid { what: "prefix", .. };
        "a softcap of 0": p.softcap = Some(0.0) => Invalid { what: "softcap", .. };
        "a softcap that is no number": p.softcap = Some(f32::NAN)
            => Invalid { what: "softcap", .. };
        "one slope for two heads": p.alibi_slopes = vec![0.5]
            => Invalid { what: "alibi_slopes", .. };
        "infinite slopes": p.alibi_slopes = vec![f32::INFINITY; 2]
            => Invalid { what: "alibi_slopes", .. };
        "three sinks for two heads": p.sinks = vec![0.5; 3] => Invalid { what: "sinks", .. };
        "sinks that are no numbers": p.sinks = vec![f32::NAN; 2] => Invalid { what: "sinks", .. };
        "2048 query heads": p.heads = HeadMap::plain(2048).unwrap()
            => Limit { limit: "max_uniform_buffer_binding_size", .. };
    };
    let both = problems! { ropepp(), |p|
        "rotary_dim 0": p.rotary_dim = 0 => Invalid { what: "rotary_dim", .. };
        "rotary_dim 15": p.rotary_dim = 15 => Invalid { what: "rotary_dim", .. };
        "three blocks of 64": p.pairing = Pairing::HalfBlocks(3)
            => Invalid { what: "rotary_dim", .. };
        "blocks of four": { p.rotary_dim = 8; p.pairing = Pairing::HalfBlocks(2) }
            => Invalid { what: "rotary_dim", .. };
    };
    let caps = Capabilities::webgpu_default();
    run_table(one.iter().chain(&both), |(problem, expected)| expected.check(problem.plan(&caps)));
}

/// What appends and moves ask of a cache and of a rotation.
#[test]
pub fn cache_problems() {
    macro_rules! table {
        ($right:expr) => {
            problems! { $right, |p|
                "no kv heads": p.cache.kv_heads = 0 => Invalid { what: "kv_heads", .. };
                "head_dim 0": p.cache.head_dim = 0 => Invalid { what: "head_dim", .. };
                "value_dim 0": p.cache.value_dim = 0 => Invalid { what: "value_dim", .. };
                "half a q4 block of keys": p.cache.k = CacheType::Q4
                    => Invalid { what: "head_dim", .. };
                "half a q4 block of values": p.cache.v = CacheType::Q4
                    => Invalid { what: "value_dim", .. };
                "an odd rotary_dim": p.rotary_dim = 7 => Invalid { what: "rotary_dim", .. };
                "rotary_dim above head_dim": p.rotary_dim = 18
                    => Invalid { what: "rotary_dim", .. };
            }
        };
    }
    let caps = Capabilities::webgpu_default();
    let appends = table!(KvAppendProblem::new(CacheFormat::new(2, 16)));
    run_table(&appends, |(problem, expected)| expected.check(problem.plan(&caps)));
    let moves = table!(KvMoveProblem::new(CacheFormat::new(2, 16)));
    run_table(&moves, |(problem, expected)| expected.check(problem.plan(&caps)));
}

#[test]
pub fn rope_problems() {
    let control = RopeProblem::new(2, 1, 64);
    let table = problems! { control.clone(), |p|
        "no heads": p.q_heads = 0 => Invalid { what: "q_heads", .. };
        "heads past 32 bits": p.k_heads = u32::MAX => Invalid { what: "q_heads", .. };
        "head_dim 0": p.head_dim = 0 => Invalid { what: "head_dim", .. };
        "head_dim 63": p.head_dim = 63 => Invalid { what: "head_dim", .. };
        "rotary_dim 0": p.rotary_dim = 0 => Invalid { what: "rotary_dim", .. };
        "rotary_dim 9": p.rotary_dim = 9 => Invalid { what: "rotary_dim", .. };
        "rotary_dim above head_dim": p.rotary_dim = 66 => Invalid { what: "rotary_dim", .. };
        "no blocks": p.pairing = Pairing::HalfBlocks(0) => Invalid { what: "rotary_dim", .. };
        "pairs that change places in place": {
            p.in_place = true;
            p.pairing = Pairing::InterleavedToHalf;
        } => Invalid { what: "in_place", .. };
        "a scaling of 0": p.attention_scaling = 0.0 => Invalid { what: "attention_scaling", .. };
        "a scaling that is no number": p.attention_scaling = f64::NAN
            => Invalid { what: "attention_scaling", .. };
    };
    let caps = Capabilities::webgpu_default();
    run_table(&table, |(problem, expected)| expected.check(problem.plan(&caps)));

    let mut small = caps.clone();
    small.max_storage_buffers = 5;
    let few = error!(Limit {
        limit: "max_storage_buffers_per_shader_stage",
        needed: 6,
        available: 5,
        ..
    });
    few.check(control.plan(&small)).unwrap();
    let mut small = caps;
    small.max_invocations = 32;
    let few = error!(Limit {
        limit: "max_compute_invocations_per_workgroup",
        needed: 64,
        available: 32,
        ..
    });
    few.check(control.plan(&small)).unwrap();
}

#[test]
fn tiles() {
    let table = problems! { small_blocks(64), |p|
        "no rows": p.ty = 0 => Invalid { what: "tile", .. };
        "no values": p.v_quads = 0 => Invalid { what: "tile", .. };
        "steps of three quads": p.v_quads = 3 => Invalid { what: "tile", .. };
        "more channels than there are": p.chunk_units = 10 => Invalid { what: "tile", .. };
        "too many invocations": { p.tx = 32; p.ty = 32 }
            => Limit {
                limit: "max_compute_invocations_per_workgroup", needed: 1024, available: 256, ..
            };
        "too much workgroup memory": p.row_pairs = 512
            => Limit { limit: "max_compute_workgroup_storage_size", .. };
        "the largest parts": { p.tx = 1024; p.ty = 1024; p.row_pairs = 1024; p.key_quads = 1024 }
            => Limit { .. };
        "parts past all sense": { p.tx = u32::MAX; p.row_pairs = u32::MAX }
            => Invalid { what: "tile", .. };
    };
    let mut caps = Capabilities::webgpu_default();
    caps.max_workgroup_bytes = 1 << 18;
    run_table(&table, |(tile, expected)| {
        expected.check(AttentionPlan::with_tile(&ropepp(), &caps, *tile))
    });
}

/// What other devices have room for, this one may not have.
#[test]
fn devices() {
    let caps = Capabilities::webgpu_default();
    let less = |limit: fn(&mut Capabilities)| {
        let mut caps = caps.clone();
        limit(&mut caps);
        caps
    };
    let one = |name: &str, caps, expected| (name.to_owned(), (caps, expected));
    let table: Vec<(String, (Capabilities, Expected))> = vec![
        one(
            "nine storage buffers",
            caps.clone(),
            error!(Limit {
                limit: "max_storage_buffers_per_shader_stage",
                needed: 9,
                available: 8,
                ..
            }),
        ),
        one(
            "memory for no tile",
            less(|c| {
                c.max_workgroup_bytes = 512;
                c.max_storage_buffers = 10
            }),
            error!(Limit { limit: "max_compute_workgroup_storage_size", available: 512, .. }),
        ),
    ];
    run_table(&table, |(caps, expected)| expected.check(full()?.plan(caps)));

    // Compiling for a smaller device than the plan was made for.
    let roomy = less(|c| c.max_workgroup_bytes = 1 << 20);
    let tile =
        BlockedTile { tx: 8, ty: 8, row_pairs: 4, key_quads: 2, v_quads: 16, ..small_blocks(64) };
    let plan = AttentionPlan::with_tile(&ropepp(), &roomy, tile).unwrap();
    let expected =
        error!(Limit { limit: "max_compute_workgroup_storage_size", available: 16384, .. });
    expected.check(Attention::new(&narrow().gpu.device, &plan)).unwrap();
    let roomy = less(|c| c.max_storage_buffers = 10);
    let plan = full().unwrap().plan(&roomy).unwrap();
    let expected = error!(Limit {
        limit: "max_storage_buffers_per_shader_stage",
        needed: 9,
        available: 8,
        ..
    });
    expected.check(Attention::new(&narrow().gpu.device, &plan)).unwrap();
    assert!(lab().attention(&plan).is_ok());
}

#[test]
fn head_maps_and_layouts() {
    let head = |source, phase| OutputHead { source, phase };
    let check = |result: phasor::Result<HeadMap>, expected: Expected| expected.check(result);
    let all = || -> Result {
        check(HeadMap::new(2, Vec::new()), error!(Invalid { what: "output heads", .. }))?;
        check(HeadMap::plain(0), error!(Invalid { what: "output heads", .. }))?;
        check(
            HeadMap::new(2, vec![head(2, Phase::REAL)]),
            error!(Invalid { what: "source of an output head", .. }),
        )?;
        check(
            HeadMap::new(2, vec![head(0, Phase::radians(f64::INFINITY))]),
            error!(Invalid { what: "phase of an output head", .. }),
        )?;
        error!(IndexOverflow { .. }).check(Layout::bhsd([1, 64, 1 << 20, 64]))?;
        error!(IndexOverflow { .. }).check(Layout::bshd([64, 64, 1 << 14, 64]))?;
        error!(Invalid { what: "packed heads", .. }).check(Layout::packed([1, 4, 8, 16], 6, 3))
    };
    all().unwrap();
}
