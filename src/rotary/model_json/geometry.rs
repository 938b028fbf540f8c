//! Head dimension, rotated channels and base, in all their spellings.

use super::{
    layers::Plan,
    locate::Language,
    reader::{Keys, wrong},
    section::Section,
    table::{Extra, Head, Share},
};
use crate::{Error, Result, rotary::RopeRule};

/// Channels of a head: those that the rotation is described over, and those that a score sums over.
pub(super) struct HeadDims {
    pub(super) head_dim: u32,
    pub(super) score_dim: u32,
    /// The head is a slice of its own, all of which is rotated.
    pub(super) slice: bool,
}

pub(super) fn head_dims(
    language: &Language,
    plan: &Plan,
    model: Keys,
    section: &Section,
) -> Result<HeadDims> {
    let row = language.row;
    let whole = |dim| HeadDims { head_dim: dim, score_dim: dim, slice: false };
    let own = |number: u32| Some(number).filter(|&n| n > 0 && language.defaults);
    if let Some(kind) = plan.kind
        && (!kind.head.is_empty() || kind.head_dim > 0)
        && plan.instead.get("head_dim").is_none()
        && let Some(dim) = model.first_dimension(kind.head)?.or(own(kind.head_dim))
    {
        return Ok(whole(dim));
    }
    let keys = match row.head {
        Head::Latent { .. }
            if row.extra == Extra::DeepseekV2 && model.flag("use_mla")? == Some(false) =>
        {
            return divided(language, model, section).map(whole);
        }
        Head::Latent { rope, nope } => return latent(language, plan, model, section, [rope, nope]),
        Head::Divided => {
            let dim = divided(language, model, section)?;
            return match model.dimension("head_dim")? {
                Some(stated) if stated != dim => {
                    Err(wrong("head_dim", "hidden size / heads, which this model has", stated))
                }
                _ => Ok(whole(dim)),
            };
        }
        Head::Keys(keys) => keys,
    };
    if let Some(dim) = model.first_dimension(keys)? {
        return Ok(whole(dim));
    }
    // A class's own head dimension stands unless the file takes it back with a null.
    let taken_back = keys.iter().any(|key| language.keys.is_null(key));
    match own(row.head_dim).filter(|_| !taken_back) {
        Some(dim) => Ok(whole(dim)),
        None => divided(language, model, section).map(whole),
    }
}

fn latent(
    language: &Language,
    plan: &Plan,
    model: Keys,
    section: &Section,
    defaults: [u32; 2],
) -> Result<HeadDims> {
    let own = |number: u32| Some(number).filter(|&n| n > 0 && language.defaults);
    let (mut rope_key, mut nope_key, mut defaults) =
        ("qk_rope_head_dim", "qk_nope_head_dim", defaults);
    if let Some(kind) = plan.kind.filter(|kind| !kind.latent.is_empty()) {
        let written = plan.instead.contains_key(rope_key);
        if !written {
            (rope_key, nope_key, defaults) = (kind.latent, "swa_qk_nope_head_dim", [64, 192]);
        }
    }
    let rope = model.dimension(rope_key)?.or(own(defaults[0]));
    let rope = rope.ok_or_else(|| section.missing("qk_rope_head_dim"))?;
    let nope = model.whole(nope_key)?.map(|n| n.min(1 << 16) as u32).or(own(defaults[1]));
    let nope = nope.ok_or_else(|| section.missing("qk_nope_head_dim"))?;
    Ok(HeadDims { head_dim: rope, score_dim: rope.saturating_add(nope), slice: true })
}

fn divided(language: &Language, model: Keys, section: &Section) -> Result<u32> {
    const HIDDEN: [&str; 5] = ["hidden_size", "n_embd", "d_model", "model_dim", "dim"];
    const HEADS: [&str; 6] = [
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "encoder_attention_heads",
        "decoder_num_attention_heads",
    ];
    let own = |number: u32| Some(number).filter(|&n| n > 0 && language.defaults);
    let hidden = model.first_dimension(&HIDDEN)?.or(own(language.row.hidden));
    let heads = model.first_dimension(&HEADS)?.or(own(language.row.heads));
    match (hidden, heads) {
        (Some(hidden), Some(heads)) if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        (Some(hidden), Some(heads)) => {
            let got = format!("{hidden} with {heads} heads");
            Err(wrong("hidden_size", "a multiple of num_attention_heads", got))
        }
        _ => Err(section.missing("head_dim")),
    }
}

pub(super) fn rotary_dim(
    language: &Language,
    section: &Section,
    rule: &RopeRule,
    head: &HeadDims,
) -> Result<u32> {
    const KEY: &str = "partial_rotary_factor";
    let stated = section.partial_rotary_factor()?;
    if head.slice {
        // The share of the slice in the head, which is no news.
        let share = f64::from(head.head_dim) / f64::from(head.score_dim);
        return match stated {
            Some(p) if p != 1.0 && (p - share).abs() > 1e-6 && !dots(language, p) => {
                Err(wrong(KEY, "1, or the rotated share of the latent head", p))
            }
            _ => Ok(head.head_dim),
        };
    }
    // A proportional rule counts the share itself.
    if matches!(rule, RopeRule::Proportional { .. }) {
        return Ok(head.head_dim);
    }
    let share = match language.row.share {
        Share::Whole => match stated {
            Some(p) if language.defaults && p != 1.0 => {
                return Err(wrong(KEY, "1: this model rotates its whole head", p));
            }
            stated => stated.unwrap_or(1.0),
        },
        Share::Channels(channels) => match (stated, section.model.dimension("rotary_dim")?) {
            (Some(share), _) => share,
            (None, Some(dim)) => return Ok(dim),
            (None, None) if channels > 0 && language.defaults => return Ok(channels),
            (None, None) => 1.0,
        },
        Share::Of(share, keys) => {
            let mut found = stated;
            for key in keys {
                let given = section.model.number(key)?;
                if let (Some(a), Some(b)) = (found, given)
                    && section.keys.get(KEY).is_none()
                    && a != b
                {
                    return Err(wrong(key, "one rotated share", format!("{b} beside {a}")));
                }
                found = found.or(given);
            }
            match found {
                Some(found) => found,
                None if language.defaults || share == 1.0 => share,
                None => return Err(section.missing(KEY)),
            }
        }
    };
    if share > 0.0 && share <= 1.0 {
        Ok((f64::from(head.head_dim) * share) as u32)
    } else {
        Err(wrong(KEY, "above 0, at most 1", share))
    }
}

/// dots.3 states the share of the slice in a `head_dim` that is not the scores'.
fn dots(language: &Language, share: f64) -> bool {
    language.model_type == "dots3_note_text" && share == 0.25
}

pub(super) fn theta(language: &Language, section: &Section) -> Result<f64> {
    let row = language.row;
    if let Some(theta) = section.keys.number("rope_theta")? {
        return Ok(theta);
    }
    let mut found: Option<f64> = None;
    let keys = match row.extra {
        Extra::Dbrx | Extra::Mpt => nested_attention(section.model)?,
        _ => section.model,
    };
    for key in row.base_keys.iter().chain(&["rope_theta"]) {
        if section.model.get(key).is_some_and(|value| value.is_array()) {
            continue;
        }
        if let Some(theta) = keys.number(key)? {
            if found.is_some_and(|other| other != theta) {
                return Err(wrong(key, "one base", format!("{theta} beside another")));
            }
            found = Some(theta);
        }
    }
    let own = Some(row.base).filter(|&base| base > 0.0 && language.defaults);
    let theta = found.or(own).ok_or_else(|| section.missing("rope_theta"))?;
    match row.extra {
        Extra::ChatGlm => Ok(theta * section.model.number("rope_ratio")?.unwrap_or(1.0)),
        _ => Ok(theta),
    }
}

/// `attn_config` (DBRX, MPT), or the keys themselves where there is none.
pub(super) fn nested_attention<'a>(model: Keys<'a>) -> Result<Keys<'a>> {
    Ok(model.object("attn_config")?.map_or(model, Keys::of))
}

/// What some models need before anything else is read.
pub(super) fn admit(language: &Language) -> Result<()> {
    let keys = language.keys;
    let not_rotary =
        |reason| Err(Error::NotRotary { model_type: language.model_type.to_owned(), reason });
    match language.row.extra {
        Extra::Falcon => Ok(()),
        Extra::Zamba2 if keys.flag("use_mem_rope")? != Some(true) => {
            not_rotary("it is rotated only with use_mem_rope")
        }
        Extra::Baichuan => match keys.dimension("hidden_size")? {
            Some(4096) => Ok(()),
            _ => not_rotary("only the 7B model (hidden_size 4096) is rotated, others have ALiBi"),
        },
        Extra::Mpt => {
            let attention = nested_attention(keys)?;
            let implementation = attention.text("rope_impl")?.unwrap_or("dail");
            if attention.flag("rope")? != Some(true) {
                return not_rotary("its attn_config has no rope: it has ALiBi");
            }
            for key in ["rope_hf_config", "rope_dail_config"] {
                let Some(config) = attention.object(key)? else { continue };
                let rule = Keys::of(config).text("type")?.unwrap_or("original");
                let used = key.contains(implementation);
                if used && !["original", "no_scaling"].contains(&rule) {
                    return Err(wrong(key, "without scaling", rule));
                }
            }
            Ok(())
        }
        Extra::ChatGlm => {
            if keys.flag("position_encoding_2d")? == Some(true) {
                return not_rotary("its positions have two streams (position_encoding_2d)");
            }
            match keys.flag("original_rope")? {
                Some(false) => Err(wrong("original_rope", "true", false)),
                _ => Ok(()),
            }
        }
        Extra::Nomic => match keys.get("rotary_emb_scale_base") {
            Some(base) => Err(wrong("rotary_emb_scale_base", "null (no xPos)", base)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
