//! The WGSL files of kernels that read a cache.

use super::{CacheFormat, CacheType};
use crate::plan::shader::{codecs, wgsl};

impl CacheFormat {
    /// `key_quad` and `value_quad`, and the bindings that they read.
    pub(crate) fn readers(&self) -> Vec<&'static str> {
        let mut files: Vec<_> = codecs(self.k, self.v).collect();
        match self.k {
            CacheType::F32 => files.extend([wgsl!("io/k_f32"), wgsl!("cache/read_k_float")]),
            CacheType::F16 => files.extend([wgsl!("io/k_f16"), wgsl!("cache/read_k_float")]),
            CacheType::Int8 => files.push(wgsl!("cache/read_k_int8")),
            CacheType::Q4 => files.push(wgsl!("cache/read_k_q4")),
        }
        match self.v {
            CacheType::F32 => files.extend([wgsl!("io/v_f32"), wgsl!("cache/read_v_float")]),
            CacheType::F16 => files.extend([wgsl!("io/v_f16"), wgsl!("cache/read_v_float")]),
            CacheType::Int8 => files.push(wgsl!("cache/read_v_int8")),
            CacheType::Q4 => files.push(wgsl!("cache/read_v_q4")),
        }
        files
    }

    /// `slot_of` and `key_place`.
    pub(crate) fn slots(&self) -> [&'static str; 2] {
        let slot = if self.paged { wgsl!("cache/paged") } else { wgsl!("cache/contiguous") };
        [slot, wgsl!("cache/slots")]
    }
}
