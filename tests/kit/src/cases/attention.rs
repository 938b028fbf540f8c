//! An attention call as a case.

use phasor::{HeadMap, rotary::Pairing};

use super::{Expected, Rotation};

/// An attention call.
#[derive(Debug, Clone)]
pub struct AttentionCase {
    pub name: String,
    pub q: Vec<f32>,
    pub q_shape: [u32; 4],
    pub k: Vec<f32>,
    pub k_shape: [u32; 4],
    pub v: Vec<f32>,
    pub v_shape: [u32; 4],
    /// Rotations of q and of k, which are un-rotated then. `None`: attend with q and k as they are.
    pub rotations: Option<[Rotation; 2]>,
    pub heads: HeadMap,
    pub softmax_scale: f64,
    /// Bottom-right aligned.
    pub causal: bool,
    pub kv_lens: Option<Vec<u32>>,
    pub variant: Variant,
    /// Views of the output `[B, heads, Sq, Dv]`.
    pub out: Vec<Expected>,
    /// Views of the log-sum-exp `[B, heads, Sq, 1]`.
    pub lse: Vec<Expected>,
}

/// What some models add to plain attention.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variant {
    /// Keys that a query sees, itself included.
    pub window: Option<u32>,
    pub softcap: Option<f64>,
    /// One logit an output head, or none.
    pub sinks: Vec<f32>,
    /// One an output head, or none.
    pub alibi_slopes: Vec<f32>,
    /// `[B, H_out, Sq, Sk]`, added to the scores; −∞ hides a key.
    pub bias: Option<Vec<f32>>,
    /// First keys that all queries of a batch see.
    pub prefix_lens: Option<Vec<u32>>,
    /// Place of the first query among the keys; `None`: the last stands at the last key.
    pub query_offset: Option<i32>,
}

impl AttentionCase {
    /// Rotary dimension and pairing of the rotated vectors. Without a rotation any will do, since
    /// then only real heads can be meant.
    pub fn pairs(&self) -> (u32, Pairing) {
        match &self.rotations {
            Some([q, _]) => (q.config.rotary_dim, q.config.pairing),
            None => (0, Pairing::Half),
        }
    }

    /// `[B, heads, Sq, Dv]`.
    pub fn out_shape(&self) -> [u32; 4] {
        let [b, _, s, _] = self.q_shape;
        [b, self.heads.heads().len() as u32, s, self.v_shape[3]]
    }

    /// `[B, heads, Sq, 1]`.
    pub fn lse_shape(&self) -> [u32; 4] {
        let [b, h, s, _] = self.out_shape();
        [b, h, s, 1]
    }
}
