//! The sizes of a table, which is all that kernels need to know of it on the host.

use super::RopeTable;
use crate::{Error, Result};

/// Sizes of a [`RopeTable`], to be kept where the table itself is dropped after its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableShape {
    /// The table holds positions `0 .. positions`.
    pub positions: u32,
    /// Pairs of a head, `rotary_dim / 2`.
    pub pairs: u32,
    /// 1, or 2 where keys have their own plane (xPos, query scaling).
    pub planes: u32,
    /// Which position stream drives each pair; `None`: one stream for all.
    pub axes: Option<TableAxes>,
}

/// The position stream of every pair, two bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableAxes {
    /// Streams in use: the largest stream of any pair, plus one.
    pub streams: u32,
    /// Pair j in bits `2 (j mod 16)` of word `j / 16`.
    pub packed: [[u32; 4]; 4],
}

impl TableAxes {
    /// Packs one stream number a pair.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 256 pairs or a stream above 3.
    pub fn new(streams: &[u8]) -> Result<Self> {
        if streams.len() > 256 || streams.iter().any(|&stream| stream > 3) {
            return Err(Error::Invalid {
                what: "position streams of a table",
                needed: "streams 0 to 3 for at most 256 pairs",
                got: format!("{} pairs, largest stream {:?}", streams.len(), streams.iter().max()),
            });
        }
        let mut packed = [[0u32; 4]; 4];
        for (j, &stream) in streams.iter().enumerate() {
            packed[j / 64][j / 16 % 4] |= u32::from(stream) << (2 * (j % 16));
        }
        let streams = streams.iter().max().map_or(1, |&largest| u32::from(largest) + 1);
        Ok(Self { streams, packed })
    }
}

impl RopeTable {
    /// The sizes that a kernel asks for when the table is bound.
    ///
    /// # Errors
    /// [`Error::Invalid`] where pairs read several position streams and there are more than 256
    /// pairs.
    pub fn shape(&self) -> Result<TableShape> {
        Ok(TableShape {
            positions: self.positions(),
            pairs: self.pairs(),
            planes: self.planes(),
            axes: self.axes().map(TableAxes::new).transpose()?,
        })
    }
}
