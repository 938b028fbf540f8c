//! GPT-2's spelling of bytes as printable characters: those of Latin-1 stand for themselves, the
//! others are counted up from U+0100.

use crate::Result;

fn printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes that a token spells.
pub(super) fn decode(token: &str) -> Result<Vec<u8>> {
    let hidden: Vec<u8> = (0..=255).filter(|&byte| !printable(byte)).collect();
    let byte = |c: char| match u8::try_from(c) {
        Ok(byte) if printable(byte) => Some(byte),
        _ => hidden.get((c as usize).checked_sub(0x100)?).copied(),
    };
    let bytes = token.chars().map(byte).collect::<Option<_>>();
    bytes.ok_or_else(|| format!("the token {token:?} does not spell bytes").into())
}

/// The other way round.
pub(super) fn encode(bytes: &[u8]) -> String {
    let hidden = |byte: u8| 0x100 + (0..byte).filter(|&byte| !printable(byte)).count() as u32;
    let spell = |&byte: &u8| match printable(byte) {
        true => Some(byte as char),
        false => char::from_u32(hidden(byte)),
    };
    bytes.iter().filter_map(spell).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn spaces_and_line_ends_have_their_known_spelling() {
        assert_eq!(super::decode("Ġa").unwrap(), b" a");
        assert_eq!(super::decode("Ċ").unwrap(), b"\n");
        assert_eq!(super::decode("Ã©").unwrap(), "é".as_bytes());
        assert!(super::decode("a b").is_err());
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(super::decode(&super::encode(&all)).unwrap(), all);
    }
}
