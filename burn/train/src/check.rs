//! Recorded training runs: twenty steps from given weights, held to the loss of every step, the
//! gradient's norm, the first gradient and the last weights. A falling loss proves nothing: a wrong
//! sign, a missing stream or a rotation that is not undone still train.

use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use phasor_burn::phasor::rotary::{RopeConfig, RopeRule};
use phasor_burn::{Implementation, Mode};
use serde_json::Value;

use crate::Result;
use crate::file::File;
use crate::model::{Entry, Lm, Sizes};
use crate::optimizer::{AdamW, values};

/// What f32 may be off by, as the reference's README has it.
const LOSS: f64 = 1e-5;
const NORM: f64 = 1e-5;
const GRADIENT: f64 = 1e-6;
const WEIGHTS_RMS: f64 = 1e-6;
const WEIGHT: f64 = 1e-3;

/// Runs a recorded training run, and says how far it was off.
///
/// # Errors
/// Where the file is no such record, or anything is off by more than f32 may be.
pub fn check(path: &Path, implementation: Implementation, device: &Device) -> Result<String> {
    let file = File::read(path)?;
    let run = Run::read(&file)?;
    let mut model = Lm::new(&run.sizes, &run.rope, implementation, device)?;
    model.load(&file, "w.", device)?;
    let optimizer = run.optimizer()?;
    let mut moments = None;
    let (mut most, mut most_norm) = (0f64, 0f64);
    for (step, tokens) in run.tokens.iter().enumerate() {
        let tokens = Tensor::<2, Int>::from_data(tokens.clone(), device);
        let loss = model.loss(tokens)?;
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let loss = f64::from(loss.into_scalar::<f32>());
        let (norm, first) = measured(&mut model, &gradients, &file, step == 0)?;
        let off = hold("the loss", step, loss, run.loss[step], LOSS)?;
        most = most.max(off);
        let stated = run.norm[step];
        let off = hold("the gradient's norm", step, norm, stated, NORM * stated)?;
        most_norm = most_norm.max(off / stated);
        hold("the gradient", step, first, 0.0, GRADIENT)?;
        optimizer.step(run.lr, &mut model, &gradients, &mut moments)?;
    }
    let (rms, largest) = last_weights(&mut model, &file)?;
    hold("the last weights' root mean square", run.loss.len(), rms, 0.0, WEIGHTS_RMS)?;
    hold("a last weight", run.loss.len(), largest, 0.0, WEIGHT)?;
    Ok(format!(
        "{} steps, loss off by {most:.1e} of {LOSS:.0e}, norm by {most_norm:.1e} of {NORM:.0e}, \
         weights by {rms:.1e} of {WEIGHTS_RMS:.0e}",
        run.loss.len()
    ))
}

fn hold(what: &str, step: usize, got: f64, stated: f64, bound: f64) -> Result<f64> {
    let off = (got - stated).abs();
    // A NaN is no good either.
    match off <= bound {
        true => Ok(off),
        false => Err(format!(
            "step {step}: {what} is {got}, recorded {stated}: off by {off:.2e} > {bound:.1e}"
        )
        .into()),
    }
}

/// What a file says beside its weights.
struct Run {
    sizes: Sizes,
    rope: RopeConfig,
    about_optimizer: Value,
    lr: f64,
    tokens: Vec<TensorData>,
    loss: Vec<f64>,
    norm: Vec<f64>,
}

impl Run {
    fn read(file: &File) -> Result<Self> {
        let config = file.json("config")?;
        let (shape, tokens) = file.integers("tokens")?;
        let [steps, batch, length] = *shape else {
            return Err(format!("tokens {shape:?}, not three axes").into());
        };
        let per_step = tokens.chunks_exact((batch * length).max(1));
        let tokens: Vec<_> =
            per_step.map(|ids| TensorData::new(ids.to_vec(), [batch, length])).collect();
        let recorded = |name: &str| -> Result<Vec<f64>> {
            Ok(file.floats(name)?.1.into_iter().map(f64::from).collect())
        };
        let (loss, norm) = (recorded("loss")?, recorded("grad_norm")?);
        if length < 2 || [loss.len(), norm.len(), tokens.len()] != [steps; 3] {
            return Err(
                format!("{steps} steps, {} losses, {} norms", loss.len(), norm.len()).into()
            );
        }
        let rope_config = &config["rope_config"];
        let mode = match (rope_config["imag"].as_bool(), rope_config["imag_mode"].as_str()) {
            (None | Some(false), _) => Mode::Rope,
            (Some(true), Some("imag1")) => Mode::Eh,
            (Some(true), Some("imag2")) => Mode::Ec,
            other => return Err(format!("a mode that is not known: {other:?}").into()),
        };
        let head_dim = count(&config, "head_dim")?;
        let sizes = Sizes {
            vocabulary: count(&config, "vocab")?,
            width: count(&config, "hidden_size")?,
            layers: count(&config, "layers")?,
            heads: count(&config, "num_attention_heads")?,
            kv_heads: count(&config, "num_key_value_heads")?,
            head_dim,
            mlp: count(&config, "intermediate_size")?,
            mode,
            norm_eps: number(&config, "rms_norm_eps")?,
            tied: config["tie"].as_bool().unwrap_or(false),
            positions: length - 1,
            rotary: true,
            alibi: false,
            window: None,
        };
        if config["hidden_act"] != "silu" {
            return Err(format!("an activation that is not known: {}", config["hidden_act"]).into());
        }
        let dim = u32::try_from(head_dim)?;
        let rope = RopeConfig {
            rule: rule(rope_config)?,
            ..RopeConfig::new(dim, number(&config, "rope_theta")?)
        };
        let about_optimizer = file.json("optimizer")?;
        let lr = number(&about_optimizer, "lr")?;
        Ok(Self { sizes, rope, about_optimizer, lr, tokens, loss, norm })
    }

    fn optimizer(&self) -> Result<AdamW> {
        let about = &self.about_optimizer;
        let known = about["algorithm"] == "AdamW"
            && about["bias_correction"] == true
            && (about["clipping"].is_null() || about["clipping"].is_number())
            && about["schedule"] == "constant";
        if !known {
            return Err(format!("an optimizer that is not known: {about}").into());
        }
        let beta = |n: usize| about["betas"][n].as_f64().ok_or("no betas");
        Ok(AdamW {
            betas: [beta(0)?, beta(1)?],
            eps: number(about, "eps")?,
            weight_decay: number(about, "weight_decay")?,
            clip: about["clipping"].as_f64(),
        })
    }
}

/// As the RoPE++ authors' configurations say it.
fn rule(about: &Value) -> Result<RopeRule> {
    let yes = |key: &str| about[key].as_bool().unwrap_or(false);
    Ok(match (yes("yarn"), yes("pi")) {
        (false, false) => RopeRule::Default,
        (false, true) => RopeRule::Linear { factor: number(about, "factor")? },
        (true, false) => RopeRule::YarnRotations {
            factor: number(about, "factor")?,
            original_max_position_embeddings: 4096,
            alpha: 1.0,
            beta: 32.0,
        },
        (true, true) => return Err("both YaRN and position interpolation".into()),
    })
}

fn number(about: &Value, key: &str) -> Result<f64> {
    about[key].as_f64().ok_or_else(|| format!("no {key} in {about}").into())
}

fn count(about: &Value, key: &str) -> Result<usize> {
    let found = about[key].as_u64().ok_or_else(|| format!("no {key} in {about}"))?;
    Ok(usize::try_from(found)?)
}

/// Norm of all gradients, and the largest error of the first step's.
fn measured(
    model: &mut Lm,
    gradients: &GradientsParams,
    file: &File,
    first: bool,
) -> Result<(f64, f64)> {
    let (mut squares, mut largest) = (0f64, 0f64);
    for (name, entry) in model.entries() {
        let missing = || format!("{name} has no gradient");
        let id = entry.id();
        let got = match entry {
            Entry::Vector(_) => values(gradients.get::<1>(id).ok_or_else(missing)?)?,
            Entry::Matrix(_) => values(gradients.get::<2>(id).ok_or_else(missing)?)?,
            Entry::Linear(_) => values(gradients.get::<2>(id).ok_or_else(missing)?.transpose())?,
        };
        squares += got.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
        if first {
            let (_, stated) = file.floats(&format!("grad0.{name}"))?;
            largest = largest.max(errors(&name, &got, &stated)?.fold(0.0, worst));
        }
    }
    Ok((squares.sqrt(), largest))
}

/// Root mean square and largest of the errors of all weights.
fn last_weights(model: &mut Lm, file: &File) -> Result<(f64, f64)> {
    let (mut squares, mut largest, mut count) = (0f64, 0f64, 0usize);
    for (name, entry) in model.entries() {
        let got = match entry {
            Entry::Vector(param) => values(param.val())?,
            Entry::Matrix(param) => values(param.val())?,
            Entry::Linear(param) => values(param.val().transpose())?,
        };
        let (_, stated) = file.floats(&format!("final.{name}"))?;
        for error in errors(&name, &got, &stated)? {
            squares += error * error;
            largest = worst(largest, error);
        }
        count += got.len();
    }
    Ok(((squares / count as f64).sqrt(), largest))
}

/// The larger one, and NaN before all.
fn worst(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
}

fn errors<'a>(
    name: &str,
    got: &'a [f32],
    stated: &'a [f32],
) -> Result<impl Iterator<Item = f64> + 'a> {
    if got.len() != stated.len() {
        return Err(format!("{name}: {} numbers, recorded {}", got.len(), stated.len()).into());
    }
    Ok(got.iter().zip(stated).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()))
}
