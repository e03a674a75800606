//! Text from outside as one word of plain ASCII: percent-encoded, as headers and rules have it.

use std::fmt::Write as _;

/// A text as a word. None begins with `-`, which stands for no text.
pub fn encode(text: &str) -> String {
    let mut word = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || b"._~@+".contains(&byte)
            || (byte == b'-' && !word.is_empty());
        if plain {
            word.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(word, "%{byte:02X}");
        }
    }
    word
}

/// The bytes of a word; `None` where a `%` is not followed by two hex digits.
pub fn decode(word: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let (high, low) = (char::from(rest.next()?), char::from(rest.next()?));
            let byte = high.to_digit(16)? * 16 + low.to_digit(16)?;
            bytes.push(u8::try_from(byte).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_one_plain_word_and_comes_back() {
        for text in ["", "shop", "-", "a-b", "a b\n", "%2A*", "caf\u{e9}", "\u{0}\u{7f}"] {
            let word = encode(text);
            assert!(word.bytes().all(|b| b.is_ascii_graphic() && b != b'*'), "{word}");
            assert!(!word.starts_with('-'), "{word}");
            assert_eq!(decode(&word).as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(decode("%2"), None);
        assert_eq!(decode("%+1"), None);
    }
}
