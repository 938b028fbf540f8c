//! Tiles worth measuring on a device.

use super::memory::Memory;
use super::{AttentionProblem, BlockedTile, MatrixTile, Tile};
use crate::Result;
use crate::plan::head_rows::HeadRows;
use crate::plan::{Capabilities, Suspect};

/// Registers that an invocation may spend on scores and outputs; beyond it every known compiler
/// spills.
const MOST_REGISTERS: u32 = 160;

impl Tile {
    /// The tiles that a tuner should try for `problem` on a device, the default one first, then one
    /// of every shape, those that read workgroup memory least for every multiply-add before the
    /// others. All of them are legal.
    ///
    /// # Errors
    /// As [`AttentionProblem::plan`].
    pub fn candidates(
        problem: &AttentionProblem,
        capabilities: &Capabilities,
    ) -> Result<Vec<Self>> {
        problem.check()?;
        let head_rows = problem.head_rows();
        if problem.precision.on_matrices() {
            return MatrixTile::candidates(problem, head_rows.streams, capabilities);
        }
        let default = Self::choose(problem, &head_rows, capabilities)?;
        let mut tiles = shapes(problem, &head_rows, capabilities);
        tiles.retain(|tile| {
            let tile = Self::Blocked(*tile);
            tile != default && capabilities.quarantine(Suspect::Tile(tile)).is_none()
        });
        let traffic = |tile: &BlockedTile| reads_per_fma(tile, problem, &head_rows);
        tiles.sort_by(|a, b| traffic(a).total_cmp(&traffic(b)));
        tiles.dedup();
        // One of each shape first, with as much staged at once as fits; then the second of each.
        let shape = |tile: &BlockedTile| {
            (tile.tx, tile.ty, tile.row_pairs, tile.key_quads, tile.q_resident)
        };
        let staged = |tile: &BlockedTile| (tile.chunk_units, tile.v_quads);
        let rank = |tile: &BlockedTile| {
            let better =
                |other: &&BlockedTile| shape(other) == shape(tile) && staged(other) > staged(tile);
            tiles.iter().filter(better).count()
        };
        let mut ranked: Vec<_> = tiles.iter().map(|tile| (rank(tile), *tile)).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let mut tiles: Vec<_> = ranked.into_iter().map(|(_, tile)| Self::Blocked(tile)).collect();
        tiles.insert(0, default);
        Ok(tiles)
    }
}

/// Tiles of every shape that may be worth a measurement.
fn shapes(
    problem: &AttentionProblem,
    head_rows: &HeadRows,
    caps: &Capabilities,
) -> Vec<BlockedTile> {
    let units = problem.channels().units();
    let most_threads = caps.max_invocations.min(caps.max_workgroup_size).min(256);
    let powers =
        |from: u32, to: u32| (0..10).map(|i| 1 << i).filter(move |n| (from..=to).contains(n));
    let pairs =
        |from, to| powers(from, to).flat_map(move |x| powers(from, to).map(move |y| (x, y)));
    let mut tiles = Vec::new();
    for (tx, ty) in pairs(4, 32).filter(|(tx, ty)| (16..=most_threads).contains(&(tx * ty))) {
        for (row_pairs, key_quads) in pairs(1, 4) {
            let chunks = powers(2, units.next_power_of_two()).map(|chunk| chunk.min(units));
            let ways = chunks.flat_map(|chunk| [(chunk, true), (chunk, false)]);
            let forms = ways.flat_map(|way| powers(1, key_quads * tx).map(move |v| (way, v)));
            let tile = |((chunk_units, q_resident), v_quads)| BlockedTile {
                tx,
                ty,
                row_pairs,
                key_quads,
                chunk_units,
                q_resident,
                v_quads,
                pv_apart: false,
            };
            tiles.extend(forms.map(tile).filter(|tile| worthwhile(tile, problem, head_rows, caps)));
        }
    }
    tiles
}

fn worthwhile(
    tile: &BlockedTile,
    problem: &AttentionProblem,
    head_rows: &HeadRows,
    caps: &Capabilities,
) -> bool {
    let states = 2 * tile.row_pairs * head_rows.streams;
    let cols = tile.cols(problem.value_dim);
    let registers = 4 * states * (tile.key_quads + cols);
    let memory =
        |v_quads| Memory::bytes(problem, head_rows, &BlockedTile { v_quads, ..*tile }.into());
    // As much of v at once as fits over k: a smaller tile of v only adds barriers.
    let widest = tile.v_quads == tile.key_quads * tile.tx || memory(2 * tile.v_quads) > memory(1);
    // Staging queries again for every key tile pays only where it frees memory.
    let buys_room = tile.q_resident || tile.chunk_units < problem.channels().units();
    let whole = Tile::Blocked(*tile);
    tile.check(problem).is_ok()
        && buys_room
        && registers <= MOST_REGISTERS
        && (16..=256).contains(&whole.block_q())
        && (16..=128).contains(&whole.block_k())
        && cols * tile.tx < 2 * (problem.value_dim / 4).max(tile.tx)
        && widest
        && memory(tile.v_quads) <= caps.max_workgroup_bytes
}

/// Four-wide reads of workgroup memory for one multiply-add, Q·Kᵀ and P·V together.
fn reads_per_fma(tile: &BlockedTile, problem: &AttentionProblem, head_rows: &HeadRows) -> f64 {
    let n = f64::from;
    let (rows, keys, streams) = (n(tile.row_pairs), n(tile.key_quads), n(head_rows.streams));
    let cols = n(tile.cols(problem.value_dim));
    let qk_reads = (2.0 * keys + rows) / (16.0 * rows * keys * streams);
    let pv_reads = (cols + rows * streams / 2.0) / (8.0 * rows * streams * cols);
    qk_reads + pv_reads
}
