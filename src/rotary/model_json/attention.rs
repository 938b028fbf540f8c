//! What a configuration says of each layer's attention besides its rotation: heads, windows, the
//! softcap, sinks. Model types that are not listed are refused, and so are keys that would change
//! who attends to whom and that the type's code does not read.

use serde_json::Value;

use super::{
    LayerRope, ModelRope,
    locate::Language,
    parse, read,
    reader::{Keys, unknown, wrong},
};
use crate::{Error, Result};

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The attention of a language model, layer by layer.
#[derive(Debug)]
pub(crate) struct ModelAttention {
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) softcap: Option<f64>,
    /// Whether every layer has a learned sink a head.
    pub(crate) sinks: bool,
    pub(crate) layers: Vec<LayerAttention>,
}

/// One layer.
#[derive(Debug)]
pub(crate) struct LayerAttention {
    /// Keys that a row sees, itself included.
    pub(crate) window: Option<u32>,
    pub(crate) head_dim: u32,
    pub(crate) softmax_scale: f64,
    /// The rotation; `None` for a layer without.
    pub(crate) rope: Option<LayerRope>,
}

/// What the code of a model type does; numbers are the defaults of its configuration class.
struct Row {
    name: &'static str,
    /// 0: as many as query heads.
    kv_heads: u32,
    windows: Windows,
    /// `sliding_window`; 0: none.
    window: u32,
    /// `attn_logit_softcapping`; 0: the code has none.
    softcap: f64,
    sinks: bool,
}

/// Which layers have a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Windows {
    Never,
    /// All, where the file has a `sliding_window`.
    All,
    /// The same, where `use_sliding_window` is on as well.
    AllSwitched,
    /// All but every so manieth; `sliding_window_pattern` says otherwise, where the code reads it.
    AllBut {
        every: u32,
        pattern: bool,
    },
    /// Those from `max_window_layers` on (28 by default), where `use_sliding_window` is on.
    Last,
    /// Those without rotation, where `use_sliding_window` is on.
    Unrotated,
}

const fn row(name: &'static str, kv_heads: u32, windows: Windows, window: u32) -> Row {
    Row { name, kv_heads, windows, window, softcap: 0.0, sinks: false }
}

const fn every(every: u32) -> Windows {
    Windows::AllBut { every, pattern: false }
}

const fn pattern(every: u32) -> Windows {
    Windows::AllBut { every, pattern: true }
}

/// As transformers 5.24 has them.
const ROWS: &[Row] = &[
    row("cohere", 0, Windows::Never, 0),
    row("cohere2", 0, pattern(4), 4096),
    row("exaone4", 32, pattern(4), 4096),
    row("gemma", 16, Windows::Never, 0),
    Row { softcap: 50.0, ..row("gemma2", 4, every(2), 4096) },
    row("gemma3_text", 4, pattern(6), 4096),
    row("glm4", 2, Windows::Never, 0),
    Row { sinks: true, ..row("gpt_oss", 8, every(2), 128) },
    row("granite", 0, Windows::Never, 0),
    row("helium", 20, Windows::Never, 0),
    row("llama", 0, Windows::Never, 0),
    row("mistral", 8, Windows::All, 4096),
    row("mixtral", 8, Windows::All, 0),
    row("olmo2", 0, Windows::Never, 0),
    row("olmo3", 0, every(4), 4096),
    row("phi3", 0, Windows::All, 0),
    row("qwen2", 32, Windows::Last, 4096),
    row("qwen3", 32, Windows::Last, 4096),
    row("qwen3_moe", 4, Windows::AllSwitched, 4096),
    row("smollm3", 4, Windows::Unrotated, 0),
    row("starcoder2", 2, Windows::All, 0),
];

/// Files of these types hold a listed model and attend as it does, as far as text goes.
const WRAPPERS: [&str; 1] = ["gemma3"];

/// Reads the text of a `config.json`.
pub(crate) fn attention(json: &str) -> Result<ModelAttention> {
    let root = parse(json)?;
    let root = root.as_object().ok_or_else(|| wrong("config.json", "an object", &root))?;
    let language = Language::find(root)?;
    let stated = Keys::of(root).text("model_type")?.unwrap_or_default();
    let row = ROWS.iter().find(|row| row.name == language.row.name);
    let row = row.filter(|row| row.name == stated || WRAPPERS.contains(&stated));
    let row = row.ok_or_else(|| Error::UnknownModel { model_type: stated.to_owned() })?;
    let rope = read(&language)?;
    let keys = language.keys;
    refuse_unread(keys, row)?;

    let missing = |key| Error::MissingRopeKey { rope_type: stated.to_owned(), key };
    let count = keys.dimension("num_hidden_layers")?.ok_or_else(|| missing("num_hidden_layers"))?;
    if count > 1 << 16 {
        return Err(wrong("num_hidden_layers", "at most 65536", count));
    }
    let heads = keys.dimension("num_attention_heads")?.unwrap_or(language.row.heads);
    let kv_heads = match keys.dimension("num_key_value_heads")? {
        Some(stated) => stated,
        None if row.kv_heads == 0 || keys.is_null("num_key_value_heads") => heads,
        None => row.kv_heads,
    };
    let softcap = match keys.number("attn_logit_softcapping")? {
        None if keys.is_null("attn_logit_softcapping") => None,
        stated => stated.or(Some(row.softcap)).filter(|&cap| cap != 0.0),
    };
    let kinds = kinds(keys, row, &rope, count)?;
    let window = window(keys, row)?;
    let layers = (0..count).zip(kinds).map(|(n, kind)| layer(&rope, window, n, kind));
    let layers = layers.collect::<Result<_>>()?;
    Ok(ModelAttention { heads, kv_heads, softcap, sinks: row.sinks, layers })
}

fn layer(rope: &ModelRope, window: Option<u32>, n: u32, kind: &str) -> Result<LayerAttention> {
    let window = match (kind, window) {
        (SLIDING, None) => {
            return Err(wrong("sliding_window", "a length, for sliding layers", "none"));
        }
        (SLIDING, window) => window,
        _ => None,
    };
    let unrotated = is_unrotated(rope, n, kind);
    // A layer that is not rotated is in all else like the others.
    let like = match (unrotated, rope.layers.first()) {
        (true, Some(first)) => first,
        _ => rope.layer(kind)?,
    };
    let scaling = match (unrotated, &rope.unrotated) {
        (true, Some(layers)) => layers.query_scaling,
        _ => like.query_scaling,
    };
    if let Some(scaling) = scaling {
        return Err(unknown("a factor of the query by its position", format!("{scaling:?}")));
    }
    let scale = like.softmax_scale;
    let softmax_scale = scale.ok_or_else(|| unknown("softmax scale", "learned"))?;
    let rope = (!unrotated).then(|| like.clone());
    Ok(LayerAttention { window, head_dim: like.rope.head_dim, softmax_scale, rope })
}

fn is_unrotated(rope: &ModelRope, n: u32, kind: &str) -> bool {
    rope.unrotated.as_ref().is_some_and(|layers| {
        layers.layers.contains(&n) || layers.kinds.iter().any(|name| name == kind)
    })
}

/// The window of layers that have one.
fn window(keys: Keys<'_>, row: &Row) -> Result<Option<u32>> {
    let switched = matches!(row.windows, Windows::Last | Windows::AllSwitched | Windows::Unrotated);
    if switched && keys.flag("use_sliding_window")? != Some(true) {
        return Ok(None);
    }
    match keys.dimension("sliding_window")? {
        None if keys.is_null("sliding_window") => Ok(None),
        stated => Ok(stated.or(Some(row.window)).filter(|&window| window > 0)),
    }
}

/// The kind of each layer, [`FULL`] or [`SLIDING`].
fn kinds(keys: Keys<'_>, row: &Row, rope: &ModelRope, count: u32) -> Result<Vec<&'static str>> {
    let kind = |slides| if slides { SLIDING } else { FULL };
    let window = window(keys, row)?;
    let listed = keys.texts("layer_types")?;
    match row.windows {
        // Their code does not read the list.
        Windows::Never | Windows::All | Windows::AllSwitched => {
            let kind = kind(window.is_some());
            return match listed {
                Some(list) if list.iter().any(|&name| name != kind) => {
                    Err(wrong("layer_types", "as sliding_window says", format!("{list:?}")))
                }
                _ => Ok(vec![kind; count as usize]),
            };
        }
        _ => {}
    }
    if let Some(list) = listed {
        if list.len() != count as usize {
            let got = format!("{} entries for {count} layers", list.len());
            return Err(wrong("layer_types", "an entry a layer", got));
        }
        let known = list.iter().map(|&name| match name {
            FULL => Ok(FULL),
            SLIDING => Ok(SLIDING),
            other => Err(unknown("layer type", other)),
        });
        return known.collect();
    }
    Ok(match row.windows {
        Windows::AllBut { every, pattern } => {
            let every = match keys.dimension("sliding_window_pattern")? {
                Some(stated) if pattern => stated,
                _ => every,
            };
            (1..=count).map(|n| kind(window.is_some() && !n.is_multiple_of(every))).collect()
        }
        Windows::Last => {
            let first = keys.whole("max_window_layers")?.unwrap_or(28);
            (0..count).map(|n| kind(window.is_some() && u64::from(n) >= first)).collect()
        }
        _ => (0..count).map(|n| kind(window.is_some() && is_unrotated(rope, n, FULL))).collect(),
    })
}

/// Refuses keys that say who attends to whom, or how much, where the model's code has no such
/// thing.
fn refuse_unread(keys: Keys<'_>, row: &Row) -> Result<()> {
    const NEVER: [&str; 5] = [
        "attention_chunk_size",
        "per_layer_config",
        "window_size",
        "attention_window",
        "swa_window",
    ];
    const SWITCHES: [&str; 2] = ["use_bidirectional_attention", "is_encoder_decoder"];
    let refuse = |key: &str| match keys.get(key) {
        Some(value) => Err(unknown(key, value)),
        None => Ok(()),
    };
    NEVER.iter().try_for_each(|key| refuse(key))?;
    for key in SWITCHES {
        if keys.flag(key)? == Some(true) {
            return Err(unknown(key, true));
        }
    }
    if keys.flag("is_causal")? == Some(false) {
        return Err(unknown("is_causal", false));
    }
    if row.windows == Windows::Never {
        refuse("sliding_window")?;
    }
    if row.softcap == 0.0 {
        refuse("attn_logit_softcapping")?;
    }
    // Heads by phases are what the host hands over.
    let imaginary = keys.object("rope_config")?.and_then(|own| own.get("imag"));
    if imaginary == Some(&Value::Bool(true)) {
        return Err(wrong("rope_config.imag", "false: give RoPE++ its head maps by hand", true));
    }
    Ok(())
}
