//! The page allocator of one sequence.

use phasor::cache::Pages as Table;
use phasor::wgpu;

use crate::Result;

/// Pages in the order of the sequence, and those that are free.
pub(crate) struct Pages {
    table: Vec<u32>,
    taken: usize,
    free: Vec<u32>,
    pub(crate) buffer: wgpu::Buffer,
}

impl Pages {
    /// Rows of a page.
    pub(crate) const SIZE: u32 = 16;

    pub(crate) fn new(device: &wgpu::Device, pages: u32) -> Self {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("block table"),
            size: 4 * u64::from(pages.max(4)),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut pool = Self { table: vec![0; pages as usize], taken: 0, free: Vec::new(), buffer };
        pool.reset();
        pool
    }

    /// Pages that a sequence can have.
    pub(crate) fn count(&self) -> u32 {
        self.table.len() as u32
    }

    pub(crate) fn reset(&mut self) {
        // Neighbours in the sequence are none in the pool: an engine with many sequences has no
        // such luck either.
        let pages = self.count();
        self.free = (0..pages).step_by(2).chain((1..pages).step_by(2)).collect();
        self.taken = 0;
    }

    /// Takes pages until `len + rows` rows have one, and writes the new entries of the table.
    pub(crate) fn grow(&mut self, queue: &wgpu::Queue, len: u32, rows: u32) -> Result<()> {
        let first = self.taken;
        while (self.taken as u64) * u64::from(Self::SIZE) < u64::from(len) + u64::from(rows) {
            let (Some(entry), Some(page)) = (self.table.get_mut(self.taken), self.free.pop())
            else {
                break; // The check below says what is missing.
            };
            *entry = page;
            self.taken += 1;
        }
        let (max_pages, page_size) = (self.count(), Self::SIZE);
        Table { table: &self.table, max_pages, pages: max_pages, page_size }
            .check_append(&[len], &[rows])?;
        let new = &self.table[first..self.taken];
        queue.write_buffer(&self.buffer, 4 * first as u64, bytemuck::cast_slice(new));
        Ok(())
    }
}
