//! wgpu's buffers as what calls bind.

use crate::call::{Binding, Extent};

impl Binding for wgpu::BufferBinding<'_> {
    fn extent(&self) -> Option<Extent> {
        Some(Extent {
            buffer_size: self.buffer.size(),
            offset: self.offset,
            size: self.size.map(u64::from),
            storage: self.buffer.usage().contains(wgpu::BufferUsages::STORAGE),
        })
    }

    fn same_buffer(&self, other: &Self) -> bool {
        self.buffer == other.buffer
    }

    fn part(&self, offset: u64, size: u64) -> Self {
        let (offset, size) = (self.offset + offset, wgpu::BufferSize::new(size));
        Self { buffer: self.buffer, offset, size }
    }
    fn elsewhere(&self, offset: u64, size: u64) -> Self {
        Self { buffer: self.buffer, offset, size: wgpu::BufferSize::new(size) }
    }
}
