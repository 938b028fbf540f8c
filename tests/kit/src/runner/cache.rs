//! Caches of f32 rows on a device, contiguous or paged, for the runners that serve.

use std::ops::Range;

use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rotary::Positions;
use phasor::{DType, Layout, Tensor, wgpu};

use super::{Device, device::Table};
use crate::{
    cases::{Result, Rotation},
    gpu::Gpu,
};

/// Where the rows of a sequence lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slots {
    /// In a plane of the sequence's own.
    Contiguous,
    /// On pages of as few rows as pages may have, taken from the pool in no order.
    Paged,
}

const PAGE: u32 = 8;

/// The cache of one layer: `[B, H_kv, capacity, D]`, all NaN until rows are appended.
pub(super) struct Cache<'a> {
    gpu: &'a Gpu,
    pub(super) format: CacheFormat,
    pub(super) batch: u32,
    /// Slots of a sequence.
    pub(super) capacity: u32,
    layouts: [Layout; 2],
    buffers: [wgpu::Buffer; 2],
    pages: Option<(Vec<u32>, wgpu::Buffer)>,
    append: KvAppend,
    /// Angles of all slots, where keys come un-rotated.
    table: Option<Table>,
}

/// New rows of a cache: a tensor `[B, H_kv, S, D]` of which some rows are appended.
pub(super) type Rows<'a> = (&'a [f32], [u32; 4]);

impl<'a> Cache<'a> {
    /// A cache with room for `rows` rows of each sequence and some more. `shape` is `[B, H_kv]`,
    /// `dims` D and D_v.
    pub(super) fn new(
        device: &Device<'a>,
        slots: Slots,
        [batch, kv_heads]: [u32; 2],
        dims: [u32; 2],
        rows: u32,
        rotation: Option<&Rotation>,
    ) -> Result<Self> {
        let gpu = device.gpu;
        let [head_dim, value_dim] = dims;
        let paged = slots == Slots::Paged;
        let format = CacheFormat { value_dim, paged, ..CacheFormat::new(kv_heads, head_dim) };
        // Slots behind the last row stay NaN.
        let capacity = (rows + 3).next_multiple_of(PAGE);
        let [planes, plane_rows] = match slots {
            Slots::Contiguous => [batch, capacity],
            // A page that nobody owns comes first.
            Slots::Paged => [1 + batch * capacity / PAGE, PAGE],
        };
        let pages = paged.then(|| {
            let table: Vec<u32> = (1..planes).rev().collect();
            let buffer = gpu.upload_u32(&table);
            (table, buffer)
        });
        let layout = |dim| Layout::bhsd([planes, kv_heads, plane_rows, dim]);
        let layouts = [layout(head_dim)?, layout(value_dim)?];
        let buffers = layouts.map(|layout| gpu.output(layout.elements() as usize, DType::F32));

        let mut problem = KvAppendProblem { rotate: false, ..KvAppendProblem::new(format) };
        let table = rotation.map(|rotation| {
            problem.rotate = true;
            problem.rotary_dim = rotation.config.rotary_dim;
            problem.pairing = rotation.config.pairing;
            // The kernels want an angle for every slot.
            let mut rotation = rotation.clone();
            rotation.positions = vec![(0..capacity).collect()];
            device.table(&rotation)
        });
        let table = table.transpose()?;
        let append = device.append_kernel(&problem)?;
        Ok(Self { gpu, format, batch, capacity, layouts, buffers, pages, append, table })
    }

    pub(super) fn bind(&self) -> CacheBindings<'_> {
        let [k, v] = [0, 1].map(|side| {
            let binding = self.buffers[side].as_entire_buffer_binding();
            CacheTensor { binding, stored: CacheType::F32, layout: self.layouts[side] }
        });
        let block_table = self.pages.as_ref().map(|(_, table)| BlockTable {
            binding: table.as_entire_buffer_binding(),
            max_pages: self.capacity / PAGE,
        });
        CacheBindings { k, v, block_table }
    }

    pub(super) fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    /// Appends some rows of k and v behind the `past` rows that are there.
    pub(super) fn append(
        &self,
        device: &Device<'_>,
        (k, k_shape): Rows<'_>,
        (v, v_shape): Rows<'_>,
        range: Range<u32>,
        past: u32,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let gpu = self.gpu;
        let (k, v) = (gpu.upload(k, DType::F32), gpu.upload(v, DType::F32));
        let part = |buffer, shape: [u32; 4]| -> Result<Tensor<'_>> {
            let whole = Layout::bhsd(shape)?;
            let shape = [shape[0], shape[1], range.end - range.start, shape[3]];
            let offset = range.start * shape[3];
            Ok(Tensor::new(buffer, DType::F32, Layout { shape, offset, ..whole }))
        };
        let lens = gpu.upload_u32(&vec![past; self.batch as usize]);
        let bindings = KvAppendBindings {
            k: part(&k, k_shape)?,
            v: part(&v, v_shape)?,
            cache: self.bind(),
            lens: lens.as_entire_buffer_binding(),
            rotation: self.table().map(|table| table.at(Positions::AmongKeys)),
        };
        let shape = KvAppendShape::new(self.batch, range.end - range.start);
        device.run(&self.append, &shape, &bindings)
    }

    /// K (side 0) or V (side 1) of the first rows, `[B, H_kv, rows, D]`.
    pub(super) fn read(&self, side: usize, rows: u32) -> Vec<f64> {
        let all = self.gpu.download(&self.buffers[side], DType::F32);
        let layout = &self.layouts[side];
        let dim = layout.shape[3] as usize;
        let mut out = Vec::new();
        for b in 0..self.batch {
            for h in 0..self.format.kv_heads {
                for s in 0..rows {
                    let [plane, row] = match &self.pages {
                        None => [b, s],
                        Some((table, _)) => {
                            [table[((b * self.capacity + s) / PAGE) as usize], s % PAGE]
                        }
                    };
                    let row = &all[layout.index(plane, h, row, 0)..][..dim];
                    out.extend(row.iter().map(|&x| f64::from(x)));
                }
            }
        }
        out
    }
}
