//! Quantised weights as f32.

use ggml_quants::{DeltaMin, Q4_0, Q4_1, Q8_0, Quantize};
use gguf_rs_lib::tensor::TensorType;
use half::f16;

use crate::Result;

/// Elements of a block of any of these types.
const BLOCK: usize = 32;

/// The elements of a tensor of `len`, as f32.
pub(super) fn to_f32(kind: TensorType, bytes: &[u8], len: usize) -> Result<Vec<f32>> {
    let elements: Vec<f32> = match kind {
        TensorType::F32 => bytemuck::pod_collect_to_vec(whole(bytes, 4)?),
        TensorType::F16 => {
            whole(bytes, 2)?.chunks_exact(2).map(|b| half_at(b, 0).to_f32()).collect()
        }
        TensorType::Q8_0 => blocks(bytes, 34, |block| {
            Q8_0 {
                delta: half_at(block, 0),
                quants: std::array::from_fn(|i| i8::from_ne_bytes([block[2 + i]])),
            }
            .dequantize()
        })?,
        TensorType::Q4_0 => blocks(bytes, 18, |block| {
            Q4_0 { delta: half_at(block, 0), quants: std::array::from_fn(|i| block[2 + i]) }
                .dequantize()
        })?,
        TensorType::Q4_1 => blocks(bytes, 20, |block| {
            Q4_1 {
                delta_min: DeltaMin { delta: half_at(block, 0), min: half_at(block, 2) },
                quants: std::array::from_fn(|i| block[4 + i]),
            }
            .dequantize()
        })?,
        other => return Err(format!("weights of type {other:?} are not read").into()),
    };
    if elements.len() != len {
        return Err(format!("{} elements, where there should be {len}", elements.len()).into());
    }
    Ok(elements)
}

fn whole(bytes: &[u8], size: usize) -> Result<&[u8]> {
    match bytes.len().is_multiple_of(size) {
        true => Ok(bytes),
        false => {
            Err(format!("{} bytes are no whole number of blocks of {size}", bytes.len()).into())
        }
    }
}

fn blocks(bytes: &[u8], size: usize, read: impl Fn(&[u8]) -> [f32; BLOCK]) -> Result<Vec<f32>> {
    let blocks = whole(bytes, size)?.chunks_exact(size);
    // Room at once: vectors that grow take twice the memory, of which a browser has little.
    let mut elements = Vec::with_capacity(blocks.len() * BLOCK);
    blocks.for_each(|block| elements.extend(read(block)));
    Ok(elements)
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_ggml_writes_them() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes();
        // x = scale · q + min: element i in the low half of byte i, element 16 + i in the high one.
        let mut q4_1 = [half(0.5), half(-3.0)].concat();
        q4_1.extend((0..16).map(|i: u8| i | (15 - i) << 4));
        let read = to_f32(TensorType::Q4_1, &q4_1, 32).unwrap();
        for i in 0..16 {
            assert_eq!(read[i], 0.5 * i as f32 - 3.0);
            assert_eq!(read[16 + i], 0.5 * (15 - i) as f32 - 3.0);
        }
        let mut q4_0 = half(2.0).to_vec();
        q4_0.extend([0x80; 16]);
        assert_eq!(to_f32(TensorType::Q4_0, &q4_0, 32).unwrap(), [[-16.0; 16], [0.0; 16]].concat());
        let mut q8_0 = half(0.25).to_vec();
        q8_0.extend((0..32).map(|i| (i as i8 - 16) as u8));
        let read = to_f32(TensorType::Q8_0, &q8_0, 32).unwrap();
        assert_eq!(read[0], -4.0);
        assert_eq!(read[31], 3.75);
        assert!(to_f32(TensorType::Q8_0, &q8_0[1..], 32).is_err());
        assert!(to_f32(TensorType::Q8_0, &q8_0, 64).is_err());
    }
}
