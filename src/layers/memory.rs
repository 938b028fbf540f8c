//! What lies on the device: caches, tables, scratch memory, lengths.

use crate::gpu::{BlockTable, CacheBindings, CacheTensor, CosSin};
use crate::layers::{Layer, ModelPlan};
use crate::plan::cache::CacheType;
use crate::rotary::TableShape;
use crate::{Error, Layout, Result};

/// The buffers of a model, made on the caller's device.
#[derive(Debug)]
pub(super) struct Memory {
    /// K and V of each layer.
    caches: Vec<[wgpu::Buffer; 2]>,
    tables: Vec<(wgpu::Buffer, TableShape)>,
    /// The table of each layer.
    table_of: Vec<Option<usize>>,
    pub(super) workspace: Option<wgpu::Buffer>,
    pub(super) states: Option<wgpu::Buffer>,
    /// Lengths of a step and, behind them, its block tables: one buffer, since devices that bind
    /// few bind it as one.
    pub(super) lists: wgpu::Buffer,
}

/// A buffer of at least `size` bytes, filled with `contents` where there are some.
pub(super) fn buffer(
    device: &wgpu::Device,
    label: &'static str,
    size: u64,
    contents: Option<&[u8]>,
) -> Result<wgpu::Buffer> {
    let size = size.next_multiple_of(16).max(16);
    let available = device.limits().max_buffer_size;
    if size > available {
        let limit = "max_buffer_size";
        return Err(Error::Limit { limit, what: label, needed: size, available });
    }
    use wgpu::BufferUsages as Usage;
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size,
        usage: Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
        mapped_at_creation: contents.is_some(),
    });
    if let Some(contents) = contents {
        let mapped = buffer.get_mapped_range_mut(..);
        let mut mapped = mapped.map_err(|_| Error::Device { what: label })?;
        mapped.slice(..contents.len()).copy_from_slice(contents);
        drop(mapped);
        buffer.unmap();
    }
    Ok(buffer)
}

impl Memory {
    pub(super) fn new(device: &wgpu::Device, plan: &ModelPlan) -> Result<Self> {
        let model = plan.model();
        let side = |label, layer: &Layer, stored: CacheType, dim| {
            let layout = plan.cache_layout(layer, stored, dim)?;
            buffer(device, label, layout.elements() * stored.element_bytes(), None)
        };
        let ropes = plan.ropes();
        let tables = ropes.iter().map(|rope| {
            let len = model.rope_len.unwrap_or(plan.capacity().into());
            let table = rope.table(plan.capacity(), len)?;
            let bytes = table.as_bytes();
            Ok((buffer(device, "cos/sin table", bytes.len() as u64, Some(bytes))?, table.shape()?))
        });
        let some = |label, size| match size {
            0 => Ok(None),
            size => buffer(device, label, size, None).map(Some),
        };
        Ok(Self {
            tables: tables.collect::<Result<_>>()?,
            table_of: model
                .layers
                .iter()
                .map(|layer| ropes.iter().position(|&rope| Some(rope) == layer.rope.as_ref()))
                .collect(),
            caches: model
                .layers
                .iter()
                .map(|layer| {
                    let k = side("K cache", layer, layer.k, layer.head_dim)?;
                    Ok([k, side("V cache", layer, layer.v, layer.value_dim)?])
                })
                .collect::<Result<_>>()?,
            workspace: some("decode workspace", plan.workspace_bytes())?,
            states: some("prefill states", plan.state_bytes())?,
            lists: buffer(device, "lengths and block tables", plan.list_bytes(), None)?,
        })
    }

    /// Entries of block tables: `size` bytes from `offset` of them on; `None` where the cache is
    /// not paged.
    pub(super) fn block_table(
        &self,
        plan: &ModelPlan,
        offset: u64,
        size: u64,
    ) -> Option<BlockTable<'_>> {
        let (offset, size) = (plan.tables_at()? + offset, wgpu::BufferSize::new(size));
        let binding = wgpu::BufferBinding { buffer: &self.lists, offset, size };
        Some(BlockTable { binding, max_pages: plan.max_pages() })
    }

    /// The cos/sin table of a layer that rotates.
    pub(super) fn table(&self, layer: usize) -> Option<CosSin<'_>> {
        let (buffer, shape) = self.tables.get((*self.table_of.get(layer)?)?)?;
        Some(CosSin { binding: buffer.as_entire_buffer_binding(), shape: *shape })
    }

    /// The cache of a layer: of contiguous sequences, `batch` from slot `first` on; all pages, as
    /// `block_table` finds them.
    pub(super) fn cache<'a>(
        &'a self,
        plan: &ModelPlan,
        layer: usize,
        [first, batch]: [u32; 2],
        block_table: Option<BlockTable<'a>>,
    ) -> Result<CacheBindings<'a>> {
        let layers = plan.model().layers.len();
        let unknown = Error::UnknownLayer { layer, layers };
        let (Some(of), Some(sides)) = (plan.model().layers.get(layer), self.caches.get(layer))
        else {
            return Err(unknown);
        };
        let side = |buffer: &'a wgpu::Buffer, stored: CacheType, dim| -> Result<_> {
            let mut layout = plan.cache_layout(of, stored, dim)?;
            if block_table.is_none() {
                layout = Layout {
                    shape: [batch, layout.shape[1], layout.shape[2], layout.shape[3]],
                    offset: first * layout.strides[0],
                    ..layout
                };
            }
            Ok(CacheTensor { binding: buffer.as_entire_buffer_binding(), stored, layout })
        };
        let k = side(&sides[0], of.k, of.head_dim)?;
        Ok(CacheBindings { k, v: side(&sides[1], of.v, of.value_dim)?, block_table })
    }
}
