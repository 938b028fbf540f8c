//! Which position stream drives which pair: text, M-RoPE, and images.

use super::dd::Dd;
use crate::{Error, Result};

/// How the pairs are shared among position streams. A token of a text has one position; a patch of
/// an image or a video has two to four, one a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PositionAxes {
    /// One stream drives all pairs.
    Single,
    /// M-RoPE of Qwen2-VL (arXiv 2409.12191 §2.1): the pairs are cut into three runs of these
    /// lengths, driven by time (stream 0), height (1) and width (2).
    MropeSectioned([u32; 3]),
    /// M-RoPE of Qwen3-VL: pair i is driven by height if i mod 3 = 1 and i < 3·section\[1\], by
    /// width if i mod 3 = 2 and i < 3·section\[2\], else by time.
    MropeInterleaved([u32; 3]),
    /// HunYuan's `xdrope` and any other cut of the pairs into up to four runs, driven by streams 0
    /// to 3; unused runs are 0 long.
    Runs([u32; 4]),
    /// Rows are stream 0, columns stream 1; the first half of the pairs belongs to the rows, the
    /// second to the columns.
    Axial2d(Axial2d),
}

/// How two axes share the frequencies of the rule. In both, r must be a multiple of 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Axial2d {
    /// Pixtral: one series over the full r; rows take its even members, columns its odd ones.
    /// Goes with [`Pairing::Half`](super::Pairing::Half).
    Alternating,
    /// Each axis has a series of its own over r/2. With
    /// [`Pairing::HalfBlocks`](super::Pairing::HalfBlocks)`(2)` this is the vision tower of
    /// Gemma 4, with [`Pairing::Interleaved`](super::Pairing::Interleaved) rotary-embedding-torch.
    Blocks,
}

impl PositionAxes {
    /// Number of position streams: 1 to 4.
    pub fn streams(self) -> u32 {
        match self {
            PositionAxes::Single => 1,
            PositionAxes::Axial2d(_) => 2,
            PositionAxes::MropeSectioned(_) | PositionAxes::MropeInterleaved(_) => 3,
            PositionAxes::Runs(sections) => {
                sections.iter().rposition(|&n| n > 0).map_or(1, |last| last as u32 + 1)
            }
        }
    }

    /// The stream of every pair; `None` when there is only one.
    pub(super) fn of_pairs(self, rotary_dim: u32) -> Result<Option<Vec<u8>>> {
        let pairs = rotary_dim / 2;
        match self {
            PositionAxes::Single => Ok(None),
            PositionAxes::MropeSectioned(sections) => runs(&sections, pairs).map(Some),
            PositionAxes::Runs(sections) => runs(&sections, pairs).map(Some),
            PositionAxes::MropeInterleaved(sections) => {
                check_sections(&sections, pairs)?;
                let [_, height, width] = sections.map(u64::from);
                let axis = |i: u64| match i % 3 {
                    1 if i < 3 * height => 1,
                    2 if i < 3 * width => 2,
                    _ => 0,
                };
                Ok(Some((0..u64::from(pairs)).map(axis).collect()))
            }
            PositionAxes::Axial2d(_) if rotary_dim.is_multiple_of(4) => {
                Ok(Some((0..pairs).map(|j| u8::from(j >= pairs / 2)).collect()))
            }
            PositionAxes::Axial2d(_) => Err(Error::Invalid {
                what: "rotary_dim",
                needed: "a multiple of 4 for two axes",
                got: rotary_dim.to_string(),
            }),
        }
    }

    /// The dimension that the rule's series runs over.
    pub(super) fn series_dim(self, rotary_dim: u32) -> u32 {
        match self {
            PositionAxes::Axial2d(Axial2d::Blocks) => rotary_dim / 2,
            _ => rotary_dim,
        }
    }

    /// Hands the members of the series to the pairs.
    pub(super) fn spread(self, series: &[Dd]) -> Vec<Dd> {
        match self {
            PositionAxes::Axial2d(Axial2d::Alternating) => {
                let rows = series.iter().step_by(2);
                let columns = series.iter().skip(1).step_by(2);
                rows.chain(columns).copied().collect()
            }
            PositionAxes::Axial2d(Axial2d::Blocks) => [series, series].concat(),
            _ => series.to_vec(),
        }
    }
}

/// Stream 0 for as many pairs as the first section has, then stream 1 …
fn runs(sections: &[u32], pairs: u32) -> Result<Vec<u8>> {
    check_sections(sections, pairs)?;
    Ok((0u8..).zip(sections).flat_map(|(axis, &n)| (0..n).map(move |_| axis)).collect())
}

fn check_sections(sections: &[u32], pairs: u32) -> Result<()> {
    let sum: u64 = sections.iter().map(|&n| u64::from(n)).sum();
    if sum == u64::from(pairs) {
        return Ok(());
    }
    Err(Error::Invalid {
        what: "mrope_section",
        needed: "lengths that add up to rotary_dim / 2",
        got: format!("{sections:?} for {pairs} pairs"),
    })
}
