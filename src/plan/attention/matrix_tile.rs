//! Tiles of attention on matrix units.

use super::{AttentionProblem, Tile};
use crate::plan::cache::CacheType;
use crate::plan::{Capabilities, MatrixSide, Precision, Suspect};
use crate::{DType, Error, Result};

/// Sizes of one workgroup's work, where products run on matrix units: `subgroups` runs of `lanes`
/// invocations, each with `side` queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixTile {
    /// Rows and columns of a matrix.
    pub side: MatrixSide,
    /// Invocations of the device's largest subgroup. Wider subgroups than this would multiply
    /// matrices of several rows at once, and be wrong; narrower ones do the same work several
    /// times.
    pub lanes: u32,
    /// Subgroups of a workgroup.
    pub subgroups: u32,
    /// Keys of a step.
    pub block_k: u32,
    /// Whether values are staged `[channel, key]`: where a compiler gathers matrices of `[key,
    /// channel]` one number at a time.
    pub value_turned: bool,
    /// Of the problems that it is for: [`Precision::F16Products`] or [`Precision::F16x3Products`],
    /// whose shaders differ.
    pub precision: Precision,
}

/// How many numbers of f16 stand for one of k, and for one of v.
pub(super) fn parts(problem: &AttentionProblem) -> [u32; 2] {
    let cache = problem.cache();
    [cache.k, cache.v].map(|stored| match problem.precision == Precision::F16x3Products {
        true if stored != CacheType::F16 => 2,
        _ => 1,
    })
}

/// Workgroup memory, in groups of four numbers.
struct Sizes {
    half: u64,
    single: u64,
}

impl MatrixTile {
    /// Queries of a workgroup.
    pub const fn block_q(&self) -> u32 {
        self.side.rows() * self.subgroups
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.lanes * self.subgroups
    }

    /// Invocations that share a row in the softmax.
    const fn parts(&self) -> u32 {
        self.lanes / self.side.rows()
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid =
            |needed| Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") });
        let parts = [self.lanes, self.subgroups, self.block_k];
        if parts.contains(&0) || parts.iter().any(|&part| part > 1024) {
            return invalid("made of parts from 1 to 1024");
        }
        let side = self.side.rows();
        if !self.lanes.is_multiple_of(side) || !self.block_k.is_multiple_of(side) {
            return invalid("such that the side divides lanes and keys");
        }
        if !self.block_k.is_multiple_of(4 * self.parts()) {
            return invalid("such that block_k is a multiple of 4 * lanes / side");
        }
        if !self.precision.on_matrices() {
            return invalid("of a precision that runs on matrix units");
        }
        Ok(())
    }

    /// Runs of `block_k` channels that hold a value.
    pub(super) fn value_runs(&self, problem: &AttentionProblem) -> u32 {
        problem.value_dim.div_ceil(self.block_k)
    }

    /// Whether low parts of queries stay in workgroup memory, where registers have no room for
    /// them: beside the accumulators of two streams of more than 64 channels.
    pub(super) fn query_stays(&self, problem: &AttentionProblem, streams: u32) -> bool {
        let parts = problem.rotate_q || problem.q_dtype != DType::F16;
        self.side == MatrixSide::M16
            && self.precision == Precision::F16x3Products
            && streams == 2
            && problem.head_dim.max(problem.value_dim) > 64
            && parts
    }

    /// Vectors of four numbers that an invocation carries from one step to the next, for a stream:
    /// its maximum and sums, and its part of the accumulators.
    pub(super) fn state_len(&self, problem: &AttentionProblem) -> u32 {
        1 + self.value_runs(problem) * self.block_k / 4 / self.parts()
    }

    /// As `shaders/attention_matrix/sizes.wgsl` has them.
    fn sizes(&self, problem: &AttentionProblem, streams: u32) -> Sizes {
        let n = u64::from;
        let (block_q, block_k) = (n(self.block_q()), n(self.block_k));
        let [pairs, tail] = problem.channels().quads();
        let m4 = self.side.rows() / 4;
        let half_row = n((pairs.div_ceil(m4) + tail.div_ceil(m4)) * m4);
        let (k_row, p_row) = (2 * half_row + 2, block_k / 4 + 2);
        let value_quads = n(self.value_runs(problem)) * block_k / 4;
        let v = match self.value_turned {
            true => 4 * value_quads * p_row,
            false => block_k * (value_quads + 2),
        };
        let [k_parts, v_parts] = parts(problem).map(n);
        let p_parts = if self.precision == Precision::F16x3Products { 2 } else { 1 };
        let p_sets = p_parts + u64::from(self.side == MatrixSide::M8 && v_parts == 2);
        let v_at = (k_parts * block_k * k_row).max(p_sets * n(streams) * block_q * p_row);
        let q = block_q * k_row;
        let q_stays = if self.query_stays(problem, streams) { q } else { 0 };
        Sizes { half: (v_at + v_parts * v + q_stays).max(q), single: block_q * p_row }
    }

    /// Workgroup memory of a workgroup.
    pub(super) fn bytes(&self, problem: &AttentionProblem, streams: u32) -> u32 {
        let Sizes { half, single } = self.sizes(problem, streams);
        // Where the rows of a tile's keys start.
        let places = if problem.has_slots() { 8 * u64::from(self.block_k) } else { 0 };
        // Two flags take the room of a vector each.
        let tiles = (8 * half).next_multiple_of(16) + 16 * single + 2 * 16;
        let shares = (8 * u64::from(self.threads())).next_multiple_of(16);
        u32::try_from(tiles + shares + places.next_multiple_of(16)).unwrap_or(u32::MAX)
    }

    /// The first [preferred tile](MatrixTile::preferred) that may be used.
    pub(super) fn choose(
        problem: &AttentionProblem,
        streams: u32,
        caps: &Capabilities,
    ) -> Result<Tile> {
        Self::admit(problem)?;
        let mut refused = None;
        for tile in Self::preferred(problem, streams, caps)? {
            let tile = Tile::Matrices(tile);
            match caps.allow(Suspect::Tile(tile)).and_then(|()| caps.allow_matrices(tile)) {
                Ok(()) => return Ok(tile),
                // The reason of the best one stands for the rest.
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let (side, lanes) = caps.matrix_units()?;
        let keys = 4 * lanes.div_ceil(side.rows()).max(4);
        let least = Self::new((side, lanes), 1, keys, problem);
        let least = Self { value_turned: false, ..least };
        Err(refused.unwrap_or(Error::Limit {
            limit: "max_compute_workgroup_storage_size",
            what: "the smallest attention tile on matrix units",
            needed: least.bytes(problem, streams).into(),
            available: caps.max_workgroup_bytes.into(),
        }))
    }

    /// No fewer lanes than rows.
    fn new(
        (side, lanes): (MatrixSide, u32),
        subgroups: u32,
        block_k: u32,
        problem: &AttentionProblem,
    ) -> Self {
        let lanes = lanes.max(side.rows());
        // Subgroups of 64 are AMD's. Its compiler gathers matrices of [key, channel] a number at a
        // time on RDNA3, and half as many on RDNA4, where turning costs as much at 64 channels.
        let value_turned = lanes == 64 && problem.value_dim > 64;
        let precision = problem.precision;
        Self { side, lanes, subgroups, block_k, value_turned, precision }
    }

    /// What the device has room for, best first.
    pub(super) fn preferred(
        problem: &AttentionProblem,
        streams: u32,
        caps: &Capabilities,
    ) -> Result<Vec<Self>> {
        let (side, lanes) = caps.matrix_units()?;
        // A software adapter compiles a step's worth of straight code for tens of seconds.
        let shapes: &[(u32, u32)] = match (caps.software, side) {
            (true, _) => &[(4, 8), (4, 16), (4, 32), (2, 16), (2, 32), (1, 16), (1, 32)],
            (false, MatrixSide::M16) => &[(4, 32), (4, 16), (2, 32), (2, 16), (1, 16), (1, 32)],
            (false, MatrixSide::M8) => &[(8, 32), (4, 32), (4, 16), (2, 16), (1, 16), (1, 32)],
        };
        let most_threads = caps.max_invocations.min(caps.max_workgroup_size);
        let fits = |tile: &Self| {
            tile.check().is_ok()
                && tile.threads() <= most_threads
                && tile.bytes(problem, streams) <= caps.max_workgroup_bytes
        };
        let tile = |&(subgroups, block_k): &(u32, u32)| {
            let tile = Self::new((side, lanes), subgroups, block_k, problem);
            // Rows take less memory.
            let in_rows = tile.value_turned.then_some(Self { value_turned: false, ..tile });
            [tile].into_iter().chain(in_rows)
        };
        Ok(shapes.iter().flat_map(tile).filter(fits).collect())
    }

    /// The tiles that a tuner should try, the default one first.
    pub(super) fn candidates(
        problem: &AttentionProblem,
        streams: u32,
        caps: &Capabilities,
    ) -> Result<Vec<Tile>> {
        let mut tiles = vec![Self::choose(problem, streams, caps)?];
        let preferred = Self::preferred(problem, streams, caps)?;
        let both = preferred.into_iter().flat_map(|tile| {
            [false, true].map(|value_turned| Tile::Matrices(Self { value_turned, ..tile }))
        });
        for tile in both {
            let allowed = caps.allow(Suspect::Tile(tile)).and_then(|()| caps.allow_matrices(tile));
            let room = tile
                .matrices()
                .is_some_and(|matrix| matrix.bytes(problem, streams) <= caps.max_workgroup_bytes);
            if allowed.is_ok() && room && !tiles.contains(&tile) {
                tiles.push(tile);
            }
        }
        Ok(tiles)
    }

    /// Refuses a tile that the device cannot run, or that was not seen to be right on it.
    pub(super) fn allow(&self, caps: &Capabilities) -> Result<()> {
        let (side, lanes) = caps.matrix_units()?;
        // A subgroup that two runs of lanes share would have two rows of matrices.
        if self.side != side || !self.lanes.is_multiple_of(lanes) {
            return Err(Error::Invalid {
                what: "tile",
                needed: "of the device's side, its lanes a multiple of the largest subgroup",
                got: format!("{self:?} for {} rows and {lanes} invocations", side.rows()),
            });
        }
        Ok(())
    }

    /// Whether the streams of a query head take a pass each: registers have no room for the
    /// accumulators of two.
    pub(super) fn streams_part(problem: &AttentionProblem) -> bool {
        problem.head_dim.max(problem.value_dim) > 128
    }

    /// Refuses what the kernel on matrix units does not do.
    pub(super) fn admit(problem: &AttentionProblem) -> Result<()> {
        let dim = problem.head_dim.max(problem.value_dim);
        if dim > 256 {
            return Err(Error::Invalid {
                what: "head_dim and value_dim",
                needed: "at most 256 on matrix units",
                got: dim.to_string(),
            });
        }
        Ok(())
    }
}

impl core::fmt::Display for MatrixTile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let side = self.side.rows();
        write!(
            f,
            "{} subgroups of {} invocations, matrices of {side} x {side}{}",
            self.subgroups,
            self.lanes,
            if self.value_turned { ", values turned" } else { "" },
        )?;
        f.write_str(if self.precision == Precision::F16x3Products { ", in parts" } else { "" })
    }
}
