//! Head dimensions of queries and keys, and of values.

use phasor::attention::{AttentionProblem, BlockedTile, Tile};
use phasor::{HeadMap, Precision};

use super::{Case, control, precision, quick_tile, small_blocks, small_tile};
use crate::harness::{Result, run_table};

fn dims(head_dim: u32, value_dim: u32) -> AttentionProblem {
    let heads = control().heads;
    let precision = precision();
    AttentionProblem { value_dim, precision, ..AttentionProblem::new(heads, 1, head_dim) }
}

/// A tile for a head dimension; `None` is the plan's own.
type OfDim = Option<fn(u32) -> Tile>;

/// Fewer, equally many and more values than keys, in both kernels; those of tiles in workgroup
/// memory stage some of them in chunks, since a software adapter unrolls a chunk.
#[test]
fn head_dims() {
    fn chunked(d: u32) -> Tile {
        match precision() {
            Precision::F32 => BlockedTile { chunk_units: 3, ..small_blocks(d) }.into(),
            _ => small_tile(d),
        }
    }
    // The widest one in the tile that the device gets.
    let rows: [(u32, u32, OfDim); 8] = [
        (8, 8, Some(small_tile)),
        (72, 80, Some(chunked)),
        (40, 40, Some(quick_tile)),
        (8, 136, Some(quick_tile)),
        (80, 72, Some(quick_tile)),
        (96, 24, Some(quick_tile)),
        (112, 112, Some(quick_tile)),
        (256, 256, None),
    ];
    let case = |(d, dv, tile): (u32, u32, OfDim)| {
        let problem = dims(d, dv);
        let case = match tile {
            Some(tile) => Case::tiled(&problem, tile(d)),
            None => Case::new(&problem),
        };
        Ok((format!("D {d}, D_v {dv}"), case?))
    };
    let cases = rows.into_iter().map(case).collect::<Result<Vec<_>>>();
    run_table(&cases.unwrap(), Case::check);
}

/// As models have them, with the tile that the device gets.
#[test]
fn planned_head_dims() {
    let plain = HeadMap::plain(2).unwrap();
    let problems = [
        ("D 128, two streams", dims(128, 128)),
        ("D 64, one stream", AttentionProblem { heads: plain, ..dims(64, 64) }),
    ];
    let case = |(name, problem): (&str, _)| (name.to_owned(), Case::new(&problem).unwrap());
    run_table(&problems.map(case), Case::check);
}

/// Gemma's full layers, with the tile that the device gets.
#[test]
fn wide_heads() {
    let mut case = Case::new(&dims(512, 512)).unwrap();
    (case.shape.batch, case.shape.seq_q, case.shape.seq_k) = (1, 11, 21);
    case.bias_extent = [1; 3];
    run_table(&[("D 512".to_owned(), case)], Case::check);
}
