//! Planning moves of rows within a cache: context shift, copies of a prefix.

use crate::plan::cache::{CacheFormat, CacheType};
use crate::plan::shader::{Source, cached, codecs, wgsl};
use crate::plan::{Capabilities, Cost, KernelKind, Shader, rotation_flops};
use crate::rotary::Pairing;
use crate::{Error, Result};

/// Moves rows of a cache to other slots, of the same sequence or of another one, in one dispatch.
/// A row's position is its slot, so a key that moves by δ slots turns by δ positions on its way:
/// rotations compose, R(s + δ) = R(δ) R(s). Values move as they are.
///
/// What is done with it:
///
/// - **Context shift**: a full sequence drops rows `keep .. keep + n`, and the ones behind move
///   forward by n, as if they had always been there: [`Move::shift`].
/// - **Copy of a prefix** to another sequence: [`Move::prefix`], bit for bit. Paged sequences
///   share full pages through their block tables instead, and copy the last, partial one alone.
/// - **Truncation** needs no kernel: hand over a smaller length.
///
/// Float keys take one rounding of their storage a move. Quantised keys are quantised anew: each
/// move that turns them adds up to half a step of their scale once more (a whole step at the far
/// end of q4's). Moves without a turn copy the bits whatever the storage is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KvMoveProblem {
    /// The cache.
    pub cache: CacheFormat,
    /// Whether K is rotated, and turns when it moves.
    pub rotate: bool,
    /// Channels that rotate, even, at most D. Read only where K is rotated; likewise the pairing.
    pub rotary_dim: u32,
    /// How the pairs were rotated on append. With [`Pairing::InterleavedToHalf`] they lie
    /// half-split in the cache.
    pub pairing: Pairing,
}

impl KvMoveProblem {
    /// All of D rotated, half-split.
    pub fn new(cache: CacheFormat) -> Self {
        Self { cache, rotate: true, rotary_dim: cache.head_dim, pairing: Pairing::Half }
    }

    /// Decides how the moves run on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has too
    /// few storage bindings or invocations.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<KvMovePlan> {
        KvMovePlan::new(self, capabilities)
    }

    fn check(&self) -> Result<()> {
        self.cache.check()?;
        if self.rotate {
            self.pairing.check_within(self.rotary_dim, self.cache.head_dim)?;
        }
        Ok(())
    }
}

/// What one call moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvMoveShape<'a> {
    /// Sequences of the cache.
    pub batch: u32,
    /// Rows that move, all at once.
    pub moves: &'a [Move],
}

impl<'a> KvMoveShape<'a> {
    /// `moves` between the `batch` sequences of a cache.
    pub fn new(batch: u32, moves: &'a [Move]) -> Self {
        Self { batch, moves }
    }
}

/// Rows that move. In a rolling cache, rows are positions: they lie in slot `row mod capacity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Move {
    /// Sequence that they come from.
    pub from: u32,
    /// The first of them.
    pub from_row: u32,
    /// Sequence that they go to.
    pub to: u32,
    /// Where the first of them goes.
    pub to_row: u32,
    /// How many there are.
    pub rows: u32,
}

impl Move {
    /// A context shift of a sequence of `len` rows: rows `keep .. keep + dropped` are lost, and all
    /// behind them move forward. The sequence has `len − dropped` rows then.
    pub fn shift(sequence: u32, keep: u32, dropped: u32, len: u32) -> Self {
        let from_row = keep.saturating_add(dropped);
        let rows = len.saturating_sub(from_row);
        Self { from: sequence, from_row, to: sequence, to_row: keep, rows }
    }

    /// A copy of the first `rows` rows of a sequence to another one.
    pub fn prefix(from: u32, to: u32, rows: u32) -> Self {
        Self { from, from_row: 0, to, to_row: 0, rows }
    }

    /// Positions that keys turn by.
    pub(crate) fn distance(&self) -> i64 {
        i64::from(self.to_row) - i64::from(self.from_row)
    }

    /// Rows that can move at the same time.
    pub(crate) fn chains(&self, rolling: bool) -> u32 {
        // Rows of a rolling cache that stay in their sequence stay in their slots.
        match self.from == self.to && !rolling && self.distance() != 0 {
            true => self.rows.min(u32::try_from(self.distance().abs()).unwrap_or(u32::MAX)),
            false => self.rows,
        }
    }
}

/// Checks moves that one call makes: sequences and rows exist, and no move writes what another one
/// reads or writes. Block tables are not looked at: rows of different sequences are taken to lie on
/// different pages, which holds for all that is written if
/// [`Pages::check_append`](crate::cache::Pages::check_append) of the rows that are written
/// passes.
///
/// # Errors
/// [`Error::Invalid`], [`Error::CacheFull`] for rows past the capacity (rolling: more than it).
pub fn check_moves(moves: &[Move], batch: u32, capacity: u32, rolling: bool) -> Result<()> {
    let invalid = |needed, got| Err(Error::Invalid { what: "moves", needed, got });
    for row in moves {
        let Move { from, from_row, to, to_row, rows } = *row;
        if from.max(to) >= batch {
            return invalid("between sequences below the batch", format!("{row:?} of {batch}"));
        }
        for (sequence, first) in [(from, from_row), (to, to_row)] {
            let needed = if rolling { u64::from(rows) } else { u64::from(first) + u64::from(rows) };
            if needed > u64::from(capacity) {
                return Err(Error::CacheFull { sequence, needed, capacity: capacity.into() });
            }
        }
        let most = i64::from(u32::MAX - rows);
        if i64::from(from_row.max(to_row)) > most || row.distance().abs() > i64::from(i32::MAX) {
            return invalid("of positions within 32 bits", format!("{row:?}"));
        }
        let stays = capacity == 0 || row.distance() % i64::from(capacity.max(1)) == 0;
        if rolling && from == to && !stays {
            let needed = "by a multiple of the capacity, within a sequence of a rolling cache";
            return invalid(needed, format!("{row:?} of {capacity}"));
        }
    }
    // Slots as a circle: ranges meet where one begins within the other.
    let meet = |a: (u32, u32, u32), b: (u32, u32, u32)| {
        let behind = |x: u32, y: u32| {
            (u64::from(x % capacity) + u64::from(capacity) - u64::from(y % capacity))
                % u64::from(capacity)
        };
        a.0 == b.0
            && a.2 > 0
            && b.2 > 0
            && (behind(b.1, a.1) < u64::from(a.2) || behind(a.1, b.1) < u64::from(b.2))
    };
    for (n, writes) in moves.iter().enumerate() {
        for (m, other) in moves.iter().enumerate().filter(|&(m, _)| m != n) {
            let written = (writes.to, writes.to_row, writes.rows);
            let read = (other.from, other.from_row, other.rows);
            let also_written = (other.to, other.to_row, other.rows);
            if capacity > 0 && (meet(written, read) || meet(written, also_written)) {
                let needed = "such that none writes what another reads or writes";
                return invalid(needed, format!("{:?} and {:?}", moves[n], moves[m]));
            }
        }
    }
    Ok(())
}

/// How a [`KvMoveProblem`] will run.
#[derive(Debug, Clone, PartialEq)]
pub struct KvMovePlan {
    pub(crate) problem: KvMoveProblem,
    pub(crate) capabilities: Capabilities,
    shader: Shader,
}

impl KvMovePlan {
    /// Invocations of a workgroup: as many as a row has pieces, within what every device offers.
    /// On software adapters, where an idle invocation costs as much as another and a barrier within
    /// one subgroup little, 8 take a row in turns.
    fn workgroup(cache: &CacheFormat, software: bool) -> u32 {
        let entries = |stored: CacheType, dim| stored.row(dim) / stored.unit();
        let most = entries(cache.k, cache.head_dim).max(entries(cache.v, cache.value_dim));
        match software {
            true => 8,
            false => most.max(cache.head_dim / 4).next_power_of_two().clamp(32, 64),
        }
    }

    fn new(problem: &KvMoveProblem, caps: &Capabilities) -> Result<Self> {
        problem.check()?;
        caps.allow_stored(KernelKind::KvMove, [problem.cache.k, problem.cache.v])?;
        let cache = &problem.cache;
        let workgroup = Self::workgroup(cache, caps.software);
        let shader = Shader {
            kernel: KernelKind::KvMove,
            label: format!(
                "kv_move D{} Dv{} {} {}{}{}",
                cache.head_dim,
                cache.value_dim,
                cache.k,
                cache.v,
                if cache.paged { " paged" } else { "" },
                if problem.rotate { " turning" } else { "" },
            ),
            source: Self::constants(problem).files(Self::files(problem)),
            entry: "kv_move",
            overrides: vec![("WORKGROUP", f64::from(workgroup))],
            workgroup_size: workgroup,
            workgroup_bytes: if problem.rotate { 8 * cache.head_dim } else { 0 },
            storage_buffers: 3 + u32::from(cache.paged) + 2 * u32::from(problem.rotate),
            table_bytes: 0,
            subgroup: None,
            matrices: None,
        };
        let shader = shader.shared(caps.sharing);
        caps.admit(&shader)?;
        Ok(Self { problem: problem.clone(), capabilities: caps.clone(), shader })
    }

    /// Lengths of arrays, and what decides about code.
    fn constants(problem: &KvMoveProblem) -> Source {
        let cache = &problem.cache;
        let entries = |stored: CacheType, dim| stored.row(dim) / stored.unit();
        let v_entries = if cache.v_in_k { 0 } else { entries(cache.v, cache.value_dim) };
        let numbers = [
            ("HEAD_DIM", cache.head_dim),
            ("PAIRS", problem.rotary_dim / 2),
            ("BLOCK_PAIRS", problem.pairing.block_pairs(problem.rotary_dim)),
            ("K_PIECES", cache.k.pieces(cache.head_dim)),
            ("K_ENTRIES", entries(cache.k, cache.head_dim)),
            ("V_ENTRIES", v_entries),
        ];
        let interleaved = problem.pairing.writes_interleaved();
        Source::new().numbers(numbers).flags([("INTERLEAVED", interleaved)])
    }

    fn files(problem: &KvMoveProblem) -> Vec<&'static str> {
        let cache = &problem.cache;
        let mut files = Vec::new();
        if problem.rotate {
            files.push(wgsl!("finite"));
            files.extend(codecs(cache.k, cache.k));
            files.extend([cached!(cache.k, "cache/write_k"), cached!(cache.k, "kv_move/read")]);
        } else {
            files.push(match cache.k {
                CacheType::F32 => wgsl!("kv_move/k_f32"),
                CacheType::F16 => wgsl!("kv_move/k_f16"),
                CacheType::Int8 | CacheType::Q4 => wgsl!("kv_move/k_words"),
            });
        }
        let v = match cache.v {
            CacheType::F32 => wgsl!("kv_move/v_f32"),
            CacheType::F16 => wgsl!("kv_move/v_f16"),
            CacheType::Int8 | CacheType::Q4 => wgsl!("kv_move/v_words"),
        };
        let place = match cache.paged {
            true => wgsl!("cache/paged"),
            false => wgsl!("cache/contiguous"),
        };
        let turn = match problem.rotate {
            true => wgsl!("kv_move/turn"),
            false => wgsl!("kv_move/stay"),
        };
        files.extend([
            v,
            wgsl!("strides"),
            wgsl!("cache/rows"),
            place,
            wgsl!("rotary"),
            turn,
            wgsl!("kv_move"),
        ]);
        files
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &KvMoveProblem {
        &self.problem
    }

    /// The shader with its overrides, as it will be compiled.
    pub fn shader(&self) -> &Shader {
        &self.shader
    }

    /// Work of a call. Bytes: every row once in and once out.
    pub fn cost(&self, shape: &KvMoveShape<'_>) -> Cost {
        let (p, moves) = (&self.problem, shape.moves);
        let rows = |moved: &dyn Fn(&Move) -> bool| {
            let rows = moves.iter().filter(|one| moved(one)).map(|one| u64::from(one.rows));
            rows.fold(0, u64::saturating_add)
        };
        let bytes = rows(&|_| true).saturating_mul(2 * p.cache.bytes_per_token());
        let pairs = u64::from(p.cache.kv_heads) * u64::from(p.rotary_dim / 2);
        let turned = if p.rotate { rows(&|one| one.distance() != 0) } else { 0 };
        let flops = rotation_flops(turned.saturating_mul(pairs));
        Cost::single(self.groups(moves), flops, bytes)
    }

    /// Workgroups of a call.
    pub(crate) fn groups(&self, moves: &[Move]) -> u64 {
        let cache = &self.problem.cache;
        let moves = moves.iter().filter(|one| one.rows > 0);
        let chains = moves.clone().map(|one| one.chains(cache.rolling)).max().unwrap_or(0);
        [moves.count() as u64, chains.into(), cache.kv_heads.into()]
            .iter()
            .fold(1u64, |n, &factor| n.saturating_mul(factor))
    }
}

impl core::fmt::Display for KvMovePlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        write!(
            f,
            "kv_move: {}{}\n  path: one dispatch, {} invocations a workgroup, {} storage buffers, workspace 0 bytes",
            p.cache,
            match p.rotate {
                true => format!(", turning {} channels, {:?}", p.rotary_dim, p.pairing),
                false => String::new(),
            },
            self.shader.workgroup_size,
            self.shader.storage_buffers,
        )?;
        self.capabilities.sharing.describe(f, [&self.shader])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(moves: &[Move], rolling: bool) -> Error {
        check_moves(moves, 3, 40, rolling).unwrap_err()
    }

    #[test]
    fn moves_that_cannot_be_made_are_refused() {
        let one = |from, from_row, to, to_row, rows| Move { from, from_row, to, to_row, rows };
        let full = refused(&[one(0, 0, 1, 31, 10)], false);
        assert_eq!(full, Error::CacheFull { sequence: 1, needed: 41, capacity: 40 });
        let missing = refused(&[one(0, 31, 1, 0, 10)], false);
        assert_eq!(missing, Error::CacheFull { sequence: 0, needed: 41, capacity: 40 });
        for (moves, rolling) in [
            (vec![one(0, 0, 3, 0, 1)], false),
            (vec![one(0, 0, 1, 0, 9), one(1, 8, 2, 0, 1)], false),
            (vec![one(0, 0, 1, 0, 9), one(2, 0, 1, 8, 1)], false),
            (vec![one(0, 100, 0, 70, 10)], true),
            // Slots 36 .. 40 and 0 .. 6, and 5.
            (vec![one(0, 76, 1, 76, 10), one(1, 45, 2, 45, 1)], true),
            (vec![one(0, u32::MAX, 1, 0, 2)], true),
        ] {
            let error = refused(&moves, rolling);
            assert!(matches!(error, Error::Invalid { what: "moves", .. }), "{moves:?}: {error}");
        }
        let fine = [one(0, 8, 0, 0, 30), one(1, 0, 2, 0, 40)];
        check_moves(&fine, 3, 40, false).unwrap();
        check_moves(&[one(0, 100, 0, 20, 40), one(1, 90, 2, 80, 40)], 3, 40, true).unwrap();
    }

    #[test]
    fn a_shift_has_as_many_chains_as_it_drops_rows() {
        let shift = Move::shift(1, 4, 6, 30);
        assert_eq!((shift.from_row, shift.to_row, shift.rows), (10, 4, 20));
        assert_eq!((shift.distance(), shift.chains(false)), (-6, 6));
        assert_eq!(Move::prefix(0, 1, 30).chains(false), 30);
        assert_eq!(Move::shift(0, 4, 6, 3).rows, 0);
    }
}
