//! Sequences that are shorter than the call: their first rows have negative places, and everything
//! that goes by places takes them as they are.

use phasor::attention::{AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape};
use phasor::cache::{CacheBindings, CacheType};
use phasor::decode::Tile;
use phasor::rotary::{CosSin, Pairing, Positions, RopeConfig, Rotation, Xpos};
use phasor::{DType, HeadMap, Layout, MaskHook, ScoreHook};

use super::{Case, Outcome, small};
use crate::attention::{
    quick_tile,
    variants::{SLANTED, STRIPES},
};
use crate::harness::{Place, Placed, Result, Slots, execute, lab, run_table};

/// Four rows over sequences of fewer and more keys, rotated in the kernel.
pub fn case(twist: impl FnOnce(&mut Case)) -> Case {
    let mut case = small(HeadMap::ropepp(4).unwrap(), 2, 32, &[1, 2, 3, 4, 37]);
    case.rope = Some(RopeConfig::new(32, 10_000.0));
    (case.seq_q, case.splits, case.tile) = (4, Some(2), Some(Tile::new(16, 1, 2)));
    twist(&mut case);
    case
}

fn run(cases: Vec<(String, Case)>) {
    run_table(&cases, Case::check);
}

#[test]
fn every_cache() {
    let contiguous = Slots::Contiguous { capacity: 40 };
    let paged = Slots::Paged { page_size: 8, max_pages: 5 };
    let rows = [
        (CacheType::F32, contiguous, false),
        (CacheType::F16, contiguous, true),
        (CacheType::Int8, paged, false),
        (CacheType::Q4, contiguous, true),
    ];
    run(rows
        .map(|(stored, slots, rolling)| {
            let one = case(|c| {
                (c.slots, c.problem.cache.rolling) = (slots, rolling);
                (c.problem.cache.k, c.problem.cache.v) = (stored, stored);
                c.lens[4] = if rolling { 57 } else { 37 };
            });
            (format!("{stored}, {slots:?}, rolling: {rolling}"), one)
        })
        .to_vec());
}

/// Without a causal mask, rows before key 0 see all keys, turned back by their distance to it.
#[test]
fn rows_that_turn_back() {
    let full = |c: &mut Case| {
        c.problem.causal = false;
        c.lens = vec![1, 2, 3, 5, 40];
        c.seq_q = 4;
    };
    let pairing = |pairing, dim, rotary_dim| {
        case(|c| {
            full(c);
            (c.problem.pairing, c.problem.rotary_dim) = (pairing, rotary_dim);
            c.problem.cache.head_dim = dim;
            c.rope = Some(RopeConfig { rotary_dim, pairing, ..RopeConfig::new(dim, 10_000.0) });
        })
    };
    run(vec![
        ("half-split".into(), case(full)),
        ("partial, interleaved".into(), pairing(Pairing::Interleaved, 40, 20)),
        (
            "xPos".into(),
            case(|c| {
                full(c);
                c.xpos = Some(Xpos { scale_base: 16.0, centre: 9, ..Xpos::default() });
            }),
        ),
        // A prompt of 5 rows beside one of 16.
        (
            "as many rows as the largest call has".into(),
            case(|c| {
                (c.lens, c.seq_q, c.problem.causal) = (vec![5, 16, 1], 16, false);
                c.slots = Slots::Contiguous { capacity: 16 };
            }),
        ),
        (
            "the same under a causal mask".into(),
            case(|c| {
                (c.lens, c.seq_q) = (vec![5, 16, 1], 16);
                c.slots = Slots::Contiguous { capacity: 16 };
            }),
        ),
    ]);
}

/// What else goes by places.
#[test]
fn windows_slopes_and_hooks() {
    let all = case(|c| {
        c.problem.window = Some(3);
        c.problem.alibi_slopes = vec![0.5, 0.25, 0.125, 0.0, -0.25, 1.0, 0.0, 0.75];
        c.problem.score_mod = Some(ScoreHook::new(SLANTED).unwrap());
        c.problem.mask_mod = Some(MaskHook::new(STRIPES).unwrap());
    });
    let full = case(|c| {
        *c = Case { lens: vec![1, 2, 3, 5, 40], ..all.clone() };
        (c.problem.window, c.problem.causal) = (None, false);
    });
    run(vec![("causal".into(), all), ("full".into(), full)]);
}

/// A table that ends before the farthest turn back is refused.
#[test]
fn tables_reach_back_as_far_as_the_call_has_rows() {
    for causal in [true, false] {
        let short = case(|c| {
            (c.lens, c.seq_q, c.problem.causal) = (vec![3], 8, causal);
            c.slots = Slots::Contiguous { capacity: 5 };
        });
        short.check().unwrap();
        let few = Case { positions: Some(5), ..short }.check();
        assert_eq!(few.is_ok(), causal, "{:?}", few.err().map(|e| e.to_string()));
    }
}

/// Prefill of the same rows, queries rotated in the kernel and aligned to the last key; without a
/// causal mask, with a prefix that covers all keys.
#[test]
fn prefill_of_the_same_rows() {
    let contiguous = Slots::Contiguous { capacity: 40 };
    let paged = Slots::Paged { page_size: 8, max_pages: 5 };
    for (slots, causal) in [(contiguous, true), (paged, true), (contiguous, false)] {
        for xpos in [None, Some(Xpos { scale_base: 16.0, centre: 9, ..Xpos::default() })] {
            let case = case(|c| (c.slots, c.problem.causal, c.xpos) = (slots, causal, xpos));
            let inputs = case.inputs().unwrap();
            case.hold(&inputs, &case.run(&inputs).unwrap()).unwrap();
            case.hold(&inputs, &prefilled(&case).unwrap()).unwrap();
        }
    }
}

pub fn prefilled(case: &Case) -> Result<Outcome> {
    let (gpu, p, inputs) = (&lab().gpu, &case.problem, case.inputs()?);
    let problem = AttentionProblem {
        rotate_q: true,
        lse: true,
        prefix: !p.causal,
        ..AttentionProblem::over(p.heads.clone(), case.format())
    };
    let tile = quick_tile(problem.head_dim);
    let plan = AttentionPlan::with_tile(&problem, &gpu.capabilities(), tile)?;
    let q = Placed::input(gpu, DType::F32, Place::Gaps.layout(case.q_shape())?, &inputs.q);
    let [batch, heads, rows, _] = case.out_shape();
    let out = Placed::output(gpu, DType::F32, Layout::bhsd(case.out_shape())?);
    let lse = Placed::output(gpu, DType::F32, Layout::bhsd([batch, heads, rows, 1])?);
    let (k, v) = (inputs.k_cache.upload(gpu), inputs.v_cache.upload(gpu));
    let lens = gpu.upload_u32(&case.lens);
    let prefixes = gpu.upload_u32(&vec![u32::MAX; case.lens.len()]);
    let pages = gpu.upload_u32(&case.slots.table(batch));
    let (table, shape) = case.rope_table(gpu)?.ok_or("no rotation")?;
    let cache = CacheBindings {
        k: inputs.k_cache.tensor(&k),
        v: inputs.v_cache.tensor(&v),
        block_table: case.block_table(&pages),
    };
    let lens = lens.as_entire_buffer_binding();
    let mut bindings = AttentionBindings::over(q.tensor(), cache, lens, out.tensor());
    bindings.lse = Some(lse.binding());
    bindings.prefix_lens = (!p.causal).then(|| prefixes.as_entire_buffer_binding());
    let table = CosSin { binding: table.as_entire_buffer_binding(), shape };
    bindings.rotation = Some(Rotation::new(table, Positions::AmongKeys));
    let shape = AttentionShape::new(batch, rows, case.slots.capacity());
    let call = lab().attention(&plan)?.bind(&gpu.device, &shape, &bindings)?;
    execute(gpu, &call);
    Ok(Outcome { out: out.read(gpu)?, lse: lse.read(gpu)? })
}
