//! What the probes compute with: numbers, buffers and a rotation.

use wgpu::util::DeviceExt as _;

use crate::gpu::CosSin;
use crate::oracle::{self, Real};
use crate::rotary::{Frequencies, Pairing, RopeConfig};
use crate::{DType, Result};

/// Numbers between −2 and 2, the same everywhere.
pub(super) fn numbers(len: u32, seed: u32) -> Vec<f32> {
    let mix = |i: u32| {
        let mut x = i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    };
    // Eleven bits: exact in f16, too.
    (1..=len).map(|i| (mix(i) >> 21) as f32 / 512.0 - 2.0).collect()
}

pub(super) fn stored(x: &[f32], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => x.to_vec(),
        DType::F16 => x.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect(),
    }
}

pub(super) fn wide<R: Real>(x: &[f32]) -> Vec<R> {
    x.iter().map(|&x| R::from_f64(f64::from(x))).collect()
}

pub(super) fn input(device: &wgpu::Device, bytes: &[u8]) -> wgpu::Buffer {
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("self-test"),
        contents: bytes,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

pub(super) fn upload(device: &wgpu::Device, x: &[f32], dtype: DType) -> wgpu::Buffer {
    match dtype {
        DType::F32 => input(device, bytemuck::cast_slice(x)),
        DType::F16 => {
            let halves: Vec<half::f16> = x.iter().map(|&x| half::f16::from_f32(x)).collect();
            input(device, bytemuck::cast_slice(&halves))
        }
    }
}

/// Filled with NaN, so that what is never written shows.
pub(super) fn output(device: &wgpu::Device, len: usize, dtype: DType) -> wgpu::Buffer {
    upload(device, &vec![f32::NAN; len], dtype)
}

pub(super) fn scratch(device: &wgpu::Device, bytes: u64) -> wgpu::Buffer {
    output(device, bytes.div_ceil(4) as usize, DType::F32)
}

/// A table of 64 channels and what the oracle reads instead of it.
pub(super) struct Turn {
    pub(super) table: crate::rotary::RopeTable,
    pub(super) frequencies: Frequencies,
}

impl Turn {
    pub(super) fn new() -> Result<Self> {
        let config = RopeConfig::new(64, 10_000.0);
        Ok(Self { table: config.table(128, 128)?, frequencies: config.frequencies(128)? })
    }

    pub(super) fn bind<'a>(&self, buffer: &'a wgpu::Buffer) -> Result<CosSin<'a>> {
        Ok(CosSin { binding: buffer.as_entire_buffer_binding(), shape: self.table.shape()? })
    }

    pub(super) fn upload(&self, device: &wgpu::Device) -> wgpu::Buffer {
        input(device, self.table.as_bytes())
    }

    pub(super) fn apply<R: Real>(&self, x: &[R], shape: [u32; 4], first: u32) -> Result<Vec<R>> {
        oracle::rope(x, shape, 64, Pairing::Half, |_, s, pair| {
            let (cos, sin) = self.frequencies.cos_sin(first + s, pair as usize);
            (R::from_f64(cos), R::from_f64(sin))
        })
    }
}
