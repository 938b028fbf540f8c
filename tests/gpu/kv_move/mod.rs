//! Moves of cache rows, held to the oracle: a key that has moved is the key rotated to where it now
//! is. Whatever no move writes must keep its bytes.

use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheType};
use phasor::kv_move::{KvMoveBindings, KvMoveProblem, KvMoveShape, Move};
use phasor::oracle::{self, Real};
use phasor::rotary::{Pairing, RopeConfig, RopeRule, Xpos};
use phasor::{DType, Error};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{
    HostCache, Ids, Result, Rotation, Slots, lab, random, run_table, within_a_code,
};

pub const BATCH: u32 = 3;
const HEADS: u32 = 2;
pub const CAPACITY: u32 = 40;

#[derive(Debug, Clone)]
pub struct Case {
    pub problem: KvMoveProblem,
    pub slots: Slots,
    pub rotation: Option<Rotation>,
    pub moves: Vec<Move>,
    /// Position of the first row of every sequence.
    pub base: u32,
}

impl Case {
    pub fn new(dim: u32, moves: &[Move]) -> Self {
        Self {
            problem: KvMoveProblem::new(CacheFormat::new(HEADS, dim)),
            slots: Slots::Contiguous { capacity: CAPACITY },
            rotation: Some(Rotation::new(RopeConfig::new(dim, 10_000.0), Ids::From(0))),
            moves: moves.to_vec(),
            base: 0,
        }
    }

    fn with(mut self, twist: impl FnOnce(&mut Self)) -> Self {
        twist(&mut self);
        self
    }

    fn slot(&self, position: u32) -> u32 {
        if self.problem.cache.rolling { position % CAPACITY } else { position }
    }

    /// Rows of a sequence `[1, H_kv, CAPACITY, dim]` before any rotation.
    fn rows(&self, b: u32, dim: u32, seed: u64) -> Vec<f32> {
        random([1, HEADS, CAPACITY, dim], 1.5, DType::F32, seed + u64::from(b))
    }

    /// `x` turned by `distance` positions, or to the position `distance` with the table's own
    /// scale.
    fn turned<R: Real>(&self, x: &[f32], distance: i64, scaled: bool) -> Result<Vec<R>> {
        let p = &self.problem;
        let x: Vec<R> = x.iter().map(|&x| R::from_f64(x.into())).collect();
        let Some(rotation) = &self.rotation else { return Ok(x) };
        // What lies in the cache half-split turns half-split.
        let pairing = match p.pairing {
            Pairing::InterleavedToHalf if !scaled => Pairing::Half,
            pairing => pairing,
        };
        let exact = rotation.exact(true)?;
        let scale = if scaled { 1.0 } else { rotation.frequencies()?.attention_scaling() };
        let far = u32::try_from(distance.abs())?;
        Ok(oracle::rope(&x, [1, 1, 1, p.cache.head_dim], p.rotary_dim, pairing, |_, _, pair| {
            let (cos, sin) = exact(0, far, pair);
            let sin = if distance < 0 { -sin } else { sin };
            (R::from_f64(cos / scale), R::from_f64(sin / scale))
        })?)
    }

    /// The caches before the call, full.
    pub fn caches(&self) -> Result<[HostCache; 2]> {
        let p = &self.problem.cache;
        let new = |stored, dim| HostCache::new(self.slots, stored, BATCH, HEADS, dim);
        let (mut k, mut v) = (new(p.k, p.head_dim), new(p.v, p.value_dim));
        for b in 0..BATCH {
            let (kx, vx) = (self.rows(b, p.head_dim, 10), self.rows(b, p.value_dim, 20));
            let kx = kx.chunks_exact(p.head_dim as usize);
            for (n, (kx, vx)) in kx.zip(vx.chunks_exact(p.value_dim as usize)).enumerate() {
                let (head, position) = (n as u32 / CAPACITY, self.base + n as u32 % CAPACITY);
                let place = [b, head, self.slot(position)];
                k.set(place, &self.turned::<f32>(kx, position.into(), true)?)?;
                v.set(place, vx)?;
            }
        }
        Ok([k, v])
    }

    pub fn run(&self, [k, v]: &[HostCache; 2]) -> Result<[HostCache; 2]> {
        let gpu = &lab().gpu;
        let p = KvMoveProblem {
            rotate: self.rotation.is_some(),
            cache: CacheFormat { paged: self.slots.paged(), ..self.problem.cache },
            ..self.problem.clone()
        };
        let kernel = lab().kv_move(&p)?;
        let (k_buffer, v_buffer) = (k.upload(gpu), v.upload(gpu));
        let table = gpu.upload_u32(&self.slots.table(BATCH));
        let rope = self.rotation.as_ref().map(|rope| rope.upload(gpu, 1, 1)).transpose()?;
        let bindings = KvMoveBindings {
            cache: CacheBindings {
                k: k.tensor(&k_buffer),
                v: v.tensor(&v_buffer),
                block_table: match self.slots {
                    Slots::Contiguous { .. } => None,
                    Slots::Paged { max_pages, .. } => {
                        Some(BlockTable { binding: table.as_entire_buffer_binding(), max_pages })
                    }
                },
            },
            table: rope.as_ref().map(|rope| rope.table()),
        };
        let call = kernel.bind(&gpu.device, &KvMoveShape::new(BATCH, &self.moves), &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        Ok([k.downloaded(gpu, &k_buffer), v.downloaded(gpu, &v_buffer)])
    }

    pub fn check(&self) -> Result {
        let p = &self.problem.cache;
        let dim = p.head_dim as usize;
        let mut before = self.caches()?;
        let mut after = self.run(&before)?;
        let (mut got, mut truth, mut naive) = (Vec::new(), Vec::new(), Vec::new());
        let mut places = Vec::new();
        for one in &self.moves {
            let distance = i64::from(one.to_row) - i64::from(one.from_row);
            let raw = self.rows(one.from, p.head_dim, 10);
            for (i, head) in (0..one.rows).flat_map(|i| (0..HEADS).map(move |head| (i, head))) {
                let (position, new) = (one.from_row + i, one.to_row + i);
                let from = [one.from, head, self.slot(position)];
                let to = [one.to, head, self.slot(new)];
                places.push(to);
                if before[1].get(from)? != after[1].get(to)? {
                    return Err(format!("v of {position} has not come to {new}").into());
                }
                let (old, row) = (before[0].get(from)?, after[0].get(to)?);
                if distance == 0 && old != row {
                    return Err(format!("k of {position} is another one").into());
                }
                let x = &raw[((head * CAPACITY + position - self.base) as usize) * dim..][..dim];
                got.extend(row);
                truth.extend(self.turned::<f64>(x, new.into(), true)?);
                naive.extend(self.turned::<f32>(&old, distance, false)?);
            }
        }
        let shape = [1, 1, places.len() as u32, p.head_dim];
        match p.k {
            CacheType::F32 | CacheType::F16 => {
                let dtype = if p.k == CacheType::F32 { DType::F32 } else { DType::F16 };
                let bound = Bound::computed(&stored(&naive, dtype), &truth, dtype);
                compare("k", &got, &truth, &bound, shape)?;
            }
            quantised => within_a_code("k", &got, &naive, p.head_dim, quantised)?,
        }
        for (before, after) in before.iter_mut().zip(&mut after) {
            before.erase(places.iter().copied());
            after.erase(places.iter().copied());
            if !before.is_same(after) {
                return Err("wrote beside the rows".into());
            }
        }
        Ok(())
    }
}

fn run(cases: Vec<(String, Case)>) {
    run_table(&cases, Case::check);
}

const PAGED: Slots = Slots::Paged { page_size: 8, max_pages: CAPACITY / 8 };

const CONTIGUOUS: Slots = Slots::Contiguous { capacity: CAPACITY };
/// Caches that rows are shifted in.
pub const SHIFTED: [(CacheType, CacheType, Slots); 4] = [
    (CacheType::F32, CacheType::F16, CONTIGUOUS),
    (CacheType::F16, CacheType::F32, PAGED),
    (CacheType::Int8, CacheType::Q4, PAGED),
    (CacheType::Q4, CacheType::Int8, CONTIGUOUS),
];

#[test]
fn context_shifts() {
    let mut cases = Vec::new();
    for (k, v, slots) in SHIFTED {
        // A few, one at a time, and more than stay behind; two sequences at once; to the right.
        let shifts = [
            vec![Move::shift(1, 4, 8, 40)],
            vec![Move::shift(0, 0, 1, 33)],
            vec![Move::shift(2, 3, 30, 40), Move::shift(0, 1, 7, 20)],
            vec![Move { from: 1, from_row: 2, to: 1, to_row: 7, rows: 33 }],
        ];
        for moves in shifts {
            let case = Case::new(64, &moves).with(|c| {
                (c.problem.cache.k, c.problem.cache.v, c.slots) = (k, v, slots);
            });
            cases.push((format!("k {k}, v {v}, {slots:?}, {moves:?}"), case));
        }
    }
    run(cases);
}

#[test]
fn turns_of_every_pairing() {
    let mut cases = Vec::new();
    let moves = [Move::shift(1, 4, 9, 40), Move::prefix(0, 2, 5)];
    let pairings =
        [Pairing::Half, Pairing::Interleaved, Pairing::InterleavedToHalf, Pairing::HalfBlocks(2)];
    for pairing in pairings {
        let (dim, rotary_dim) = (40, 20);
        let case = Case::new(dim, &moves).with(|c| {
            (c.problem.rotary_dim, c.problem.pairing) = (rotary_dim, pairing);
            let config = RopeConfig { rotary_dim, pairing, ..RopeConfig::new(dim, 10_000.0) };
            c.rotation = Some(Rotation::new(config, Ids::From(0)));
        });
        cases.push((format!("{pairing:?}, {rotary_dim} of {dim}"), case));
    }
    // A table with a factor of its own, which the keys have already.
    let yarn = RopeConfig { rule: RopeRule::yarn_rotations(8.0), ..RopeConfig::new(64, 10_000.0) };
    assert!(yarn.frequencies(1).unwrap().attention_scaling() > 1.2);
    let yarn = Some(Rotation::new(yarn, Ids::From(0)));
    cases.push(("YaRN".into(), Case::new(64, &moves).with(|c| c.rotation = yarn)));
    cases.push(("never rotated".into(), Case::new(64, &moves).with(|c| c.rotation = None)));
    run(cases);
}

#[test]
fn copies_and_rolling_caches() {
    let mut cases = Vec::new();
    for slots in [CONTIGUOUS, PAGED] {
        let prefixes = [Move::prefix(0, 1, 13), Move::prefix(0, 2, 40)];
        let with_slots = |moves: &[Move]| Case::new(64, moves).with(|c| c.slots = slots);
        cases.push((format!("prefixes, {slots:?}"), with_slots(&prefixes)));
        let apart = [Move { from: 2, from_row: 20, to: 0, to_row: 3, rows: 11 }];
        cases.push((format!("to another place, {slots:?}"), with_slots(&apart)));
        let rolling = |moves: &[Move]| {
            with_slots(moves).with(|c| (c.problem.cache.rolling, c.base) = (true, 95))
        };
        // All rows of a window become positions within the table again, and a copy of some.
        let back = Move { from: 0, from_row: 95, to: 0, to_row: 15, rows: 40 };
        let other = Move { from: 1, from_row: 110, to: 2, to_row: 101, rows: 20 };
        cases.push((format!("rolling, {slots:?}"), rolling(&[back, other])));
    }
    run(cases);
}

/// A table whose lengths change with the distance says nothing of keys that are there already.
#[test]
fn decaying_tables_are_refused() {
    let rotation = Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(0));
    let mut case = Case::new(16, &[Move::shift(1, 4, 8, 40)]);
    let caches = case.caches().unwrap();
    case.rotation = Some(Rotation { xpos: Some(Xpos::default()), ..rotation });
    let error = *case.run(&caches).unwrap_err().downcast::<Error>().unwrap();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}
