//! Where the tensors of a probe lie: between guards of NaN, each in a buffer of its own, or all in
//! one where plans are made for hosts that share buffers.

use wgpu::util::DeviceExt as _;

use crate::plan::{Capabilities, Sharing};
use crate::{DType, Layout, Tensor};

/// Bytes in front of and behind every tensor: a multiple of every device's binding alignment.
pub(super) const GUARD: u64 = 256;
/// What guards hold: a NaN in f32, and two in f16, with a payload that no arithmetic makes.
pub(super) const POISON: [u8; 4] = 0x7e5a_7e5a_u32.to_le_bytes();

/// A tensor of a probe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(usize);

/// The contents of tensors, before there are buffers.
pub(super) struct Contents {
    one_buffer: bool,
    tensors: Vec<Vec<u8>>,
}

impl Contents {
    pub(super) fn new(caps: &Capabilities) -> Self {
        Self { one_buffer: caps.sharing == Sharing::Ranges, tensors: Vec::new() }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Slot {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(GUARD as usize), POISON[0]);
        self.tensors.push(bytes);
        Slot(self.tensors.len() - 1)
    }

    pub(super) fn numbers(&mut self, x: &[f32], dtype: DType) -> Slot {
        match dtype {
            DType::F32 => self.bytes(bytemuck::cast_slice(x)),
            DType::F16 => {
                let halves: Vec<half::f16> = x.iter().map(|&x| half::f16::from_f32(x)).collect();
                self.bytes(bytemuck::cast_slice(&halves))
            }
        }
    }

    /// Filled with NaN, so that what is never written shows.
    pub(super) fn output(&mut self, len: usize, dtype: DType) -> Slot {
        self.numbers(&vec![f32::NAN; len], dtype)
    }

    pub(super) fn scratch(&mut self, bytes: u64) -> Slot {
        self.output(bytes.max(4).div_ceil(4) as usize, DType::F32)
    }

    /// The same in buffers.
    pub(super) fn upload(self, device: &wgpu::Device) -> Memory {
        let guard = || POISON.iter().copied().cycle().take(GUARD as usize);
        let mut buffers = Vec::new();
        let mut places = Vec::new();
        let mut contents: Vec<u8> = guard().collect();
        let count = self.tensors.len();
        for (n, tensor) in self.tensors.into_iter().enumerate() {
            places.push((buffers.len(), contents.len() as u64, tensor.len() as u64));
            contents.extend(tensor.into_iter().chain(guard()));
            if !self.one_buffer || n + 1 == count {
                buffers.push(device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                    label: Some("self-test"),
                    contents: &contents,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                }));
                contents.truncate(GUARD as usize);
            }
        }
        Memory { buffers, places }
    }
}

/// Tensors in buffers.
pub(super) struct Memory {
    buffers: Vec<wgpu::Buffer>,
    /// Buffer, first byte and bytes of each.
    places: Vec<(usize, u64, u64)>,
}

impl Memory {
    pub(super) fn at(&self, Slot(n): Slot) -> wgpu::BufferBinding<'_> {
        let (buffer, offset, size) = self.places[n];
        wgpu::BufferBinding {
            buffer: &self.buffers[buffer],
            offset,
            size: wgpu::BufferSize::new(size),
        }
    }

    pub(super) fn tensor(&self, slot: Slot, dtype: DType, layout: Layout) -> Tensor<'_> {
        Tensor { binding: self.at(slot), dtype, layout }
    }

    /// A tensor with its guards: buffer, first byte and bytes.
    pub(super) fn guarded(&self, Slot(n): Slot) -> (&wgpu::Buffer, u64, u64) {
        let (buffer, offset, size) = self.places[n];
        (&self.buffers[buffer], offset - GUARD, size + 2 * GUARD)
    }
}
