//! Prefill over caches of every format: held to the oracle, to decode row by row, and over pages to
//! the bits of the contiguous cache. What a cache holds and what the oracle says of it are
//! decode's.

use phasor::attention::{
    AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape, BlockedTile, Queries, Tile,
};
use phasor::cache::CacheType::{self, F16, F32, Int8, Q4};
use phasor::cache::{BlockTable, CacheBindings};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::{Bias, DType, Error, HeadMap, Layout, MaskHook, oracle, wgpu};
use phasor_kit::tolerance::{Bound, compare, stored};

use super::{precision, quick_tile, small_blocks, small_tile, variants::STRIPES};
use crate::decode::{Case, Inputs, Outcome, small};
use crate::harness::{Lab, Place, Placed, Result, Slots, lab, narrow, run_table};

/// A chunk of a prompt over a cache.
struct Chunk {
    case: Case,
    /// Rows of each sequence, where they differ: the queries are ragged.
    rows: Option<Vec<u32>>,
    /// Otherwise the plan's own.
    tile: Option<Tile>,
    lab: fn() -> &'static Lab,
    /// Whether the lengths have a buffer of their own, apart from the other lists.
    lens_apart: bool,
}

const LENS: [u32; 3] = [9, 37, 70];
const PAGES: Slots = Slots::Paged { page_size: 8, max_pages: 10 };
const FLAT: Slots = Slots::Contiguous { capacity: 80 };
const ALL: [[CacheType; 2]; 6] =
    [[F32, F32], [F16, F16], [Int8, Int8], [Q4, Q4], [F16, Q4], [Int8, F32]];

/// Both components of two query heads over one kv head.
fn chunk([k, v]: [CacheType; 2], slots: Slots, tile: fn(u32) -> Tile) -> Chunk {
    let mut case = small(HeadMap::ropepp(2).unwrap(), 1, 32, &LENS);
    (case.problem.cache.k, case.problem.cache.v) = (k, v);
    (case.seq_q, case.slots) = (9, slots);
    Chunk { case, rows: None, tile: Some(tile(32)), lab, lens_apart: false }
}

impl Chunk {
    fn plan(&self) -> Result<AttentionPlan> {
        let p = &self.case.problem;
        let problem = AttentionProblem {
            rotary_dim: p.rotary_dim,
            pairing: p.pairing,
            rotate_q: self.case.rope.is_some(),
            causal: p.causal,
            window: p.window,
            softmax_scale: p.softmax_scale,
            softcap: p.softcap,
            alibi_slopes: p.alibi_slopes.clone(),
            bias: p.bias,
            mask_mod: p.mask_mod.clone(),
            sinks: p.sinks.clone(),
            queries: if self.rows.is_some() { Queries::Ragged } else { Queries::Batched },
            lse: true,
            precision: precision(),
            ..AttentionProblem::over(p.heads.clone(), self.case.format())
        };
        let caps = (self.lab)().gpu.capabilities().insist_on_matrices();
        Ok(match self.tile {
            Some(tile) => AttentionPlan::with_tile(&problem, &caps, tile)?,
            None => problem.plan(&caps)?,
        })
    }

    /// How many rows each sequence has.
    fn rows(&self) -> Vec<u32> {
        self.rows.clone().unwrap_or_else(|| vec![self.case.seq_q; self.case.lens.len()])
    }

    /// The last rows of `q [B, H, S_q, D]`, or of an output, `[B, H, rows, D]` or ragged.
    fn kept(&self, x: &[f32], heads: u32, dim: u32) -> Vec<f32> {
        let Some(rows) = &self.rows else { return x.to_vec() };
        let seq = self.case.seq_q;
        let row = |b: usize, h: u32, s: u32| {
            let at = (((b as u32 * heads + h) * seq + s) * dim) as usize;
            x[at..at + dim as usize].iter().copied()
        };
        let mut kept = Vec::new();
        for h in 0..heads {
            for (b, &rows) in rows.iter().enumerate() {
                (seq - rows..seq).for_each(|s| kept.extend(row(b, h, s)));
            }
        }
        kept
    }

    /// `[B, H_out, S_q, D_v]` and `[B, H_out, S_q]`; of ragged rows `[H_out, rows, D_v]` and
    /// likewise.
    fn run(&self, inputs: &Inputs) -> Result<Outcome> {
        let gpu = &(self.lab)().gpu;
        let plan = self.plan()?;
        let (case, p) = (&self.case, plan.problem());
        let (q_heads, heads_out) = (p.heads.q_heads(), p.heads.heads().len() as u32);
        let rows = self.rows();
        let [batch, seq] = match p.queries {
            Queries::Batched => [case.batch(), case.seq_q],
            Queries::Ragged => [1, rows.iter().sum()],
        };
        let q = self.kept(&inputs.q, q_heads, p.head_dim);
        let q_layout = Place::Gaps.layout([batch, q_heads, seq, p.head_dim])?;
        let q = Placed::input(gpu, p.q_dtype, q_layout, &q);
        let out_layout = Place::BshdGaps.layout([batch, heads_out, seq, p.value_dim])?;
        let out = Placed::output(gpu, p.out_dtype, out_layout);
        let lse = Placed::output(gpu, DType::F32, Layout::bhsd([batch, heads_out, seq, 1])?);
        let (k, v) = (inputs.k_cache.upload(gpu), inputs.v_cache.upload(gpu));
        let mut ends = vec![0];
        rows.iter().for_each(|rows| ends.push(ends[ends.len() - 1] + rows));
        // Ranges of one buffer, each where every device can bind it.
        let mut words = Vec::new();
        let table = case.slots.table(case.batch());
        let ranges = [&case.lens, &ends, &table].map(|list| {
            let start = words.len() as u64;
            words.extend_from_slice(list);
            words.resize(words.len().next_multiple_of(64), u32::MAX);
            [4 * start, 4 * list.len() as u64]
        });
        let lists = gpu.upload_u32(&words);
        let list = |[offset, size]: [u64; 2]| wgpu::BufferBinding {
            buffer: &lists,
            offset,
            size: wgpu::BufferSize::new(size),
        };
        let apart = gpu.upload_u32(&case.lens);
        let lens = match self.lens_apart {
            true => apart.as_entire_buffer_binding(),
            false => list(ranges[0]),
        };
        let rope = case.rope_table(gpu)?;
        let bias = case.bias();
        let bias_buffer = bias.as_ref().map(|bias| gpu.upload_bytes(&bias.bytes()));
        let cache = CacheBindings {
            k: inputs.k_cache.tensor(&k),
            v: case.values(inputs, &k, &v),
            block_table: match case.slots {
                Slots::Contiguous { .. } => None,
                Slots::Paged { max_pages, .. } => {
                    Some(BlockTable { binding: list(ranges[2]), max_pages })
                }
            },
        };
        let bindings = AttentionBindings {
            lse: Some(lse.binding()),
            cu_seqlens_q: self.rows.is_some().then(|| list(ranges[1])),
            rotation: rope.as_ref().map(|(buffer, shape)| {
                let binding = buffer.as_entire_buffer_binding();
                Rotation::new(CosSin { binding, shape: *shape }, Positions::AmongKeys)
            }),
            bias: bias
                .as_ref()
                .zip(bias_buffer.as_ref())
                .map(|(bias, buffer)| (bias.layout, buffer.as_entire_buffer_binding())),
            ..AttentionBindings::over(q.tensor(), cache, lens, out.tensor())
        };
        let most = rows.iter().copied().max().unwrap_or(0);
        let shape = AttentionShape::new(case.batch(), most, case.slots.capacity());
        let call = (self.lab)().attention(&plan)?.bind(&gpu.device, &shape, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        Ok(Outcome { out: out.read(gpu)?, lse: lse.read(gpu)? })
    }

    /// The oracle's answer, and how far off from it a result may be.
    fn reference(&self, inputs: &Inputs) -> Result<[(Vec<f32>, Bound); 2]> {
        let p = &self.case.problem;
        let truth = self.case.reference::<f64>(inputs)?;
        let step = self.plan()?.tile().block_k();
        let naive = self.case.reference_by(inputs, |inputs, modify, sinks| {
            oracle::attention_rounded(inputs, modify, sinks, precision(), step)
        })?;
        let heads = p.heads.heads().len() as u32;
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
        Ok([
            (
                self.kept(&narrow(&truth.out), heads, p.cache.value_dim),
                Bound::computed(&stored(&naive.out, p.out_dtype), &truth.out, p.out_dtype),
            ),
            (
                self.kept(&narrow(&truth.lse), heads, 1),
                Bound::computed(&naive.lse, &truth.lse, DType::F32),
            ),
        ])
    }

    fn check(&self) -> Result {
        let inputs = self.case.inputs()?;
        self.hold(&self.run(&inputs)?, &self.reference(&inputs)?)
    }

    fn hold(&self, got: &Outcome, [out, lse]: &[(Vec<f32>, Bound); 2]) -> Result {
        let dim = self.case.problem.cache.value_dim;
        let shape = |x: &[f32], dim: u32| [1, 1, x.len() as u32 / dim, dim];
        compare("out", &got.out, &out.0, &out.1, shape(&got.out, dim))?;
        compare("lse", &got.lse, &lse.0, &lse.1, shape(&got.lse, 1))?;
        Ok(())
    }

    /// Every row by itself through decode, in the order of a batched call.
    fn decoded(&self, inputs: &Inputs) -> Result<Outcome> {
        let (p, seq) = (&self.case.problem, self.case.seq_q);
        let (heads, dim) = (p.heads.q_heads(), p.cache.head_dim);
        let mut rows = Vec::new();
        for s in 0..seq {
            let mut one = Inputs {
                q: Vec::new(),
                k: inputs.k.clone(),
                v: inputs.v.clone(),
                k_cache: inputs.k_cache.clone(),
                v_cache: inputs.v_cache.clone(),
            };
            for plane in inputs.q.chunks_exact((seq * dim) as usize) {
                one.q.extend_from_slice(&plane[(s * dim) as usize..][..dim as usize]);
            }
            debug_assert_eq!(one.q.len() as u32, self.case.batch() * heads * dim);
            let lens: Vec<u32> = self.case.lens.iter().map(|len| len - (seq - 1 - s)).collect();
            let case = Case { seq_q: 1, ..self.case.clone() };
            rows.push(case.run_on(lab(), &one, &lens)?);
        }
        // [S_q][B, H_out, 1, D_v] to [B, H_out, S_q, D_v].
        let gather = |of: fn(&Outcome) -> &Vec<f32>, dim: usize| {
            let planes = of(&rows[0]).len() / dim;
            (0..planes)
                .flat_map(|n| rows.iter().flat_map(move |row| of(row)[n * dim..][..dim].iter()))
                .copied()
                .collect()
        };
        Ok(Outcome {
            out: gather(|row| &row.out, p.cache.value_dim as usize),
            lse: gather(|row| &row.lse, 1),
        })
    }
}

fn bits(outcome: &Outcome) -> Vec<u32> {
    outcome.out.iter().chain(&outcome.lse).map(|x| x.to_bits()).collect()
}

/// Ragged rows: each sequence has another number of them.
const ROWS: [u32; 3] = [9, 1, 6];

#[test]
fn every_format_paged_and_ragged() {
    let cases = ALL.map(|stored| (format!("{stored:?}"), stored));
    run_table(&cases, |&stored| {
        let flat = chunk(stored, FLAT, quick_tile);
        let inputs = flat.case.inputs()?;
        let reference = flat.reference(&inputs)?;
        let got = flat.run(&inputs)?;
        flat.hold(&got, &reference)?;
        // Both are within the bound of the truth.
        let [out, lse] = reference;
        let decoded = flat.decoded(&inputs)?;
        flat.hold(&got, &[(decoded.out, out.1), (decoded.lse, lse.1)])?;

        let ragged =
            |slots: Slots| Chunk { rows: Some(ROWS.to_vec()), ..chunk(stored, slots, quick_tile) };
        let pages = ragged(PAGES);
        let paged = pages.run(&pages.case.inputs()?)?;
        pages.hold(&paged, &pages.reference(&inputs)?)?;
        let rows = Outcome { out: pages.kept(&got.out, 4, 32), lse: pages.kept(&got.lse, 4, 1) };
        match bits(&paged) == bits(&rows) {
            true => Ok(()),
            false => Err("pages do not get the bits of the contiguous cache".into()),
        }
    });
}

/// Slots that are used again, with a window that the cache has room for and without one.
#[test]
fn rolling() {
    let mut cases = Vec::new();
    for stored in [[F32, F32], [Int8, Q4]] {
        for slots in
            [Slots::Contiguous { capacity: 40 }, Slots::Paged { page_size: 8, max_pages: 5 }]
        {
            for window in [None, Some(32), Some(11)] {
                let mut chunk = chunk(stored, slots, quick_tile);
                (chunk.case.problem.cache.rolling, chunk.case.problem.window) = (true, window);
                chunk.case.lens = vec![9, 39, 41, 150];
                cases.push((format!("{stored:?} {slots:?}, window {window:?}"), chunk));
            }
        }
    }
    run_table(&cases, Chunk::check);
    let chunk = &cases[1].1;
    let inputs = chunk.case.inputs().unwrap();
    let [out, lse] = chunk.reference(&inputs).unwrap();
    let decoded = chunk.decoded(&inputs).unwrap();
    let decoded = [(decoded.out, out.1), (decoded.lse, lse.1)];
    chunk.hold(&chunk.run(&inputs).unwrap(), &decoded).unwrap();
}

/// Biases and masks by slots, hooks by places, the rest of what models add.
#[test]
fn rules_over_slots() {
    let rolls = |twist: fn(&mut Case)| {
        let mut chunk = chunk([F16, F16], Slots::Contiguous { capacity: 40 }, quick_tile);
        chunk.case.problem.cache.rolling = true;
        chunk.case.lens = vec![9, 41, 150];
        twist(&mut chunk.case);
        chunk
    };
    let cases = [
        ("bias", rolls(|c| (c.problem.bias, c.bias_extent) = (Some(Bias::Additive), [3, 4, 9]))),
        ("mask", rolls(|c| (c.problem.bias, c.bias_extent) = (Some(Bias::Mask), [3, 1, 9]))),
        (
            "mask_mod, ALiBi, softcap and sinks",
            rolls(|c| {
                c.problem.mask_mod = Some(MaskHook::new(STRIPES).unwrap());
                c.problem.alibi_slopes = vec![0.5, 0.25, 0.125, 0.0];
                c.problem.sinks = vec![0.7, -2.0, f32::NEG_INFINITY, 30.0];
                c.problem.softcap = Some(3.0);
            }),
        ),
        ("rotated here", rolls(|c| c.rope = Some(RopeConfig::new(32, 10_000.0)))),
    ];
    run_table(&cases.map(|(name, chunk)| (name.to_owned(), chunk)), Chunk::check);
}

/// Multi-head latent attention: one latent for all heads, whose first channels rotate and whose
/// others are the values.
#[test]
fn values_within_keys() {
    let mut chunk = chunk([F16, F16], PAGES, small_tile);
    let heads = HeadMap::plain(3).unwrap();
    let p = &mut chunk.case.problem;
    p.heads = heads;
    (p.cache.head_dim, p.cache.value_dim, p.cache.v_in_k) = (576, 512, true);
    (p.rotary_dim, p.softmax_scale) = (64, 0.07);
    (chunk.case.lens, chunk.tile) = (vec![12, 33], None);
    run_table(&[("D 576, D_v 512".to_owned(), chunk)], Chunk::check);
}

/// The kernel of tiles in workgroup memory, its places staged and not, and the plan that the device
/// gets.
#[test]
fn tiles() {
    let over_k = |dim| BlockedTile { pv_apart: false, chunk_units: 2, ..small_blocks(dim) }.into();
    let cases = [
        ("contiguous", chunk([Int8, Q4], FLAT, small_tile)),
        ("pages", chunk([Int8, Q4], PAGES, small_tile)),
        ("pages, v over k", chunk([Q4, F16], PAGES, over_k)),
        ("pages, the plan's own tile", Chunk { tile: None, ..chunk([Int8, Int8], PAGES, over_k) }),
    ];
    run_table(&cases.map(|(name, chunk)| (name.to_owned(), chunk)), Chunk::check);
}

/// With eight storage buffers, lengths and tables are ranges of one.
#[test]
fn few_buffers() {
    let mut crowded =
        Chunk { rows: Some(ROWS.to_vec()), lab: narrow, ..chunk([F16, Int8], PAGES, small_tile) };
    crowded.case.rope = Some(RopeConfig::new(32, 10_000.0));
    let plan = crowded.plan().unwrap();
    assert!(plan.one_buffer_of_lists() && plan.shader().storage_buffers == 8, "{plan}");
    crowded.check().unwrap();
    let apart = Chunk { lens_apart: true, ..crowded };
    let inputs = apart.case.inputs().unwrap();
    let error = apart.run(&inputs).err().and_then(|error| error.downcast::<Error>().ok());
    let tensor = match error.as_deref() {
        Some(Error::Binding { tensor, .. }) => *tensor,
        other => panic!("taken, or refused for {other:?}"),
    };
    assert_eq!(tensor, "cu_seqlens_q");
}
