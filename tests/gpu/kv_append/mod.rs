//! Appends, held to the oracle; whatever they should leave alone must keep its bytes.

use phasor::DType;
use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheType};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::oracle::{self, Real};
use phasor::rotary::{Pairing, Positions, RopeConfig, Xpos};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{
    HostCache, Ids, Place, Placed, Result, Rotation, Slots, lab, random, run_table, within_a_code,
};

/// One call.
#[derive(Debug, Clone)]
pub struct Case {
    pub problem: KvAppendProblem,
    /// Rows before the call.
    pub lens: Vec<u32>,
    pub seq: u32,
    /// New rows of each sequence, one behind the other.
    pub ragged: Option<Vec<u32>>,
    pub slots: Slots,
    pub rotation: Option<Rotation>,
    /// Positions follow from the lengths.
    pub among_keys: bool,
    /// Entry of the block table, among all, that names a page which is not there.
    pub lost: Option<u32>,
}

impl Case {
    /// Two kv heads that rotate, three sequences of rows and three new rows each.
    pub fn new(dim: u32) -> Self {
        let problem = KvAppendProblem::new(CacheFormat::new(2, dim));
        Self {
            rotation: Some(Rotation::new(RopeConfig::new(dim, 10_000.0), Ids::From(0))),
            problem,
            lens: vec![0, 7, 20],
            seq: 3,
            ragged: None,
            slots: Slots::Contiguous { capacity: 24 },
            among_keys: true,
            lost: None,
        }
    }

    fn with(mut self, twist: impl FnOnce(&mut Self)) -> Self {
        twist(&mut self);
        self
    }

    fn batch(&self) -> u32 {
        self.lens.len() as u32
    }

    fn shape(&self) -> KvAppendShape {
        let ragged = self.ragged.as_ref().map(|counts| counts.iter().sum());
        KvAppendShape { ragged, ..KvAppendShape::new(self.batch(), self.seq) }
    }

    /// Row of the input, position and slot of every new row that is kept, sequence by sequence.
    fn kept(&self) -> Vec<(u32, u32, u32, u32)> {
        let (rolling, capacity) = (self.problem.cache.rolling, self.slots.capacity());
        let mut start = 0;
        let mut kept = Vec::new();
        for (b, &len) in (0u32..).zip(&self.lens) {
            let count = self.ragged.as_ref().map_or(self.seq, |counts| counts[b as usize]);
            for i in 0..count {
                let row = if self.ragged.is_some() { start + i } else { i };
                match (rolling, len.checked_add(i)) {
                    (true, Some(slot)) if count - i <= capacity => {
                        kept.push((b, row, slot, slot % capacity));
                    }
                    (false, Some(slot)) if slot < capacity => kept.push((b, row, slot, slot)),
                    _ => {}
                }
            }
            start += count;
        }
        if let (Some(lost), Slots::Paged { page_size, max_pages }) = (self.lost, self.slots) {
            kept.retain(|&(b, _, _, slot)| b * max_pages + slot / page_size != lost);
        }
        kept
    }

    pub fn dims(&self, dim: u32) -> [u32; 4] {
        let heads = self.problem.cache.kv_heads;
        match self.shape().ragged {
            Some(rows) => [1, heads, rows, dim],
            None => [self.batch(), heads, self.seq, dim],
        }
    }

    /// Runs the append on fresh caches and gives them back.
    pub fn run(&self, k: &[f32], v: &[f32]) -> Result<[HostCache; 2]> {
        let gpu = &lab().gpu;
        let p = KvAppendProblem {
            rotate: self.rotation.is_some(),
            cache: CacheFormat { paged: self.slots.paged(), ..self.problem.cache },
            ..self.problem.clone()
        };
        let kernel = KvAppend::new(&gpu.device, &p.plan(&gpu.capabilities())?)?;
        let (d, dv) = (p.cache.head_dim, p.cache.value_dim);
        let k = Placed::input(gpu, p.dtype, Place::Gaps.layout(self.dims(d))?, k);
        let v = Placed::input(gpu, p.dtype, Place::BshdGaps.layout(self.dims(dv))?, v);
        let blank =
            |stored, dim| HostCache::new(self.slots, stored, self.batch(), p.cache.kv_heads, dim);
        let (k_cache, v_cache) = (blank(p.cache.k, d), blank(p.cache.v, dv));
        let (k_buffer, v_buffer) = (k_cache.upload(gpu), v_cache.upload(gpu));
        let mut words = self.lens.clone();
        if let Some(counts) = &self.ragged {
            words.push(0);
            words.extend(counts.iter().scan(0, |end, n| {
                *end += n;
                Some(*end)
            }));
        }
        let lens = gpu.upload_u32(&words);
        let mut table = self.slots.table(self.batch());
        if let Some(lost) = self.lost {
            table[lost as usize] = u32::MAX - lost;
        }
        let table = gpu.upload_u32(&table);
        let [rows, seq] = match self.shape().ragged {
            Some(rows) => [1, rows],
            None => [self.batch(), self.seq],
        };
        let rope = self.rotation.as_ref().map(|rope| rope.upload(gpu, rows, seq)).transpose()?;
        let bindings = KvAppendBindings {
            k: k.tensor(),
            v: v.tensor(),
            cache: CacheBindings {
                k: k_cache.tensor(&k_buffer),
                v: v_cache.tensor(&v_buffer),
                block_table: match self.slots {
                    Slots::Contiguous { .. } => None,
                    Slots::Paged { max_pages, .. } => {
                        Some(BlockTable { binding: table.as_entire_buffer_binding(), max_pages })
                    }
                },
            },
            lens: lens.as_entire_buffer_binding(),
            rotation: rope.as_ref().map(|rope| {
                let positions =
                    if self.among_keys { Positions::AmongKeys } else { rope.positions() };
                phasor::rotary::Rotation::new(rope.table(), positions)
            }),
        };
        let call = kernel.bind(&gpu.device, &self.shape(), &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        Ok([k_cache.downloaded(gpu, &k_buffer), v_cache.downloaded(gpu, &v_buffer)])
    }

    /// K as it should lie in the cache, before it is stored: one row for each that is kept.
    fn rotated<R: Real>(
        &self,
        k: &[f32],
        exact: impl Fn(u32, u32, u32) -> Result<(R, R)>,
    ) -> Result<Vec<R>> {
        let p = &self.problem;
        let dim = p.cache.head_dim;
        let [_, heads, rows, _] = self.dims(dim);
        let mut all = Vec::new();
        for (b, row, position, _) in self.kept() {
            let plane = if self.ragged.is_some() { 0 } else { b };
            for head in 0..heads {
                let at = ((plane * heads + head) * rows + row) * dim;
                let x: Vec<R> = k[at as usize..][..dim as usize]
                    .iter()
                    .map(|&x| R::from_f64(f64::from(x)))
                    .collect();
                if self.rotation.is_none() {
                    all.extend(x);
                    continue;
                }
                let s = if self.among_keys { position } else { row };
                let table: Result<Vec<(R, R)>> =
                    (0..p.rotary_dim / 2).map(|pair| exact(plane, s, pair)).collect();
                let table = table?;
                all.extend(oracle::rope(
                    &x,
                    [1, 1, 1, dim],
                    p.rotary_dim,
                    p.pairing,
                    |_, _, pair| table[pair as usize],
                )?);
            }
        }
        Ok(all)
    }

    pub fn check(&self) -> Result {
        let p = &self.problem;
        let heads = p.cache.kv_heads;
        let (d, dv) = (p.cache.head_dim, p.cache.value_dim);
        let k = random(self.dims(d), 1.5, p.dtype, 1);
        let v = random(self.dims(dv), 1.5, p.dtype, 2);
        let [mut k_cache, mut v_cache] = self.run(&k, &v)?;
        let (truth, naive) = match &self.rotation {
            None => {
                let none = |_, _, _| Err("no rotation".into());
                (
                    self.rotated::<f64>(&k, none)?,
                    self.rotated::<f32>(&k, |_, _, _| Err("none".into()))?,
                )
            }
            Some(rope) => {
                let (exact, rounded) = (rope.exact(true)?, rope.rounded(true)?);
                (
                    self.rotated(&k, |b, s, pair| Ok(exact(b, s, pair)))?,
                    self.rotated(&k, |b, s, pair| Ok(rounded(b, s, pair)))?,
                )
            }
        };
        let kept = self.kept();
        let places: Vec<[u32; 3]> = kept
            .iter()
            .flat_map(|&(b, _, _, slot)| (0..heads).map(move |head| [b, head, slot]))
            .collect();
        let mut got = Vec::new();
        for &place in &places {
            got.extend(k_cache.get(place)?);
        }
        let shape = [1, 1, places.len() as u32, d];
        match p.cache.k {
            CacheType::F32 | CacheType::F16 => {
                let dtype = if p.cache.k == CacheType::F32 { DType::F32 } else { DType::F16 };
                let bound = Bound::computed(&stored(&naive, dtype), &truth, dtype);
                compare("k", &got, &truth, &bound, shape)?;
            }
            quantised => within_a_code("k", &got, &naive, d, quantised)?,
        }
        if p.cache.v_in_k {
            k_cache.erase(places.iter().copied());
            return match k_cache.is_blank() && v_cache.is_blank() {
                true => Ok(()),
                false => Err("wrote beside the rows".into()),
            };
        }
        let [_, _, rows, _] = self.dims(dv);
        let (mut got, mut given) = (Vec::new(), Vec::new());
        for &(b, row, _, slot) in &kept {
            let plane = if self.ragged.is_some() { 0 } else { b };
            for head in 0..heads {
                let at = ((plane * heads + head) * rows + row) * dv;
                given.extend_from_slice(&v[at as usize..][..dv as usize]);
                got.extend(v_cache.get([b, head, slot])?);
            }
        }
        match p.cache.v {
            CacheType::F32 if got == given => {}
            CacheType::F16 if got == stored(&given, DType::F16) => {}
            CacheType::F32 | CacheType::F16 => return Err("v is not stored as it comes".into()),
            quantised => within_a_code("v", &got, &given, dv, quantised)?,
        }
        k_cache.erase(places.iter().copied());
        v_cache.erase(places.iter().copied());
        if !k_cache.is_blank() || !v_cache.is_blank() {
            return Err("wrote beside the rows".into());
        }
        Ok(())
    }
}

fn run(cases: Vec<(impl Into<String>, Case)>) {
    let cases: Vec<_> = cases.into_iter().map(|(name, case)| (name.into(), case)).collect();
    run_table(&cases, Case::check);
}

#[test]
fn sizes_and_storage() {
    let types = [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
    let mut cases = Vec::new();
    for (k, v) in types.into_iter().zip(types.into_iter().cycle().skip(1)) {
        for dtype in [DType::F32, DType::F16] {
            cases.push((
                format!("{dtype} to k {k}, v {v}"),
                Case::new(64).with(|c| {
                    (c.problem.cache.k, c.problem.cache.v, c.problem.dtype) = (k, v, dtype);
                }),
            ));
        }
    }
    for (dim, value_dim) in [(8, 8), (72, 40), (128, 256), (576, 512)] {
        cases.push((
            format!("D {dim}, D_v {value_dim}"),
            Case::new(dim).with(|c| {
                c.problem.cache.value_dim = value_dim;
            }),
        ));
    }
    cases.push((
        "values within the keys".into(),
        Case::new(576).with(|c| {
            (c.problem.cache.value_dim, c.problem.cache.v_in_k) = (512, true);
            c.problem.rotary_dim = 64;
            let config = RopeConfig { rotary_dim: 64, ..RopeConfig::new(576, 10_000.0) };
            c.rotation = Some(Rotation::new(config, Ids::From(0)));
        }),
    ));
    cases.push((
        "one row of one sequence".into(),
        Case::new(16).with(|c| {
            (c.lens, c.seq) = (vec![23], 1);
        }),
    ));
    cases.push(("rotated before".into(), Case::new(16).with(|c| c.rotation = None)));
    run(cases);
}

#[test]
fn pairings() {
    let mut cases = Vec::new();
    let pairings =
        [Pairing::Half, Pairing::Interleaved, Pairing::InterleavedToHalf, Pairing::HalfBlocks(2)];
    for pairing in pairings {
        for (dim, rotary_dim) in [(32, 32), (40, 20), (24, 12)] {
            cases.push((
                format!("{pairing:?}, {rotary_dim} of {dim}"),
                Case::new(dim).with(|c| {
                    (c.problem.rotary_dim, c.problem.pairing) = (rotary_dim, pairing);
                    let config =
                        RopeConfig { rotary_dim, pairing, ..RopeConfig::new(dim, 10_000.0) };
                    c.rotation = Some(Rotation::new(config, Ids::From(0)));
                }),
            ));
        }
    }
    cases.push((
        "keys of xPos".into(),
        Case::new(16).with(|c| {
            let rotation = Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(0));
            let xpos = Xpos::default();
            c.rotation = Some(Rotation { xpos: Some(xpos), ..rotation });
        }),
    ));
    for ids in [Ids::From(9), Ids::Shared, Ids::PerBatch] {
        cases.push((
            format!("positions {ids:?}"),
            Case::new(16).with(|c| {
                c.among_keys = false;
                c.rotation = Some(Rotation::new(RopeConfig::new(16, 10_000.0), ids));
            }),
        ));
    }
    run(cases);
}

#[test]
fn places() {
    let mut cases = Vec::new();
    for slots in [
        Slots::Contiguous { capacity: 24 },
        Slots::Paged { page_size: 8, max_pages: 3 },
        Slots::Paged { page_size: 24, max_pages: 1 },
    ] {
        let new = || Case::new(16).with(|c| c.slots = slots);
        let name = format!("{slots:?}");
        cases.push((
            format!("{name}, lengths that are bad or full"),
            new().with(|c| {
                c.lens = vec![u32::MAX, 23, 24, 22, u32::MAX - 1];
            }),
        ));
        cases.push((
            format!("{name}, ragged"),
            new().with(|c| {
                (c.seq, c.ragged) = (9, Some(vec![2, 0, 9]));
            }),
        ));
        for seq in [1, 3, 24, 40] {
            cases.push((
                format!("{name}, rolling, {seq} rows"),
                new().with(|c| {
                    (c.lens, c.seq, c.problem.cache.rolling) = (vec![0, 23, 60, 24], seq, true);
                }),
            ));
        }
    }
    let paged = Slots::Paged { page_size: 8, max_pages: 3 };
    for lost in [0, 5] {
        let case = Case::new(16).with(|c| (c.slots, c.lens) = (paged, vec![6, 15, 20]));
        cases.push((format!("page {lost} is not there"), case.with(|c| c.lost = Some(lost))));
    }
    run(cases);
}
