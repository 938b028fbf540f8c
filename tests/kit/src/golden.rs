//! Safetensors files with reference values: tensors as f32 or i32, and the string metadata.

use std::{collections::HashMap, error::Error, fs, path::Path};

use half::f16;
use safetensors::{Dtype, SafeTensors};

/// One tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl Tensor {
    /// The shape as `[B, H, S, D]`; `None` when the tensor has another rank.
    pub fn shape4(&self) -> Option<[u32; 4]> {
        let dims: [usize; 4] = self.shape.as_slice().try_into().ok()?;
        Some(dims.map(|d| d as u32))
    }

    /// The elements in double precision.
    pub fn f64(&self) -> Vec<f64> {
        self.data.iter().map(|&x| f64::from(x)).collect()
    }
}

/// Shape and elements of an integer tensor.
pub type Integers<'a> = (&'a [usize], &'a [i32]);

/// The contents of one file.
#[derive(Debug, Clone)]
pub struct File {
    /// File name without folder and extension.
    pub name: String,
    pub metadata: HashMap<String, String>,
    floats: HashMap<String, Tensor>,
    integers: HashMap<String, (Vec<usize>, Vec<i32>)>,
}

impl File {
    /// Reads a whole file. F16 tensors are widened to f32, which is exact.
    pub fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let file = fs::read(path).map_err(Into::into).and_then(|bytes| Self::parse(&name, &bytes));
        file.map_err(|e| format!("{}: {e}", path.display()).into())
    }

    /// The contents of a file, whatever they are: an error for what is no safetensors file.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, Box<dyn Error>> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let mut file = File {
            name: name.to_owned(),
            metadata: header.metadata().clone().unwrap_or_default(),
            floats: HashMap::new(),
            integers: HashMap::new(),
        };
        for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
            let shape = view.shape().to_vec();
            let name = name.to_owned();
            match view.dtype() {
                Dtype::F32 => {
                    let data = bytemuck::pod_collect_to_vec(view.data());
                    file.floats.insert(name, Tensor { shape, data });
                }
                Dtype::F16 => {
                    let halves: Vec<f16> = view
                        .data()
                        .chunks_exact(2)
                        .map(|b| f16::from_le_bytes([b[0], b[1]]))
                        .collect();
                    let data = halves.into_iter().map(f32::from).collect();
                    file.floats.insert(name, Tensor { shape, data });
                }
                Dtype::I32 => {
                    let data = bytemuck::pod_collect_to_vec(view.data());
                    file.integers.insert(name, (shape, data));
                }
                other => return Err(format!("{name}: dtype {other:?} is not read here").into()),
            }
        }
        Ok(file)
    }

    /// A float tensor, or an error that names the file and the tensor.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, Box<dyn Error>> {
        self.floats.get(name).ok_or_else(|| format!("{}: no float tensor {name}", self.name).into())
    }

    /// An integer tensor: shape and elements.
    pub fn integers(&self, name: &str) -> Result<Integers<'_>, Box<dyn Error>> {
        let (shape, data) = self
            .integers
            .get(name)
            .ok_or_else(|| format!("{}: no integer tensor {name}", self.name))?;
        Ok((shape, data))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.floats.keys().chain(self.integers.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// A metadata entry parsed as JSON; an error when it is missing or no JSON.
    pub fn json(&self, key: &str) -> Result<serde_json::Value, Box<dyn Error>> {
        let text = self
            .metadata
            .get(key)
            .ok_or_else(|| format!("{}: no metadata entry {key}", self.name))?;
        Ok(serde_json::from_str(text).map_err(|e| format!("{}: metadata {key}: {e}", self.name))?)
    }
}
