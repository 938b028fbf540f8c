//! Problems, tiles and layouts that no device can run, and plans that one device cannot.

use phasor::attention::{Attention, AttentionPlan, AttentionProblem, BlockedTile, Outputs, Tile};
use phasor::rope::RopeProblem;
use phasor::rotary::Pairing;
use phasor::{Capabilities, HeadMap, Layout, OutputHead, Phase};

use super::{Expected, attention::problem as full, error};
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
fn attention_problems() {
    let one = |name: &str, problem, expected| (name.to_owned(), (problem, expected));
    let table: Vec<(String, (AttentionProblem, Expected))> = vec![
        one(
            "head_dim 0",
            AttentionProblem { head_dim: 0, ..plain() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "head_dim 12",
            AttentionProblem { head_dim: 12, ..plain() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "head_dim 584",
            AttentionProblem { head_dim: 584, ..plain() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "value_dim 0",
            AttentionProblem { value_dim: 0, ..plain() },
            error!(Invalid { what: "value_dim", .. }),
        ),
        one(
            "value_dim 20",
            AttentionProblem { value_dim: 20, ..plain() },
            error!(Invalid { what: "value_dim", .. }),
        ),
        one(
            "value_dim 520",
            AttentionProblem { value_dim: 520, ..plain() },
            error!(Invalid { what: "value_dim", .. }),
        ),
        one(
            "no kv heads",
            AttentionProblem { kv_heads: 0, ..plain() },
            error!(Invalid { what: "kv_heads", .. }),
        ),
        one(
            "3 kv heads for 2",
            AttentionProblem { kv_heads: 3, ..plain() },
            error!(Invalid { what: "kv_heads", .. }),
        ),
        one(
            "a scale that is no number",
            AttentionProblem { softmax_scale: f32::NAN, ..plain() },
            error!(Invalid { what: "softmax_scale", .. }),
        ),
        one(
            "an infinite scale",
            AttentionProblem { softmax_scale: f32::INFINITY, ..plain() },
            error!(Invalid { what: "softmax_scale", .. }),
        ),
        one(
            "rotary_dim 0",
            AttentionProblem { rotary_dim: 0, ..ropepp() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "rotary_dim 15",
            AttentionProblem { rotary_dim: 15, ..ropepp() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "rotary_dim above head_dim",
            AttentionProblem { rotary_dim: 66, rotate_q: true, ..plain() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "three blocks of 64",
            AttentionProblem { pairing: Pairing::HalfBlocks(3), ..ropepp() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "blocks of four",
            AttentionProblem { rotary_dim: 8, pairing: Pairing::HalfBlocks(2), ..ropepp() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "split outputs of one stream",
            AttentionProblem { outputs: Outputs::Split, ..plain() },
            error!(Invalid { what: "output heads of a query head, for split outputs", .. }),
        ),
        one(
            "a window of no keys",
            AttentionProblem { window: Some(0), ..plain() },
            error!(Invalid { what: "window", .. }),
        ),
        one(
            "a prefix without a mask",
            AttentionProblem { prefix: true, causal: false, ..plain() },
            error!(Invalid { what: "prefix", .. }),
        ),
        one(
            "a softcap of 0",
            AttentionProblem { softcap: Some(0.0), ..plain() },
            error!(Invalid { what: "softcap", .. }),
        ),
        one(
            "a softcap that is no number",
            AttentionProblem { softcap: Some(f32::NAN), ..plain() },
            error!(Invalid { what: "softcap", .. }),
        ),
        one(
            "one slope for two heads",
            AttentionProblem { alibi_slopes: vec![0.5], ..plain() },
            error!(Invalid { what: "alibi_slopes", .. }),
        ),
        one(
            "infinite slopes",
            AttentionProblem { alibi_slopes: vec![f32::INFINITY; 2], ..plain() },
            error!(Invalid { what: "alibi_slopes", .. }),
        ),
        one(
            "three sinks for two heads",
            AttentionProblem { sinks: vec![0.5; 3], ..plain() },
            error!(Invalid { what: "sinks", .. }),
        ),
        one(
            "sinks that are no numbers",
            AttentionProblem { sinks: vec![f32::NAN; 2], ..plain() },
            error!(Invalid { what: "sinks", .. }),
        ),
        one(
            "2048 query heads",
            AttentionProblem::new(HeadMap::plain(2048).unwrap(), 1, 64),
            error!(Limit { limit: "max_uniform_buffer_binding_size", .. }),
        ),
    ];
    let caps = Capabilities::webgpu_default();
    run_table(&table, |(problem, expected)| expected.check(problem.plan(&caps)));
}

#[test]
fn rope_problems() {
    let control = RopeProblem::new(2, 1, 64);
    let one = |name: &str, problem, expected| (name.to_owned(), (problem, expected));
    let table: Vec<(String, (RopeProblem, Expected))> = vec![
        one(
            "no heads",
            RopeProblem { q_heads: 0, ..control.clone() },
            error!(Invalid { what: "q_heads", .. }),
        ),
        one(
            "heads past 32 bits",
            RopeProblem { k_heads: u32::MAX, ..control.clone() },
            error!(Invalid { what: "q_heads", .. }),
        ),
        one(
            "head_dim 0",
            RopeProblem { head_dim: 0, ..control.clone() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "head_dim 63",
            RopeProblem { head_dim: 63, ..control.clone() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "rotary_dim 0",
            RopeProblem { rotary_dim: 0, ..control.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "rotary_dim 9",
            RopeProblem { rotary_dim: 9, ..control.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "rotary_dim above head_dim",
            RopeProblem { rotary_dim: 66, ..control.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "no blocks",
            RopeProblem { pairing: Pairing::HalfBlocks(0), ..control.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "pairs that change places in place",
            RopeProblem { in_place: true, pairing: Pairing::InterleavedToHalf, ..control.clone() },
            error!(Invalid { what: "in_place", .. }),
        ),
        one(
            "a scaling of 0",
            RopeProblem { attention_scaling: 0.0, ..control.clone() },
            error!(Invalid { what: "attention_scaling", .. }),
        ),
        one(
            "a scaling that is no number",
            RopeProblem { attention_scaling: f64::NAN, ..control.clone() },
            error!(Invalid { what: "attention_scaling", .. }),
        ),
    ];
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
    let control = small_blocks(64);
    let one = |name: &str, tile: BlockedTile, expected| (name.to_owned(), (tile.into(), expected));
    let table: Vec<(String, (Tile, Expected))> = vec![
        one("no rows", BlockedTile { ty: 0, ..control }, error!(Invalid { what: "tile", .. })),
        one(
            "no values",
            BlockedTile { v_quads: 0, ..control },
            error!(Invalid { what: "tile", .. }),
        ),
        one(
            "steps of three quads",
            BlockedTile { v_quads: 3, ..control },
            error!(Invalid { what: "tile", .. }),
        ),
        one(
            "more channels than there are",
            BlockedTile { chunk_units: 10, ..control },
            error!(Invalid { what: "tile", .. }),
        ),
        one(
            "too many invocations",
            BlockedTile { tx: 32, ty: 32, ..control },
            error!(Limit {
                limit: "max_compute_invocations_per_workgroup",
                needed: 1024,
                available: 256,
                ..
            }),
        ),
        one(
            "too much workgroup memory",
            BlockedTile { row_pairs: 512, ..control },
            error!(Limit { limit: "max_compute_workgroup_storage_size", .. }),
        ),
        one(
            "the largest parts",
            BlockedTile { tx: 1024, ty: 1024, row_pairs: 1024, key_quads: 1024, ..control },
            error!(Limit { .. }),
        ),
        one(
            "parts past all sense",
            BlockedTile { tx: u32::MAX, row_pairs: u32::MAX, ..control },
            error!(Invalid { what: "tile", .. }),
        ),
    ];
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
