//! Which object of a configuration describes the language model, and which row of the table.

use serde_json::{Map, Value};

use super::{
    Like, bearing,
    reader::{Keys, wrong},
    table::{self, Entry, Row, Wrapper},
};
use crate::{Error, Result};

/// Objects in which an unknown model may keep the configuration of its language model.
const PLACES: [&str; 5] =
    ["text_config", "language_config", "llm_config", "thinker_config", "vlm_config"];

/// The language model of a configuration.
pub(super) struct Language<'a> {
    pub(super) model_type: &'a str,
    pub(super) row: &'static Row,
    pub(super) keys: Keys<'a>,
    /// The row's numbers stand in for what the file leaves out.
    pub(super) defaults: bool,
}

impl<'a> Language<'a> {
    pub(super) fn find(root: &'a Map<String, Value>) -> Result<Self> {
        let top = Keys::of(root);
        let model_type = top.text("model_type")?.ok_or_else(|| Error::MissingRopeKey {
            rope_type: "any".to_owned(),
            key: "model_type",
        })?;
        Self::inside(top, model_type, 0)
    }

    fn inside(keys: Keys<'a>, model_type: &'a str, depth: usize) -> Result<Self> {
        match known(model_type)? {
            Known::Rope(row) => Ok(Language { model_type, row, keys, defaults: true }),
            Known::Inside(wrapper) => {
                let Some((place, inner)) = place(keys, wrapper.places)? else {
                    if wrapper.flat {
                        return Self::inside(keys, wrapper.inner, depth + 1);
                    }
                    let key = wrapper.places.first().copied().unwrap_or("text_config");
                    return Err(Error::MissingRopeKey { rope_type: model_type.to_owned(), key });
                };
                bearing::same_outside(keys, inner, place, wrapper)?;
                let inner_type = match inner.text("model_type")? {
                    Some(stated) => stated,
                    None if wrapper.inner.is_empty() => {
                        let needed = "the model_type of the language model within";
                        return Err(wrong(place, needed, "none"));
                    }
                    None => wrapper.inner,
                };
                if depth > 3 {
                    return Err(wrong(place, "at most four levels deep", inner_type));
                }
                Self::inside(inner, inner_type, depth + 1)
            }
        }
    }

    pub(super) fn like(root: &'a Map<String, Value>, like: &Like<'a>) -> Result<Self> {
        let mut keys = Keys::of(root);
        for _ in 0..4 {
            match place(keys, &PLACES)? {
                Some((_, inner)) => keys = inner,
                None => break,
            }
        }
        let mut model_type = like.model_type;
        loop {
            match known(model_type)? {
                Known::Rope(row) => {
                    return Ok(Language { model_type, row, keys, defaults: false });
                }
                Known::Inside(wrapper) if !wrapper.inner.is_empty() => model_type = wrapper.inner,
                Known::Inside(wrapper) => {
                    let model_type = wrapper.name.to_owned();
                    return Err(Error::UnknownModel { model_type });
                }
            }
        }
    }
}

enum Known {
    Rope(&'static Row),
    Inside(&'static Wrapper),
}

fn known(model_type: &str) -> Result<Known> {
    match table::find(model_type) {
        Some(Entry::Rope(row)) => Ok(Known::Rope(row)),
        Some(Entry::Inside(wrapper)) => Ok(Known::Inside(wrapper)),
        Some(Entry::Nothing(reason)) => {
            Err(Error::NotRotary { model_type: model_type.to_owned(), reason })
        }
        None => Err(Error::UnknownModel { model_type: model_type.chars().take(80).collect() }),
    }
}

fn place<'a>(keys: Keys<'a>, places: &[&'static str]) -> Result<Option<(&'static str, Keys<'a>)>> {
    for place in places {
        if let Some(object) = keys.object(place)? {
            return Ok(Some((place, Keys::of(object))));
        }
    }
    Ok(None)
}
