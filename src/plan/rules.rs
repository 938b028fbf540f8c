//! What is done to a score between Q·Kᵀ and the softmax, and what joins its sum: the same in
//! attention, its backward pass and decode, as far as each has it.

use crate::plan::shader::wgsl;
use crate::plan::softmax::{in_base_2, scale_and_cap, sink_in_base_2};
use crate::plan::{MaskHook, ScoreHook};
use crate::{Error, Result};

/// A tensor `[B, H_out, S_q, S_k]` that bears on every score; strides of 0 broadcast it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bias {
    /// f32 numbers that are added to the scaled scores; −∞ hides a key. A finite number hides none,
    /// not even the lowest (a mask of `torch.finfo(dtype).min`): beside keys without it, a key with
    /// it has no weight; a row all of whose keys have it is the mean of their values, as in f64.
    Additive,
    /// Bytes; 0 hides a key, anything else does not.
    Mask,
}

/// Sequences are no longer than this, nor windows, so that sums of places fit an i32.
const LONGEST: u32 = 1 << 29;

/// The rules of one problem, with its own fields behind them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScoreRules<'a> {
    pub(crate) q_heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) heads_out: u32,
    pub(crate) softmax_scale: f32,
    pub(crate) causal: bool,
    pub(crate) window: Option<u32>,
    pub(crate) softcap: Option<f32>,
    pub(crate) alibi_slopes: &'a [f32],
    pub(crate) bias: Option<Bias>,
    pub(crate) score_mod: Option<&'a ScoreHook>,
    pub(crate) mask_mod: Option<&'a MaskHook>,
    pub(crate) prefix: bool,
    pub(crate) sinks: &'a [f32],
}

impl ScoreRules<'_> {
    /// A factor and perhaps a causal mask.
    pub(crate) fn new(
        [q_heads, kv_heads, heads_out]: [u32; 3],
        softmax_scale: f32,
        causal: bool,
    ) -> Self {
        Self {
            q_heads,
            kv_heads,
            heads_out,
            softmax_scale,
            causal,
            window: None,
            softcap: None,
            alibi_slopes: &[],
            bias: None,
            score_mod: None,
            mask_mod: None,
            prefix: false,
            sinks: &[],
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |what, needed, got: String| Err(Error::Invalid { what, needed, got });
        if self.q_heads == 0 || !self.q_heads.is_multiple_of(self.kv_heads) {
            let got = format!("{} for {} query heads", self.kv_heads, self.q_heads);
            return invalid("kv_heads", "a divisor of the query heads", got);
        }
        if !self.softmax_scale.is_finite() {
            return invalid("softmax_scale", "finite", self.softmax_scale.to_string());
        }
        if self.window.is_some_and(|window| window == 0 || window > LONGEST) {
            return invalid("window", "from 1 to 2^29", format!("{:?}", self.window));
        }
        if self.prefix && !self.causal {
            return invalid("prefix", "false without the causal mask", "true".into());
        }
        if self.softcap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0)) {
            return invalid("softcap", "finite and above 0", format!("{:?}", self.softcap));
        }
        for (what, per_head) in [("alibi_slopes", self.alibi_slopes), ("sinks", self.sinks)] {
            if !per_head.is_empty() && per_head.len() != self.heads_out as usize {
                let got = format!("{} for {} output heads", per_head.len(), self.heads_out);
                return invalid(what, "one an output head, or none", got);
            }
        }
        if self.alibi_slopes.iter().any(|&slope| !in_base_2(slope).is_finite()) {
            let needed = "finite, in base 2 as well (below 2.3e38)";
            return invalid("alibi_slopes", needed, format!("{:?}", self.alibi_slopes));
        }
        check_sinks(self.sinks)
    }

    /// Whether it matters where a query stands among the keys.
    pub(crate) fn placed(&self) -> bool {
        self.causal || self.window.is_some() || !self.alibi_slopes.is_empty()
    }

    /// Keys after its own place that a query sees; `None` where it sees all of them.
    pub(crate) fn ahead(&self) -> Option<u32> {
        match self.causal {
            true => Some(0),
            false => self.window.map(|window| window - 1),
        }
    }

    /// The factor on q and the softcap that shaders take.
    pub(crate) fn scale_and_cap(&self) -> (f32, f32) {
        scale_and_cap(self.softmax_scale, self.softcap)
    }

    /// The sink of an output head in base 2.
    pub(crate) fn sink(&self, head: u32) -> f32 {
        sink_in_base_2(self.sinks.get(head as usize))
    }

    /// The ALiBi slope of an output head in base 2; 0 is none.
    pub(crate) fn slope(&self, head: u32) -> f32 {
        self.alibi_slopes.get(head as usize).map_or(0.0, |&slope| in_base_2(slope))
    }

    /// What the shaders call them.
    pub(crate) fn flags(&self) -> [(&'static str, bool); 3] {
        [
            ("ALIBI", !self.alibi_slopes.is_empty()),
            ("BIAS", self.bias.is_some()),
            ("HOOKS", self.score_mod.is_some() || self.mask_mod.is_some()),
        ]
    }
}

impl<'a> ScoreRules<'a> {
    /// Bias and hooks, or what stands for them.
    pub(crate) fn files(&self) -> [&'a str; 3] {
        [
            match self.bias {
                None => wgsl!("bias/none"),
                Some(Bias::Additive) => wgsl!("bias/add"),
                Some(Bias::Mask) => wgsl!("bias/mask"),
            },
            self.score_mod.map_or(wgsl!("attention/score_mod_none"), ScoreHook::wgsl),
            self.mask_mod.map_or(wgsl!("attention/mask_mod_none"), MaskHook::wgsl),
        ]
    }
}

/// Refuses sinks that are no logits.
pub(crate) fn check_sinks(sinks: &[f32]) -> Result<()> {
    if sinks.iter().any(|sink| sink.is_nan() || *sink == f32::INFINITY) {
        let got = format!("{sinks:?}");
        return Err(Error::Invalid { what: "sinks", needed: "finite or −∞", got });
    }
    Ok(())
}

impl core::fmt::Display for ScoreRules<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{}, scale {:.6}",
            if self.causal { "causal" } else { "full" },
            self.softmax_scale
        )?;
        if let Some(window) = self.window {
            write!(f, ", window {window}")?;
        }
        if let Some(cap) = self.softcap {
            write!(f, ", softcap {cap}")?;
        }
        let others = [
            ("ALiBi", !self.alibi_slopes.is_empty()),
            ("additive bias", self.bias == Some(Bias::Additive)),
            ("mask", self.bias == Some(Bias::Mask)),
            ("score_mod", self.score_mod.is_some()),
            ("mask_mod", self.mask_mod.is_some()),
            ("prefixes", self.prefix),
            ("sinks", !self.sinks.is_empty()),
        ];
        others.iter().filter(|(_, given)| *given).try_for_each(|(name, _)| write!(f, ", {name}"))
    }
}
