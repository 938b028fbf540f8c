//! A tuner's result as a line of text.

use core::fmt;
use core::str::FromStr;

use crate::plan::attention::{
    AttentionPlan, AttentionProblem, AttentionShape, BlockedTile, MatrixTile, ShuffledTile, Tile,
};
use crate::plan::attention_backward::{self as backward, AttentionBackwardPlan};
use crate::{Capabilities, Error, MatrixSide, Precision, Result};

/// The tile that won, and what it may be used for: of attention, the two of its backward pass, or
/// that of decode and its splits.
/// `to_string` and `parse` are each other's inverse.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice<T = Tile> {
    /// Version of this crate.
    pub version: String,
    /// Adapter, backend and driver, as [`Capabilities::adapter`].
    pub adapter: String,
    /// Dimensions, streams and storage of the problem.
    pub problem: String,
    /// Sizes that were timed. They do not bind: the choice is for calls like these.
    pub shape: String,
    /// The tile, or those of dQ and of dK and dV, or one of decode and its splits.
    pub tile: T,
    /// Milliseconds of one call with it.
    pub ms: f64,
    /// Milliseconds of one call with the tile of the table.
    pub default_ms: f64,
}

/// What a choice is of, as text.
pub trait Tiles: Copy {
    #[doc(hidden)]
    fn spelled(&self) -> String;
    #[doc(hidden)]
    fn read(text: &str) -> Option<Self>;
}

impl<T: Tiles> Choice<T> {
    pub(super) fn new(
        caps: &Capabilities,
        problem: String,
        shape: String,
        tile: T,
        ms: f64,
        default_ms: f64,
    ) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            // Names come from drivers; the separator must not be part of one.
            adapter: caps.adapter.replace(SEPARATOR, ","),
            problem,
            shape,
            tile,
            ms,
            default_ms,
        }
    }

    pub(super) fn made_for(&self, problem: &str, capabilities: &Capabilities) -> Result<()> {
        let adapter = capabilities.adapter.replace(SEPARATOR, ",");
        let here = [env!("CARGO_PKG_VERSION"), &adapter, problem];
        let then = [&self.version, &self.adapter, &self.problem];
        match here.iter().zip(then).find(|(here, then)| here != then) {
            None => Ok(()),
            Some((here, then)) => Err(Error::Invalid {
                what: "tuned choice",
                needed: "made by this crate version, on this adapter and driver, for this problem",
                got: format!("made for {then}, used for {here}"),
            }),
        }
    }
}

impl Choice {
    /// A plan with this tile.
    ///
    /// # Errors
    /// [`Error::Invalid`] where version, adapter or problem are not those that were tuned;
    /// otherwise as [`AttentionPlan::with_tile`].
    pub fn plan(
        &self,
        problem: &AttentionProblem,
        capabilities: &Capabilities,
    ) -> Result<AttentionPlan> {
        self.made_for(&describe(problem), capabilities)?;
        AttentionPlan::with_tile(problem, capabilities, self.tile)
    }
}

impl Choice<[backward::Tile; 2]> {
    /// A plan with these tiles.
    ///
    /// # Errors
    /// [`Error::Invalid`] where version, adapter or problem are not those that were tuned;
    /// otherwise as [`AttentionBackwardPlan::with_tiles`].
    pub fn plan(
        &self,
        problem: &backward::AttentionBackwardProblem,
        capabilities: &Capabilities,
    ) -> Result<AttentionBackwardPlan> {
        self.made_for(&describe_backward(problem), capabilities)?;
        AttentionBackwardPlan::with_tiles(problem, capabilities, self.tile)
    }
}

const SEPARATOR: char = '|';

pub(super) fn sizes(shape: &AttentionShape) -> String {
    format!("B {} Sq {} Sk {}", shape.batch, shape.seq_q, shape.seq_k)
}

/// What a tile's speed depends on, short of sizes.
pub(super) fn describe(problem: &AttentionProblem) -> String {
    format!(
        "attention H {}/{}/{} D {} Dv {} {} q {} k {} v {} out {}{}",
        problem.heads.heads().len(),
        problem.heads.q_heads(),
        problem.kv_heads,
        problem.head_dim,
        problem.value_dim,
        if problem.causal { "causal" } else { "full" },
        problem.q_dtype,
        problem.cache().k,
        problem.cache().v,
        problem.out_dtype,
        if problem.precision.on_matrices() {
            format!(", {}", problem.precision)
        } else {
            "".into()
        },
    )
}

pub(super) fn describe_backward(problem: &backward::AttentionBackwardProblem) -> String {
    let of = if problem.unrotate { "un-rotated" } else { "rotated" };
    format!("gradients of {of}, {}", describe(&problem.attention))
}

impl<T: Tiles> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "phasor {}|{}|{}|{}|{}|{}|{}",
            self.version,
            self.adapter,
            self.problem,
            self.shape,
            self.tile.spelled(),
            self.ms,
            self.default_ms,
        )
    }
}

impl<T: Tiles> FromStr for Choice<T> {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        Self::read(line).ok_or_else(|| Error::Invalid {
            what: "tuned choice",
            needed: "a line that a tuner wrote",
            got: line.into(),
        })
    }
}

impl<T: Tiles> Choice<T> {
    fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.trim().split(SEPARATOR).collect();
        let &[version, adapter, problem, shape, tile, ms, default_ms] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            version: version.strip_prefix("phasor ")?.into(),
            adapter: adapter.into(),
            problem: problem.into(),
            shape: shape.into(),
            tile: T::read(tile)?,
            ms: ms.parse().ok()?,
            default_ms: default_ms.parse().ok()?,
        })
    }
}

impl Tiles for Tile {
    fn spelled(&self) -> String {
        spelled(self)
    }

    fn read(text: &str) -> Option<Self> {
        read_tile(text)
    }
}

impl Tiles for [backward::Tile; 2] {
    fn spelled(&self) -> String {
        self.map(|tile| spelled_backward(&tile)).join(";")
    }

    fn read(text: &str) -> Option<Self> {
        let (of_queries, of_keys) = text.split_once(';')?;
        Some([read_backward(of_queries)?, read_backward(of_keys)?])
    }
}

fn spelled_backward(tile: &backward::Tile) -> String {
    match *tile {
        backward::Tile::Blocked(t) => format!(
            "{},{},{},{},{},{},{}",
            t.tx, t.ty, t.row_pairs, t.col_quads, t.chunk_units, t.y_quads, t.few_registers,
        ),
        backward::Tile::Shuffled(t) => format!("{},{},{}", t.lanes, t.row_pairs, t.col_quads),
    }
}

fn read_backward(text: &str) -> Option<backward::Tile> {
    let parts: Vec<&str> = text.split(',').collect();
    let number = |i: usize| parts.get(i)?.parse().ok();
    match parts.len() {
        7 => Some(backward::Tile::Blocked(backward::BlockedTile {
            tx: number(0)?,
            ty: number(1)?,
            row_pairs: number(2)?,
            col_quads: number(3)?,
            chunk_units: number(4)?,
            y_quads: number(5)?,
            few_registers: parts[6].parse().ok()?,
        })),
        3 => Some(backward::Tile::Shuffled(backward::ShuffledTile {
            lanes: number(0)?,
            row_pairs: number(1)?,
            col_quads: number(2)?,
        })),
        _ => None,
    }
}

/// The sizes of a tile, by which its kind is known.
fn spelled(tile: &Tile) -> String {
    match *tile {
        Tile::Blocked(t) => format!(
            "{},{},{},{},{},{},{},{}",
            t.tx,
            t.ty,
            t.row_pairs,
            t.key_quads,
            t.chunk_units,
            t.v_quads,
            t.q_resident,
            t.pv_apart,
        ),
        Tile::Shuffled(ShuffledTile { lanes, row_pairs, key_quads }) => {
            format!("{lanes},{row_pairs},{key_quads}")
        }
        Tile::Matrices(t) => {
            let side = t.side.rows();
            let x3 = t.precision == Precision::F16x3Products;
            format!("{side},{},{},{},{},{x3}", t.lanes, t.subgroups, t.block_k, t.value_turned)
        }
    }
}

fn read_tile(text: &str) -> Option<Tile> {
    let parts: Vec<&str> = text.split(',').collect();
    let number = |i: usize| parts.get(i)?.parse().ok();
    let flag = |i: usize| parts.get(i)?.parse().ok();
    match parts.len() {
        8 => Some(Tile::Blocked(BlockedTile {
            tx: number(0)?,
            ty: number(1)?,
            row_pairs: number(2)?,
            key_quads: number(3)?,
            chunk_units: number(4)?,
            v_quads: number(5)?,
            q_resident: flag(6)?,
            pv_apart: flag(7)?,
        })),
        3 => Some(Tile::Shuffled(ShuffledTile {
            lanes: number(0)?,
            row_pairs: number(1)?,
            key_quads: number(2)?,
        })),
        6 => Some(Tile::Matrices(MatrixTile {
            side: MatrixSide::of(number(0)?)?,
            lanes: number(1)?,
            subgroups: number(2)?,
            block_k: number(3)?,
            value_turned: flag(4)?,
            precision: match flag(5)? {
                true => Precision::F16x3Products,
                false => Precision::F16Products,
            },
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;

    fn choice() -> (Choice, AttentionProblem, Capabilities) {
        let mut caps = Capabilities::webgpu_default();
        caps.adapter = "a|b".into();
        let problem = AttentionProblem::new(HeadMap::ropepp(4).unwrap(), 2, 64);
        let tile = *problem.plan(&caps).unwrap().tile();
        let shape = AttentionShape::new(1, 100, 100);
        (Choice::new(&caps, describe(&problem), sizes(&shape), tile, 1.25, 2.5), problem, caps)
    }

    #[test]
    fn a_line_reads_back() {
        let (choice, problem, caps) = choice();
        let read: Choice = choice.to_string().parse().unwrap();
        assert_eq!(read, choice);
        assert_eq!(read.plan(&problem, &caps).unwrap(), problem.plan(&caps).unwrap());
        let tile = Tile::Shuffled(ShuffledTile { lanes: 8, row_pairs: 1, key_quads: 4 });
        let shuffled = Choice { tile, ..choice };
        assert_eq!(shuffled.to_string().parse::<Choice>().unwrap(), shuffled);
        for precision in [Precision::F16Products, Precision::F16x3Products] {
            let (side, value_turned) = (MatrixSide::M16, true);
            let tile =
                MatrixTile { side, lanes: 32, subgroups: 4, block_k: 16, value_turned, precision };
            let matrices = Choice { tile: Tile::Matrices(tile), ..shuffled.clone() };
            assert_eq!(matrices.to_string().parse::<Choice>().unwrap(), matrices);
        }
    }

    #[test]
    fn a_line_of_two_tiles_reads_back() {
        let (_, forward, caps) = choice();
        let problem = backward::AttentionBackwardProblem::new(forward.clone());
        let plan = problem.plan(&caps).unwrap();
        let shape = AttentionShape::new(1, 100, 100);
        let described = describe_backward(&problem);
        let shuffled = backward::ShuffledTile { lanes: 8, row_pairs: 1, col_quads: 4 };
        for tile in [plan.tiles_of_passes(), [plan.tiles_of_passes()[0], shuffled.into()]] {
            let choice = Choice::new(&caps, described.clone(), sizes(&shape), tile, 1.25, 2.5);
            let read: Choice<[backward::Tile; 2]> = choice.to_string().parse().unwrap();
            assert_eq!(read, choice);
        }
        let tile = plan.tiles_of_passes();
        let choice = Choice::new(&caps, described, sizes(&shape), tile, 1.25, 2.5);
        assert_eq!(choice.plan(&problem, &caps).unwrap(), plan);
        let rotated = AttentionProblem { rotate_q: true, ..forward };
        let other = backward::AttentionBackwardProblem::new(rotated);
        assert!(matches!(choice.plan(&other, &caps), Err(Error::Invalid { .. })));
        assert!(choice.to_string().parse::<Choice>().is_err());
    }

    #[test]
    fn a_choice_made_elsewhere_is_refused() {
        let (choice, problem, mut caps) = choice();
        let other = AttentionProblem { head_dim: 128, ..problem.clone() };
        assert!(matches!(choice.plan(&other, &caps), Err(Error::Invalid { .. })));
        let older = Choice { version: "0.0.1".into(), ..choice.clone() };
        assert!(matches!(older.plan(&problem, &caps), Err(Error::Invalid { .. })));
        caps.adapter = "another driver".into();
        assert!(matches!(choice.plan(&problem, &caps), Err(Error::Invalid { .. })));
        for line in ["", "phasor", &choice.to_string().replace("true", "maybe")] {
            assert!(matches!(line.parse::<Choice>(), Err(Error::Invalid { .. })), "{line}");
        }
    }
}
