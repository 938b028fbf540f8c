//! What the probes compute with: numbers and a rotation.

use super::memory::{Contents, Memory, Slot};
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

    pub(super) fn bind<'a>(&self, memory: &'a Memory, table: Slot) -> Result<CosSin<'a>> {
        Ok(CosSin { binding: memory.at(table), shape: self.table.shape()? })
    }

    pub(super) fn write(&self, contents: &mut Contents) -> Slot {
        contents.bytes(self.table.as_bytes())
    }

    /// Turned back by `distance`, wherever it stands.
    pub(super) fn back<R: Real>(&self, x: &[R], shape: [u32; 4], distance: u32) -> Result<Vec<R>> {
        oracle::rope(x, shape, 64, Pairing::Half, |_, _, pair| {
            let (cos, sin) = self.frequencies.cos_sin(distance, pair as usize);
            (R::from_f64(cos), R::from_f64(-sin))
        })
    }

    pub(super) fn apply<R: Real>(&self, x: &[R], shape: [u32; 4], first: u32) -> Result<Vec<R>> {
        oracle::rope(x, shape, 64, Pairing::Half, |_, s, pair| {
            let (cos, sin) = self.frequencies.cos_sin(first + s, pair as usize);
            (R::from_f64(cos), R::from_f64(sin))
        })
    }
}
