//! A model's weights in safetensors files, named as those of Hugging Face's Llama.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::Result;
use crate::file::File;
use crate::model::{Entry, Lm};
use crate::optimizer::values;

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    F32,
    F16,
}

/// Name, type, shape and bytes of a tensor that is written.
pub type Named = (String, Dtype, Vec<usize>, Vec<u8>);

impl Lm {
    /// Takes the weights of a file, whose names have something before them.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn load(&mut self, file: &File, before: &str, device: &Device) -> Result<()> {
        for (name, entry) in self.entries() {
            let stored = format!("{before}{name}");
            let fits = |got: &[usize], needed: &[usize]| match got == needed {
                true => Ok(()),
                false => Err(format!(
                    "{}: {stored}: shape {got:?} where the model has {needed:?}",
                    file.name()
                )),
            };
            match entry {
                Entry::Vector(param) => {
                    let weight = file.tensor::<1>(&stored, device)?;
                    fits(&weight.dims(), &param.dims())?;
                    *param = Param::initialized(param.id, ready(weight));
                }
                Entry::Matrix(param) => {
                    let weight = file.tensor::<2>(&stored, device)?;
                    fits(&weight.dims(), &param.dims())?;
                    *param = Param::initialized(param.id, ready(weight));
                }
                Entry::Linear(param) => {
                    let weight = file.tensor::<2>(&stored, device)?;
                    let [inputs, outputs] = param.dims();
                    fits(&weight.dims(), &[outputs, inputs])?;
                    *param = Param::initialized(param.id, ready(weight.transpose()));
                }
            }
        }
        Ok(())
    }

    /// All weights as a file has them.
    ///
    /// # Errors
    /// Where they cannot be read back.
    pub fn tensors(&mut self, stored: Stored) -> Result<Vec<Named>> {
        let mut all = Vec::new();
        for (name, entry) in self.entries() {
            let (shape, numbers) = match entry {
                Entry::Vector(param) => (param.dims().to_vec(), values(param.val().inner())?),
                Entry::Matrix(param) => (param.dims().to_vec(), values(param.val().inner())?),
                Entry::Linear(param) => {
                    let weight = param.val().inner().transpose();
                    (weight.dims().to_vec(), values(weight)?)
                }
            };
            let (dtype, bytes) = match stored {
                Stored::F32 => (Dtype::F32, bytes(&numbers)),
                Stored::F16 => {
                    let halves = numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes());
                    (Dtype::F16, halves.collect())
                }
            };
            all.push((name, dtype, shape, bytes));
        }
        Ok(all)
    }
}

/// On a device with autodiff, a weight that is learned.
pub fn ready<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    if weight.is_autodiff() { weight.detach().require_grad() } else { weight }
}

/// f32 in a file's order of bytes.
pub fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Writes a safetensors file.
///
/// # Errors
/// Where it cannot be written.
pub fn write(path: &Path, tensors: &[Named], about: HashMap<String, String>) -> Result<()> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let about = (!about.is_empty()).then_some(about);
    let file = safetensors::serialize(views, about)?;
    Ok(std::fs::write(path, file).map_err(|error| format!("{}: {error}", path.display()))?)
}
