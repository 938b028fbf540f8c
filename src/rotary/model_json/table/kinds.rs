//! Models with a rotary embedding of its own for each kind of layer.

use super::row::{Extra, Head, Kind, Layers, Pairs, Row, Scale, Unrotated, half};

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
const THETA: &[&str] = &["rope_theta"];
const LOCAL: &[&str] = &["rope_local_base_freq"];

/// Gemma 3: a flat `rope_scaling` and `rope_theta` are of the full layers.
const GEMMA3: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 1000000.0}"#).base_keys(THETA).scaled(),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#).base_keys(LOCAL),
]);

const GEMMA4_FULL: &str =
    r#"{"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}"#;

/// Gemma 4: full layers have heads of `global_head_dim` channels.
const GEMMA4: Layers = Layers::Kinds(&[
    Kind::new(FULL, GEMMA4_FULL).head(&["global_head_dim"], 512),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#),
]);

const EMBEDDING_GEMMA2: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 1000000.0}"#).head(&["global_head_dim"], 512),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#),
]);

const MODERNBERT: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 160000.0}"#).base_keys(&["global_rope_theta"]).scaled(),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#).base_keys(&["local_rope_theta"]).scaled(),
]);

/// Olmo 3: the sliding layers keep the default rule, on the same base.
const OLMO3: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 500000.0}"#).base_keys(THETA).scaled(),
    Kind::new(SLIDING, r#"{"rope_theta": 500000.0}"#).base_keys(THETA),
]);

const BEAM: Layers = Layers::Kinds(&[Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#)]);

const DORY: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 10000000.0}"#),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#),
]);

const LAGUNA: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 500000.0, "partial_rotary_factor": 0.5}"#),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0, "partial_rotary_factor": 1.0}"#),
]);

const LFM3_FULL: &str =
    r#"{"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1000000.0}"#;

const LFM3: Layers =
    Layers::Kinds(&[Kind::new(FULL, LFM3_FULL), Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#)]);

const MELLUM: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 500000.0}"#),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#),
]);

/// MiMo-V2: published files have flat keys, `swa_…` for the sliding layers.
const MIMO: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 5000000.0}"#).base_keys(THETA),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#)
        .base_keys(&["swa_rope_theta"])
        .head(&["swa_head_dim"], 0),
]);

const NEOMME: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 1000000.0, "partial_rotary_factor": 0.25}"#).base_keys(THETA),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0, "partial_rotary_factor": 1.0}"#).base_keys(THETA),
]);

const ULTRABERT: Layers = Layers::Kinds(&[
    Kind::new(FULL, r#"{"rope_theta": 2560000.0}"#),
    Kind::new(SLIDING, r#"{"rope_theta": 10000.0}"#),
]);

const ZAYA: Layers = Layers::Kinds(&[
    Kind::new("hybrid", r#"{"rope_theta": 5000000.0, "partial_rotary_factor": 0.5}"#),
    Kind::new("hybrid_sliding", r#"{"rope_theta": 10000.0, "partial_rotary_factor": 0.5}"#),
]);

/// dots.3: each kind has latent heads of its own.
const DOTS3: Layers = Layers::Kinds(&[
    Kind::new("indexed_attention", r#"{"rope_theta": 80000000.0}"#).base_keys(THETA),
    Kind::new(SLIDING, r#"{"rope_theta": 50000.0}"#)
        .base_keys(&["swa_rope_theta"])
        .latent("swa_qk_rope_head_dim"),
]);

/// Model type, hidden size, heads, `max_position_embeddings`; bases are the kinds' own.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    half("beam", 5120, 48, 8192, 10_000.0).head(128).layers(BEAM).unrotated(Unrotated::Kind(FULL)),
    half("diffusion_gemma_text", 2304, 8, 131_072, 0.0).head(256).layers(GEMMA4).share(1.0).scale(Scale::One),
    half("dory", 2560, 16, 8192, 0.0).head(256).layers(DORY),
    half("embedding_gemma2_text", 512, 4, 262_144, 0.0).head(256).layers(EMBEDDING_GEMMA2).scale(Scale::One),
    half("gemma3_text", 2304, 8, 131_072, 0.0).head(256).layers(GEMMA3).scale(Scale::PreAttnScalar(256)),
    half("gemma3n_text", 2048, 8, 32768, 0.0).head(256).layers(GEMMA3).scale(Scale::One),
    half("gemma4_text", 2304, 8, 131_072, 0.0).head(256).layers(GEMMA4).scale(Scale::One),
    half("gemma4_unified_text", 2304, 8, 262_144, 0.0).head(256).layers(GEMMA4).scale(Scale::One),
    half("laguna", 2048, 48, 131_072, 0.0).head(128).layers(LAGUNA).share(1.0),
    half("lfm3", 2048, 16, 128_000, 0.0).head(128).layers(LFM3),
    half("mellum", 2304, 32, 131_072, 0.0).head(128).layers(MELLUM).share(1.0),
    half("mimo_v2_flash", 4096, 64, 131_072, 0.0).head(192).layers(MIMO).share(0.334).extra(Extra::Mimo),
    half("modernbert", 768, 12, 8192, 0.0).layers(MODERNBERT),
    half("modernbert-decoder", 768, 12, 8192, 0.0).layers(MODERNBERT),
    half("neomme", 1024, 16, 16384, 0.0).head(64).layers(NEOMME).share(1.0),
    half("olmo3", 4096, 32, 2048, 0.0).layers(OLMO3),
    half("step3p5", 4096, 64, 128_000, 10_000.0).head(128).layers(Layers::Lists).share(1.0).scale(Scale::PreAttnScalar(0)),
    half("t5gemma2_decoder", 2304, 8, 131_072, 0.0).head(256).layers(GEMMA3).scale(Scale::PreAttnScalar(256)),
    half("t5gemma2_text", 2304, 8, 131_072, 0.0).head(256).layers(GEMMA3).scale(Scale::PreAttnScalar(256)),
    half("ultrabert", 4096, 32, 32768, 0.0).head(128).layers(ULTRABERT),
    half("zaya", 2048, 8, 131_072, 0.0).head(128).layers(ZAYA).share(1.0),
    Row {
        pairs: Pairs::ToHalf,
        head: Head::Latent { rope: 64, nope: 128 },
        ..half("dots3_note_text", 5120, 128, 524_288, 0.0).layers(DOTS3)
    },
];
