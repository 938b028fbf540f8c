//! What a run leaves for others: a model in f16, and the inputs of its attention.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Args;
use phasor_burn::Implementation;
use safetensors::Dtype;

use crate::Result;
use crate::checkpoint;
use crate::corpus::Corpus;
use crate::file::File;
use crate::model::Lm;
use crate::optimizer::values;
use crate::weights::{self, Stored};

/// Writes the newest weights of a run as a model in f16, with its config.json.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of a run, of a checkpoint or of a model.
    from: PathBuf,
    /// Folder of the model.
    to: PathBuf,
}

/// Writes queries, keys and values of every layer, not rotated yet, over held-out text: what
/// `analyze` of the kernels' workspace draws.
#[derive(Debug, Args)]
pub struct Projections {
    /// Folder of a run, of a checkpoint or of a model.
    from: PathBuf,
    /// Folder for the files.
    to: PathBuf,
    /// As of training; the built-in one unless given.
    #[arg(long, value_name = "PATH")]
    text: Option<PathBuf>,
    /// Characters; as many as a sequence of training has unless given.
    #[arg(long)]
    length: Option<usize>,
}

/// # Errors
/// Where a file cannot be read or written.
pub fn export(arguments: &Export) -> Result<()> {
    let folder = checkpoint::newest(&arguments.from)?;
    let config = checkpoint::config(&folder)?;
    let device = Device::flex();
    let sizes = config.sizes(config.max_position_embeddings);
    let mut model = Lm::new(&sizes, &config.rope()?, Implementation::Formula, &device)?;
    model.load(&File::read(&checkpoint::model_file(&folder))?, "", &device)?;
    checkpoint::write_model(&arguments.to, &mut model, &config, Stored::F16)?;
    let bytes = fs::metadata(checkpoint::model_file(&arguments.to))?.len();
    say!("{}: {bytes} bytes", arguments.to.display())?;
    Ok(())
}

/// # Errors
/// Where a file cannot be read or written, or the text is too short.
pub fn projections(arguments: &Projections) -> Result<()> {
    let folder = checkpoint::newest(&arguments.from)?;
    let config = checkpoint::config(&folder)?;
    let length = arguments.length.unwrap_or(config.max_position_embeddings);
    let corpus = match &arguments.text {
        Some(path) => Corpus::read(path)?,
        None => Corpus::built_in()?,
    };
    let corpus = corpus.in_symbols(&config.symbols)?;
    corpus.holds(length)?;
    let device = Device::flex();
    let rope = config.rope()?;
    let mut model = Lm::new(&config.sizes(length), &rope, Implementation::Formula, &device)?;
    model.load(&File::read(&checkpoint::model_file(&folder))?, "", &device)?;
    let tokens = corpus.held_out[..length].iter().map(|&token| i32::from(token)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, length]), &device);
    let layers = core::cell::RefCell::new(Vec::new());
    model.logits_by(tokens, |attention, x| {
        layers.borrow_mut().push(
            [&attention.query, &attention.key, &attention.value].map(|of| of.forward(x.clone())),
        );
        Ok(attention.forward(x)?)
    })?;
    fs::create_dir_all(&arguments.to)?;
    for (n, projected) in layers.into_inner().into_iter().enumerate() {
        let mut tensors = Vec::new();
        for (name, rows) in ["q", "k", "v"].into_iter().zip(projected) {
            let heads = rows.dims()[2] / config.head_dim;
            let of_heads = rows.reshape([1, length, heads, config.head_dim]).swap_dims(1, 2);
            let shape = of_heads.dims().to_vec();
            tensors.push((name.to_owned(), Dtype::F32, shape, weights::bytes(&values(of_heads)?)));
        }
        let about = [
            ("model", format!("characters-{}", config.mode.name())),
            ("layer", n.to_string()),
            ("theta", config.rope_theta.to_string()),
            ("layout", "[B,H,T,D] half-split".to_owned()),
        ];
        let about = about.map(|(key, value)| (key.to_owned(), value));
        let path = arguments.to.join(format!("layer{n}.safetensors"));
        weights::write(&path, &tensors, HashMap::from(about))?;
        say!("{}", path.display())?;
    }
    Ok(())
}
