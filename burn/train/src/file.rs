//! Files of reference values and weights: safetensors, read whole.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::Result;

/// A safetensors file.
pub struct File {
    name: String,
    bytes: Vec<u8>,
}

impl File {
    /// # Errors
    /// Where the file cannot be read or is no safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| format!("{name}: {error}"))?;
        SafeTensors::deserialize(&bytes).map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { name, bytes })
    }

    /// The JSON that an entry of the metadata holds.
    ///
    /// # Errors
    /// Where there is none.
    pub fn json(&self, entry: &str) -> Result<Value> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes)?;
        let text = header.metadata().as_ref().and_then(|all| all.get(entry));
        let text = text.ok_or_else(|| format!("{}: no metadata {entry}", self.name))?;
        Ok(serde_json::from_str(text)
            .map_err(|error| format!("{}: {entry}: {error}", self.name))?)
    }

    /// Shape and words of a tensor of 32-bit numbers.
    fn words(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Vec<[u8; 4]>)> {
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        let tensor =
            tensors.tensor(name).map_err(|error| format!("{}: {name}: {error}", self.name))?;
        if tensor.dtype() != dtype {
            let found = tensor.dtype();
            return Err(format!("{}: {name}: {found:?}, not {dtype:?}", self.name).into());
        }
        let words = tensor.data().chunks_exact(4).map(|w| [w[0], w[1], w[2], w[3]]);
        Ok((tensor.shape().to_vec(), words.collect()))
    }

    /// # Errors
    /// Where there is no such tensor of f32.
    pub fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, words) = self.words(name, Dtype::F32)?;
        Ok((shape, words.into_iter().map(f32::from_le_bytes).collect()))
    }

    /// # Errors
    /// Where there is no such tensor of i32.
    pub fn integers(&self, name: &str) -> Result<(Vec<usize>, Vec<i32>)> {
        let (shape, words) = self.words(name, Dtype::I32)?;
        Ok((shape, words.into_iter().map(i32::from_le_bytes).collect()))
    }

    /// # Errors
    /// Where there is no such tensor of f32 with D axes.
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Result<Tensor<D>> {
        let (shape, values) = self.floats(name)?;
        if shape.len() != D {
            return Err(format!("{}: {name}: shape {shape:?}, not {D} axes", self.name).into());
        }
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }
}
