//! `train evaluate`.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use phasor_burn::phasor::rotary::RopeConfig;
use phasor_burn::{Implementation, Rotary};
use serde::{Deserialize, Serialize};

use super::ablation::{self, Ablation, Change, Component};
use super::loss::{loss_by_position, mean, together};
use super::reach::Reach;
use super::report;
use crate::Result;
use crate::backend::{Backend, Started, choose};
use crate::checkpoint;
use crate::config::{ModelConfig, Variant};
use crate::corpus::Corpus;
use crate::file::File;
use crate::memory::{Memory, Need};
use crate::model::{Lm, Sizes};

/// Takes the loss of held-out text by position, at one to many times the length of training.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folders of runs, of checkpoints or of models.
    #[arg(required = true, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// As of training; the text that a run was trained with unless given.
    #[arg(long, value_name = "PATH")]
    text: Option<PathBuf>,
    /// Lengths, in lengths of training.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    times: Vec<usize>,
    /// What is done about positions past the training length.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "full")]
    reach: Vec<Reach>,
    /// Held-out characters, the same for every length.
    #[arg(long, default_value_t = 65_536)]
    characters: usize,
    /// Every checkpoint of a run, not the last alone.
    #[arg(long)]
    all_steps: bool,
    /// Noise on the real and imaginary queries, in root mean squares of a channel, and heads left
    /// out, of models with both.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_missing_value = "0.5,1,2")]
    ablation: Option<Vec<f64>>,
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Folder for tables, pictures and numbers.
    #[arg(long, value_name = "DIR", default_value = "runs/evaluation")]
    out: PathBuf,
}

/// Losses of one model in one way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub reach: Reach,
    pub times: usize,
    pub length: usize,
    pub ablation: Option<Ablation>,
    pub perplexity: f64,
    /// At every position.
    pub loss: Vec<f64>,
}

/// All of one model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evaluation {
    pub model: String,
    pub mode: Variant,
    pub seed: Option<u64>,
    pub step: Option<usize>,
    /// Characters of a sequence in training.
    pub ctx: usize,
    pub parameters: usize,
    pub cache_bytes_per_token: usize,
    pub text: String,
    pub characters: usize,
    pub measured: Vec<Measured>,
}

/// # Errors
/// Where a model or a text cannot be read, or a file not be written.
pub fn evaluate(arguments: &Arguments) -> Result<()> {
    if arguments.times.contains(&0) {
        return Err("--times: lengths of training, from 1 on".into());
    }
    let mut folders = Vec::new();
    for path in &arguments.models {
        let mut steps = checkpoint::all(path)?.into_iter().map(|(_, folder)| folder);
        match steps.next_back() {
            None => folders.push(path.clone()),
            Some(last) if arguments.all_steps => folders.extend(steps.chain([last])),
            Some(last) => folders.push(last),
        }
    }
    let (started, _) = choose(arguments.backend)?;
    say!("{}", started.name)?;
    fs::create_dir_all(&arguments.out)?;
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} models, {msg}, {eta} to go")?;
    let bar = ProgressBar::new(folders.len() as u64).with_style(style);
    let mut all = Vec::new();
    for folder in &folders {
        bar.set_message(folder.display().to_string());
        all.push(Subject::read(folder, arguments, &started)?.measure(arguments)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let path = arguments.out.join("evaluation.json");
    fs::write(&path, serde_json::to_string(&all)?)?;
    let tables = report::tables(&all);
    fs::write(arguments.out.join("tables.md"), &tables)?;
    say!("{tables}")?;
    #[cfg(feature = "plots")]
    super::pictures::draw(&arguments.out, &all)?;
    Ok(say!("{}", arguments.out.display())?)
}

/// A model that is judged, and by what.
struct Subject {
    folder: PathBuf,
    config: ModelConfig,
    record: Option<checkpoint::Record>,
    corpus: Corpus,
    file: File,
    device: Device,
    implementation: Implementation,
    memory: Memory,
}

impl Subject {
    fn read(folder: &Path, arguments: &Arguments, started: &Started) -> Result<Self> {
        let config = checkpoint::config(folder)?;
        let record = checkpoint::record(folder).ok();
        let of_run = record.as_ref().and_then(|record| record.settings.text.clone());
        let corpus = match arguments.text.clone().or(of_run) {
            Some(path) => Corpus::read(&path)?,
            None => Corpus::built_in()?,
        };
        let corpus = corpus.in_symbols(&config.symbols)?;
        let file = File::read(&checkpoint::model_file(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            config,
            record,
            corpus,
            file,
            device: started.device.clone(),
            implementation: started.implementation,
            memory: started.memory,
        })
    }

    fn model(&self, sizes: &Sizes, rope: &RopeConfig) -> Result<Lm> {
        let mut model = Lm::new(sizes, rope, self.implementation, &self.device)?;
        model.load(&self.file, "", &self.device)?;
        Ok(model)
    }

    fn measure(&self, arguments: &Arguments) -> Result<Evaluation> {
        let ctx = self.config.max_position_embeddings;
        let trained = self.config.rope()?;
        let mut measured = Vec::new();
        for (times, reach) in arguments.times.iter().flat_map(|&times| {
            // At the training length all are the same.
            let more = arguments.reach.iter().filter(move |&&reach| {
                reach == Reach::Full
                    || times > 1 && (!reach.stretches() || self.config.mode.rotates())
            });
            more.map(move |&reach| (times, reach))
        }) {
            let length = times * ctx;
            let window = (reach == Reach::Sliding).then_some(ctx);
            let sizes = Sizes { window, ..self.config.sizes(length) };
            let rope = reach.rope(&trained, times, ctx);
            // Heads are changed with the formula.
            let changed = arguments.ablation.as_ref().map(|_| Implementation::Formula);
            let implementation = changed.unwrap_or(self.implementation);
            let need = Need::reading(&sizes, [together(length), length], implementation);
            need.fits(&self.memory, "fewer --times")?;
            let model = self.model(&sizes, &rope)?;
            let losses = |ablation: Option<Ablation>| -> Result<Measured> {
                let rotary = Rotary::new(&rope, u32::try_from(length)?, &self.device)?;
                let dim = self.config.head_dim;
                let logits = |tokens: Tensor<2, Int>| match ablation {
                    None => model.logits(tokens),
                    Some(change) => model.logits_by(tokens, |layer, x| {
                        ablation::attend(layer, &rotary, dim, x, change)
                    }),
                };
                self.device.seed(0);
                let text = &self.corpus.held_out;
                let loss =
                    loss_by_position(logits, &self.device, text, length, arguments.characters)?;
                let perplexity = mean(&loss).exp();
                Ok(Measured { reach, times, length, ablation, perplexity, loss })
            };
            measured.push(losses(None)?);
            let sigmas = arguments.ablation.iter().flatten().map(|&sigma| Change::Noise(sigma));
            let both = matches!(self.config.mode, Variant::Ec | Variant::Eh);
            if both && reach == Reach::Full && arguments.ablation.is_some() {
                for change in sigmas.chain([Change::Nothing]) {
                    for component in [Component::Real, Component::Imaginary] {
                        measured.push(losses(Some((component, change)))?);
                    }
                }
            }
        }
        let mut model = self.model(&self.config.sizes(ctx), &trained)?;
        Ok(Evaluation {
            model: self.folder.display().to_string(),
            mode: self.config.mode,
            seed: self.record.as_ref().map(|record| record.settings.seed),
            step: self.record.as_ref().map(|record| record.step),
            ctx,
            parameters: model.parameters(),
            cache_bytes_per_token: self.config.cache_bytes(),
            text: self.corpus.name.clone(),
            characters: arguments.characters.min(self.corpus.held_out.len() - 1),
            measured,
        })
    }
}
