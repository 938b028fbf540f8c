//! A layer's queries and keys, from a safetensors file.

use half::f16;
use safetensors::{Dtype, SafeTensors};

use crate::Result;

/// The longest sequence whose map fits a page.
const LONGEST: usize = 1024;

/// Un-rotated activations of one layer over one text, half-split, causal.
pub struct Layer {
    /// `[1, H_q, S, D]`.
    pub q: Vec<f32>,
    /// `[1, H_kv, S, D]`.
    pub k: Vec<f32>,
    /// H_q.
    pub heads: u32,
    /// H_kv.
    pub kv_heads: u32,
    /// S.
    pub seq: u32,
    /// D.
    pub head_dim: u32,
    /// Base of the model's rotation.
    pub theta: f64,
    /// The pieces of the text as the file spells them; none where it does not.
    pub pieces: Vec<String>,
}

impl Layer {
    /// Reads `q` and `k` in f16 or f32, `theta` and, where there are any, the text's `pieces`
    /// (a list in JSON) from the metadata.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let not = |e: safetensors::SafeTensorError| format!("this is no safetensors file: {e}");
        let file = SafeTensors::deserialize(bytes).map_err(not)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(not)?;
        let entry = |name: &str| header.metadata().as_ref()?.get(name).map(String::as_str);

        let (q, [_, heads, seq, head_dim]) = tensor(&file, "q")?;
        let (k, k_shape) = tensor(&file, "k")?;
        let [_, kv_heads, ..] = k_shape;
        if k_shape != [1, kv_heads, seq, head_dim] {
            let needed = [1, kv_heads, seq, head_dim];
            return Err(format!("k must be {needed:?}, as q is; it is {k_shape:?}").into());
        }
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!("the {kv_heads} heads of k do not divide the {heads} of q").into());
        }
        if !(2..=LONGEST).contains(&seq) || head_dim == 0 || !head_dim.is_multiple_of(8) {
            let needed = format!("2 to {LONGEST} tokens, and channels in multiples of 8");
            return Err(format!("{needed} are drawn here; these are {seq} and {head_dim}").into());
        }
        let theta = match entry("theta") {
            Some(number) => number.parse().ok(),
            None => entry("layout").and_then(|layout| number_after("theta", layout)),
        };
        let theta = theta.ok_or("the metadata has no number theta, the base of the rotation")?;
        let pieces: Vec<String> = match entry("pieces") {
            Some(list) => serde_json::from_str(list).map_err(|e| format!("pieces: {e}"))?,
            None => Vec::new(),
        };
        if !pieces.is_empty() && pieces.len() != seq {
            return Err(format!("{} pieces of text for {seq} tokens", pieces.len()).into());
        }
        let [heads, kv_heads, seq, head_dim] = [heads, kv_heads, seq, head_dim].map(|n| n as u32);
        Ok(Self { q, k, heads, kv_heads, seq, head_dim, theta, pieces })
    }

    /// The query and key rows of a query head, `[S, D]` each.
    pub fn head<'a>(&'a self, head: u32) -> [&'a [f32]; 2] {
        let plane = (self.seq * self.head_dim) as usize;
        let rows = |x: &'a [f32], head: u32| &x[head as usize * plane..][..plane];
        let kv_head = head / (self.heads / self.kv_heads);
        [rows(&self.q, head), rows(&self.k, kv_head)]
    }
}

/// The numbers of a tensor `[1, H, S, D]` as f32, which is exact.
fn tensor(file: &SafeTensors<'_>, name: &str) -> Result<(Vec<f32>, [usize; 4])> {
    let view = file.tensor(name).map_err(|_| format!("the file has no tensor {name}"))?;
    let shape = match *view.shape() {
        [1, heads, seq, dim] => [1, heads, seq, dim],
        _ => return Err(format!("{name} must be [1, H, S, D]; it is {:?}", view.shape()).into()),
    };
    let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
    let single = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let numbers: Vec<f32> = match view.dtype() {
        Dtype::F16 => view.data().chunks_exact(2).map(half).collect(),
        Dtype::F32 => view.data().chunks_exact(4).map(single).collect(),
        other => return Err(format!("{name} must be F16 or F32; it is {other:?}").into()),
    };
    if !numbers.iter().all(|x| x.is_finite()) {
        return Err(format!("{name} has numbers that are not finite").into());
    }
    Ok((numbers, shape))
}

/// The number that follows a word in a sentence: `"…; theta 1e5; …"`.
fn number_after(word: &str, text: &str) -> Option<f64> {
    let mut words = text.split([' ', ';', ',', '=']).filter(|w| !w.is_empty());
    words.find(|w| *w == word)?;
    words.next()?.parse().ok()
}
