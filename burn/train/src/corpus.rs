//! Text as numbers, one a character; and what a table of pairs makes of it.

use std::path::Path;

use crate::Result;

/// A text to learn and one to be judged by.
pub struct Corpus {
    /// What the program calls it.
    pub name: String,
    /// The characters of both, in order: a token is an index.
    pub symbols: String,
    pub train: Vec<u8>,
    pub held_out: Vec<u8>,
}

impl Corpus {
    /// The text that comes with the program: *Hamlet*, its last tenth held out.
    ///
    /// # Errors
    /// None but those of a text.
    pub fn built_in() -> Result<Self> {
        let text = include_str!("../text/hamlet.txt");
        let (train, held_out) = cut(text);
        Self::new("Hamlet, built in", train, held_out)
    }

    /// `train.txt` and `held-out.txt` of a folder, or a file, of which the last tenth is held out.
    ///
    /// # Errors
    /// Where they cannot be read, or have more than 256 different characters.
    pub fn read(path: &Path) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let name = path.display().to_string();
        if path.is_dir() {
            let (train, held_out) = (path.join("train.txt"), path.join("held-out.txt"));
            return Self::new(&name, &read(&train)?, &read(&held_out)?);
        }
        let text = read(path)?;
        let (train, held_out) = cut(&text);
        Self::new(&name, train, held_out)
    }

    fn new(name: &str, train: &str, held_out: &str) -> Result<Self> {
        let mut symbols: Vec<char> = train.chars().chain(held_out.chars()).collect();
        symbols.sort_unstable();
        symbols.dedup();
        if symbols.len() > 256 {
            let count = symbols.len();
            return Err(format!("{name}: {count} different characters, at most 256 fit").into());
        }
        let symbols: String = symbols.into_iter().collect();
        let (train, held_out) = (encode(&symbols, train)?, encode(&symbols, held_out)?);
        Ok(Self { name: name.to_owned(), symbols, train, held_out })
    }

    /// The same text in the tokens of a model.
    ///
    /// # Errors
    /// Where the model does not know a character.
    pub fn in_symbols(self, symbols: &str) -> Result<Self> {
        let text = |tokens: &[u8]| decode(&self.symbols, tokens);
        let (train, held_out) =
            (encode(symbols, &text(&self.train))?, encode(symbols, &text(&self.held_out))?);
        Ok(Self { name: self.name, symbols: symbols.to_owned(), train, held_out })
    }

    /// Refuses a text in which no window of so many tokens and the one after fits.
    ///
    /// # Errors
    /// With how many there are.
    pub fn holds(&self, window: usize) -> Result<()> {
        for (part, tokens) in [("to train on", &self.train), ("held out", &self.held_out)] {
            if tokens.len() < window + 1 {
                return Err(format!(
                    "{}: {} characters {part}, a window takes {}",
                    self.name,
                    tokens.len(),
                    window + 1
                )
                .into());
            }
        }
        Ok(())
    }

    /// Mean cross entropy of so many held-out characters by how often one follows another in the
    /// training text, each pair counted a tenth more often than it is there.
    pub fn bigram_loss(&self, characters: usize) -> f64 {
        const MORE: f64 = 0.1;
        let n = self.symbols.chars().count();
        let mut pairs = vec![MORE; n * n];
        for pair in self.train.windows(2) {
            pairs[usize::from(pair[0]) * n + usize::from(pair[1])] += 1.0;
        }
        let sums: Vec<f64> = pairs.chunks(n).map(|row| row.iter().sum()).collect();
        let judged = &self.held_out[..self.held_out.len().min(characters + 1)];
        let losses = judged.windows(2).map(|pair| {
            let (first, second) = (usize::from(pair[0]), usize::from(pair[1]));
            -(pairs[first * n + second] / sums[first]).ln()
        });
        losses.sum::<f64>() / (judged.len().max(2) - 1) as f64
    }
}

/// Nine tenths, and the last one.
fn cut(text: &str) -> (&str, &str) {
    let mut at = text.len() / 10 * 9;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.split_at(at)
}

/// Tokens of a text.
///
/// # Errors
/// For a character that is not among the symbols.
pub fn encode(symbols: &str, text: &str) -> Result<Vec<u8>> {
    let symbols: Vec<char> = symbols.chars().collect();
    text.chars()
        .map(|c| match symbols.iter().position(|&symbol| symbol == c) {
            Some(token) => Ok(u8::try_from(token)?),
            None => Err(format!("the model has no {c:?} among its {} symbols", symbols.len()))?,
        })
        .collect()
}

/// Text of tokens.
pub fn decode(symbols: &str, tokens: &[u8]) -> String {
    let symbols: Vec<char> = symbols.chars().collect();
    tokens.iter().filter_map(|&token| symbols.get(usize::from(token))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back() {
        let corpus = Corpus::new("a", "to be or not", "to be").unwrap();
        assert_eq!(corpus.symbols, " benort");
        assert_eq!(decode(&corpus.symbols, &corpus.held_out), "to be");
        assert!(encode(&corpus.symbols, "x").is_err());
    }

    #[test]
    fn a_short_text_is_refused() {
        let corpus = Corpus::new("a", "to be or not", "to be").unwrap();
        assert!(corpus.holds(4).is_ok());
        let error = corpus.holds(5).unwrap_err().to_string();
        assert_eq!(error, "a: 5 characters held out, a window takes 6");
    }

    #[test]
    fn pairs_that_always_follow_cost_little() {
        let text = "ab".repeat(2000);
        let corpus = Corpus::new("a", &text, &text).unwrap();
        assert!(corpus.bigram_loss(1000) < 1e-3);
    }
}
