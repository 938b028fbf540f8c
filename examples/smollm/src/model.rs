//! The forward pass. Whatever concerns positions and attention goes to an [`Attention`].

use std::time::{Duration, Instant};

use crate::Result;
use crate::linear::{Matrix, swiglu};
use crate::weights::Weights;

/// Positions, cache and attention of one sequence. A pass is `begin`, every `layer` in order,
/// `finish`.
pub trait Attention {
    /// The most tokens that a pass may have.
    fn chunk(&self) -> usize;

    /// Forgets the sequence.
    fn reset(&mut self) -> Result<()>;

    /// A pass of `rows` tokens begins: makes room for them.
    fn begin(&mut self, rows: usize) -> Result<()>;

    /// Appends the keys and values of the tokens of this pass and attends with their queries: qkv
    /// `[rows, (H_q + 2 H_kv) D]`, not rotated, to `[rows, H_out D]`.
    fn layer(&mut self, layer: usize, qkv: &Matrix) -> Result<Matrix>;

    /// The pass has ended; its tokens are part of the sequence.
    fn finish(&mut self);

    /// Time that the kernels themselves took so far, as the GPU tells it.
    fn kernel_time(&self) -> Option<Duration> {
        None
    }
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub tokens: usize,
    pub total: Duration,
    /// In [`Attention`]: transfers, submission and waiting included.
    pub attention: Duration,
    /// Of that, in the kernels, where the device tells.
    pub kernels: Option<Duration>,
}

impl Times {
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.total.as_secs_f64()
    }
}

/// Which rows of a pass are wanted as logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    Last,
    All,
}

/// Weights with an attention for one sequence.
pub struct Model {
    pub weights: Weights,
    attention: Box<dyn Attention>,
    /// Passes of several tokens, and of one.
    pub prefill: Times,
    pub decode: Times,
}

impl Model {
    pub fn new(weights: Weights, attention: Box<dyn Attention>) -> Self {
        Self { weights, attention, prefill: Times::default(), decode: Times::default() }
    }

    /// Starts a new sequence.
    pub fn reset(&mut self) -> Result<()> {
        self.attention.reset()
    }

    /// The next tokens of the sequence, in as many passes as it takes; logits of the last one.
    pub fn feed(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.logits(ids, Rows::Last)?.pop().ok_or_else(|| "there are no tokens to feed".into())
    }

    /// The next tokens of the sequence; logits of the last or of every one.
    pub fn logits(&mut self, ids: &[u32], rows: Rows) -> Result<Vec<Vec<f32>>> {
        let mut logits = Vec::new();
        let passes = ids.len().div_ceil(self.attention.chunk());
        for (pass, chunk) in ids.chunks(self.attention.chunk()).enumerate() {
            let start = Instant::now();
            let kernels = self.attention.kernel_time();
            let (x, attention) = self.pass(chunk)?;
            let wanted = match rows {
                Rows::All => Some(x),
                Rows::Last if pass + 1 == passes => Some(x.last()),
                Rows::Last => None,
            };
            if let Some(x) = wanted {
                let all = self.weights.head().forward(&self.weights.norm.forward(&x));
                logits.extend(all.rows().map(<[f32]>::to_vec));
            }
            let times = if ids.len() > 1 { &mut self.prefill } else { &mut self.decode };
            times.tokens += chunk.len();
            times.total += start.elapsed();
            times.attention += attention;
            if let (Some(before), Some(after)) = (kernels, self.attention.kernel_time()) {
                *times.kernels.get_or_insert_default() += after - before;
            }
        }
        Ok(logits)
    }

    /// One pass through all layers: what the last one leaves, and the time within [`Attention`].
    fn pass(&mut self, ids: &[u32]) -> Result<(Matrix, Duration)> {
        let mut x = self.weights.embed(ids)?;
        let mut timed = Instant::now();
        self.attention.begin(ids.len())?;
        let mut attention = timed.elapsed();
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let qkv = layer.qkv.forward(&layer.attention_norm.forward(&x));
            timed = Instant::now();
            let attended = self.attention.layer(i, &qkv)?;
            attention += timed.elapsed();
            x.add(&layer.output.forward(&attended));
            let h = layer.mlp_norm.forward(&x);
            let mut gate = layer.gate.forward(&h);
            swiglu(&mut gate, &layer.up.forward(&h));
            x.add(&layer.down.forward(&gate));
        }
        self.attention.finish();
        Ok((x, attention))
    }
}
