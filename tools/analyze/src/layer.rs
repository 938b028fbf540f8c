//! Un-rotated queries, keys and values of one attention layer, and how the model rotates them.

use std::path::Path;

use phasor::rotary::{Pairing, RopeConfig, RopeRule};
use phasor_kit::golden::{File, Tensor};

use crate::Result;

/// What the file holds. Queries and keys are as the projections left them, before RoPE.
pub struct Layer {
    /// Which model, layer and text, in words.
    pub title: String,
    /// `[B, Hq, S, D]`.
    pub q: Tensor,
    /// `[B, Hkv, S, D]`.
    pub k: Tensor,
    /// `[B, Hkv, S, Dv]`.
    pub v: Tensor,
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
        let file = File::read(path)?;
        let layout = file.metadata.get("layout").map_or("", String::as_str);
        let theta = match (theta, file.metadata.get("theta")) {
            (Some(theta), _) => Some(theta),
            (None, Some(text)) => Some(text.parse()?),
            (None, None) => number_after("theta", layout),
        }
        .ok_or_else(|| format!("{}: the metadata has no theta, give --theta", path.display()))?;
        let pairing =
            if layout.contains("interleaved") { Pairing::Interleaved } else { Pairing::Half };

        let tensor = |name| -> Result<(Tensor, [u32; 4])> {
            let tensor = file.tensor(name)?.clone();
            let shape = tensor
                .shape4()
                .ok_or_else(|| format!("{name} is {:?}, not [B, H, S, D]", tensor.shape))?;
            Ok((tensor, shape))
        };
        let ((q, q_shape), (k, k_shape), (v, v_shape)) = (tensor("q")?, tensor("k")?, tensor("v")?);
        if q_shape[0] != 1 || q_shape[2] != k_shape[2] || q_shape[2] < 2 {
            let got = format!("q {q_shape:?}, k {k_shape:?}");
            return Err(format!("one sequence of two tokens or more needed, got {got}").into());
        }

        let entry = |key: &str| file.metadata.get(key).map(String::as_str);
        // The model's entry goes on with its quantisation and checksum.
        let model = entry("model").and_then(|text| text.split(' ').next()).unwrap_or(&file.name);
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

/// The number that follows a word in a sentence: `"…; theta 1e5; …"`.
fn number_after(word: &str, text: &str) -> Option<f64> {
    let mut words = text.split([' ', ';', ',', '=']).filter(|w| !w.is_empty());
    words.find(|w| *w == word)?;
    words.next()?.parse().ok()
}
