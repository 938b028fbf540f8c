//! A decoder-only language model: RMSNorm, rotary attention, SwiGLU.

use burn::module::{Module, Param, ParamId};
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig,
};
use burn::tensor::activation::{log_softmax, silu};
use burn::tensor::{Device, Int, Tensor};
use phasor_burn::phasor::rotary::RopeConfig;
use phasor_burn::{Implementation, Mode, RotaryAttention, RotaryAttentionConfig};

use crate::Result;

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    pub vocabulary: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mlp: usize,
    pub mode: Mode,
    pub norm_eps: f64,
    /// Whether the embedding is the output projection as well.
    pub tied: bool,
    /// Positions that the tables hold.
    pub positions: usize,
}

/// One layer.
#[derive(Module, Debug)]
pub struct Block {
    attention_norm: RmsNorm,
    attention: RotaryAttention,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// The model.
#[derive(Module, Debug)]
pub struct Lm {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Option<Linear>,
}

/// A parameter, by where it stands in a file of weights.
pub enum Entry<'a> {
    /// As it is.
    Vector(&'a mut Param<Tensor<1>>),
    /// As it is.
    Matrix(&'a mut Param<Tensor<2>>),
    /// `[outputs, inputs]` in files, the other way round in Burn.
    Linear(&'a mut Param<Tensor<2>>),
}

impl Entry<'_> {
    pub fn id(&self) -> ParamId {
        match self {
            Self::Vector(param) => param.id,
            Self::Matrix(param) | Self::Linear(param) => param.id,
        }
    }
}

impl Lm {
    /// A model with new weights: normal ones of deviation 0.02, as the RoPE++ authors start.
    ///
    /// # Errors
    /// Where heads, widths or the rotation do not fit each other.
    pub fn new(
        sizes: &Sizes,
        rope: &RopeConfig,
        implementation: Implementation,
        device: &Device,
    ) -> Result<Self> {
        let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
        let linear = |from, to| {
            let new = LinearConfig::new(from, to).with_bias(false);
            new.with_initializer(initializer.clone()).init(device)
        };
        let norm = || RmsNormConfig::new(sizes.width).with_epsilon(sizes.norm_eps).init(device);
        let attention = RotaryAttentionConfig::new(sizes.width, sizes.heads)
            .with_kv_heads(Some(sizes.kv_heads))
            .with_head_dim(Some(sizes.head_dim))
            .with_mode(sizes.mode)
            .with_positions(sizes.positions)
            .with_initializer(initializer.clone())
            .with_implementation(implementation);
        let block = |_| -> Result<Block> {
            Ok(Block {
                attention_norm: norm(),
                attention: attention.init_with(rope, device)?,
                mlp_norm: norm(),
                gate: linear(sizes.width, sizes.mlp),
                up: linear(sizes.width, sizes.mlp),
                down: linear(sizes.mlp, sizes.width),
            })
        };
        Ok(Self {
            embedding: EmbeddingConfig::new(sizes.vocabulary, sizes.width)
                .with_initializer(initializer.clone())
                .init(device),
            blocks: (0..sizes.layers).map(block).collect::<Result<_>>()?,
            norm: norm(),
            head: (!sizes.tied).then(|| linear(sizes.width, sizes.vocabulary)),
        })
    }

    /// Logits `[B, S, vocabulary]` of tokens `[B, S]`.
    ///
    /// # Errors
    /// As [`RotaryAttention::forward`].
    pub fn logits(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>> {
        let mut x = self.embedding.forward(tokens);
        for block in &self.blocks {
            x = x.clone() + block.attention.forward(block.attention_norm.forward(x))?;
            let h = block.mlp_norm.forward(x.clone());
            let gated = silu(block.gate.forward(h.clone())) * block.up.forward(h);
            x = x + block.down.forward(gated);
        }
        let x = self.norm.forward(x);
        Ok(match &self.head {
            Some(head) => head.forward(x),
            None => x.matmul(self.embedding.weight.val().transpose().unsqueeze()),
        })
    }

    /// Mean cross entropy of the next tokens: of `tokens` `[B, S + 1]`, all but the last read, all
    /// but the first foretold.
    ///
    /// # Errors
    /// As [`Lm::logits`].
    pub fn loss(&self, tokens: Tensor<2, Int>) -> Result<Tensor<1>> {
        let [batch, length] = tokens.dims();
        let logits = self.logits(tokens.clone().narrow(1, 0, length - 1))?;
        let rows = batch * (length - 1);
        let targets = tokens.narrow(1, 1, length - 1).reshape([rows, 1]);
        let [_, _, vocabulary] = logits.dims();
        let log_p = log_softmax(logits.reshape([rows, vocabulary]), 1);
        Ok(log_p.gather(1, targets).mean().neg())
    }

    /// Every parameter, by its name in a checkpoint of Hugging Face's Llama.
    pub fn entries(&mut self) -> Vec<(String, Entry<'_>)> {
        let Self { embedding, blocks, norm, head } = self;
        let mut all =
            vec![("model.embed_tokens.weight".to_owned(), Entry::Matrix(&mut embedding.weight))];
        for (n, block) in blocks.iter_mut().enumerate() {
            let Block { attention_norm, attention, mlp_norm, gate, up, down } = block;
            let RotaryAttention { query, key, value, output, .. } = attention;
            let name = |part: &str| format!("model.layers.{n}.{part}.weight");
            all.push((name("input_layernorm"), Entry::Vector(&mut attention_norm.gamma)));
            for (part, linear) in
                [("q_proj", query), ("k_proj", key), ("v_proj", value), ("o_proj", output)]
            {
                let name = name(&format!("self_attn.{part}"));
                all.push((name, Entry::Linear(&mut linear.weight)));
            }
            all.push((name("post_attention_layernorm"), Entry::Vector(&mut mlp_norm.gamma)));
            for (part, linear) in [("gate_proj", gate), ("up_proj", up), ("down_proj", down)] {
                all.push((name(&format!("mlp.{part}")), Entry::Linear(&mut linear.weight)));
            }
        }
        all.push(("model.norm.weight".to_owned(), Entry::Vector(&mut norm.gamma)));
        if let Some(head) = head {
            all.push(("lm_head.weight".to_owned(), Entry::Linear(&mut head.weight)));
        }
        all
    }
}
