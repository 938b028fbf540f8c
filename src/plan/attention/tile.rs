//! The tile: how a workgroup is cut into invocations, queries and keys.

use super::memory::Memory;
use super::{AttentionProblem, Programs};
use crate::plan::Capabilities;
use crate::{Error, Result};

/// Sizes of one workgroup's work. `tx · ty` invocations; a row of `tx` shares its queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Invocations along keys (in Q·Kᵀ) and along channels of V (in P·V).
    pub tx: u32,
    /// Invocations along queries.
    pub ty: u32,
    /// Pairs of queries an invocation.
    pub row_pairs: u32,
    /// Groups of four keys an invocation.
    pub key_quads: u32,
    /// Groups of eight channels of q and k that are staged at once.
    pub chunk_units: u32,
    /// Whether the whole query tile stays in workgroup memory; otherwise it is staged in chunks,
    /// again for every key tile.
    pub q_resident: bool,
    /// Key quads of V that are staged at once; divides `key_quads · tx`.
    pub v_quads: u32,
    /// Whether P and V have workgroup memory of their own, or lie over K.
    pub pv_apart: bool,
}

impl Tile {
    /// Queries of a workgroup.
    pub const fn block_q(&self) -> u32 {
        2 * self.row_pairs * self.ty
    }

    /// Keys of a step.
    pub const fn block_k(&self) -> u32 {
        4 * self.key_quads * self.tx
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.tx * self.ty
    }

    /// Groups of four channels of V that an invocation accumulates.
    pub(super) const fn cols(&self, value_dim: u32) -> u32 {
        (value_dim / 4).div_ceil(self.tx)
    }

    pub(super) fn check(&self, problem: &AttentionProblem) -> Result<()> {
        let parts = [self.tx, self.ty, self.row_pairs, self.key_quads, self.chunk_units];
        let invalid =
            |needed| Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") });
        if parts.contains(&0) || self.v_quads == 0 {
            return invalid("made of parts above 0");
        }
        if parts.iter().any(|&part| part > 1024) {
            return invalid("made of parts up to 1024");
        }
        if !(self.key_quads * self.tx).is_multiple_of(self.v_quads) {
            return invalid("such that v_quads divides key_quads * tx");
        }
        if self.chunk_units > problem.head_dim / 8 + 1 {
            return invalid("such that chunk_units <= head_dim / 8 + 1");
        }
        Ok(())
    }

    /// The first of the preferred shapes, each with the least staging, that fits the device.
    pub(super) fn choose(
        problem: &AttentionProblem,
        programs: &Programs,
        caps: &Capabilities,
    ) -> Result<Self> {
        let mut least = u32::MAX;
        for &(tx, ty, row_pairs, key_quads) in Self::shapes(problem, caps) {
            if tx * ty > caps.max_invocations.min(caps.max_workgroup_size) {
                continue;
            }
            let units = Memory::units(problem);
            let base = Tile {
                tx,
                ty,
                row_pairs,
                key_quads,
                chunk_units: units,
                q_resident: true,
                v_quads: key_quads * tx,
                pv_apart: true,
            };
            for tile in base.thriftier(units) {
                let bytes = Memory::new(problem, programs, &tile).bytes();
                if bytes <= caps.max_workgroup_bytes {
                    return Ok(tile);
                }
                least = least.min(bytes);
            }
        }
        Err(Error::Limit {
            limit: "max_compute_workgroup_storage_size",
            what: "the smallest attention tile",
            needed: u64::from(least),
            available: u64::from(caps.max_workgroup_bytes),
        })
    }

    /// `(tx, ty, row_pairs, key_quads)`, best first.
    fn shapes(problem: &AttentionProblem, caps: &Capabilities) -> &'static [(u32, u32, u32, u32)] {
        let wide = problem.value_dim > 64;
        match (caps.software, wide) {
            (true, _) => &[(4, 4, 2, 2), (4, 4, 1, 2), (4, 4, 1, 1)],
            (false, false) => &[(8, 16, 1, 1), (8, 8, 1, 1), (8, 4, 1, 1)],
            (false, true) => &[(16, 16, 1, 1), (16, 8, 1, 1), (16, 4, 1, 1)],
        }
    }

    /// This tile, and the same with less and less workgroup memory.
    fn thriftier(self, units: u32) -> impl Iterator<Item = Tile> {
        let halves =
            |n: u32| core::iter::successors(Some(n), |&n| (n > 1).then_some(n.div_ceil(2)));
        let over = Tile { pv_apart: false, ..self };
        let quads = move || {
            core::iter::successors(Some(over.v_quads), |&n| n.is_multiple_of(2).then_some(n / 2))
        };
        let chunked = halves(units).flat_map(move |chunk_units| {
            quads().map(move |v_quads| Tile { chunk_units, v_quads, ..over })
        });
        let streamed = halves(units).flat_map(move |chunk_units| {
            quads().map(move |v_quads| Tile { chunk_units, v_quads, q_resident: false, ..over })
        });
        core::iter::once(self).chain(chunked).chain(streamed)
    }
}

impl core::fmt::Display for Tile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} queries x {} keys, {} x {} invocations of {} x {} scores, {} channels of k and {} keys of v staged at once{}{}",
            self.block_q(),
            self.block_k(),
            self.tx,
            self.ty,
            2 * self.row_pairs,
            4 * self.key_quads,
            8 * self.chunk_units,
            4 * self.v_quads,
            if self.q_resident { "" } else { ", q re-staged" },
            if self.pv_apart { "" } else { ", v over k" },
        )
    }
}
