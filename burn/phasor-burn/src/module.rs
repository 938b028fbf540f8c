//! Rotary self-attention as a module of Burn's.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};
use phasor::rotary::RopeConfig;
use serde::{Deserialize, Serialize};

use crate::error::narrow;
use crate::{
    AttentionOptions, Error, Positions, Result, Rotary, formula, ropepp_attention,
    ropepp_attention_lse,
};

/// Which heads a layer has, by the paper (arXiv 2512.07525, §3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Real heads alone.
    Rope,
    /// RoPE++ with an equal cache: every query head has an imaginary partner, W_o is twice as wide.
    Ec,
    /// RoPE++ with equal heads: half the query and kv heads, hence half the cache, and as many
    /// output heads as the plain layer.
    Eh,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Implementation {
    /// phasor's kernels; the device has to be attached.
    Kernels,
    /// Burn's own operations, on any device: [`formula`].
    Formula,
}

/// Configuration of [`RotaryAttention`].
///
/// ```
/// use phasor_burn::{Mode, RotaryAttentionConfig};
///
/// let config = RotaryAttentionConfig::new(256, 8).with_mode(Mode::Ec).with_kv_heads(Some(2));
/// ```
#[derive(Config, Debug)]
pub struct RotaryAttentionConfig {
    /// Width of what comes in and goes out.
    pub d_model: usize,
    /// Attention heads, as a model's configuration counts them; with [`Mode::Eh`] half of them are
    /// projected.
    pub heads: usize,
    /// Which heads a layer has.
    #[config(default = "Mode::Rope")]
    pub mode: Mode,
    /// Heads of k and v, counted in the same way; as many as `heads` where there is none.
    pub kv_heads: Option<usize>,
    /// Channels of a head, a multiple of 8; `d_model / heads` where there is none.
    pub head_dim: Option<usize>,
    /// Base of the frequencies; [`RotaryAttentionConfig::init_with`] takes any other rule.
    #[config(default = 10000.0)]
    pub theta: f64,
    /// Positions that the table of cosines and sines holds.
    #[config(default = 2048)]
    pub positions: usize,
    /// Whether q and k are rotated at all.
    #[config(default = true)]
    pub rotary: bool,
    /// Whether scores have ALiBi's slopes, `2^(−8 (h + 1) / H)` of output head h.
    #[config(default = false)]
    pub alibi: bool,
    /// Whether a position sees those before it alone.
    #[config(default = true)]
    pub causal: bool,
    /// Sliding window, as in [`AttentionOptions::window`].
    pub window: Option<usize>,
    /// Softcap of scores.
    pub softcap: Option<f64>,
    /// Whether each output head has a sink that is learned.
    #[config(default = false)]
    pub sinks: bool,
    /// Whether the projections have a bias.
    #[config(default = false)]
    pub bias: bool,
    /// How the projections start.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
    /// What computes.
    #[config(default = "Implementation::Kernels")]
    pub implementation: Implementation,
}

impl RotaryAttentionConfig {
    /// The module with new weights, and a rotation of all channels by `theta`.
    ///
    /// # Errors
    /// [`Error::Config`] for heads that do not divide each other, [`Error::Phasor`] for a table of
    /// cosines and sines that cannot be.
    pub fn init(&self, device: &Device) -> Result<RotaryAttention> {
        let dim = narrow("head_dim", self.dim()?)?;
        self.init_with(&RopeConfig::new(dim, self.theta), device)
    }

    /// The same with any rotary embedding.
    ///
    /// # Errors
    /// As [`RotaryAttentionConfig::init`].
    pub fn init_with(&self, rope: &RopeConfig, device: &Device) -> Result<RotaryAttention> {
        let (dim, share) = (self.dim()?, if self.mode == Mode::Eh { 2 } else { 1 });
        let all = self.kv_heads.unwrap_or(self.heads);
        let refuse =
            |what, needed, got: usize| Err(Error::Config { what, needed, got: got.to_string() });
        if !self.heads.is_multiple_of(share) {
            return refuse("heads", "even where half of them are projected", self.heads);
        }
        if all == 0 || !all.is_multiple_of(share) || !self.heads.is_multiple_of(all) {
            return refuse("kv_heads", "a divisor of heads, even where half are projected", all);
        }
        let (heads, kv_heads) = (self.heads / share, all / share);
        let out_heads = if self.mode == Mode::Rope { heads } else { 2 * heads };
        let linear = |from, to| {
            LinearConfig::new(from, to)
                .with_bias(self.bias)
                .with_initializer(self.initializer.clone())
                .init(device)
        };
        let slope = |h: usize| (-8.0 * (h + 1) as f32 / out_heads as f32).exp2();
        let options = AttentionOptions {
            causal: self.causal,
            window: self.window.map(|window| narrow("window", window)).transpose()?,
            softcap: self.softcap.map(|cap| cap as f32),
            alibi_slopes: if self.alibi { (0..out_heads).map(slope).collect() } else { Vec::new() },
            rotary_dim: Some(rope.rotary_dim),
            pairing: rope.pairing,
            ..match self.mode {
                Mode::Rope => AttentionOptions::plain(),
                Mode::Ec | Mode::Eh => AttentionOptions::ropepp(),
            }
        };
        let positions = narrow("positions", self.positions)?;
        let rotary = self.rotary.then(|| Rotary::new(rope, positions, device)).transpose()?;
        Ok(RotaryAttention {
            query: linear(self.d_model, heads * dim),
            key: linear(self.d_model, kv_heads * dim),
            value: linear(self.d_model, kv_heads * dim),
            output: linear(out_heads * dim, self.d_model),
            sinks: self.sinks.then(|| Initializer::Zeros.init([out_heads], device)),
            rotary,
            options,
            implementation: self.implementation,
            head_dim: dim,
        })
    }

    fn dim(&self) -> Result<usize> {
        let refuse =
            |what, needed, got: usize| Err(Error::Config { what, needed, got: got.to_string() });
        match self.head_dim {
            _ if self.heads == 0 => refuse("heads", "at least 1", 0),
            None if !self.d_model.is_multiple_of(self.heads) => {
                refuse("d_model", "a multiple of heads, or head_dim given", self.d_model)
            }
            dim => Ok(dim.unwrap_or(self.d_model / self.heads)),
        }
    }
}

/// Self-attention with rotary position embedding: projections, rotation, attention of real and
/// imaginary heads, output projection. Made by [`RotaryAttentionConfig`].
///
/// Records hold the projections and sinks. The table of cosines and sines is part of neither
/// records nor moves to other devices: make the module where it runs, and load its record.
#[derive(Module, Debug)]
pub struct RotaryAttention {
    /// W_q, `d_model` → query heads × D.
    pub query: Linear,
    /// W_k, `d_model` → kv heads × D.
    pub key: Linear,
    /// W_v, `d_model` → kv heads × D.
    pub value: Linear,
    /// W_o, output heads × D → `d_model`; with RoPE++ the heads are re0, im0, re1, im1, …
    pub output: Linear,
    /// A sink for each output head.
    pub sinks: Option<Param<Tensor<1>>>,
    #[module(skip)]
    rotary: Option<Rotary>,
    #[module(skip)]
    options: AttentionOptions,
    #[module(skip)]
    implementation: Implementation,
    head_dim: usize,
}

impl RotaryAttention {
    /// `[B, S, d_model]` → `[B, S, d_model]`, rows at positions 0, 1, …
    ///
    /// # Errors
    /// As [`ropepp_attention`] and [`Rotary::query`].
    pub fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>> {
        self.forward_at(x, &Positions::From(0))
    }

    /// The same with rows at other positions. They bear on the rotation; the causal mask goes by
    /// rows.
    ///
    /// # Errors
    /// As [`RotaryAttention::forward`].
    pub fn forward_at(&self, x: Tensor<3>, positions: &Positions) -> Result<Tensor<3>> {
        let [batch, seq, width] = x.dims();
        // Rows of one product: as a batch of products, each sequence would have a gradient of the
        // weights, and those be added.
        let x = x.reshape([batch * seq, width]);
        // Views: no rows are moved.
        let heads = |x: Tensor<2>| {
            let heads = x.dims()[1] / self.head_dim;
            x.reshape([batch, seq, heads, self.head_dim]).swap_dims(1, 2)
        };
        let q = heads(self.query.forward(x.clone()));
        let k = heads(self.key.forward(x.clone()));
        let v = heads(self.value.forward(x));
        let out = match self.implementation {
            Implementation::Kernels => self.kernels(q, k, v, positions),
            Implementation::Formula => self.formula(q, k, v, positions),
        }?;
        let [_, heads, _, dim] = out.dims();
        let out = self.output.forward(out.swap_dims(1, 2).reshape([batch * seq, heads * dim]));
        let [_, width] = out.dims();
        Ok(out.reshape([batch, seq, width]))
    }

    fn kernels(
        &self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        positions: &Positions,
    ) -> Result<Tensor<4>> {
        let (q, k) = match &self.rotary {
            Some(rotary) => (rotary.query(q, positions)?, rotary.key(k, positions)?),
            None => (q, k),
        };
        match &self.sinks {
            None => ropepp_attention(q, k, v, &self.options),
            Some(sinks) => {
                let (out, lse) = ropepp_attention_lse(q, k, v, &self.options)?;
                Ok(with_sinks(out, lse, sinks.val()))
            }
        }
    }

    fn formula(
        &self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        positions: &Positions,
    ) -> Result<Tensor<4>> {
        let (q, k) = match &self.rotary {
            Some(rotary) => {
                (formula::query(rotary, q, positions)?, formula::key(rotary, k, positions)?)
            }
            None => (q, k),
        };
        match &self.sinks {
            None => formula::attention(q, k, v, &self.options),
            Some(sinks) => {
                let (out, lse) = formula::attention_lse(q, k, v, &self.options)?;
                Ok(with_sinks(out, lse, sinks.val()))
            }
        }
    }
}

/// A sink joins the denominator alone: `exp(lse) / (exp(lse) + exp(sink))` of the output is left.
fn with_sinks(out: Tensor<4>, lse: Tensor<3>, sinks: Tensor<1>) -> Tensor<4> {
    let [b, h, s, _] = out.dims();
    let share = sigmoid(lse - sinks.reshape([1, h, 1])).cast(out.dtype());
    out * share.reshape([b, h, s, 1])
}
