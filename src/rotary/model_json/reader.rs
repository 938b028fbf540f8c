//! Typed access to the keys of a JSON object. `null` counts as absent.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// An object, and the one around it where missing keys are looked up next.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub inner: &'a Map<String, Value>,
    pub outer: Option<&'a Map<String, Value>>,
}

impl<'a> Keys<'a> {
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        let present = |map: &'a Map<String, Value>| map.get(key).filter(|value| !value.is_null());
        present(self.inner).or_else(|| self.outer.and_then(present))
    }

    pub(super) fn object(self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.read(key, "an object", Value::as_object)
    }

    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a string", Value::as_str)
    }

    pub(super) fn flag(self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(super) fn number(self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a finite number", finite)
    }

    /// A whole number from 0 to 2^53; `4096.0` is one.
    pub(super) fn whole(self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number from 0 to 2^53", |value| {
            let x = finite(value)?;
            let fits = (0.0..=(1u64 << 53) as f64).contains(&x) && x.fract() == 0.0;
            fits.then_some(x as u64)
        })
    }

    pub(super) fn dimension(self, key: &str) -> Result<Option<u32>> {
        self.read(key, "a whole number from 1 to 2^32 - 1", |value| {
            let n = value.as_u64().and_then(|n| u32::try_from(n).ok())?;
            (n > 0).then_some(n)
        })
    }

    pub(super) fn numbers(self, key: &str) -> Result<Option<Vec<f64>>> {
        self.read(key, "a list of finite numbers", |value| {
            value.as_array()?.iter().map(finite).collect()
        })
    }

    /// Three pair counts.
    pub(super) fn sections(self, key: &str) -> Result<Option<[u32; 3]>> {
        self.read(key, "three whole numbers", |value| {
            let list: Option<Vec<u32>> = value
                .as_array()?
                .iter()
                .map(|n| n.as_u64().and_then(|n| u32::try_from(n).ok()))
                .collect();
            list?.try_into().ok()
        })
    }

    fn read<T>(
        self,
        key: &str,
        needed: &'static str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match take(value) {
            Some(x) => Ok(Some(x)),
            None => Err(wrong(key, needed, value)),
        }
    }
}

fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|x| x.is_finite())
}

/// [`Error::RopeValue`], with long values cut short.
pub(super) fn wrong(key: &str, needed: &'static str, got: impl ToString) -> Error {
    Error::RopeValue { key: key.to_owned(), needed, got: brief(got) }
}

/// [`Error::UnknownRope`], with long values cut short.
pub(super) fn unknown(key: &str, value: impl ToString) -> Error {
    Error::UnknownRope { key: brief(key), value: brief(value) }
}

fn brief(value: impl ToString) -> String {
    const LONGEST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
