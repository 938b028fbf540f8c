//! Checkpoints of a run: folders `step-000700` with the weights, their configuration, the moments
//! of the optimizer, and what was measured so far. They are written under another name and renamed
//! when they are whole.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::config::ModelConfig;
use crate::file::File;
use crate::model::Lm;
use crate::optimizer::Moments;
use crate::settings::Settings;
use crate::weights::{self, Stored};

/// What was measured up to a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub settings: Settings,
    /// What computed.
    pub backend: String,
    pub text: String,
    pub parameters: usize,
    pub cache_bytes_per_token: usize,
    /// Of the held-out text, by pairs of characters.
    pub bigram_loss: f64,
    /// Steps done.
    pub step: usize,
    /// Of training, of all steps together.
    pub seconds: f64,
    /// Of every step.
    pub loss: Vec<f32>,
    /// Norm of the gradient of every step, before it was clipped.
    pub norm: Vec<f32>,
    /// Loss of the held-out text after so many steps.
    pub held_out: Vec<(usize, f64)>,
}

const MODEL: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const MOMENTS: &str = "optimizer.safetensors";
const RECORD: &str = "training.json";

/// Where the weights of a folder are.
pub fn model_file(folder: &Path) -> PathBuf {
    folder.join(MODEL)
}

/// # Errors
/// As [`ModelConfig::read`].
pub fn config(folder: &Path) -> Result<ModelConfig> {
    ModelConfig::read(&folder.join(CONFIG))
}

/// What was measured of the run whose checkpoint or folder this is.
///
/// # Errors
/// Where it cannot be read or is another thing.
pub fn record(folder: &Path) -> Result<Record> {
    let path = folder.join(RECORD);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Writes what was measured.
///
/// # Errors
/// Where it cannot be written.
pub fn write_record(folder: &Path, record: &Record) -> Result<()> {
    let whole = folder.join(RECORD);
    let partial = folder.join(format!("{RECORD}.partial"));
    fs::write(&partial, serde_json::to_string(record)?)?;
    Ok(fs::rename(partial, whole)?)
}

/// Weights and configuration alone, for others to use.
///
/// # Errors
/// Where they cannot be written.
pub fn write_model(
    folder: &Path,
    model: &mut Lm,
    config: &ModelConfig,
    stored: Stored,
) -> Result<()> {
    fs::create_dir_all(folder)?;
    weights::write(&folder.join(MODEL), &model.tensors(stored)?, HashMap::new())?;
    Ok(fs::write(folder.join(CONFIG), serde_json::to_string_pretty(config)? + "\n")?)
}

/// Writes a checkpoint; what older ones have beside weights goes.
///
/// # Errors
/// Where it cannot be written.
pub fn write(
    run: &Path,
    model: &mut Lm,
    config: &ModelConfig,
    moments: &Moments,
    record: &Record,
) -> Result<()> {
    let name = format!("step-{:06}", record.step);
    let (partial, whole) = (run.join(format!("{name}.partial")), run.join(&name));
    remove(&partial)?;
    write_model(&partial, model, config, Stored::F32)?;
    let values = moments.values()?;
    let tensors = ["first", "second"].into_iter().zip(values).map(|(name, values)| {
        (name.to_owned(), Dtype::F32, vec![values.len()], weights::bytes(&values))
    });
    weights::write(&partial.join(MOMENTS), &tensors.collect::<Vec<_>>(), HashMap::new())?;
    write_record(&partial, record)?;
    for file in [MODEL, CONFIG, MOMENTS, RECORD] {
        fs::File::open(partial.join(file))?.sync_all()?;
    }
    remove(&whole)?;
    fs::rename(&partial, &whole)?;
    for (_, older) in all(run)?.into_iter().filter(|(step, _)| *step < record.step) {
        match fs::remove_file(older.join(MOMENTS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The checkpoints of a run that are whole, and after how many steps; the oldest first.
///
/// # Errors
/// Where the folder cannot be read.
pub fn all(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(run) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(format!("{}: {error}", run.display()).into()),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(Ok(step)) = name.strip_prefix("step-").map(str::parse) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint of a run, or the folder itself where it holds none.
///
/// # Errors
/// As [`all`].
pub fn newest(folder: &Path) -> Result<PathBuf> {
    Ok(all(folder)?.pop().map_or_else(|| folder.to_owned(), |(_, newest)| newest))
}

/// What a run that was stopped goes on from.
pub struct Resumed {
    pub record: Record,
    folder: PathBuf,
}

impl Resumed {
    /// The newest checkpoint of a run, if there is one.
    ///
    /// # Errors
    /// Where it is of other settings, or cannot be read.
    pub fn newest(run: &Path, settings: &Settings) -> Result<Option<Self>> {
        let Some((_, folder)) = all(run)?.pop() else { return Ok(None) };
        let record = record(&folder)?;
        let differs = settings.differs(&record.settings);
        if !differs.is_empty() {
            return Err(format!(
                "{} is of a run with other settings ({}): give the same, or another --out",
                folder.display(),
                differs.join("; ")
            )
            .into());
        }
        Ok(Some(Self { record, folder }))
    }

    /// Puts its weights into the model.
    ///
    /// # Errors
    /// Where they are of other shapes.
    pub fn load(&self, model: &mut Lm) -> Result<Moments> {
        let device = model.device();
        model.load(&File::read(&self.folder.join(MODEL))?, "", &device)?;
        let file = File::read(&self.folder.join(MOMENTS))?;
        let values = [file.floats("first")?.1, file.floats("second")?.1];
        let count = model.parameters();
        if values.iter().any(|moment| moment.len() != count) {
            let found = values.map(|moment| moment.len());
            return Err(format!(
                "{}: moments of {found:?} parameters, the model has {count}",
                file.name()
            )
            .into());
        }
        Moments::read(values, self.record.step, model)
    }
}
