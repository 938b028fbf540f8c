//! The calls of a layer: what the host binds, and what a step makes of it.

use crate::attention::AttentionBindings;
use crate::call::{Access, Checker};
use crate::decode::{Decode, DecodeBindings};
use crate::gpu::{BlockTable, CacheBindings, Dispatch, Positions, Rotation, Tensor};
use crate::kv_append::KvAppendBindings;
use crate::kv_move::{KvMoveBindings, KvMoveShape};
use crate::layers::memory::{Memory, buffer};
use crate::layers::plan::DECODE_ROWS;
use crate::layers::sequences::Pending;
use crate::layers::step::{Group, Place, places};
use crate::layers::{Layer, LayerKernels, ManyKernel, Model, ModelPlan};
use crate::plan::Budget;
use crate::plan::attention::AttentionShape;
use crate::plan::decode::DecodeShape;
use crate::plan::kv_append::KvAppendShape;
use crate::{Capabilities, DType, Error, Layout, Result};

/// The host's tensors of a layer. Row r of a step is row r of each of them, one sequence behind the
/// other; all have [`Model::max_rows`] rows. Layers may share them, as far as they run one after
/// the other. What is written, out, lies in another buffer than the rest.
#[derive(Debug, Clone)]
pub struct LayerBindings<'a> {
    /// `[1, H_q, max_rows, D]`, not rotated; read.
    pub q: Tensor<'a>,
    /// `[1, H_kv, max_rows, D]`, not rotated; read.
    pub k: Tensor<'a>,
    /// `[1, H_kv, max_rows, D_v]`; read.
    pub v: Tensor<'a>,
    /// `[1, H_out, max_rows, D_v]`, heads in the order of the head map; written.
    pub out: Tensor<'a>,
}

impl<'a> LayerBindings<'a> {
    /// q, k, v and out apart.
    pub fn new(q: Tensor<'a>, k: Tensor<'a>, v: Tensor<'a>, out: Tensor<'a>) -> Self {
        Self { q, k, v, out }
    }

    /// What a fused projection gives and an output projection takes: `qkv` is
    /// `[max_rows, H_q D + H_kv D + H_kv D_v]`, `out` `[max_rows, H_out D_v]`, both without gaps.
    ///
    /// # Errors
    /// [`Error::IndexOverflow`] for tensors past 32 bits.
    pub fn packed(
        model: &Model,
        layer: &Layer,
        qkv: wgpu::BufferBinding<'a>,
        out: wgpu::BufferBinding<'a>,
    ) -> Result<Self> {
        let Layer { kv_heads, head_dim, value_dim, .. } = *layer;
        let widths = [layer.heads.q_heads(), kv_heads, kv_heads].map(u64::from);
        let widths = [
            widths[0] * u64::from(head_dim),
            widths[1] * u64::from(head_dim),
            widths[2] * u64::from(value_dim),
        ];
        let row: u64 = widths.iter().sum();
        let rows = model.max_rows;
        let index = row * u64::from(rows);
        if index > u32::MAX.into() {
            return Err(Error::IndexOverflow { tensor: "q, k, v", index });
        }
        let part = |heads, dim, offset: u64| Tensor {
            binding: qkv.clone(),
            dtype: model.dtype,
            layout: Layout {
                shape: [1, heads, rows, dim],
                strides: [index as u32, dim, row as u32],
                offset: offset as u32,
            },
        };
        let q = part(layer.heads.q_heads(), head_dim, 0);
        let k = part(kv_heads, head_dim, widths[0]);
        let v = part(kv_heads, value_dim, widths[0] + widths[1]);
        let layout = Layout::bshd([1, layer.heads_out(), rows, value_dim])?;
        Ok(Self { q, k, v, out: Tensor { binding: out, dtype: model.out_dtype, layout } })
    }
}

/// A tensor that outlives the borrow it was handed over with.
#[derive(Debug)]
struct Kept {
    buffer: wgpu::Buffer,
    offset: u64,
    size: Option<wgpu::BufferSize>,
    dtype: DType,
    layout: Layout,
}

impl Kept {
    fn new(tensor: &Tensor<'_>) -> Self {
        let wgpu::BufferBinding { buffer, offset, size } = tensor.binding.clone();
        Self { buffer: buffer.clone(), offset, size, dtype: tensor.dtype, layout: tensor.layout }
    }

    /// `rows` rows of each of the sequences of a group, from row `skipped` of each on.
    fn rows(&self, place: &Place, skipped: u32, rows: u32) -> Tensor<'_> {
        let Layout { shape: [_, heads, _, dim], strides: [_, head, row], offset } = self.layout;
        let Group { batch, rows: each, .. } = place.group;
        Tensor {
            binding: wgpu::BufferBinding {
                buffer: &self.buffer,
                offset: self.offset,
                size: self.size,
            },
            dtype: self.dtype,
            layout: Layout {
                shape: [batch, heads, rows, dim],
                strides: [each * row, head, row],
                offset: offset + (place.first_row + skipped) * row,
            },
        }
    }
}

/// What the host bound to a layer.
#[derive(Debug)]
pub(super) struct Bound {
    q: Kept,
    k: Kept,
    v: Kept,
    out: Kept,
}

impl Bound {
    pub(super) fn new(
        caps: &Capabilities,
        model: &Model,
        layer: &Layer,
        bindings: &LayerBindings<'_>,
    ) -> Result<Self> {
        let mut checker = Checker::new(caps);
        let LayerBindings { q, k, v, out } = bindings;
        let (q_heads, kv_heads) = (layer.heads.q_heads(), layer.kv_heads);
        let [d, dv] = [layer.head_dim, layer.value_dim];
        let shape = |heads, dim| [1, heads, model.max_rows, dim];
        checker.tensor("q", q, Access::Read, model.dtype, shape(q_heads, d), 4)?;
        checker.tensor("k", k, Access::Read, model.dtype, shape(kv_heads, d), 4)?;
        checker.tensor("v", v, Access::Read, model.dtype, shape(kv_heads, dv), 4)?;
        let heads_out = layer.heads_out();
        checker.tensor("out", out, Access::Write, model.out_dtype, shape(heads_out, dv), 4)?;
        let [q, k, v, out] = [q, k, v, out].map(Kept::new);
        Ok(Self { q, k, v, out })
    }
}

/// One layer with all that its calls bind.
pub(super) struct Site<'a> {
    pub(super) device: &'a wgpu::Device,
    pub(super) plan: &'a ModelPlan,
    pub(super) memory: &'a Memory,
    pub(super) layer: usize,
    pub(super) kernels: &'a LayerKernels,
    pub(super) budget: Budget,
}

impl<'a> Site<'a> {
    /// The calls of a step: the appends of all groups, then their attention.
    pub(super) fn step(&self, bound: &Bound, groups: &[Group]) -> Result<Dispatch> {
        let mut calls = Vec::new();
        for place in places(self.plan, groups) {
            calls.push(self.append(bound, &place)?);
        }
        for place in places(self.plan, groups) {
            self.attend(bound, &place, &mut calls)?;
        }
        Ok(Dispatch::sequence(calls))
    }

    /// A range of one of the buffers that change from step to step.
    fn range(buffer: &'a wgpu::Buffer, offset: u64, size: u64) -> wgpu::BufferBinding<'a> {
        wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(size) }
    }

    fn lengths(&self, place: &Place, offset: u64) -> wgpu::BufferBinding<'a> {
        Self::range(&self.memory.lists, offset, 4 * u64::from(place.group.batch))
    }

    fn cache(&self, place: &Place) -> Result<CacheBindings<'a>> {
        let Group { slot, batch, .. } = place.group;
        let size = 4 * u64::from(batch) * u64::from(self.plan.max_pages());
        let table = self.memory.block_table(self.plan, place.table, size);
        self.memory.cache(self.plan, self.layer, [slot, batch], table)
    }

    /// Positions follow from the lengths.
    fn rotation(&self) -> Option<Rotation<'a>> {
        Some(Rotation::new(self.memory.table(self.layer)?, Positions::AmongKeys))
    }

    fn append(&self, bound: &Bound, place: &Place) -> Result<Dispatch> {
        let Group { batch, rows, .. } = place.group;
        let bindings = KvAppendBindings {
            k: bound.k.rows(place, 0, rows),
            v: bound.v.rows(place, 0, rows),
            cache: self.cache(place)?,
            lens: self.lengths(place, place.before),
            rotation: self.rotation(),
        };
        self.kernels.append.bind(self.device, &KvAppendShape::new(batch, rows), &bindings)
    }

    fn attend(&self, bound: &Bound, place: &Place, calls: &mut Vec<Dispatch>) -> Result<()> {
        let Group { batch, rows, .. } = place.group;
        let few = rows <= self.plan.model().decode_rows;
        match &self.kernels.many {
            Some(ManyKernel::Prefill(prefill)) if !few => {
                let cache = self.cache(place)?;
                let shape = AttentionShape::new(batch, rows, self.plan.capacity());
                let [q, out] = [&bound.q, &bound.out].map(|side| side.rows(place, 0, rows));
                let lens = self.lengths(place, place.after(place.pieces - 1));
                let mut bindings = AttentionBindings::over(q, cache, lens, out);
                bindings.rotation = self.rotation();
                let states = &self.memory.states;
                bindings.workspace = states.as_ref().map(|it| it.as_entire_buffer_binding());
                calls.push(prefill.bind_within(self.device, &shape, &bindings, self.budget)?);
            }
            Some(ManyKernel::Decode(decode)) if !few => {
                for piece in 0..place.pieces {
                    let first = piece * DECODE_ROWS;
                    let rows = place.end(piece) - first;
                    calls.push(self.decode(decode, bound, place, piece, [first, rows])?);
                }
            }
            _ => {
                let last = place.pieces - 1;
                calls.push(self.decode(&self.kernels.decode, bound, place, last, [0, rows])?);
            }
        }
        Ok(())
    }

    fn decode(
        &self,
        kernel: &Decode,
        bound: &Bound,
        place: &Place,
        piece: u32,
        [first, rows]: [u32; 2],
    ) -> Result<Dispatch> {
        let shape = DecodeShape { batch: place.group.batch, seq_q: rows };
        let bindings = DecodeBindings {
            q: bound.q.rows(place, first, rows),
            cache: self.cache(place)?,
            kv_lens: self.lengths(place, place.after(piece)),
            out: bound.out.rows(place, first, rows),
            lse: None,
            rotation: self.rotation(),
            bias: None,
            workspace: match kernel.plan().workspace_bytes(&shape) {
                0 => None,
                _ => self.memory.workspace.as_ref().map(|it| it.as_entire_buffer_binding()),
            },
        };
        kernel.bind(self.device, &shape, &bindings)
    }

    /// The moves that a step begins with. Each has a block table of its own: others may have
    /// changed the sequences' since.
    pub(super) fn moves(&self, pending: &[Pending]) -> Result<Dispatch> {
        let calls = pending.iter().map(|Pending { table, batch, rows }| {
            let needed = "true in the model, for a call that moves rows of the cache";
            let Some(kernel) = &self.kernels.moves else {
                return Err(Error::Invalid { what: "moves", needed, got: "false".into() });
            };
            let words: &[u8] = bytemuck::cast_slice(table);
            let table_buffer = match self.plan.paged() {
                true => Some(buffer(self.device, "moves", words.len() as u64, Some(words))?),
                false => None,
            };
            let block_table = table_buffer.as_ref().map(|buffer| BlockTable {
                binding: Self::range_of(buffer, words.len() as u64),
                max_pages: table.len() as u32 / batch,
            });
            let cache = self.memory.cache(self.plan, self.layer, [0, *batch], block_table)?;
            let table = match kernel.plan().problem().rotate {
                true => self.memory.table(self.layer),
                false => None,
            };
            let shape = KvMoveShape::new(*batch, core::slice::from_ref(rows));
            kernel.bind(self.device, &shape, &KvMoveBindings { cache, table })
        });
        Ok(Dispatch::sequence(calls.collect::<Result<Vec<_>>>()?))
    }

    fn range_of(buffer: &wgpu::Buffer, size: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer, offset: 0, size: wgpu::BufferSize::new(size) }
    }
}
