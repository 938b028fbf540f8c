//! A decoder-only language model: RMSNorm, rotary attention, SwiGLU.

use burn::module::{Module, Param, ParamId};
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig,
};
use burn::tensor::activation::{log_softmax, silu};
use burn::tensor::{Device, Int, Tensor, TensorData};
use phasor_burn::phasor::rotary::RopeConfig;
use phasor_burn::{Implementation, Mode, RotaryAttention, RotaryAttentionConfig};
use rand::{SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, StandardNormal};

use crate::Result;
use crate::weights::ready;

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
    /// Whether q and k are rotated.
    pub rotary: bool,
    /// Whether scores have ALiBi's slopes.
    pub alibi: bool,
    /// The most keys that a position sees.
    pub window: Option<usize>,
}

impl Sizes {
    /// Heads of q, of k and v, and of what attention gives.
    pub fn projected(&self) -> [usize; 3] {
        let share = if self.mode == Mode::Eh { 2 } else { 1 };
        let (q, kv) = (self.heads / share, self.kv_heads / share);
        [q, kv, if self.mode == Mode::Rope { q } else { 2 * q }]
    }

    /// Numbers that a model of these sizes learns.
    pub fn parameters(&self) -> f64 {
        let [q, kv, outputs] = self.projected();
        let of = |factors: [usize; 2]| factors.map(|n| n as f64).iter().product::<f64>();
        let attention = of([q + 2 * kv + outputs, self.head_dim]) * self.width as f64;
        let layer = attention + of([3 * self.width, self.mlp]) + of([2, self.width]);
        let tables = of([self.vocabulary, self.width]) * if self.tied { 1.0 } else { 2.0 };
        tables + self.layers as f64 * layer + self.width as f64
    }
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

impl Block {
    /// Rows of all sequences are rows of one product: as a batch of them, each would have a
    /// gradient of the weights, and those be added.
    fn mlp(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let h = self.mlp_norm.forward(x).reshape([batch * seq, width]);
        let gated = silu(self.gate.forward(h.clone())) * self.up.forward(h);
        self.down.forward(gated).reshape([batch, seq, width])
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
            .with_rotary(sizes.rotary)
            .with_alibi(sizes.alibi)
            .with_window(sizes.window)
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

    /// Where it is.
    pub fn device(&self) -> Device {
        self.embedding.weight.device()
    }

    /// How many there are.
    pub fn parameters(&mut self) -> usize {
        let size = |entry| match entry {
            Entry::Vector(param) => param.dims()[0],
            Entry::Matrix(param) | Entry::Linear(param) => param.dims().iter().product(),
        };
        self.entries().into_iter().map(|(_, entry)| size(entry)).sum()
    }

    /// New weights of a seed, the same on every device: Burn's own generators differ.
    pub fn start(&mut self, seed: u64) {
        let device = self.device();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut new = |[rows, columns]: [usize; 2]| {
            let normal = StandardNormal.sample_iter(&mut rng).map(|x: f32| 0.02 * x);
            let data: Vec<f32> = normal.take(rows * columns).collect();
            Tensor::<2>::from_data(TensorData::new(data, [rows, columns]), &device)
        };
        for (_, entry) in self.entries() {
            if let Entry::Matrix(param) | Entry::Linear(param) = entry {
                *param = Param::initialized(param.id, ready(new(param.dims())));
            }
        }
    }

    /// Takes the weights of a model of the same sizes, without a gradient.
    pub fn take(&mut self, other: &mut Self) {
        for ((_, to), (_, from)) in self.entries().into_iter().zip(other.entries()) {
            match (to, from) {
                (Entry::Vector(to), Entry::Vector(from)) => {
                    *to = Param::initialized(to.id, from.val().inner());
                }
                (Entry::Matrix(to), Entry::Matrix(from))
                | (Entry::Linear(to), Entry::Linear(from)) => {
                    *to = Param::initialized(to.id, from.val().inner());
                }
                _ => {}
            }
        }
    }

    /// Logits `[B, S, vocabulary]` of tokens `[B, S]`.
    ///
    /// # Errors
    /// As [`RotaryAttention::forward`].
    pub fn logits(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>> {
        self.logits_by(tokens, |attention, x| Ok(attention.forward(x)?))
    }

    /// The same with attention computed in another way, of a layer and its normed input.
    ///
    /// # Errors
    /// Those of that way.
    pub fn logits_by(
        &self,
        tokens: Tensor<2, Int>,
        attend: impl Fn(&RotaryAttention, Tensor<3>) -> Result<Tensor<3>>,
    ) -> Result<Tensor<3>> {
        let mut x = self.embedding.forward(tokens);
        for block in &self.blocks {
            x = x.clone() + attend(&block.attention, block.attention_norm.forward(x))?;
            x = x.clone() + block.mlp(x);
        }
        Ok(self.foretell(x))
    }

    /// Logits of the last layer's output.
    fn foretell(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let x = self.norm.forward(x).reshape([batch * seq, width]);
        let logits = match &self.head {
            Some(head) => head.forward(x),
            None => x.matmul(self.embedding.weight.val().transpose()),
        };
        let [_, vocabulary] = logits.dims();
        logits.reshape([batch, seq, vocabulary])
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
