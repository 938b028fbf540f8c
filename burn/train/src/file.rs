//! Files of reference values and weights: safetensors, read whole.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use safetensors::tensor::TensorView;
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

    /// What it was read from.
    pub fn name(&self) -> &str {
        &self.name
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

    fn view(&self, name: &str) -> Result<TensorView<'_>> {
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        Ok(tensors.tensor(name).map_err(|error| format!("{}: {name}: {error}", self.name))?)
    }

    fn other<T>(&self, name: &str, found: Dtype, needed: &str) -> Result<T> {
        Err(format!("{}: {name}: {found:?}, not {needed}", self.name).into())
    }

    /// # Errors
    /// Where there is no such tensor of f32 or f16.
    pub fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let view = self.view(name)?;
        let (words, _) = view.data().as_chunks::<4>();
        let (halves, _) = view.data().as_chunks::<2>();
        let numbers = match view.dtype() {
            Dtype::F32 => words.iter().map(|&word| f32::from_le_bytes(word)).collect(),
            Dtype::F16 => halves.iter().map(|&half| f16::from_le_bytes(half).to_f32()).collect(),
            found => return self.other(name, found, "F32 or F16"),
        };
        Ok((view.shape().to_vec(), numbers))
    }

    /// # Errors
    /// Where there is no such tensor of i32.
    pub fn integers(&self, name: &str) -> Result<(Vec<usize>, Vec<i32>)> {
        let view = self.view(name)?;
        if view.dtype() != Dtype::I32 {
            return self.other(name, view.dtype(), "I32");
        }
        let (words, _) = view.data().as_chunks::<4>();
        let numbers = words.iter().map(|&word| i32::from_le_bytes(word)).collect();
        Ok((view.shape().to_vec(), numbers))
    }

    /// # Errors
    /// Where there is no such tensor of f32 or f16 with D axes.
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Result<Tensor<D>> {
        let (shape, values) = self.floats(name)?;
        if shape.len() != D {
            return Err(format!("{}: {name}: shape {shape:?}, not {D} axes", self.name).into());
        }
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }
}
