//! How a workgroup is cut into invocations, rows, keys and channels.

use super::DecodeProblem;
use crate::plan::Capabilities;
use crate::plan::head_rows::HeadRows;
use crate::{Error, Result};

/// Partial results of a reduction over the invocations.
pub(super) const SEGMENTS: u32 = 8;

/// Softmax states of a workgroup at most: their accumulators are an invocation's registers.
const MAX_STATES: u32 = 16;

/// Sizes of one workgroup's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Invocations of a workgroup.
    pub threads: u32,
    /// Keys an invocation and step.
    pub keys_each: u32,
    /// Query rows of a workgroup: query heads of one kv head times rows of the sequence.
    pub rows: u32,
    /// Keys whose values an invocation fetches before it uses the first of them.
    pub run: u32,
    /// Whether a piece of each key is on its way while the one before it is used.
    pub prefetch: bool,
    /// The size of every subgroup, whose lanes then pass queries and weights round by shuffles;
    /// `None` reads them from workgroup memory. Takes a `run` of that size, `threads` that are a
    /// multiple of it and less than half as many groups of four channels of V as `threads`.
    pub subgroup: Option<u32>,
    /// Invocations that share their keys in Q·Kᵀ, and add up scores by shuffles: 1, 2, 4 or 8. A
    /// load then reads as many neighbouring groups of four channels of a key, and a group of a
    /// query serves as many keys. More than 1 takes subgroups of as many invocations at least,
    /// `threads` that are a multiple of the largest and no `subgroup` above.
    pub key_lanes: u32,
}

/// Where things lie in the workgroup array, in `vec4<f32>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) p_at: u32,
    pub(super) red_at: u32,
    pub(super) seg_at: u32,
    pub(super) len: u32,
}

impl Tile {
    /// A tile that fetches nothing ahead and takes every query and weight from workgroup memory.
    pub const fn new(threads: u32, keys_each: u32, rows: u32) -> Self {
        let (run, prefetch, subgroup, key_lanes) = (1, false, None, 1);
        Self { threads, keys_each, rows, run, prefetch, subgroup, key_lanes }
    }

    /// Keys of a step.
    pub const fn block_k(&self) -> u32 {
        self.threads * self.keys_each
    }

    /// Sets of invocations that share the keys in P·V, invocations of a set, and groups of four
    /// channels an invocation.
    pub(super) fn columns(&self, value_dim: u32) -> (u32, u32, u32) {
        let quads = value_dim / 4;
        match self.threads / quads {
            0 | 1 => (1, self.threads, quads.div_ceil(self.threads)),
            groups => (groups, quads, 1),
        }
    }

    /// The accumulators of one state lie in the array at the end, those of several where they fit.
    pub(super) fn memory(&self, units: u32, streams: u32, value_dim: u32) -> Memory {
        let vecs = (streams * self.rows).div_ceil(4);
        let q = 2 * units * self.rows;
        let p = self.block_k() * vecs;
        let red = self.threads * vecs;
        let (red_at, seg_at) = (q + p, q + p + red);
        let (_, _, cols) = self.columns(value_dim);
        let len = (seg_at + SEGMENTS * vecs).max(cols * self.threads);
        Memory { p_at: q, red_at, seg_at, len }
    }

    pub(super) fn bytes(&self, units: u32, streams: u32, value_dim: u32) -> u32 {
        let vecs = (streams * self.rows).div_ceil(4);
        16 * (self.memory(units, streams, value_dim).len + 2 * vecs) + 4 * self.block_k()
    }

    pub(super) fn check(&self, value_dim: u32, caps: &Capabilities) -> Result<()> {
        let invalid =
            |needed| Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") });
        let parts = [self.threads, self.keys_each, self.rows, self.run];
        if parts.iter().any(|&part| part == 0 || part > 1024) {
            return invalid("made of parts from 1 to 1024");
        }
        if !matches!(self.key_lanes, 1 | 2 | 4 | 8) {
            return invalid("of 1, 2, 4 or 8 invocations that share keys");
        }
        if let Some(sizes) = self.subgroups() {
            caps.need_subgroup("a decode tile with shuffles", sizes)?;
        }
        if self.key_lanes > 1 && !self.shares_keys(caps) {
            return invalid("of full subgroups where keys are shared, which pass no queries round");
        }
        match self.subgroup {
            Some(size) if !self.shuffles(value_dim, size) => {
                invalid("a run of the subgroup's size, threads a multiple of it, one set of them")
            }
            _ => Ok(()),
        }
    }

    /// The least and the largest size that subgroups may have, where it matters.
    pub(super) fn subgroups(&self) -> Option<(u32, u32)> {
        match self.subgroup {
            Some(size) => Some((size, size)),
            None => (self.key_lanes > 1).then_some((self.key_lanes, u32::MAX)),
        }
    }

    /// Whether invocations may share keys: with others that are there, since the last subgroup of a
    /// workgroup is full as well.
    fn shares_keys(&self, caps: &Capabilities) -> bool {
        let sizes = caps.subgroup.filter(|&(least, most)| least >= self.key_lanes && most > 0);
        self.subgroup.is_none() && sizes.is_some_and(|(_, most)| self.threads.is_multiple_of(most))
    }

    /// Whether subgroups of this size may pass queries and weights round.
    fn shuffles(&self, value_dim: u32, size: u32) -> bool {
        self.run == size
            && self.threads.is_multiple_of(size)
            && self.block_k().is_multiple_of(size)
            && self.columns(value_dim).0 == 1
    }

    /// The tile that a plan takes by itself.
    pub(super) fn choose(
        problem: &DecodeProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
    ) -> Result<Self> {
        Self::for_device(problem, caps).fitted(problem, head_rows, caps)
    }

    /// Of one row.
    fn for_device(problem: &DecodeProblem, caps: &Capabilities) -> Self {
        let quads = problem.cache.value_dim / 4;
        let limit = caps.max_invocations.min(caps.max_workgroup_size);
        // A CPU wants one invocation for every column of V, so that all share the weight of a key,
        // and work enough between two barriers. A GPU wants more of them in flight.
        let (threads, keys_each) = match caps.software {
            true => (quads.next_multiple_of(8).min(64), 4),
            false => (128, 1),
        };
        let threads = threads.min(limit.max(1));
        // Software adapters' subgroups all have one size, and take far longer over workgroup memory
        // than over a shuffle. On a GPU, loads on the way at once hide how long each takes (by
        // arithmetic; not yet timed on one), where there are registers for them: with narrow
        // subgroups, four spill.
        let subgroup = caps.subgroup.filter(|&(least, most)| caps.software && least == most);
        let wide = caps.subgroup.is_some_and(|(least, _)| least >= 32);
        let (run, prefetch) = (if wide { 4 } else { 2 }, wide);
        let tile = Self { run, prefetch, ..Self::new(threads, keys_each, 1) };
        match subgroup {
            Some((size, _)) => {
                let shuffled = Self { run: size, subgroup: Some(size), ..tile };
                if shuffled.shuffles(problem.cache.value_dim, size) { shuffled } else { tile }
            }
            None => tile,
        }
    }

    /// With as many rows as K and V can serve at once within the device's limits.
    pub(super) fn fitted(
        self,
        problem: &DecodeProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
    ) -> Result<Self> {
        let units = problem.channels().units();
        let all = head_rows.each.max(1).saturating_mul(problem.max_seq_q.max(1));
        let most = (MAX_STATES / head_rows.streams).min(all);
        let mut least = u32::MAX;
        for rows in (1..=most).rev() {
            // Blocks of equal size.
            let rows = all.div_ceil(all.div_ceil(rows));
            for keys_each in (1..=self.keys_each).rev() {
                let tile = Self { keys_each, rows, ..self };
                let bytes = tile.bytes(units, head_rows.streams, problem.cache.value_dim);
                if bytes <= caps.max_workgroup_bytes {
                    return Ok(tile);
                }
                least = least.min(bytes);
            }
        }
        Err(Error::Limit {
            limit: "max_compute_workgroup_storage_size",
            what: "the smallest decode tile",
            needed: u64::from(least),
            available: u64::from(caps.max_workgroup_bytes),
        })
    }
}

impl core::fmt::Display for Tile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} query rows x {} keys, {} invocations of {} keys, values of {} keys at once{}{}",
            self.rows,
            self.block_k(),
            self.threads,
            self.keys_each,
            self.run,
            if self.prefetch { ", keys ahead" } else { "" },
            if self.subgroup.is_some() { ", shuffled" } else { "" },
        )?;
        match self.key_lanes {
            1 => Ok(()),
            lanes => write!(f, ", keys shared by {lanes}"),
        }
    }
}
