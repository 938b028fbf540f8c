//! Caches as the host knows them: rows of sequences among bytes that are all NaN.

use phasor::cache::{CacheTensor, CacheType};
use phasor::{Layout, oracle, wgpu};
use phasor_kit::gpu::Gpu;

use super::Result;

/// Where slots lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Slots {
    /// In a plane of the sequence's own.
    Contiguous { capacity: u32 },
    /// On pages, which the sequences take from the pool in no order.
    Paged { page_size: u32, max_pages: u32 },
}

impl Slots {
    pub fn capacity(self) -> u32 {
        match self {
            Slots::Contiguous { capacity } => capacity,
            Slots::Paged { page_size, max_pages } => page_size * max_pages,
        }
    }

    pub fn paged(self) -> bool {
        matches!(self, Slots::Paged { .. })
    }

    /// Planes of a pool for `batch` sequences, and rows of each. A pool has pages that no sequence
    /// owns.
    fn planes(self, batch: u32) -> [u32; 2] {
        match self {
            Slots::Contiguous { capacity } => [batch, capacity],
            Slots::Paged { page_size, max_pages } => [batch * max_pages + 3, page_size],
        }
    }

    /// The block table, `[B, max_pages]`: every page once, far from in order.
    pub fn table(self, batch: u32) -> Vec<u32> {
        let Slots::Paged { max_pages, .. } = self else { return Vec::new() };
        let [pages, _] = self.planes(batch);
        let stride = (2..).find(|n| (1..=*n).filter(|d| n % d == 0 && pages % d == 0).count() == 1);
        (0..batch * max_pages).map(|n| (n * stride.unwrap_or(1) + 1) % pages).collect()
    }

    fn place(self, table: &[u32], b: u32, slot: u32) -> [u32; 2] {
        match self {
            Slots::Contiguous { .. } => [b, slot],
            Slots::Paged { page_size, max_pages } => {
                [table[(b * max_pages + slot / page_size) as usize], slot % page_size]
            }
        }
    }
}

/// One side (K or V) of a cache.
#[derive(Debug, Clone)]
pub struct HostCache {
    pub slots: Slots,
    pub stored: CacheType,
    pub layout: Layout,
    table: Vec<u32>,
    dim: u32,
    bytes: Vec<u8>,
}

impl HostCache {
    /// A cache of NaNs, with gaps between rows, heads and planes.
    pub fn new(slots: Slots, stored: CacheType, batch: u32, heads: u32, dim: u32) -> Self {
        let [planes, rows] = slots.planes(batch);
        let row = stored.row(dim);
        let gap = if stored.row(4) == 4 { 4 } else { 1 };
        let head = rows * (row + gap) + 2 * gap;
        let shape = [planes, heads, rows, row];
        let strides = [heads * head + 3 * gap, head, row + gap];
        let layout = Layout { shape, strides, offset: gap };
        let elements = (planes * strides[0] + 2 * gap) as usize;
        let bytes = (elements * stored.element_bytes() as usize).next_multiple_of(16);
        let table = slots.table(batch);
        Self { slots, stored, layout, table, dim, bytes: vec![0xff; bytes] }
    }

    fn range(&self, b: u32, head: u32, slot: u32) -> std::ops::Range<usize> {
        let [plane, row] = self.slots.place(&self.table, b, slot);
        let size = self.stored.element_bytes() as usize;
        let start = self.layout.index(plane, head, row, 0) * size;
        start..start + self.stored.row_bytes(self.dim) as usize
    }

    /// Stores one row.
    pub fn set(&mut self, [b, head, slot]: [u32; 3], x: &[f32]) -> Result {
        let row = oracle::encode_rows(x, self.dim, self.stored)?;
        let range = self.range(b, head, slot);
        self.bytes[range].copy_from_slice(&row);
        Ok(())
    }

    pub fn get(&self, [b, head, slot]: [u32; 3]) -> Result<Vec<f32>> {
        Ok(oracle::decode_rows(&self.bytes[self.range(b, head, slot)], self.dim, self.stored)?)
    }

    /// The same cache as a device left it.
    pub fn downloaded(&self, gpu: &Gpu, buffer: &wgpu::Buffer) -> Self {
        Self { bytes: gpu.download_bytes(buffer), ..self.clone() }
    }

    pub fn upload(&self, gpu: &Gpu) -> wgpu::Buffer {
        gpu.upload_bytes(&self.bytes)
    }

    pub fn tensor<'a>(&self, buffer: &'a wgpu::Buffer) -> CacheTensor<'a> {
        let binding = buffer.as_entire_buffer_binding();
        CacheTensor { binding, stored: self.stored, layout: self.layout }
    }

    /// Forgets some rows, so that all that is left can be compared.
    pub fn erase(&mut self, places: impl IntoIterator<Item = [u32; 3]>) {
        for [b, head, slot] in places {
            let range = self.range(b, head, slot);
            self.bytes[range].fill(0xff);
        }
    }

    /// Whether another one holds the same bytes.
    pub fn is_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }

    /// Whether all bytes are NaN.
    pub fn is_blank(&self) -> bool {
        self.bytes.iter().all(|&byte| byte == 0xff)
    }
}

/// Rows that a quantised cache gave back, and what should have been stored: a number that lies
/// on the line between two codes may get either, since the last bit of the scale is the device's.
pub fn within_a_code(name: &str, got: &[f32], x: &[f32], dim: u32, stored: CacheType) -> Result {
    let near = oracle::decode_rows(&oracle::encode_rows(x, dim, stored)?, dim, stored)?;
    let (share, codes) = match stored {
        CacheType::Q4 => (32, 8.0),
        _ => (dim as usize, 127.0),
    };
    let mut moved = 0;
    for ((got, near), x) in got.chunks(share).zip(near.chunks(share)).zip(x.chunks(share)) {
        let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (got, near) in got.iter().zip(near) {
            let off = (got - near).abs();
            // The scale itself may be another f16.
            moved += usize::from(off > 1e-3 * largest);
            if off.is_nan() || off > 1.01 * largest / codes {
                return Err(format!("{name}: {got} is stored, not {near}").into());
            }
        }
    }
    match moved > got.len() / 50 {
        true => Err(format!("{name}: {moved} of {} codes differ", got.len()).into()),
        false => Ok(()),
    }
}
