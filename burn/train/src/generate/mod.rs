//! `train generate`: text of a model, through phasor's layer API. Rotation, caches and attention
//! are phasor's, on the GPU; the small matrices are multiplied here.

mod matrices;
mod writer;

use std::io::{Write as _, stdout};
use std::path::PathBuf;

use clap::Args;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::Result;
use crate::checkpoint;
use crate::corpus;
use crate::file::File;
use writer::Writer;

/// Writes text with a model.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of a run, of a checkpoint or of a model.
    model: PathBuf,
    /// What the text begins with.
    #[arg(long, default_value = "\nHAMLET.\n")]
    prompt: String,
    /// Characters to write.
    #[arg(long, default_value_t = 400)]
    characters: usize,
    /// How freely it chooses; 0 takes the likeliest character.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// # Errors
/// Where a file cannot be read, the model does not know a character, or there is no adapter.
pub fn generate(arguments: &Arguments) -> Result<()> {
    let folder = checkpoint::newest(&arguments.model)?;
    let config = checkpoint::config(&folder)?;
    let file = File::read(&checkpoint::model_file(&folder))?;
    let prompt = corpus::encode(&config.symbols, &arguments.prompt)?;
    if prompt.is_empty() {
        return Err("--prompt: at least one character".into());
    }
    let capacity = prompt.len() + arguments.characters;
    let mut writer = Writer::new(&config, &file, capacity)?;
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    let mut logits = writer.read(&prompt)?;
    let mut out = stdout();
    write!(out, "{}", arguments.prompt)?;
    for _ in 0..arguments.characters {
        let token = choose(&logits, arguments.temperature, &mut rng);
        write!(out, "{}", corpus::decode(&config.symbols, &[token]))?;
        out.flush()?;
        logits = writer.read(&[token])?;
    }
    Ok(writeln!(out)?)
}

/// One of the tokens, by their likelihoods.
fn choose(logits: &[f32], temperature: f32, rng: &mut StdRng) -> u8 {
    let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let best = likeliest.unwrap_or_default();
    if temperature <= 0.0 {
        return best as u8;
    }
    let weights: Vec<f32> =
        logits.iter().map(|logit| ((logit - logits[best]) / temperature).exp()).collect();
    let mut left = rng.random::<f32>() * weights.iter().sum::<f32>();
    let chosen = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    chosen.unwrap_or(best) as u8
}
