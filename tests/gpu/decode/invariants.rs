//! What holds bit for bit.

use phasor::cache::CacheType;
use phasor::decode::DecodeProblem;
use phasor::rotary::RopeConfig;
use phasor::{Bias, Error, HeadMap};

use super::{Case, Inputs, shared, small};
use crate::harness::{HostCache, Slots, lab, narrow};

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn case(lens: &[u32]) -> Case {
    let mut case = small(HeadMap::ropepp(4).unwrap(), 2, 32, lens);
    case.splits = Some(3);
    case
}

#[test]
fn paged_is_contiguous() {
    let types = [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
    for stored in types {
        let mut contiguous = case(&[1, 50, 120]);
        (contiguous.problem.cache.k, contiguous.problem.cache.v) = (stored, stored);
        contiguous.tile = shared(4).filter(|_| stored == CacheType::F16);
        let mut paged = contiguous.clone();
        paged.slots = Slots::Paged { page_size: 8, max_pages: 16 };
        let run = |case: &Case| case.run(&case.inputs().unwrap()).unwrap();
        let (a, b) = (run(&contiguous), run(&paged));
        contiguous.hold(&contiguous.inputs().unwrap(), &a).unwrap();
        assert_eq!(bits(&a.out), bits(&b.out), "{stored}");
        assert_eq!(bits(&a.lse), bits(&b.lse), "{stored}");
    }
}

/// With eight storage buffers, lengths and block table are ranges of one: the same bits, and right
/// where one dispatch does it all.
#[test]
fn few_buffers() {
    let mut crowded = case(&[1, 50, 120]);
    crowded.slots = Slots::Paged { page_size: 8, max_pages: 16 };
    crowded.rope = Some(RopeConfig::new(32, 10_000.0));
    (crowded.problem.bias, crowded.bias_extent) = (Some(Bias::Additive), [3, 8, 1]);
    let inputs = crowded.inputs().unwrap();
    let run = |case: &Case, lab| case.run_on(lab, &inputs, &case.lens).unwrap();
    assert!(!crowded.plan(lab()).unwrap().one_buffer_of_lists());
    let plan = crowded.plan(narrow()).unwrap();
    assert!(plan.one_buffer_of_lists() && plan.shader().storage_buffers == 8, "{plan}");
    crowded.tile = Some(*plan.tile());
    let (few, many) = (run(&crowded, narrow()), run(&crowded, lab()));
    assert_eq!(bits(&few.out), bits(&many.out));
    assert_eq!(bits(&few.lse), bits(&many.lse));

    let alone = Case { splits: Some(1), ..crowded };
    let alone = Case { problem: DecodeProblem { lse: false, ..alone.problem.clone() }, ..alone };
    let plan = alone.plan(narrow()).unwrap();
    assert!(plan.one_buffer_of_lists() && plan.merge().is_none(), "{plan}");
    alone.hold(&inputs, &run(&alone, narrow())).unwrap();

    let apart = Case { lens_apart: true, ..alone };
    let error = apart.run_on(narrow(), &inputs, &apart.lens).err();
    let error = error.and_then(|error| error.downcast::<Error>().ok());
    let tensor = match error.as_deref() {
        Some(Error::Binding { tensor, .. }) => *tensor,
        other => panic!("taken, or refused for {other:?}"),
    };
    assert_eq!(tensor, "block_table");
}

/// One sequence alone, and the same one between others.
#[test]
fn the_batch_around_changes_nothing() {
    let many = case(&[64, 50, 120]);
    let inputs = many.inputs().unwrap();
    let together = many.run(&inputs).unwrap();
    for b in 0..3 {
        let mut one = case(&[many.lens[b]]);
        // The same plan: as large a batch as before could come.
        one.problem.max_batch = 3;
        one.slots = many.slots;
        let q_plane = inputs.q.len() / 3;
        let alone = Inputs {
            q: inputs.q[b * q_plane..][..q_plane].to_vec(),
            k: vec![inputs.k[b].clone()],
            v: vec![inputs.v[b].clone()],
            k_cache: HostCache::new(one.slots, CacheType::F32, 1, 2, 32),
            v_cache: HostCache::new(one.slots, CacheType::F32, 1, 2, 32),
        };
        let alone = alone.filled(many.lens[b]);
        let got = one.run(&alone).unwrap();
        let plane = together.out.len() / 3;
        assert_eq!(bits(&got.out), bits(&together.out[b * plane..][..plane]));
    }
}

impl Inputs {
    /// The caches of a single sequence, filled from its rows.
    fn filled(mut self, len: u32) -> Self {
        let rows = self.k[0].chunks(32).zip(self.v[0].chunks(32));
        for ((head, slot), (k, v)) in (0..2).flat_map(|h| (0..len).map(move |s| (h, s))).zip(rows) {
            self.k_cache.set([0, head, slot], k).unwrap();
            self.v_cache.set([0, head, slot], v).unwrap();
        }
        self
    }
}

/// A length that is too large counts as the capacity; without keys there is nothing to see.
#[test]
fn bad_lengths_stay_within_their_sequence() {
    for slots in [Slots::Contiguous { capacity: 48 }, Slots::Paged { page_size: 8, max_pages: 6 }] {
        let mut case = case(&[48, 48, 48]);
        case.slots = slots;
        let inputs = case.inputs().unwrap();
        let full = case.run(&inputs).unwrap();
        let bad = case.run_on(lab(), &inputs, &[u32::MAX, 49, 48]).unwrap();
        assert_eq!(bits(&bad.out), bits(&full.out));
        let empty = case.run_on(lab(), &inputs, &[0, 48, 0]).unwrap();
        let plane = empty.out.len() / 3;
        assert!(empty.out[..plane].iter().all(|&x| x == 0.0));
        assert!(empty.lse[..8].iter().all(|&x| x == f32::NEG_INFINITY));
        assert_eq!(bits(&empty.out[plane..2 * plane]), bits(&full.out[plane..2 * plane]));
    }
}

/// A page that is not there reads as another one: its own sequence is wrong, the others are not.
#[test]
fn bad_pages_harm_their_own_sequence_alone() {
    let mut case = case(&[48, 30, 48]);
    case.slots = Slots::Paged { page_size: 8, max_pages: 6 };
    let inputs = case.inputs().unwrap();
    let right = case.run(&inputs).unwrap();
    // Pages behind the length are not looked at.
    case.lost = vec![6 + 4, 6 + 5];
    assert_eq!(bits(&case.run(&inputs).unwrap().out), bits(&right.out));
    case.lost = vec![6 + 1];
    let wrong = case.run(&inputs).unwrap();
    let plane = right.out.len() / 3;
    for b in [0, 2] {
        let of = |out: &[f32]| bits(&out[b * plane..][..plane]);
        assert_eq!(of(&wrong.out), of(&right.out), "sequence {b}");
    }
    assert_ne!(bits(&wrong.out), bits(&right.out), "a page that is not there changes nothing");
}

/// Rows before the first key of a sequence that is shorter than the call see nothing.
#[test]
fn more_rows_than_keys() {
    let mut case = case(&[3, 3]);
    case.seq_q = 5;
    let inputs = case.inputs().unwrap();
    let got = case.run_on(lab(), &inputs, &[3, 3]).unwrap();
    for (row, lse) in got.lse.iter().enumerate() {
        assert_eq!(*lse == f32::NEG_INFINITY, row % 5 < 2, "row {row}");
    }
    case.hold(&inputs, &got).unwrap();
}

/// Again, and in a cache with more room, whose strides are others.
#[test]
fn neither_runs_nor_room_change_anything() {
    let case = case(&[64, 50, 120]);
    let wanted = case.run(&case.inputs().unwrap()).unwrap();
    let mut roomy = case.clone();
    roomy.slots = Slots::Contiguous { capacity: 300 };
    for case in [&case, &roomy] {
        let got = case.run(&case.inputs().unwrap()).unwrap();
        assert_eq!(bits(&got.out), bits(&wanted.out), "{:?}", case.slots);
        assert_eq!(bits(&got.lse), bits(&wanted.lse), "{:?}", case.slots);
    }
}
