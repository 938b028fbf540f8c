//! What an attention call computes.

use phasor::attention::AttentionProblem;
use phasor::rotary::Pairing;
use phasor::{DType, HeadMap, OutputHead, Phase};

use crate::error::narrow;

/// Which output heads the query heads have.
#[derive(Debug, Clone, PartialEq)]
pub enum Heads {
    /// One real output head a query head: ordinary attention.
    Plain,
    /// Both components of every query head, re0, im0, re1, im1, …: RoPE++, EC as well as EH, which
    /// differ in how many query and kv heads the model projects.
    RopePp,
    /// Any others.
    Map(HeadMap),
}

impl Heads {
    /// The output heads for so many query heads.
    ///
    /// # Errors
    /// [`phasor::Error::Invalid`] where there is no query head.
    pub fn map(&self, q_heads: u32) -> phasor::Result<HeadMap> {
        match self {
            Self::Plain => HeadMap::plain(q_heads),
            Self::RopePp => HeadMap::ropepp(q_heads),
            Self::Map(map) => Ok(map.clone()),
        }
    }
}

/// What an attention call computes beside the sizes of its tensors. Fill in what differs from
/// [`AttentionOptions::plain`] or [`AttentionOptions::ropepp`].
///
/// ```
/// use phasor_burn::AttentionOptions;
///
/// let plain = AttentionOptions::plain();
/// let gemma = AttentionOptions { window: Some(512), softcap: Some(50.0), ..plain };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionOptions {
    /// Output heads.
    pub heads: Heads,
    /// Whether query i sees only the keys up to `i + S_k − S_q`: the last query stands at the last
    /// key.
    pub causal: bool,
    /// Sliding window: the `window` keys up to a query's own, as Hugging Face counts them; without
    /// the causal mask `window − 1` keys on each side.
    pub window: Option<u32>,
    /// Factor on every score; `D^(−1/2)` where there is none.
    pub softmax_scale: Option<f32>,
    /// Softcap c > 0: every scaled score s becomes `c tanh(s / c)`.
    pub softcap: Option<f32>,
    /// Attention sinks, one logit an output head, or none: constants of the call. Sinks that are
    /// learned are `out · sigmoid(lse − sink)`, of
    /// [`ropepp_attention_lse`](crate::ropepp_attention_lse).
    pub sinks: Vec<f32>,
    /// ALiBi slopes, one an output head, or none.
    pub alibi_slopes: Vec<f32>,
    /// Channels that rotate, where not all of them do.
    pub rotary_dim: Option<u32>,
    /// Where the pairs of q and k lie: after their rotation, where it moves them.
    pub pairing: Pairing,
}

impl AttentionOptions {
    /// Ordinary causal attention.
    pub fn plain() -> Self {
        Self::of(Heads::Plain)
    }

    /// Causal attention of RoPE++, real and imaginary heads by turns.
    pub fn ropepp() -> Self {
        Self::of(Heads::RopePp)
    }

    /// Causal attention with these output heads.
    pub fn of(heads: Heads) -> Self {
        Self {
            heads,
            causal: true,
            window: None,
            softmax_scale: None,
            softcap: None,
            sinks: Vec::new(),
            alibi_slopes: Vec::new(),
            rotary_dim: None,
            pairing: Pairing::Half,
        }
    }

    /// The same in phasor's words, for tensors of these sizes.
    pub(crate) fn problem(
        &self,
        [q_heads, kv_heads, head_dim, value_dim]: [usize; 4],
        dtype: DType,
    ) -> phasor::Result<AttentionProblem> {
        let size = |n| narrow("q", n);
        let (heads, dim) = (self.heads.map(size(q_heads)?)?, size(head_dim)?);
        if heads.q_heads() as usize != q_heads {
            let needed = "the query heads of the head map";
            let got = format!("{q_heads} of {}", heads.q_heads());
            return Err(phasor::Error::Invalid { what: "heads of q", needed, got });
        }
        let new = AttentionProblem::new(heads, size(kv_heads)?, dim);
        Ok(AttentionProblem {
            value_dim: size(value_dim)?,
            rotary_dim: self.rotary_dim.unwrap_or(dim),
            pairing: self.pairing,
            causal: self.causal,
            window: self.window,
            softcap: self.softcap,
            alibi_slopes: self.alibi_slopes.clone(),
            sinks: self.sinks.clone(),
            softmax_scale: self.softmax_scale.unwrap_or(new.softmax_scale),
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            lse: true,
            ..new
        })
    }

    /// Sources and phases of the output heads.
    pub(crate) fn outputs(&self, q_heads: usize) -> phasor::Result<Vec<(usize, Phase)>> {
        let map = self.heads.map(narrow("q", q_heads)?)?;
        let one = |head: &OutputHead| (head.source as usize, head.phase);
        Ok(map.heads().iter().map(one).collect())
    }
}
