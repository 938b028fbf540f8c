//! How keys and values are kept: storage types, paging, bytes a token, and what the host can check
//! of a block table before anything runs.
//!
//! RoPE++ keeps what plain RoPE keeps, rotated keys and values, and nothing more: EC has the cache
//! of the plain model, EH half of it, since it has half of the kv heads. Bytes a token over all
//! layers, from [`ModelShape::bytes_per_token`]:
//!
//! | model | K and V in | plain RoPE | EC | EH |
//! |---|---|---|---|---|
//! | 376M of the RoPE++ paper: 8 layers, 4 kv heads of 128 | f32 | 32768 | 32768 | 16384 |
//! | | f16 | 16384 | 16384 | 8192 |
//! | | int8 | 8448 | 8448 | 4224 |
//! | | q4 | 4608 | 4608 | 2304 |
//! | 32 layers, 8 kv heads of 128 | f16 | 131072 | 131072 | 65536 |
//! | | int8 | 67584 | 67584 | 33792 |
//! | | q4 | 36864 | 36864 | 18432 |

mod files;
mod model;
mod pages;

use crate::{DType, Error, Result};
pub use model::{ModelKind, ModelShape};
pub use pages::{Pages, check_room};

/// How the rows of a cache are stored. K and V choose independently.
///
/// What they cost on real activations: layers 0, 10 and 29 of SmolLM2-135M (384 tokens, D 64, 3 kv
/// heads), real and imaginary heads together, against attention in double precision over caches
/// that lose nothing (lavapipe 25.0.7; `cargo test --test gpu -- real_caches --nocapture` measures
/// it where you are). The largest outputs are 0.5, 3.8 and 6.3; "relative" is root mean square over
/// root mean square.
///
/// | K | V | bytes a token | largest error | relative error | largest of the log-sum-exp |
/// |---|---|---|---|---|---|
/// | f32 | f32 | 1536 | 2.4e-7 to 8.9e-6 | 2.7e-7 to 1.0e-6 | 9.5e-6 |
/// | f16 | f16 | 768 | 1.5e-4 to 9.6e-3 | 1.4e-4 to 1.2e-3 | 9.7e-3 |
/// | int8 | int8 | 408 | 4.9e-3 to 1.7e-1 | 9.4e-3 to 2.2e-2 | 0.16 |
/// | int8 | q4 | 312 | 2.8e-2 to 5.6e-1 | 6.6e-2 to 9.7e-2 | 0.16 |
/// | q4 | q4 | 216 | 7.6e-2 to 1.9 | 0.11 to 0.24 | 1.7 |
///
/// Four bits are for values; keys lose too much by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// One f32 scale a row (token and head), then a signed byte a channel: `x ≈ scale · q`,
    /// `scale = max|x| / 127`. A row is `1 + D/4` words of 32 bits.
    Int8,
    /// Blocks of 32 channels with one f16 scale d each, four bits a channel: `x ≈ d (q − 8)`, with
    /// `−8 d` the entry of largest magnitude (the q4_0 of ggml). A row is D/8 words of codes,
    /// lowest bits first, then the scales, two a word. D must be a multiple of 32.
    Q4,
}

impl CacheType {
    /// Elements of a row of `dim` channels as a [`Layout`](crate::Layout) counts them: channels of
    /// the float types, 32-bit words of the quantised ones.
    pub const fn row(self, dim: u32) -> u32 {
        match self {
            CacheType::F32 | CacheType::F16 => dim,
            CacheType::Int8 => 1 + dim / 4,
            CacheType::Q4 => dim / 8 + (dim / 32).div_ceil(2),
        }
    }

    /// Bytes of one element of [`CacheType::row`].
    pub const fn element_bytes(self) -> u64 {
        match self {
            CacheType::F16 => 2,
            CacheType::F32 | CacheType::Int8 | CacheType::Q4 => 4,
        }
    }

    /// Bytes of a row of `dim` channels.
    pub const fn row_bytes(self, dim: u32) -> u64 {
        self.row(dim) as u64 * self.element_bytes()
    }

    /// Elements that strides and offsets must be multiples of, which is also what the shaders
    /// count in: four channels, or one word.
    pub(crate) const fn unit(self) -> u32 {
        match self {
            CacheType::F32 | CacheType::F16 => 4,
            CacheType::Int8 | CacheType::Q4 => 1,
        }
    }

    /// Pieces of a row that the append kernel writes one at a time: what shares a scale.
    pub(crate) const fn pieces(self, dim: u32) -> u32 {
        match self {
            CacheType::F32 | CacheType::F16 => dim / 4,
            CacheType::Int8 => 1,
            CacheType::Q4 => dim / 32,
        }
    }
}

impl From<DType> for CacheType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => CacheType::F32,
            DType::F16 => CacheType::F16,
        }
    }
}

impl core::fmt::Display for CacheType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Int8 => "int8",
            CacheType::Q4 => "q4",
        })
    }
}

/// The cache of one layer, as the kernels that write and read it agree on it. It has one of two
/// shapes:
///
/// ```text
/// contiguous   K [B, H_kv, capacity, D]          V [B, H_kv, capacity, D_v]
/// paged        K [pages, H_kv, page_size, D]     V [pages, H_kv, page_size, D_v]
///              block_table u32 [B, max_pages]: slot s of sequence b lies on page
///              block_table[b, s / page_size], in its row s mod page_size
/// ```
///
/// K is rotated, V raw: exactly what plain RoPE keeps. RoPE++ adds nothing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheFormat {
    /// H_kv: what W_k really has (for EH, half of the configuration's `num_key_value_heads`).
    pub kv_heads: u32,
    /// D: channels of K, a multiple of 8 up to 576.
    pub head_dim: u32,
    /// D_v: channels of V, a multiple of 8 up to 512.
    pub value_dim: u32,
    /// Storage of K.
    pub k: CacheType,
    /// Storage of V.
    pub v: CacheType,
    /// Whether rows are found through a block table.
    pub paged: bool,
    /// Whether the token at position p lies in slot `p mod capacity`, over the token that was
    /// there: a cache for sliding windows. Otherwise p is the slot, and a full cache is full.
    pub rolling: bool,
    /// Whether V is a part of K's rows, as in multi-head latent attention, which keeps one latent
    /// for both: appends write K alone, and the layout of V is a view of K's (offset and row stride
    /// are the caller's). Both are stored in the same float type.
    pub v_in_k: bool,
}

impl CacheFormat {
    /// Contiguous, f32, D_v = D, not rolling.
    pub fn new(kv_heads: u32, head_dim: u32) -> Self {
        Self {
            kv_heads,
            head_dim,
            value_dim: head_dim,
            k: CacheType::F32,
            v: CacheType::F32,
            paged: false,
            rolling: false,
            v_in_k: false,
        }
    }

    /// Bytes that one token takes in this layer, K and V.
    pub fn bytes_per_token(&self) -> u64 {
        let v = if self.v_in_k { 0 } else { self.v.row_bytes(self.value_dim) };
        u64::from(self.kv_heads) * (self.k.row_bytes(self.head_dim) + v)
    }

    /// Pieces of a row of V that an append writes.
    pub(crate) fn v_pieces(&self) -> u32 {
        if self.v_in_k { 0 } else { self.v.pieces(self.value_dim) }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid =
            |what, needed, got: u32| Err(Error::Invalid { what, needed, got: got.to_string() });
        if self.kv_heads == 0 {
            return invalid("kv_heads", "at least 1", 0);
        }
        if self.head_dim == 0 || self.head_dim > 576 || !self.head_dim.is_multiple_of(8) {
            return invalid("head_dim", "a multiple of 8 from 8 to 576", self.head_dim);
        }
        if self.value_dim == 0 || self.value_dim > 512 || !self.value_dim.is_multiple_of(8) {
            return invalid("value_dim", "a multiple of 8 from 8 to 512", self.value_dim);
        }
        let floats = matches!(self.k, CacheType::F32 | CacheType::F16);
        if self.v_in_k && (self.value_dim > self.head_dim || self.k != self.v || !floats) {
            return Err(Error::Invalid {
                what: "v_in_k",
                needed: "no more channels of V than of K, both in the same float type",
                got: format!("{} {} of {} {}", self.value_dim, self.v, self.head_dim, self.k),
            });
        }
        for (what, stored, dim) in
            [("head_dim", self.k, self.head_dim), ("value_dim", self.v, self.value_dim)]
        {
            if stored == CacheType::Q4 && !dim.is_multiple_of(32) {
                return invalid(what, "a multiple of 32 for q4", dim);
            }
        }
        Ok(())
    }
}

/// As plans print it.
impl core::fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} kv heads, D {}, D_v {}, K {} and V {}, {}{}",
            self.kv_heads,
            self.head_dim,
            self.value_dim,
            self.k,
            self.v,
            if self.paged { "paged" } else { "contiguous" },
            if self.rolling { ", rolling" } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_rows_are_as_small_as_they_say() {
        assert_eq!(CacheType::F32.row_bytes(128), 512);
        assert_eq!(CacheType::F16.row_bytes(128), 256);
        assert_eq!(CacheType::Int8.row_bytes(128), 132);
        // 4.5 bits a channel.
        assert_eq!(CacheType::Q4.row_bytes(128), 72);
        assert_eq!(CacheType::Q4.row_bytes(96), 56);
    }

    #[test]
    fn equal_heads_halve_the_cache_and_need_an_even_number() {
        let mut model = ModelShape {
            layers: 3,
            kv_heads: 3,
            head_dim: 64,
            value_dim: 64,
            kind: ModelKind::EqualHeads,
            k: CacheType::F16,
            v: CacheType::Int8,
        };
        assert!(matches!(model.bytes_per_token(), Err(Error::Invalid { what: "kv_heads", .. })));
        model.kv_heads = 4;
        assert_eq!(model.bytes_per_token(), Ok(3 * 2 * (128 + 68)));
        model.kind = ModelKind::EqualCache;
        assert_eq!(model.bytes_per_token(), Ok(3 * 4 * (128 + 68)));
    }

    /// The table at the head of this file.
    #[test]
    fn bytes_a_token_are_as_documented() {
        let bytes = |layers, kv_heads, stored, kind| {
            let (head_dim, value_dim, k, v) = (128, 128, stored, stored);
            ModelShape { layers, kv_heads, head_dim, value_dim, kind, k, v }
                .bytes_per_token()
                .unwrap()
        };
        let (f32, f16) = (CacheType::F32, CacheType::F16);
        let (int8, q4) = (CacheType::Int8, CacheType::Q4);
        for (layers, kv_heads, stored, plain) in [
            (8, 4, f32, 32768),
            (8, 4, f16, 16384),
            (8, 4, int8, 8448),
            (8, 4, q4, 4608),
            (32, 8, f16, 131_072),
            (32, 8, int8, 67584),
            (32, 8, q4, 36864),
        ] {
            let bytes = |components| bytes(layers, kv_heads, stored, components);
            assert_eq!(bytes(ModelKind::Plain), plain);
            assert_eq!(bytes(ModelKind::EqualCache), plain);
            assert_eq!(bytes(ModelKind::EqualHeads), plain / 2);
        }
        // DeepSeek-V3: one latent of 512 channels, and 64 rotated ones, for all heads.
        let latent = CacheFormat { k: f16, v: f16, value_dim: 512, ..CacheFormat::new(1, 576) };
        assert_eq!(CacheFormat { v_in_k: true, ..latent }.bytes_per_token(), 1152);
        assert_eq!(latent.bytes_per_token(), 2176);
    }

    #[test]
    fn block_tables_that_would_write_where_they_must_not_are_refused() {
        let pages = |table| Pages { table, max_pages: 3, pages: 5, page_size: 8 };
        // Page 0 is a shared prefix.
        let table = [0, 1, 9, 0, 2, 3];
        pages(&table).check_append(&[8, 10], &[8, 10]).unwrap();
        let full = pages(&table).check_append(&[8, 20], &[8, 5]);
        assert_eq!(full, Err(Error::CacheFull { sequence: 1, needed: 25, capacity: 24 }));
        let unknown = pages(&table).check_append(&[16, 10], &[1, 1]);
        assert_eq!(unknown, Err(Error::UnknownPage { sequence: 0, entry: 2, page: 9, pages: 5 }));
        let shared = pages(&table).check_append(&[7, 10], &[1, 1]);
        assert_eq!(shared, Err(Error::SharedPage { sequence: 0, entry: 0, page: 0 }));
        // Nothing is written into a sequence that gets nothing.
        pages(&table).check_append(&[7, 10], &[0, 1]).unwrap();
        let twice = [1, 1, 0, 2, 3, 4];
        let own = pages(&twice).check_append(&[8, 0], &[1, 1]);
        assert_eq!(own, Err(Error::SharedPage { sequence: 0, entry: 1, page: 1 }));
        assert!(pages(&table).check_append(&[8], &[8]).is_err());
    }
}
