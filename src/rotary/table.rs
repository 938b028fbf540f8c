//! The cos/sin table that kernels read.

use super::{Frequencies, Pairing};
use crate::{Error, Result};

/// cos and sin of every position and pair, in f32, ready for upload.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    rotary_dim: u32,
    positions: u32,
    planes: u32,
    pairing: Pairing,
    axes: Option<Vec<u8>>,
    attention_scaling: f64,
    entries: Vec<[f32; 2]>,
}

impl RopeTable {
    pub(super) fn build(frequencies: &Frequencies, positions: u32) -> Result<Self> {
        let pairs = frequencies.inv_freq().len();
        let scaling = frequencies.query_scaling();
        let planes = 1 + u32::from(frequencies.xpos().is_some() || scaling.is_some());
        if scaling.is_some() && frequencies.axes().is_some() {
            return Err(Error::Invalid {
                what: "query scaling in a table",
                needed: "one position stream, whose position it goes by",
                got: "pairs driven by several".to_owned(),
            });
        }
        frequencies.check_scales(positions)?;
        let too_large = || Error::Invalid {
            what: "positions",
            needed: "few enough for the table to fit memory",
            got: format!("{positions} positions of {pairs} pairs"),
        };
        let plane = (positions as usize).checked_mul(pairs).ok_or_else(too_large)?;
        let len = plane.checked_mul(planes as usize).ok_or_else(too_large)?;
        let mut entries = Vec::new();
        entries.try_reserve_exact(len).map_err(|_| too_large())?;
        for key in (0..planes).map(|plane| plane == 1) {
            for position in 0..positions {
                let factor = match scaling {
                    Some(scaling) if !key => scaling.at(position),
                    _ => 1.0,
                };
                entries.extend((0..pairs).map(|pair| {
                    let (cos, sin) = frequencies.cos_sin(position, pair);
                    let scale = match frequencies.query_scale(position, pair) {
                        scale if key => 1.0 / scale,
                        scale => scale * factor,
                    };
                    [(cos * scale) as f32, (sin * scale) as f32]
                }));
            }
        }
        Ok(RopeTable {
            rotary_dim: frequencies.rotary_dim(),
            positions,
            planes,
            pairing: frequencies.pairing(),
            axes: frequencies.axes().map(<[u8]>::to_vec),
            attention_scaling: frequencies.attention_scaling(),
            entries,
        })
    }

    /// Rotated channels r.
    pub fn rotary_dim(&self) -> u32 {
        self.rotary_dim
    }

    /// Pairs of a head, r/2.
    pub fn pairs(&self) -> u32 {
        self.rotary_dim / 2
    }

    /// The table holds positions `0 .. positions`.
    pub fn positions(&self) -> u32 {
        self.positions
    }

    /// 1; or 2 with xPos or a query scaling, where plane 0 is for queries and plane 1 for keys.
    pub fn planes(&self) -> u32 {
        self.planes
    }

    /// Channels of each pair.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// Position stream of every pair; `None` when stream 0 drives all.
    pub fn axes(&self) -> Option<&[u8]> {
        self.axes.as_deref()
    }

    /// Number of position streams that the pairs read: the largest stream plus one.
    pub fn streams(&self) -> u32 {
        let last = self.axes.iter().flatten().max();
        last.map_or(1, |&axis| u32::from(axis) + 1)
    }

    /// m, which is in the entries already.
    pub fn attention_scaling(&self) -> f64 {
        self.attention_scaling
    }

    /// `[cos, sin]`, laid out `[planes, positions, rotary_dim / 2]`, row-major.
    pub fn entries(&self) -> &[[f32; 2]] {
        &self.entries
    }

    /// The entries as bytes, for upload.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.entries)
    }
}
