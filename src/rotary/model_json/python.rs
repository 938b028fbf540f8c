//! JSON as Python's `json` module writes it: with bare `NaN`, `Infinity` and `-Infinity`.

use std::borrow::Cow;

/// The text with those three words in quotes where they stand outside of strings, so that a JSON
/// parser reads on. They arrive as strings, hence a key that needs a number refuses them.
pub(super) fn quote_special_numbers(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !in_string && rest.starts_with(**word));
        let taken = match (c, word) {
            (_, Some(word)) => {
                quoted.extend(["\"", word, "\""]);
                word.len()
            }
            ('\\', None) if in_string => {
                let escaped = rest[1..].chars().next().map_or(0, char::len_utf8);
                quoted.push_str(&rest[..1 + escaped]);
                1 + escaped
            }
            _ => {
                in_string ^= c == '"';
                quoted.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_strings_only() {
        let given = r#"{"a": [0.0, Infinity, -Infinity], "NaN \" Infinity": NaN, "ä\\": "NaN"}"#;
        let quoted =
            r#"{"a": [0.0, "Infinity", "-Infinity"], "NaN \" Infinity": "NaN", "ä\\": "NaN"}"#;
        assert_eq!(quote_special_numbers(given), quoted);
        assert!(serde_json::from_str::<serde_json::Value>(quoted).is_ok());
        assert_eq!(quote_special_numbers("{}"), "{}");
        assert_eq!(quote_special_numbers("\"Infinity\\"), "\"Infinity\\");
    }
}
