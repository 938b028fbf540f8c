//! Un-rotated queries, keys and values of one attention layer, and how the model rotates them.

use std::{fs, path::Path};

use half::f16;
use phasor::rotary::{Pairing, RopeConfig, RopeRule};
use safetensors::{Dtype, SafeTensors};

use crate::Result;

/// What the file holds. Queries and keys are as the projections left them, before RoPE.
pub struct Layer {
    /// Which model, layer and text, in words.
    pub title: String,
    /// `[B, Hq, S, D]`.
    pub q: Vec<f32>,
    /// `[B, Hkv, S, D]`.
    pub k: Vec<f32>,
    /// `[B, Hkv, S, Dv]`.
    pub v: Vec<f32>,
    pub q_shape: [u32; 4],
    pub k_shape: [u32; 4],
    pub v_shape: [u32; 4],
    pub theta: f64,
    pub pairing: Pairing,
    /// How the frequencies follow from theta: plain RoPE, unless something else is put here.
    pub rule: RopeRule,
}

impl Layer {
    /// Reads `q`, `k` and `v`; the base and the pairing come from the file's metadata (`theta`, and
    /// the entry `layout`, which says them in words). `theta` given here goes first.
    pub fn read(path: &Path, theta: Option<f64>) -> Result<Self> {
        let layer = fs::read(path).map_err(Into::into).and_then(|bytes| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            Self::parse(&bytes, &stem, theta)
        });
        layer.map_err(|e| format!("{}: {e}", path.display()).into())
    }

    fn parse(bytes: &[u8], stem: &str, theta: Option<f64>) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let file = SafeTensors::deserialize(bytes)?;
        let metadata = header.metadata().as_ref();
        let entry = |key: &str| metadata.and_then(|all| all.get(key)).map(String::as_str);
        let layout = entry("layout").unwrap_or_default();
        let theta = match (theta, entry("theta")) {
            (Some(theta), _) => Some(theta),
            (None, Some(text)) => Some(text.parse()?),
            (None, None) => number_after("theta", layout),
        }
        .ok_or("the metadata has no theta, give --theta")?;
        let pairing =
            if layout.contains("interleaved") { Pairing::Interleaved } else { Pairing::Half };

        let tensor = |name| -> Result<(Vec<f32>, [u32; 4])> {
            let view = file.tensor(name).map_err(|e| format!("{name}: {e}"))?;
            let shape: [usize; 4] = view
                .shape()
                .try_into()
                .map_err(|_| format!("{name} is {:?}, not [B, H, S, D]", view.shape()))?;
            Ok((floats(view.dtype(), view.data())?, shape.map(|n| n as u32)))
        };
        let ((q, q_shape), (k, k_shape), (v, v_shape)) = (tensor("q")?, tensor("k")?, tensor("v")?);
        if q_shape[0] != 1 || q_shape[2] != k_shape[2] || q_shape[2] < 2 {
            let got = format!("q {q_shape:?}, k {k_shape:?}");
            return Err(format!("one sequence of two tokens or more needed, got {got}").into());
        }

        // The model's entry goes on with its quantisation and checksum.
        let model = entry("model").and_then(|text| text.split(' ').next()).unwrap_or(stem);
        let layer = entry("layer").map_or(String::new(), |layer| format!(", layer {layer}"));
        let title = format!("{model}{layer}");
        let rule = RopeRule::Default;
        Ok(Layer { title, q, k, v, q_shape, k_shape, v_shape, theta, pairing, rule })
    }

    pub fn q_heads(&self) -> u32 {
        self.q_shape[1]
    }

    pub fn seq(&self) -> u32 {
        self.q_shape[2]
    }

    pub fn head_dim(&self) -> u32 {
        self.q_shape[3]
    }

    pub fn kv_heads(&self) -> u32 {
        self.k_shape[1]
    }

    /// How queries and keys turn, over the whole head.
    pub fn rope(&self) -> RopeConfig {
        let plain = RopeConfig::new(self.head_dim(), self.theta);
        RopeConfig { pairing: self.pairing, rule: self.rule.clone(), ..plain }
    }

    /// `head_dim^(−1/2)`, the same for both components.
    pub fn softmax_scale(&self) -> f64 {
        f64::from(self.head_dim()).sqrt().recip()
    }
}

/// The elements of a tensor as f32, which is exact.
fn floats(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>> {
    let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
    let single = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    match dtype {
        Dtype::F16 => Ok(bytes.chunks_exact(2).map(half).collect()),
        Dtype::F32 => Ok(bytes.chunks_exact(4).map(single).collect()),
        other => Err(format!("dtype {other:?} is not read here, only F16 and F32").into()),
    }
}

/// The number that follows a word in a sentence: `"…; theta 1e5; …"`.
fn number_after(word: &str, text: &str) -> Option<f64> {
    let mut words = text.split([' ', ';', ',', '=']).filter(|w| !w.is_empty());
    words.find(|w| *w == word)?;
    words.next()?.parse().ok()
}
