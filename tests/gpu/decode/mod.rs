//! Decode, held to the oracle over caches whose unused slots and pages are NaN.

mod invariants;
mod reference;
pub mod short;
mod tables;

use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{Decode, DecodeBindings, DecodePlan, DecodeProblem, DecodeShape, Tile};
use phasor::rotary::{CosSin, Frequencies, Positions, RopeConfig, Rotation, Xpos};
use phasor::{DType, HeadMap, Layout, wgpu};
use phasor_kit::{
    gpu::Gpu,
    tolerance::{Bound, compare, stored},
};

use crate::attention::variants::Scores;
use crate::harness::{HostCache, Lab, Place, Placed, Result, Slots, execute, lab, random};

/// One decode call.
#[derive(Debug, Clone)]
pub struct Case {
    pub problem: DecodeProblem,
    pub seq_q: u32,
    /// Rows of each sequence, the new ones included.
    pub lens: Vec<u32>,
    pub slots: Slots,
    /// Entries of the block table, among all, that name pages which are not there.
    pub lost: Vec<usize>,
    pub splits: Option<u32>,
    pub tile: Option<Tile>,
    /// Frequencies of the queries, where the kernel rotates them.
    pub rope: Option<RopeConfig>,
    pub xpos: Option<Xpos>,
    /// Positions of their table, where not as many as the call needs.
    pub positions: Option<u32>,
    /// Extent of a bias along batch, output heads and rows, 1 where it is broadcast.
    pub bias_extent: [u32; 3],
    /// Whether the lengths have a buffer of their own, apart from the block table.
    pub lens_apart: bool,
    /// A number in the place of many of its numbers, see [`Scores::with`].
    pub bias_filler: Option<f32>,
    pub seed: u64,
}

/// Both components, two query heads a kv head, a few keys.
pub fn small(heads: HeadMap, kv_heads: u32, dim: u32, lens: &[u32]) -> Case {
    let cache = CacheFormat::new(kv_heads, dim);
    let longest = lens.iter().copied().max().unwrap_or(0);
    let problem =
        DecodeProblem { lse: true, ..DecodeProblem::new(heads, cache, lens.len() as u32, longest) };
    Case {
        problem,
        seq_q: 1,
        lens: lens.to_vec(),
        slots: Slots::Contiguous { capacity: longest + 5 },
        lost: Vec::new(),
        splits: None,
        tile: None,
        rope: None,
        xpos: None,
        positions: None,
        bias_extent: [1; 3],
        lens_apart: false,
        bias_filler: None,
        seed: 1,
    }
}

/// A tile of one subgroup at least, whose invocations share keys, where this adapter has subgroups
/// for it.
pub fn shared(key_lanes: u32) -> Option<Tile> {
    match lab().gpu.capabilities().subgroup {
        Some((least, most)) if least >= key_lanes => {
            Some(Tile { key_lanes, ..Tile::new(most.max(16), 1, 4) })
        }
        sizes => {
            println!("no keys are shared by {key_lanes} with subgroups of {sizes:?}");
            None
        }
    }
}

/// The numbers of a call: queries `[B, H_q, S_q, D]`, and the rows of each sequence, `[H_kv, len,
/// D]` and `[H_kv, len, D_v]`, as the cache holds them.
pub struct Inputs {
    pub q: Vec<f32>,
    pub k: Vec<Vec<f32>>,
    pub v: Vec<Vec<f32>>,
    pub k_cache: HostCache,
    pub v_cache: HostCache,
}

/// Where values begin that are a part of the keys: behind the rotated channels.
const VALUES_AT: u32 = 64;

fn part_of(mut tensor: CacheTensor<'_>, value_dim: u32) -> CacheTensor<'_> {
    tensor.layout.shape[3] = value_dim;
    tensor.layout.offset += VALUES_AT;
    tensor
}

pub struct Outcome {
    pub out: Vec<f32>,
    pub lse: Vec<f32>,
}

impl Case {
    pub fn batch(&self) -> u32 {
        self.lens.len() as u32
    }

    fn q_shape(&self) -> [u32; 4] {
        let p = &self.problem;
        [self.batch(), p.heads.q_heads(), self.seq_q, p.cache.head_dim]
    }

    fn out_shape(&self) -> [u32; 4] {
        let p = &self.problem;
        [self.batch(), p.heads.heads().len() as u32, self.seq_q, p.cache.value_dim]
    }

    pub fn format(&self) -> CacheFormat {
        CacheFormat { paged: self.slots.paged(), ..self.problem.cache }
    }

    pub fn inputs(&self) -> Result<Inputs> {
        let p = &self.problem;
        let heads = p.cache.kv_heads;
        let capacity = self.slots.capacity();
        let side = |stored: CacheType, dim: u32, seed: u64| -> Result<(Vec<Vec<f32>>, HostCache)> {
            let mut cache = HostCache::new(self.slots, stored, self.batch(), heads, dim);
            let mut sequences = Vec::new();
            for (b, &len) in self.lens.iter().enumerate() {
                let x = random([1, heads, len, dim], 1.5, DType::F32, seed + b as u64);
                let mut kept = Vec::new();
                for head in 0..heads {
                    for position in 0..len {
                        let row = &x[((head * len + position) * dim) as usize..][..dim as usize];
                        let slot = if p.cache.rolling { position % capacity } else { position };
                        let place = [b as u32, head, slot];
                        cache.set(place, row)?;
                        kept.extend(cache.get(place)?);
                    }
                }
                sequences.push(kept);
            }
            Ok((sequences, cache))
        };
        let (k, k_cache) = side(p.cache.k, p.cache.head_dim, self.seed + 100)?;
        let (mut v, v_cache) = side(p.cache.v, p.cache.value_dim, self.seed + 200)?;
        if p.cache.v_in_k {
            let (dim, value_dim) = (p.cache.head_dim as usize, p.cache.value_dim as usize);
            let part = |row: &[f32]| row[VALUES_AT as usize..][..value_dim].to_vec();
            v = k.iter().map(|rows| rows.chunks_exact(dim).flat_map(part).collect()).collect();
        }
        let q = random(self.q_shape(), 1.5, p.q_dtype, self.seed);
        Ok(Inputs { q, k, v, k_cache, v_cache })
    }

    pub fn plan(&self, lab: &Lab) -> Result<DecodePlan> {
        let problem = DecodeProblem {
            cache: self.format(),
            max_seq_q: self.problem.max_seq_q.max(self.seq_q),
            max_batch: self.problem.max_batch.max(self.batch()),
            rotate_q: self.rope.is_some(),
            ..self.problem.clone()
        };
        let caps = lab.gpu.capabilities();
        let plan = problem.plan(&caps)?;
        let tile = self.tile.unwrap_or(*plan.tile());
        let splits = self.splits.unwrap_or(plan.splits());
        Ok(DecodePlan::with_parts(&problem, &caps, tile, splits)?)
    }

    pub fn run(&self, inputs: &Inputs) -> Result<Outcome> {
        self.run_on(lab(), inputs, &self.lens)
    }

    /// Runs with lengths that need not be true.
    pub fn run_on(&self, lab: &Lab, inputs: &Inputs, lens: &[u32]) -> Result<Outcome> {
        let gpu = &lab.gpu;
        let plan = self.plan(lab)?;
        let kernel: Decode = lab.decode(&plan)?;
        let p = plan.problem();
        let q = Placed::input(gpu, p.q_dtype, Place::Gaps.layout(self.q_shape())?, &inputs.q);
        let out = Placed::output(gpu, p.out_dtype, Place::BshdGaps.layout(self.out_shape())?);
        let lse_shape = {
            let [b, h, s, _] = self.out_shape();
            [b, h, s, 1]
        };
        let lse = Placed::output(gpu, DType::F32, Layout::bhsd(lse_shape)?);
        let (k, v) = (inputs.k_cache.upload(gpu), inputs.v_cache.upload(gpu));
        let mut table = self.slots.table(self.batch());
        self.lost.iter().for_each(|&entry| table[entry] = u32::MAX);
        // Each list begins where a device can bind.
        let step = (gpu.capabilities().storage_alignment / 4) as usize;
        let mut words = lens.to_vec();
        words.resize(words.len().next_multiple_of(step), u32::MAX);
        let table_at = words.len();
        words.extend(&table);
        let lists = gpu.upload_u32(&words);
        let list = |at: usize, len: usize| wgpu::BufferBinding {
            buffer: &lists,
            offset: 4 * at as u64,
            size: wgpu::BufferSize::new(4 * len as u64),
        };
        let apart = gpu.upload_u32(lens);
        let bytes = plan.workspace_bytes(&plan.problem().largest()) as usize;
        let workspace = gpu.output(bytes / 4, DType::F32);
        let rope = self.rope_table(gpu)?;
        let bias = self.bias();
        let bias_buffer = bias.as_ref().map(|bias| gpu.upload_bytes(&bias.bytes()));
        let bindings = DecodeBindings {
            q: q.tensor(),
            cache: CacheBindings {
                k: inputs.k_cache.tensor(&k),
                v: self.values(inputs, &k, &v),
                block_table: match self.slots {
                    Slots::Contiguous { .. } => None,
                    Slots::Paged { max_pages, .. } => {
                        Some(BlockTable { binding: list(table_at, table.len()), max_pages })
                    }
                },
            },
            kv_lens: match self.lens_apart {
                true => apart.as_entire_buffer_binding(),
                false => list(0, lens.len()),
            },
            out: out.tensor(),
            lse: p.lse.then(|| lse.binding()),
            rotation: rope.as_ref().map(|(buffer, shape)| {
                let binding = buffer.as_entire_buffer_binding();
                Rotation::new(CosSin { binding, shape: *shape }, Positions::AmongKeys)
            }),
            bias: bias
                .as_ref()
                .zip(bias_buffer.as_ref())
                .map(|(bias, buffer)| (bias.layout, buffer.as_entire_buffer_binding())),
            workspace: (bytes > 0).then(|| workspace.as_entire_buffer_binding()),
        };
        let shape = DecodeShape { batch: self.batch(), seq_q: self.seq_q };
        let call = kernel.bind(&gpu.device, &shape, &bindings)?;
        execute(gpu, &call);
        Ok(Outcome { out: out.read(gpu)?, lse: if p.lse { lse.read(gpu)? } else { Vec::new() } })
    }

    /// The values of caches that are in these buffers.
    pub fn values<'a>(
        &self,
        inputs: &Inputs,
        k: &'a wgpu::Buffer,
        v: &'a wgpu::Buffer,
    ) -> CacheTensor<'a> {
        match self.problem.cache.v_in_k {
            true => part_of(inputs.k_cache.tensor(k), self.problem.cache.value_dim),
            false => inputs.v_cache.tensor(v),
        }
    }

    /// Over all slots of a sequence.
    pub fn bias(&self) -> Option<Scores> {
        let [batch, heads, rows, _] = self.out_shape();
        let shape = [batch, heads, rows, self.slots.capacity()];
        let kind = self.problem.bias?;
        Some(Scores::new(kind, shape, self.bias_extent, self.seed + 3000).with(self.bias_filler))
    }

    pub fn block_table<'a>(&self, table: &'a wgpu::Buffer) -> Option<BlockTable<'a>> {
        match self.slots {
            Slots::Contiguous { .. } => None,
            Slots::Paged { max_pages, .. } => {
                Some(BlockTable { binding: table.as_entire_buffer_binding(), max_pages })
            }
        }
    }

    pub fn rope_table(
        &self,
        gpu: &Gpu,
    ) -> Result<Option<(wgpu::Buffer, phasor::rotary::TableShape)>> {
        let Some(frequencies) = self.frequencies()? else { return Ok(None) };
        let longest = self.lens.iter().copied().max().unwrap_or(0);
        let needed = self.slots.capacity().max(longest).max(self.seq_q);
        let table = frequencies.table(self.positions.unwrap_or(needed))?;
        Ok(Some((gpu.upload_bytes(table.as_bytes()), table.shape()?)))
    }

    fn frequencies(&self) -> Result<Option<Frequencies>> {
        let Some(config) = &self.rope else { return Ok(None) };
        let frequencies = config.frequencies(u64::from(self.slots.capacity()))?;
        Ok(Some(match self.xpos {
            None => frequencies,
            Some(xpos) => frequencies.with_xpos(xpos)?,
        }))
    }

    pub fn check(&self) -> Result {
        let inputs = self.inputs()?;
        self.hold(&inputs, &self.run(&inputs)?)
    }

    pub fn hold(&self, inputs: &Inputs, outcome: &Outcome) -> Result {
        let truth = self.reference::<f64>(inputs)?;
        let naive = self.reference::<f32>(inputs)?;
        let dtype = self.problem.out_dtype;
        let bound = Bound::computed(&stored(&naive.out, dtype), &truth.out, dtype);
        compare("out", &outcome.out, &truth.out, &bound, self.out_shape())?;
        let [b, h, s, _] = self.out_shape();
        if self.problem.lse {
            let bound = Bound::computed(&naive.lse, &truth.lse, DType::F32);
            compare("lse", &outcome.lse, &truth.lse, &bound, [b, h, s, 1])?;
        }
        Ok(())
    }
}
