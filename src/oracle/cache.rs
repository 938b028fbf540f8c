//! What caches hold: rows encoded as kernels store them, and decoded again.

use half::f16;

use crate::plan::cache::CacheType;
use crate::{Error, Result};

/// Rows of `dim` channels as a cache stores them, one behind the other, little-endian as on every
/// device. A quantised row (of q4, a block of 32) with a number that is infinite or NaN is NaN
/// throughout.
///
/// # Errors
/// [`Error::Invalid`] when `x` is no whole number of rows, or `dim` cannot be stored so.
pub fn encode_rows(x: &[f32], dim: u32, stored: CacheType) -> Result<Vec<u8>> {
    let row = check(x.len(), dim as usize, dim, stored)?;
    let words = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    Ok(match stored {
        CacheType::F32 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CacheType::F16 => x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        CacheType::Int8 => x.chunks_exact(row).flat_map(|row| words(int8_row(row))).collect(),
        CacheType::Q4 => x.chunks_exact(row).flat_map(|row| words(q4_row(row))).collect(),
    })
}

/// The numbers that encoded rows stand for.
///
/// # Errors
/// As [`encode_rows`].
pub fn decode_rows(bytes: &[u8], dim: u32, stored: CacheType) -> Result<Vec<f32>> {
    let row = check(bytes.len(), stored.row_bytes(dim) as usize, dim, stored)?;
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
    let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
    Ok(match stored {
        CacheType::F32 => bytes.chunks_exact(4).map(|x| f32::from_bits(word(x))).collect(),
        CacheType::F16 => bytes.chunks_exact(2).map(|x| half(word(x))).collect(),
        CacheType::Int8 => bytes
            .chunks_exact(row)
            .flat_map(|row| {
                let scale = f32::from_bits(word(&row[..4]));
                row[4..].iter().map(move |&code| f32::from(code as i8) * scale)
            })
            .collect(),
        CacheType::Q4 => bytes
            .chunks_exact(row)
            .flat_map(|row| {
                let (codes, scales) = row.split_at(dim as usize / 2);
                (0..dim as usize).map(move |i| {
                    let code = codes[i / 2] >> (4 * (i % 2)) & 0xf;
                    let scale = half(word(&scales[i / 32 * 2..][..2]));
                    (f32::from(code) - 8.0) * scale
                })
            })
            .collect(),
    })
}

/// Refuses what is no whole number of rows; gives `row`.
fn check(len: usize, row: usize, dim: u32, stored: CacheType) -> Result<usize> {
    let multiple = if stored == CacheType::Q4 { 32 } else { 4 };
    if dim == 0 || !dim.is_multiple_of(multiple) || !len.is_multiple_of(row) {
        return Err(Error::Invalid {
            what: "rows of a cache",
            needed: "whole rows, of a multiple of 4 channels, or of 32 for q4",
            got: format!("{len} of {dim} channels in {stored}"),
        });
    }
    Ok(row)
}

fn int8_row(x: &[f32]) -> Vec<u32> {
    let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
    let code = |x: &f32| u32::from((x * inverse).round_ties_even() as i8 as u8);
    let quads = x.chunks_exact(4);
    let quads = quads.map(|q| q.iter().rev().fold(0, |word, x| word << 8 | code(x)));
    let scale = if x.iter().all(|x| x.is_finite()) { largest / 127.0 } else { f32::NAN };
    core::iter::once(scale.to_bits()).chain(quads).collect()
}

fn q4_row(x: &[f32]) -> Vec<u32> {
    let mut scales = Vec::new();
    let mut words = Vec::new();
    for block in x.chunks_exact(32) {
        let largest = block.iter().fold(0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
        let finite = block.iter().all(|x| x.is_finite());
        let scale = if finite { f16::from_f32(largest / -8.0) } else { f16::NAN };
        let inverse = if scale.to_f32() == 0.0 { 0.0 } else { 1.0 / scale.to_f32() };
        let code = |x: &f32| (x * inverse + 8.5).floor().clamp(0.0, 15.0) as u32;
        let codes = block.chunks_exact(8);
        words.extend(codes.map(|x| x.iter().rev().fold(0, |word, x| word << 4 | code(x))));
        scales.push(u32::from(scale.to_bits()));
    }
    words.extend(scales.chunks(2).map(|pair| pair.iter().rev().fold(0, |word, s| word << 16 | s)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_near_as_their_codes_allow() {
        let dim = 96;
        let x: Vec<f32> = (0..2 * dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let largest = |x: &[f32]| x.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (stored, shares, steps) in [
            (CacheType::F32, 1, f32::INFINITY),
            (CacheType::F16, 1, 2048.0),
            (CacheType::Int8, dim, 253.9),
            // The far end of the scale has no code of its own: up to a whole step.
            (CacheType::Q4, 32, 7.9),
        ] {
            let bytes = encode_rows(&x, dim as u32, stored).unwrap();
            assert_eq!(bytes.len() as u64, 2 * stored.row_bytes(dim as u32));
            let back = decode_rows(&bytes, dim as u32, stored).unwrap();
            for (x, back) in x.chunks(shares).zip(back.chunks(shares)) {
                for (a, b) in x.iter().zip(back) {
                    assert!((a - b).abs() <= largest(x) / steps, "{stored}: {a} as {b}");
                }
            }
            let zeros = encode_rows(&[0.0; 32], 32, stored).unwrap();
            assert!(decode_rows(&zeros, 32, stored).unwrap().iter().all(|&x| x == 0.0));
        }
        assert!(encode_rows(&x, 40, CacheType::Q4).is_err());
        assert!(decode_rows(&[0; 7], 4, CacheType::F32).is_err());
    }
}
