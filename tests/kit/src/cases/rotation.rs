//! The rotation of a case.

use phasor::rotary::{Frequencies, RopeConfig, Xpos};

use super::Result;

/// A rotation: which frequencies, at which positions.
#[derive(Debug, Clone)]
pub struct Rotation {
    pub config: RopeConfig,
    /// Length of the sequence over the call; only dynamic and longrope read it.
    pub current_len: u64,
    /// Position ids of each place of the sequence, one list a stream; the same for every batch.
    pub positions: Vec<Vec<u32>>,
    /// Length scale on top, if any.
    pub xpos: Option<Xpos>,
    /// Whether the vectors are keys, which xPos treats differently.
    pub keys: bool,
}

impl Rotation {
    /// The frequencies, xPos scale included.
    pub fn frequencies(&self) -> Result<Frequencies> {
        let frequencies = self.config.frequencies(self.current_len)?;
        Ok(match self.xpos {
            None => frequencies,
            Some(xpos) => frequencies.with_xpos(xpos)?,
        })
    }

    /// Largest position of each place of the sequence, over the streams.
    pub fn reach(&self) -> Vec<u32> {
        let places = self.positions.first().map_or(0, Vec::len);
        (0..places)
            .map(|s| self.positions.iter().map(|stream| stream[s]).max().unwrap_or(0))
            .collect()
    }

    /// Refuses position streams of another number or length than the frequencies and `seq` need.
    pub fn check(&self, seq: u32) -> Result<()> {
        let streams = self.config.axes.streams() as usize;
        let fits = self.positions.len() == streams
            && self.positions.iter().all(|stream| stream.len() == seq as usize);
        if fits {
            return Ok(());
        }
        let got: Vec<usize> = self.positions.iter().map(Vec::len).collect();
        Err(format!("{streams} position streams of {seq} are needed, not {got:?}").into())
    }
}
