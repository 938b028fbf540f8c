//! Tensors inside larger buffers full of NaN, so that a kernel that reads or writes beside its
//! elements gives itself away.

use half::f16;
use phasor::{DType, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use super::Result;

/// Bytes in front of and behind every binding; a multiple of any device's binding alignment.
const GUARD: usize = 256;
/// Elements within the binding, behind the tensor.
const TAIL: usize = 64;

/// How the elements of a `[B, H, S, D]` tensor lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// `[B, H, S, D]` without gaps.
    Bhsd,
    /// `[B, S, H, D]` without gaps.
    Bshd,
    /// `[B, H, S, D]` with an offset and gaps between rows, heads and batches.
    Gaps,
    /// `[B, S, H, D]` with the same.
    BshdGaps,
    /// Gaps and offset that are multiples of this many elements only.
    Odd(u32),
    /// Heads of a packed `[B, S, all, D]` tensor, from `first` on.
    Packed { all: u32, first: u32 },
    /// The same head in the place of every batch and head. For inputs.
    Broadcast,
}

impl Place {
    pub fn layout(self, shape: [u32; 4]) -> Result<Layout> {
        let [_, h, s, d] = shape;
        let (n, m) = (h.max(1), s.max(1));
        let gaps = |row: u32, head: u32, batch: u32, offset: u32| {
            let head = m * (d + row) + head;
            Layout { shape, strides: [n * head + batch, head, d + row], offset }
        };
        Ok(match self {
            Place::Bhsd => Layout::bhsd(shape)?,
            Place::Bshd => Layout::bshd(shape)?,
            Place::Packed { all, first } => Layout::packed(shape, all, first)?,
            Place::Gaps => gaps(4, 12, 20, 8),
            Place::Odd(unit) => gaps(unit, 5 * unit, 3 * unit, 7 * unit),
            Place::BshdGaps => {
                let row = n * (d + 4) + 8;
                Layout { shape, strides: [m * row + 4, d + 4, row], offset: 12 }
            }
            Place::Broadcast => Layout { shape, strides: [0, 0, d], offset: 4 },
        })
    }
}

/// A tensor in a buffer of its own, with guards around it.
pub struct Placed {
    buffer: wgpu::Buffer,
    dtype: DType,
    layout: Layout,
    before: Vec<u8>,
}

impl Placed {
    /// A tensor to be written: all NaN.
    pub fn output(gpu: &Gpu, dtype: DType, layout: Layout) -> Self {
        Self::with(gpu, dtype, layout, |_, _| {})
    }

    /// A tensor with these elements, given `[B, H, S, D]` without gaps.
    pub fn input(gpu: &Gpu, dtype: DType, layout: Layout, data: &[f32]) -> Self {
        Self::with(gpu, dtype, layout, |n, bytes| match dtype {
            DType::F32 => bytes.copy_from_slice(&data[n].to_ne_bytes()),
            DType::F16 => bytes.copy_from_slice(&f16::from_f32(data[n]).to_ne_bytes()),
        })
    }

    fn with(gpu: &Gpu, dtype: DType, layout: Layout, set: impl Fn(usize, &mut [u8])) -> Self {
        let size = dtype.size() as usize;
        let reach = places(&layout).map(|(_, at)| at + 1).max().unwrap_or(0);
        let bytes = 2 * GUARD + ((reach + TAIL) * size).next_multiple_of(16);
        // NaNs with a payload of their own, which no arithmetic makes.
        let pattern: &[u8] = match dtype {
            DType::F32 => &0x7fc5_a5a5u32.to_ne_bytes(),
            DType::F16 => &0x7e5au16.to_ne_bytes(),
        };
        let mut before: Vec<u8> = pattern.iter().copied().cycle().take(bytes).collect();
        for (n, at) in places(&layout) {
            let start = GUARD + at * size;
            set(n, &mut before[start..start + size]);
        }
        Self { buffer: gpu.upload_bytes(&before), dtype, layout, before }
    }

    /// What a kernel is given: the tensor and a few elements behind it.
    pub fn tensor(&self) -> Tensor<'_> {
        Tensor { binding: self.binding(), dtype: self.dtype, layout: self.layout }
    }

    pub fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: GUARD as u64,
            size: wgpu::BufferSize::new((self.before.len() - 2 * GUARD) as u64),
        }
    }

    /// The elements as `[B, H, S, D]` without gaps; an error if anything beside them has changed.
    pub fn read(&self, gpu: &Gpu) -> Result<Vec<f32>> {
        let size = self.dtype.size() as usize;
        let after = gpu.download_bytes(&self.buffer);
        let mut beside = vec![true; after.len() / size];
        let mut elements = Vec::new();
        for (_, at) in places(&self.layout) {
            let start = GUARD + at * size;
            beside[start / size] = false;
            let bytes = &after[start..start + size];
            elements.push(match self.dtype {
                DType::F32 => f32::from_ne_bytes(bytes.try_into()?),
                DType::F16 => f16::from_ne_bytes(bytes.try_into()?).to_f32(),
            });
        }
        let changed = |&(n, beside): &(usize, bool)| {
            beside && after[n * size..][..size] != self.before[n * size..][..size]
        };
        match beside.into_iter().enumerate().find(changed) {
            None => Ok(elements),
            Some((n, _)) => {
                let at = (n * size) as i64 - GUARD as i64;
                let layout = &self.layout;
                Err(format!("wrote beside the elements, at byte {at} of {layout:?}").into())
            }
        }
    }
}

/// Number of every element as `[B, H, S, D]` without gaps, and its index in the layout.
fn places(layout: &Layout) -> impl Iterator<Item = (usize, usize)> {
    let layout = *layout;
    let [batches, heads, rows, channels] = layout.shape;
    (0..batches)
        .flat_map(move |b| (0..heads).map(move |h| (b, h)))
        .flat_map(move |(b, h)| (0..rows).map(move |s| (b, h, s)))
        .flat_map(move |(b, h, s)| (0..channels).map(move |d| layout.index(b, h, s, d)))
        .enumerate()
}
