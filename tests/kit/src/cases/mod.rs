//! Reference files as cases that an implementation can run and be held to.
//!
//! A file is recognised by what it contains, and every parameter is read from its tensors and its
//! metadata: a second set of files of the same kinds, with other shapes and numbers, runs as well.

mod apply;
mod attention;
mod axial;
mod backward;
mod curves;
mod expect;
mod features;
mod gradients;
mod interleaved;
mod layer;
mod layer_backward;
mod linear;
mod matrix;
mod model;
mod mrope;
mod partial;
mod read;
mod real;
mod rotation;
mod scores;
mod sdpa;
mod train;
mod variants;

use std::{error::Error, path::Path};

use phasor::{HeadMap, rotary::RopeConfig};

pub use attention::{AttentionCase, Variant};
pub use expect::{Expected, Map};
pub use gradients::{
    BackwardCase, Gradient, LayerBackwardCase, LinearBackwardCase, RopeBackwardCase,
};
pub use matrix::Matrix;
pub use model::{Model, ModelCase};
pub use read::swap_axes;
pub use rotation::Rotation;
pub use train::TrainCase;

use crate::golden::File;

/// Result of reading and running cases.
pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How a tensor of shape `[B, H, S, D]` lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Bhsd,
    Bshd,
}

/// Frequencies of a configuration. Computed on the host by every implementation.
#[derive(Debug, Clone)]
pub struct FrequenciesCase {
    pub name: String,
    pub config: RopeConfig,
    pub current_len: u64,
    /// One a pair.
    pub inv_freq: Vec<f32>,
    /// Allowed error of an inverse frequency, relative.
    pub bound: f64,
    pub attention_scaling: Option<f32>,
    /// Position stream of each pair.
    pub axes: Option<Vec<u8>>,
}

/// Vectors to rotate.
#[derive(Debug, Clone)]
pub struct RopeCase {
    pub name: String,
    pub x: Vec<f32>,
    pub shape: [u32; 4],
    pub order: Order,
    pub rotation: Rotation,
    /// The reference stores the queries of these output heads, made from the rotated vectors.
    pub heads: Option<HeadMap>,
    pub expected: Vec<Expected>,
}

/// Raw scores of every query head: unscaled, unmasked, `[B, Hq, Sq, Sk]`.
#[derive(Debug, Clone)]
pub struct ScoresCase {
    pub name: String,
    /// Un-rotated queries and keys.
    pub q: Vec<f32>,
    pub q_shape: [u32; 4],
    pub k: Vec<f32>,
    pub k_shape: [u32; 4],
    pub q_rotation: Rotation,
    pub k_rotation: Rotation,
    pub real: Expected,
    pub imaginary: Expected,
}

/// Linear attention with elu + 1, every head plain.
#[derive(Debug, Clone)]
pub struct LinearCase {
    pub name: String,
    /// Before the feature map.
    pub q: Vec<f32>,
    pub q_shape: [u32; 4],
    pub k: Vec<f32>,
    pub k_shape: [u32; 4],
    pub v: Vec<f32>,
    pub v_shape: [u32; 4],
    /// Rotation of the features of queries and keys, if they rotate.
    pub rotation: Option<Rotation>,
    pub causal: bool,
    /// `[B, Hq, Sq, Dv]`.
    pub out: Expected,
    /// S `[B, Hkv, F, Dv]` and z `[B, Hkv, 1, F]` after the last key.
    pub state: Option<[Expected; 2]>,
}

/// Which characteristic curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CurveKind {
    Real,
    Imaginary,
    RealIntegral,
    ImaginaryIntegral,
    DecayBound,
}

/// A curve against the distance. Computed on the host by every implementation.
#[derive(Debug, Clone)]
pub struct CurvesCase {
    pub name: String,
    pub config: RopeConfig,
    pub distances: Vec<u32>,
    pub kind: CurveKind,
    /// `[1, 1, distances, 1]`.
    pub expected: Expected,
}

/// A cache that keys and values were appended to.
#[derive(Debug, Clone)]
pub struct CacheCase {
    pub name: String,
    /// Un-rotated keys.
    pub k: Vec<f32>,
    pub k_shape: [u32; 4],
    pub v: Vec<f32>,
    pub v_shape: [u32; 4],
    pub rotation: Rotation,
    /// Rows of the first append; the others come after it.
    pub prefill: u32,
    /// The rotated keys and the values, `[B, Hkv, S, D]`.
    pub expected: [Expected; 2],
}

/// Attention over parts of the keys, to be merged.
#[derive(Debug, Clone)]
pub struct MergeCase {
    pub name: String,
    /// `[B, H, S, Dv]`.
    pub shape: [u32; 4],
    /// Output and log-sum-exp of each part.
    pub parts: Vec<(Vec<f32>, Vec<f32>)>,
    pub out: Expected,
    pub lse: Expected,
}

/// One thing to compute and hold to its reference.
#[derive(Debug, Clone)]
pub enum Case {
    Frequencies(FrequenciesCase),
    Rope(RopeCase),
    Scores(ScoresCase),
    Attention(AttentionCase),
    Cache(CacheCase),
    Merge(MergeCase),
    Linear(LinearCase),
    Model(ModelCase),
    Curves(CurvesCase),
    Backward(BackwardCase),
    LayerBackward(Box<LayerBackwardCase>),
    RopeBackward(RopeBackwardCase),
    LinearBackward(Box<LinearBackwardCase>),
    Train(Box<TrainCase>),
}

impl Case {
    /// Whether the host computes it, whatever runs the kernels.
    pub fn on_host(&self) -> bool {
        matches!(self, Case::Frequencies(_) | Case::Curves(_))
    }

    /// `file/case`.
    pub fn name(&self) -> &str {
        match self {
            Case::Frequencies(case) => &case.name,
            Case::Rope(case) => &case.name,
            Case::Scores(case) => &case.name,
            Case::Attention(case) => &case.name,
            Case::Cache(case) => &case.name,
            Case::Merge(case) => &case.name,
            Case::Linear(case) => &case.name,
            Case::Model(case) => &case.name,
            Case::Curves(case) => &case.name,
            Case::Backward(case) => &case.attention.name,
            Case::LayerBackward(case) => &case.name,
            Case::RopeBackward(case) => &case.name,
            Case::LinearBackward(case) => &case.linear.name,
            Case::Train(case) => &case.name,
        }
    }
}

/// A case of a file that nothing here computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCovered {
    /// `file/case`.
    pub name: String,
    pub reason: String,
}

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub struct Cases {
    pub cases: Vec<Case>,
    pub not_covered: Vec<NotCovered>,
}

/// A kind of reference file.
struct Kind {
    /// Whether a file is of this kind, from its tensors and metadata.
    recognises: fn(&File) -> bool,
    parse: fn(&File) -> Result<Cases>,
}

/// All kinds. No file is recognised by two of them, which a test holds.
const KINDS: &[Kind] = &[
    Kind { recognises: variants::recognises, parse: variants::parse },
    Kind { recognises: interleaved::recognises, parse: interleaved::parse },
    Kind { recognises: partial::recognises, parse: partial::parse },
    Kind { recognises: mrope::recognises, parse: mrope::parse },
    Kind { recognises: axial::recognises, parse: axial::parse },
    Kind { recognises: apply::recognises, parse: apply::parse },
    Kind { recognises: scores::recognises, parse: scores::parse },
    Kind { recognises: layer::recognises, parse: layer::parse },
    Kind { recognises: sdpa::recognises, parse: sdpa::parse },
    Kind { recognises: real::recognises, parse: real::parse },
    Kind { recognises: features::recognises, parse: features::parse },
    Kind { recognises: curves::recognises, parse: curves::parse },
    Kind { recognises: linear::recognises, parse: linear::parse },
    Kind { recognises: model::recognises, parse: model::parse },
    Kind { recognises: backward::recognises, parse: backward::parse },
    Kind { recognises: layer_backward::recognises, parse: layer_backward::parse },
    Kind { recognises: train::recognises, parse: train::parse },
];

/// Reads the cases of a file.
///
/// # Errors
/// When the file cannot be read, is of no kind known here, or lacks what its kind needs.
pub fn load(path: &Path) -> Result<Cases> {
    of(&File::read(path)?)
}

/// The cases of a file that was read.
///
/// # Errors
/// As [`load`].
pub fn of(file: &File) -> Result<Cases> {
    let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| (kind.recognises)(file)).collect();
    let [kind] = kinds.as_slice() else {
        return Err(format!("{}: {} known kinds fit this file", file.name, kinds.len()).into());
    };
    let cases = (kind.parse)(file)?;
    if cases.cases.is_empty() && cases.not_covered.is_empty() {
        return Err(format!("{}: holds no case", file.name).into());
    }
    Ok(cases)
}
