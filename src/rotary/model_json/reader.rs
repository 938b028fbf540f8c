//! Typed access to the keys of a JSON object. `null` counts as absent.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// An object, and what some layers have instead of its keys (`per_layer_config`).
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub object: &'a Map<String, Value>,
    pub instead: Option<&'a Map<String, Value>>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(object: &'a Map<String, Value>) -> Self {
        Keys { object, instead: None }
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        let present = |map: &'a Map<String, Value>| map.get(key).filter(|value| !value.is_null());
        self.instead.and_then(present).or_else(|| present(self.object))
    }

    /// Whether the key is there, with `null`.
    pub(super) fn is_null(self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// The first of several spellings of a dimension.
    pub(super) fn first_dimension(self, keys: &[&str]) -> Result<Option<u32>> {
        keys.iter().find(|key| self.get(key).is_some()).map_or(Ok(None), |key| self.dimension(key))
    }

    /// A list of whole numbers, as flags a layer.
    pub(super) fn flags(self, key: &str) -> Result<Option<Vec<bool>>> {
        self.read(key, "a list of 0 and 1, one a layer", |value| {
            let flag = |v: &Value| v.as_bool().or_else(|| v.as_u64().map(|n| n != 0));
            value.as_array()?.iter().map(flag).collect()
        })
    }

    pub(super) fn texts(self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.read(key, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
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
            let n = u32::try_from(value.as_u64()?).ok()?;
            (n > 0).then_some(n)
        })
    }

    pub(super) fn numbers(self, key: &str) -> Result<Option<Vec<f64>>> {
        self.read(key, "a list of finite numbers", |value| {
            value.as_array()?.iter().map(finite).collect()
        })
    }

    /// Pair counts, `N` of them or, with zeros behind, fewer.
    pub(super) fn sections<const N: usize>(
        self,
        key: &str,
        fewest: usize,
    ) -> Result<Option<[u32; N]>> {
        let needed = if fewest < N { "one to four whole numbers" } else { "three whole numbers" };
        self.read(key, needed, |value| {
            let list = value.as_array()?;
            let mut sections = [0; N];
            if list.len() < fewest || list.len() > N {
                return None;
            }
            for (section, n) in sections.iter_mut().zip(list) {
                *section =
                    finite(n).filter(|x| x.fract() == 0.0 && (0.0..=65536.0).contains(x))? as u32;
            }
            Some(sections)
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
