//! What a row of the table says, and short ways to write one.

use crate::rotary::Turn;

/// The rotary embedding of one model type: what its code does, and where its configuration says
/// the rest. Numbers are the defaults of the model's configuration class; 0 where it has none.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Row {
    pub name: &'static str,
    pub pairs: Pairs,
    pub direction: Turn,
    pub head: Head,
    pub hidden: u32,
    pub heads: u32,
    /// D where the class does not leave it to `hidden / heads`.
    pub head_dim: u32,
    pub positions: u64,
    pub base: f64,
    /// Keys of the base at the top of the configuration, first found.
    pub base_keys: &'static [&'static str],
    pub share: Share,
    /// The section that the class fills in where the file has none, as JSON.
    pub section: &'static str,
    pub layers: Layers,
    pub unrotated: Unrotated,
    pub streams: Streams,
    pub scale: Scale,
    pub extra: Extra,
    /// The model's sparse attention chooses keys by a second, smaller attention ("indexer") whose
    /// rotation differs from the first's: half-split pairs.
    pub half_indexer: bool,
}

/// Which channels are a pair.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Pairs {
    Half,
    Interleaved,
    /// Read interleaved, written half-split.
    ToHalf,
    /// The same, or half-split where `rope_interleave` is false.
    ToHalfUnless,
}

/// Where the head dimension is found.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Head {
    /// The first of these keys, else hidden / heads.
    Keys(&'static [&'static str]),
    /// hidden / heads, whatever `head_dim` says.
    Divided,
    /// A slice of its own (multi-head latent attention): `qk_rope_head_dim`, with its default. The
    /// scores' dimension is that plus `qk_nope_head_dim`.
    Latent { rope: u32, nope: u32 },
}

/// How many channels of the head are rotated.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Share {
    /// All: the code reads no share.
    Whole,
    /// This share unless one of the keys says another. `partial_rotary_factor` in the section goes
    /// first.
    Of(f64, &'static [&'static str]),
    /// So many channels unless `rotary_dim` says otherwise; 0: all.
    Channels(u32),
}

/// How layers differ.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Layers {
    Same,
    Kinds(&'static [Kind]),
    /// `layer_rope_theta`: a base for each layer, 0 for a layer that is not rotated.
    BaseOfEach,
    /// `layer_rope_theta` of which only the zeros count: layers that are not rotated.
    ZeroOfEach,
    /// `rope_scaling_layers`: the layers that the section's rule holds for; the others have the
    /// default rule on the same base.
    Scaled,
    /// Step-3.5: `rope_theta` and `partial_rotary_factors` may be lists with an entry a layer, and
    /// a flat `rope_scaling` holds for the layers with full attention.
    Lists,
}

/// A kind of layer with a rotary embedding of its own.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Kind {
    pub name: &'static str,
    /// The class's own section, as JSON.
    pub section: &'static str,
    /// Keys of the base at the top of the configuration, where there is no section of the kind.
    pub base_keys: &'static [&'static str],
    /// A flat `rope_scaling` holds for this kind.
    pub scaled: bool,
    /// Where this kind has a head dimension of its own.
    pub head: &'static [&'static str],
    pub head_dim: u32,
    /// `qk_rope_head_dim` of this kind, where it has one of its own.
    pub latent: &'static str,
}

/// Layers without a rotation.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Unrotated {
    Never,
    /// Layers of this kind in `layer_types`.
    Kind(&'static str),
    /// The same, in a model that has a `sliding_window`.
    KindBesideWindow(&'static str),
    /// `no_rope_layers` (0: not rotated), or every `no_rope_layer_interval`th (4 by default).
    Listed,
    /// `rope_layout` (0: not rotated).
    Layout,
}

/// Position streams.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Streams {
    One,
    /// `mrope_section` is three runs of pairs; these by default.
    Sectioned([u32; 3]),
    /// The streams of `mrope_section` alternate; these by default.
    Alternating([u32; 3]),
    /// Up to four runs, which the section must name.
    Runs,
    /// In a way that this crate does not have.
    Other,
}

/// The factor on the scores.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Scale {
    /// 1/√d with d the scores' dimension.
    Head,
    /// The same times g², where the section has `mscale_all_dim` (see [`super::super::scale`]).
    HeadMscale,
    /// 1/√`query_pre_attn_scalar`, this by default; 0: the head dimension.
    PreAttnScalar(u32),
    /// The number under this key, or this by default; 0: 1/√d.
    Stated(&'static str, f64),
    One,
    /// √(2/d): Zamba 2.
    HalfHead,
    /// Learned, so not in the configuration.
    Learned,
}

/// What some models have besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Extra {
    Nothing,
    /// `alibi: true` replaces the rotation.
    Falcon,
    /// Rotated only where `position_embedding_type` says so.
    OnlyIfStated,
    /// Rotated only with `use_mem_rope`.
    Zamba2,
    /// `rope_ratio` multiplies the base.
    ChatGlm,
    /// `use_dynamic_ntk`, `use_logn_attn`, `seq_length`.
    Qwen1,
    /// Hidden size 4096 is rotated, the larger models have ALiBi.
    Baichuan,
    /// `attn_config` holds the base.
    Dbrx,
    /// `attn_config.rope` chooses between a rotation and ALiBi.
    Mpt,
    /// `alpha` of a "dynamic" or "xdrope" section is a fixed NTK stretch.
    Alpha,
    /// `short_mscale`, `long_mscale`.
    PhiMoe,
    /// "su" and "yarn" are LongRoPE.
    Phi3,
    /// Temperature by position, on the layers that are not rotated.
    Llama4,
    /// `rotary_scaling_factor`: dynamic NTK over `max_trained_positions`.
    Nomic,
    /// `use_mla: false` makes it a plain model.
    DeepseekV2,
    /// `swa_*` keys for the sliding layers.
    Mimo,
    /// `rotary_dim` is in the configuration and is not read.
    IgnoresRotaryDim,
    /// `llama_4_scaling_beta` in the section: the query is scaled by its position.
    ScaledQuery,
}

const fn base(name: &'static str) -> Row {
    Row {
        name,
        pairs: Pairs::Half,
        direction: Turn::Forward,
        head: Head::Keys(&["head_dim"]),
        hidden: 0,
        heads: 0,
        head_dim: 0,
        positions: 0,
        base: 0.0,
        base_keys: &["rope_theta"],
        share: Share::Whole,
        section: "",
        layers: Layers::Same,
        unrotated: Unrotated::Never,
        streams: Streams::One,
        scale: Scale::Head,
        extra: Extra::Nothing,
        half_indexer: false,
    }
}

/// Half-split pairs over the whole head, all layers alike: hidden size, heads, positions, base.
pub(super) const fn half(
    name: &'static str,
    hidden: u32,
    heads: u32,
    positions: u64,
    theta: f64,
) -> Row {
    Row { hidden, heads, positions, base: theta, ..base(name) }
}

/// The same with interleaved pairs.
pub(super) const fn interleaved(
    name: &'static str,
    hidden: u32,
    heads: u32,
    positions: u64,
    theta: f64,
) -> Row {
    Row { pairs: Pairs::Interleaved, ..half(name, hidden, heads, positions, theta) }
}

/// Latent attention: rotated and unrotated channels of a head, positions, base.
pub(super) const fn latent(
    name: &'static str,
    pairs: Pairs,
    dims: [u32; 2],
    positions: u64,
    theta: f64,
) -> Row {
    Row {
        pairs,
        head: Head::Latent { rope: dims[0], nope: dims[1] },
        scale: Scale::HeadMscale,
        ..half(name, 0, 0, positions, theta)
    }
}

impl Row {
    pub(super) const fn head(self, head_dim: u32) -> Self {
        Row { head_dim, ..self }
    }

    pub(super) const fn head_keys(self, keys: &'static [&'static str]) -> Self {
        Row { head: Head::Keys(keys), ..self }
    }

    pub(super) const fn divided(self) -> Self {
        Row { head: Head::Divided, ..self }
    }

    pub(super) const fn share(self, share: f64) -> Self {
        Row { share: Share::Of(share, &["partial_rotary_factor"]), ..self }
    }

    pub(super) const fn share_keys(self, share: f64, keys: &'static [&'static str]) -> Self {
        Row { share: Share::Of(share, keys), ..self }
    }

    pub(super) const fn channels(self, channels: u32) -> Self {
        Row { share: Share::Channels(channels), ..self }
    }

    pub(super) const fn base_keys(self, base_keys: &'static [&'static str]) -> Self {
        Row { base_keys, ..self }
    }

    pub(super) const fn section(self, section: &'static str) -> Self {
        Row { section, ..self }
    }

    pub(super) const fn layers(self, layers: Layers) -> Self {
        Row { layers, ..self }
    }

    pub(super) const fn unrotated(self, unrotated: Unrotated) -> Self {
        Row { unrotated, ..self }
    }

    pub(super) const fn streams(self, streams: Streams) -> Self {
        Row { streams, ..self }
    }

    pub(super) const fn scale(self, scale: Scale) -> Self {
        Row { scale, ..self }
    }

    pub(super) const fn extra(self, extra: Extra) -> Self {
        Row { extra, ..self }
    }

    pub(super) const fn backward(self) -> Self {
        Row { direction: Turn::Backward, ..self }
    }

    pub(super) const fn half_indexer(self) -> Self {
        Row { half_indexer: true, ..self }
    }
}

impl Kind {
    pub(super) const fn new(name: &'static str, section: &'static str) -> Self {
        Kind { name, section, base_keys: &[], scaled: false, head: &[], head_dim: 0, latent: "" }
    }

    pub(super) const fn base_keys(self, base_keys: &'static [&'static str]) -> Self {
        Kind { base_keys, ..self }
    }

    pub(super) const fn scaled(self) -> Self {
        Kind { scaled: true, ..self }
    }

    pub(super) const fn head(self, head: &'static [&'static str], head_dim: u32) -> Self {
        Kind { head, head_dim, ..self }
    }

    pub(super) const fn latent(self, latent: &'static str) -> Self {
        Kind { latent, ..self }
    }
}
