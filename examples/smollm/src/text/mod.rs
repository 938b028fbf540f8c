//! Between text and tokens: the vocabulary of the model file, and its chat template.

mod bytes;

use std::collections::HashMap;

use minijinja::{Environment, context};
use regex::Regex;

use crate::Result;

/// A byte-level BPE vocabulary (GPT-2's kind), and a chat template.
pub struct Text {
    /// The bytes of every token; nothing for special ones, which are not text.
    bytes: Vec<Vec<u8>>,
    ids: HashMap<Vec<u8>, u32>,
    /// Two tokens that become one: how early, and which.
    merges: HashMap<(u32, u32), (usize, u32)>,
    /// Special tokens, spelled out.
    special: Option<Regex>,
    special_ids: HashMap<String, u32>,
    words: Regex,
    single_digits: bool,
    template: Option<String>,
}

/// GPT-2's words, but for its look-ahead: of white space before a word, the last character belongs
/// to the word, which `encode_plain` sees to.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

impl Text {
    /// Tokens and merges as GGUF lists them; which tokens are special; whether every digit stands
    /// alone.
    pub(crate) fn new(
        tokens: &[String],
        merges: &[String],
        special: &[bool],
        single_digits: bool,
        template: Option<String>,
    ) -> Result<Self> {
        let is_special = |i: usize| special.get(i).copied().unwrap_or(false);
        let (mut bytes, mut ids) = (Vec::new(), HashMap::new());
        let mut special_ids = HashMap::new();
        for (i, token) in tokens.iter().enumerate() {
            if is_special(i) {
                special_ids.insert(token.clone(), i as u32);
                bytes.push(Vec::new());
            } else {
                let spelled = bytes::decode(token)?;
                ids.insert(spelled.clone(), i as u32);
                bytes.push(spelled);
            }
        }
        let mut ranks = HashMap::new();
        for (rank, merge) in merges.iter().enumerate() {
            let unknown = || format!("the merge {merge:?} names tokens that are not there");
            let (a, b) = merge.split_once(' ').ok_or_else(unknown)?;
            let (a, b) = (bytes::decode(a)?, bytes::decode(b)?);
            let whole = [a.clone(), b.clone()].concat();
            let id = |bytes: &Vec<u8>| ids.get(bytes).copied().ok_or_else(unknown);
            ranks.insert((id(&a)?, id(&b)?), (rank, id(&whole)?));
        }
        let mut spelled: Vec<_> = special_ids.keys().map(|token| regex::escape(token)).collect();
        // The longest of those that start alike.
        spelled.sort_by_key(|token| std::cmp::Reverse(token.len()));
        let special = match spelled.is_empty() {
            true => None,
            false => Some(Regex::new(&spelled.join("|"))?),
        };
        Ok(Self {
            bytes,
            ids,
            merges: ranks,
            special,
            special_ids,
            words: Regex::new(WORDS)?,
            single_digits,
            template,
        })
    }

    /// A vocabulary of ASCII characters, one token each in this order.
    pub(crate) fn characters(symbols: &str) -> Result<Self> {
        if !symbols.is_ascii() {
            return Err("the symbols of a vocabulary must be ASCII characters".into());
        }
        let tokens: Vec<_> = symbols.bytes().map(|symbol| bytes::encode(&[symbol])).collect();
        Self::new(&tokens, &[], &[], false, None)
    }

    /// Whether the model was trained to answer.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The prompt as one turn of a conversation, up to where the answer starts.
    pub fn chat(&self, system: Option<&str>, prompt: &str) -> Result<String> {
        let template = self.template.as_deref().ok_or("the model file has no chat template")?;
        let turn = |role, content| context! { role, content };
        let system = system.map(|content| turn("system", content));
        let messages: Vec<_> = system.into_iter().chain([turn("user", prompt)]).collect();
        let values = context! { messages, add_generation_prompt => true };
        Ok(Environment::new().render_str(template, values)?)
    }

    /// The tokens of a text, special ones spelled out in it included.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut from = 0;
        for found in self.special.iter().flat_map(|special| special.find_iter(text)) {
            self.encode_plain(&text[from..found.start()], &mut ids)?;
            ids.extend(self.special_ids.get(found.as_str()));
            from = found.end();
        }
        self.encode_plain(&text[from..], &mut ids)?;
        Ok(ids)
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let digit = |c: char| self.single_digits && c.is_numeric();
        for part in text.split_inclusive(digit) {
            // What is left before the digit, and the digit.
            let last = part.char_indices().next_back().filter(|(_, c)| digit(*c));
            let (mut rest, digit) = part.split_at(last.map_or(part.len(), |(at, _)| at));
            while let Some(word) = self.words.find(rest) {
                let mut end = word.end();
                let last = word.as_str().chars().next_back();
                if let Some(space) = last.filter(|c| c.is_whitespace())
                    && end < rest.len()
                    && word.len() > space.len_utf8()
                {
                    end -= space.len_utf8();
                }
                self.encode_word(&rest[word.start()..end], ids)?;
                rest = &rest[end..];
            }
            if !digit.is_empty() {
                self.encode_word(digit, ids)?;
            }
        }
        Ok(())
    }

    /// Byte-pair encoding: the earliest merge there is, again and again.
    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        let byte = |byte: u8| {
            let id = self.ids.get(&[byte][..]).copied();
            id.ok_or_else(|| format!("the vocabulary has no token for byte {byte}"))
        };
        let mut parts =
            word.bytes().map(byte).collect::<std::result::Result<Vec<u32>, String>>()?;
        loop {
            let pairs = parts.windows(2).enumerate();
            let known = pairs.filter_map(|(i, pair)| {
                self.merges.get(&(pair[0], pair[1])).map(|&(rank, id)| (rank, i, id))
            });
            let Some((_, i, id)) = known.min() else { break };
            parts.splice(i..i + 2, [id]);
        }
        ids.extend(parts);
        Ok(())
    }

    /// Tokens one by one to text: a character may take several tokens, and comes when it is whole.
    pub fn stream(&self) -> impl FnMut(u32) -> String {
        let mut pending = Vec::new();
        move |id| {
            pending.extend(self.bytes.get(id as usize).into_iter().flatten());
            let mut text = String::new();
            while let Err(error) = std::str::from_utf8(&pending) {
                let whole = error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&pending[..whole]));
                // Without a length, the end is the beginning of a character.
                let Some(invalid) = error.error_len() else {
                    pending.drain(..whole);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                pending.drain(..whole + invalid);
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            pending.clear();
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte a token, some merges, and a special token at the end.
    fn text() -> Text {
        let mut tokens: Vec<String> = (0..=255).map(|byte| bytes::encode(&[byte])).collect();
        let merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġ Ġ", "Ġw o"].map(str::to_owned);
        tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
        tokens.push("<|end|>".to_owned());
        let mut special = vec![false; tokens.len()];
        special[263] = true;
        let template = "{% for m in messages %}[{{ m['role'] }}] {{ m.content }}\n{% endfor %}\
                        {% if add_generation_prompt %}[assistant] {% endif %}";
        Text::new(&tokens, &merges, &special, true, Some(template.to_owned())).unwrap()
    }

    #[test]
    fn words_digits_spaces_and_special_tokens_are_told_apart() {
        let text = text();
        let byte = |c: char| c as u32;
        assert_eq!(text.encode("hello wo").unwrap(), [259, 262]);
        // Two spaces before a word: the second is the word's.
        assert_eq!(text.encode("hello  wo").unwrap(), [259, byte(' '), 262]);
        assert_eq!(text.encode("hello  ").unwrap(), [259, 261]);
        assert_eq!(text.encode("he 12").unwrap(), [256, byte(' '), byte('1'), byte('2')]);
        assert_eq!(text.encode("he<|end|>he").unwrap(), [256, 263, 256]);
        assert!(text.encode("").unwrap().is_empty());
        assert_eq!(text.encode("\n\nhe").unwrap(), [byte('\n'), byte('\n'), 256]);
    }

    #[test]
    fn characters_come_when_they_are_whole() {
        let text = text();
        let mut stream = text.stream();
        let mut pieces = Vec::new();
        for id in text.encode("hello é🦀<|end|>!").unwrap() {
            pieces.push(stream(id));
        }
        assert_eq!(pieces.concat(), "hello é🦀!");
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)));
        // A byte that begins nothing is shown as such, and what follows it is text again.
        assert_eq!(stream(0xff), "\u{fffd}");
        assert_eq!(stream(b'a'.into()), "a");
    }

    #[test]
    fn characters_are_tokens_of_their_own() {
        let text = Text::characters("\n !Aab").unwrap();
        let ids = text.encode("Ab !\na").unwrap();
        assert_eq!(ids, [3, 5, 1, 2, 0, 4]);
        assert_eq!(ids.into_iter().map(text.stream()).collect::<String>(), "Ab !\na");
        assert!(text.encode("c").unwrap_err().to_string().contains("byte 99"));
        assert!(Text::characters("é").is_err());
    }

    #[test]
    fn a_prompt_becomes_a_turn_of_a_conversation() {
        let text = text();
        assert_eq!(text.chat(None, "Hi").unwrap(), "[user] Hi\n[assistant] ");
        let chat = text.chat(Some("Be brief."), "Hi").unwrap();
        assert_eq!(chat, "[system] Be brief.\n[user] Hi\n[assistant] ");
    }
}
