//! A training run.

use std::path::Path;
use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use indicatif::{ProgressBar, ProgressStyle};
use phasor_burn::Implementation;
use phasor_burn::phasor::rotary::RopeConfig;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::Result;
use crate::backend::Started;
use crate::checkpoint::{self, Record, Resumed};
use crate::config::ModelConfig;
use crate::corpus::Corpus;
use crate::evaluate::held_out_loss;
use crate::memory::Need;
use crate::model::Lm;
use crate::optimizer::Moments;
use crate::settings::Settings;

/// Held-out characters that the loss is taken of while training.
pub const JUDGED: usize = 16_384;

/// A run on one device.
pub struct Run<'a> {
    pub settings: &'a Settings,
    pub corpus: &'a Corpus,
    pub config: &'a ModelConfig,
    pub rope: RopeConfig,
    pub model: Lm,
    /// Memory that a step takes.
    pub need: Need,
    moments: Option<Moments>,
    implementation: Implementation,
}

impl<'a> Run<'a> {
    /// A model with the first weights of the seed.
    ///
    /// # Errors
    /// Where sizes do not fit, or the device has no memory for them.
    pub fn new(
        settings: &'a Settings,
        corpus: &'a Corpus,
        config: &'a ModelConfig,
        started: &Started,
    ) -> Result<Self> {
        corpus.holds(settings.ctx)?;
        if settings.batch == 0 || settings.steps == 0 {
            return Err("--batch and --steps have to be at least 1".into());
        }
        let (rope, implementation) = (config.rope()?, started.implementation);
        let (device, sizes) = (started.device.clone().autodiff(), config.sizes(settings.ctx));
        let need = Need::training(&sizes, [settings.batch, settings.ctx], implementation);
        need.fits(&started.memory, "a smaller --batch, --ctx or --layers")?;
        let mut model = Lm::new(&sizes, &rope, implementation, &device)?;
        model.start(settings.seed);
        Ok(Self { settings, corpus, config, rope, model, need, moments: None, implementation })
    }

    /// Sequences of a step, `[batch, ctx + 1]`: the same for every mode and device.
    fn batch(&self, step: usize) -> Tensor<2, Int> {
        let Settings { seed, batch, ctx, .. } = *self.settings;
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1 << 32).wrapping_add(step as u64));
        let text = &self.corpus.train;
        let mut tokens = Vec::with_capacity(batch * (ctx + 1));
        for _ in 0..batch {
            let start = rng.random_range(0..text.len() - ctx);
            tokens.extend(text[start..=start + ctx].iter().map(|&token| i32::from(token)));
        }
        let device: Device = self.model.device();
        Tensor::from_data(TensorData::new(tokens, [batch, ctx + 1]), &device)
    }

    /// One step: loss, and norm of the gradient.
    ///
    /// # Errors
    /// Where a layer refuses.
    pub fn step(&mut self, step: usize) -> Result<[Tensor<1>; 2]> {
        let loss = self.model.loss(self.batch(step))?;
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        let (rate, optimizer) = (self.settings.rate(step), self.settings.optimizer());
        let norm = optimizer.step(rate, &mut self.model, &gradients, &mut self.moments)?;
        Ok([loss.inner(), norm])
    }

    fn held_out(&mut self) -> Result<f64> {
        let (sizes, device) = (self.config.sizes(self.settings.ctx), self.model.device().inner());
        let mut model = Lm::new(&sizes, &self.rope, self.implementation, &device)?;
        model.take(&mut self.model);
        held_out_loss(&model, &self.corpus.held_out, self.settings.ctx, JUDGED)
    }

    fn record(&mut self, backend: &str) -> Record {
        Record {
            settings: self.settings.clone(),
            backend: backend.to_owned(),
            text: self.corpus.name.clone(),
            parameters: self.model.parameters(),
            cache_bytes_per_token: self.config.cache_bytes(),
            bigram_loss: self.corpus.bigram_loss(JUDGED),
            step: 0,
            seconds: 0.0,
            loss: Vec::new(),
            norm: Vec::new(),
            held_out: Vec::new(),
        }
    }
}

/// The most that losses of the CPU and of the kernels may differ by, in the first steps.
const APART: f32 = 1e-4;

/// Does the first steps on two devices and compares the losses.
///
/// # Errors
/// Where they differ.
pub fn hold(
    settings: &Settings,
    corpus: &Corpus,
    config: &ModelConfig,
    [one, other]: [&Started; 2],
    steps: usize,
) -> Result<()> {
    let start = Instant::now();
    let steps = steps.min(settings.steps);
    let losses = |started: &Started| -> Result<Vec<f32>> {
        let mut run = Run::new(settings, corpus, config, started)?;
        let losses = (0..steps).map(|step| Ok(run.step(step)?[0].clone().into_scalar::<f32>()));
        losses.collect()
    };
    let (losses, others) = (losses(one)?, losses(other)?);
    let apart = losses.iter().zip(&others).map(|(a, b)| (a - b).abs());
    let most = apart.fold(0f32, |most, apart| if apart <= most { most } else { apart });
    let seconds = start.elapsed().as_secs_f64();
    say!("{steps} steps on both, {}: losses {most:.1e} apart, {seconds:.0} s", other.name)?;
    match most <= APART {
        true => Ok(()),
        false => {
            Err(format!("losses are {most:.1e} apart, at most {APART:.0e} are allowed").into())
        }
    }
}

/// How often what is written.
#[derive(Debug, Clone, Copy)]
pub struct Often {
    pub checkpoint: usize,
}

/// Trains from the newest checkpoint in `out`, or from the beginning.
///
/// # Errors
/// Where a file cannot be read or written, or the loss is no number any more.
pub fn train(mut run: Run<'_>, started: &Started, out: &Path, often: Often) -> Result<Record> {
    std::fs::create_dir_all(out)?;
    let mut record = run.record(&started.name);
    if let Some(resumed) = Resumed::newest(out, run.settings)? {
        run.moments = Some(resumed.load(&mut run.model)?);
        record = resumed.record;
        say!("{}: {} steps are done", out.display(), record.step)?;
    }
    let steps = run.settings.steps;
    let bar = bar(steps, record.step)?;
    // Reading a number back waits for a GPU.
    let ahead = if started.implementation == Implementation::Kernels { 10 } else { 1 };
    let mut waiting = Vec::new();
    let before = record.seconds;
    let start = Instant::now();
    for step in record.step..steps {
        waiting.push(run.step(step)?);
        let done = step + 1;
        let whole = done == steps || done.is_multiple_of(often.checkpoint);
        if waiting.len() < ahead && !whole {
            continue;
        }
        for [loss, norm] in waiting.drain(..) {
            record.loss.push(loss.into_scalar::<f32>());
            record.norm.push(norm.into_scalar::<f32>());
        }
        let last = record.loss.last().copied().unwrap_or(f32::NAN);
        if !last.is_finite() {
            return Err(format!("step {step}: the loss is {last}; a smaller --lr may help").into());
        }
        record.step = done;
        record.seconds = before + start.elapsed().as_secs_f64();
        let tokens = (run.settings.batch * run.settings.ctx) as f64;
        let rate = tokens * record.step as f64 / record.seconds;
        bar.set_position(done as u64);
        bar.set_message(format!("loss {last:.3}, {rate:.0} characters/s"));
        if whole {
            record.held_out.push((done, run.held_out()?));
            if let Some(moments) = &run.moments {
                checkpoint::write(out, &mut run.model, run.config, moments, &record)?;
            }
        }
    }
    bar.finish();
    checkpoint::write_record(out, &record)?;
    #[cfg(feature = "plots")]
    crate::curve::draw(out, &record)?;
    Ok(record)
}

fn bar(steps: usize, done: usize) -> Result<ProgressBar> {
    let style = "{bar:30} {pos}/{len} steps, {msg}, {elapsed} gone, {eta} to go";
    let bar = ProgressBar::new(steps as u64).with_style(ProgressStyle::with_template(style)?);
    bar.set_position(done as u64);
    bar.reset_eta();
    Ok(bar)
}
