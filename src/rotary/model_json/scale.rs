//! The factor on the scores that a configuration implies, and the query's factor by position.

use super::{
    geometry::HeadDims,
    locate::Language,
    reader::wrong,
    section::Section,
    table::{Extra, Scale},
};
use crate::{Result, rotary::QueryScaling};

pub(super) fn softmax_scale(
    language: &Language,
    section: &Section,
    head: &HeadDims,
) -> Result<Option<f64>> {
    let model = section.model;
    let of_head = 1.0 / f64::from(head.score_dim).sqrt();
    let stated = |key, own: f64| match model.number(key)? {
        None if own > 0.0 && language.defaults => Ok(own),
        None => Ok(0.0),
        Some(x) if x > 0.0 => Ok(x),
        Some(x) => Err(wrong(key, "a positive number", x)),
    };
    Ok(match language.row.scale {
        Scale::Head => Some(of_head),
        Scale::HeadMscale => Some(of_head * mscale_squared(section)?),
        Scale::PreAttnScalar(own) => match stated("query_pre_attn_scalar", f64::from(own))? {
            0.0 => Some(of_head),
            scalar => Some(1.0 / scalar.sqrt()),
        },
        Scale::Stated(key, own) => match stated(key, own)? {
            0.0 => Some(of_head),
            factor => Some(factor),
        },
        Scale::One => Some(1.0),
        Scale::HalfHead => Some((2.0 / f64::from(head.score_dim)).sqrt()),
        Scale::Learned => None,
    })
}

/// g² with g = 0.1·`mscale_all_dim`·ln `factor` + 1, DeepSeek's share of YaRN's attention scaling
/// that acts on the whole head (1.8739 for DeepSeek-V3).
fn mscale_squared(section: &Section) -> Result<f64> {
    if section.rope_type == "default" {
        return Ok(1.0);
    }
    let (all, factor) = (section.keys.number("mscale_all_dim")?, section.keys.number("factor")?);
    Ok(match (all, factor) {
        (Some(all), Some(factor)) if all != 0.0 && factor > 1.0 => {
            (0.1 * all * factor.ln() + 1.0).powi(2)
        }
        _ => 1.0,
    })
}

/// The query's factor by position on the rotated layers.
pub(super) fn query_scaling(
    language: &Language,
    section: &Section,
) -> Result<Option<QueryScaling>> {
    let model = section.model;
    Ok(match language.row.extra {
        Extra::ScaledQuery => match section.keys.number("llama_4_scaling_beta")? {
            Some(beta) => {
                let length = section.original_positions()?.max(1);
                Some(QueryScaling::LogOfWhole { beta, length, first: 0 })
            }
            None => None,
        },
        Extra::Qwen1 if model.flag("use_logn_attn")?.unwrap_or(false) => {
            let length = model.whole("seq_length")?;
            let length = length.ok_or_else(|| section.missing("seq_length"))?;
            Some(QueryScaling::LogRatio { length })
        }
        _ => None,
    })
}

/// The same on the layers that are not rotated.
pub(super) fn unrotated_query_scaling(language: &Language) -> Result<Option<QueryScaling>> {
    let keys = language.keys;
    // A switch, which some files write as a number.
    let tuned = match keys.get("attn_temperature_tuning") {
        Some(value) => value.as_bool().unwrap_or(value.as_f64() != Some(0.0)),
        None => language.defaults,
    };
    if language.row.extra != Extra::Llama4 || !tuned {
        return Ok(None);
    }
    Ok(Some(QueryScaling::LogOfWhole {
        beta: keys.number("attn_scale")?.unwrap_or(0.1),
        length: keys.whole("floor_scale")?.unwrap_or(8192).max(1),
        first: 1,
    }))
}
