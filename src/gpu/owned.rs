//! The small buffers that calls and kernels have of their own.

use crate::{Error, Result};

/// A small buffer with its contents in place. Each call has its own: one shared buffer written
/// through the queue would give two calls of one submission the same parameters.
///
/// # Errors
/// [`Error::Device`] where the device makes no buffer. (wgpu's `create_buffer_init` panics there.)
pub(super) fn buffer(
    device: &wgpu::Device,
    label: &'static str,
    contents: &[u8],
) -> Result<wgpu::Buffer> {
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: (contents.len() as u64).next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT),
        // Copied from by those who look into a call, see `Step`.
        usage: wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    });
    {
        let mut mapped =
            buffer.get_mapped_range_mut(..).map_err(|_| Error::Device { what: label })?;
        mapped.slice(..contents.len()).copy_from_slice(contents);
    }
    buffer.unmap();
    Ok(buffer)
}

/// Pieces of bytes behind each other, each at an offset that can be bound.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
}

impl Pieces {
    /// Where `piece` lies, after it was added.
    pub(super) fn add(&mut self, piece: &[u8], alignment: u32) -> (u64, u64) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment.max(4) as usize), 0);
        let at = self.bytes.len() as u64;
        self.bytes.extend_from_slice(piece);
        (at, piece.len() as u64)
    }

    /// Whether `piece` is the one that lies there.
    pub(super) fn is_at(&self, (at, len): (u64, u64), piece: &[u8]) -> bool {
        self.bytes.get(at as usize..(at + len) as usize) == Some(piece)
    }

    pub(super) fn upload(
        &self,
        device: &wgpu::Device,
        label: &'static str,
    ) -> Result<Option<wgpu::Buffer>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        buffer(device, label, &self.bytes).map(Some)
    }
}

/// Stand-ins for the bindings that a shader declares and a call does not use. One buffer to be read
/// and one to be written, since a buffer cannot be both within a dispatch, and a range of it for
/// each binding, since writable ranges must not overlap.
#[derive(Debug, Clone)]
pub(super) struct Unused {
    read: wgpu::Buffer,
    written: wgpu::Buffer,
}

impl Unused {
    /// The largest offset alignment that a device may ask for.
    const PITCH: u64 = 256;

    pub(super) fn new(device: &wgpu::Device) -> Result<Self> {
        let bytes = [0; Self::PITCH as usize * (crate::plan::binding::LAST as usize + 1)];
        let make = |label| buffer(device, label, &bytes);
        Ok(Self { read: make("unused input")?, written: make("unused output")? })
    }

    pub(super) fn binding(&self, binding: u32, written: bool) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: if written { &self.written } else { &self.read },
            offset: Self::PITCH * u64::from(binding),
            size: wgpu::BufferSize::new(16),
        }
    }
}
