//! The cos/sin table and the positions of a call, as kernels bind them.

use super::{Access, Binding, Checker, present};
use crate::rotary::TableShape;
use crate::uniform::uniform;
use crate::{Error, Result};

/// A table of cosines and sines on the device: the bytes of a
/// [`RopeTable`](crate::rotary::RopeTable), `[planes, positions, pairs]` of `(cos, sin)` in f32.
#[derive(Debug, Clone)]
pub struct CosSin<B> {
    /// Where it lies.
    pub binding: B,
    /// Its sizes, from [`RopeTable::shape`](crate::rotary::RopeTable::shape).
    pub shape: TableShape,
}

/// Which position each row has.
#[derive(Debug, Clone)]
pub enum Positions<B> {
    /// Row s has position `first + s`, in every batch and every position stream.
    From(u32),
    /// The place of the row among the keys: of a query as the causal mask has it, of a new key as
    /// the cache has it. For attention kernels with a causal mask, decode and appends: what a
    /// decode loop wants, since the positions grow with the cache. Rows before key 0, which a
    /// sequence has that is shorter than the call, turn back by as much: R(−p), the transpose of
    /// R(p).
    AmongKeys,
    /// Positions in a buffer of u32, entry `stream · stream_stride + b · batch_stride + s`. One
    /// stream, or as many as the table's axes name (M-RoPE: three). The device cannot report an id
    /// past the table: it reads the table's last row.
    Ids {
        /// Where the ids lie.
        binding: B,
        /// Entries between batches; 0 where all batches share their positions.
        batch_stride: u32,
        /// Entries between position streams.
        stream_stride: u32,
    },
}

/// How the rows of a call rotate.
#[derive(Debug, Clone)]
pub struct Rotation<B> {
    /// cos and sin of every position.
    pub table: CosSin<B>,
    /// The position of each row.
    pub positions: Positions<B>,
}

impl<B> Rotation<B> {
    /// Rows at `positions`, by `table`.
    pub fn new(table: CosSin<B>, positions: Positions<B>) -> Self {
        Self { table, positions }
    }

    /// Whether positions are places among the keys.
    pub(crate) fn among_keys(&self) -> bool {
        matches!(self.positions, Positions::AmongKeys)
    }

    /// The table's plane of keys: its second one, where it has two.
    pub(crate) fn plane_k(&self) -> u32 {
        self.table.shape.planes.saturating_sub(1)
    }
}

/// The rows of a call whose positions are looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    /// What ids are called.
    pub(crate) name: &'static str,
    /// Batches and rows that ids are given for.
    pub(crate) ids: [u32; 2],
    /// Most rows of a sequence, where they are counted.
    pub(crate) rows: u32,
    /// Positions that rows may have by their place among the keys; `None` where they have no such
    /// place.
    pub(crate) places: Option<u32>,
}

impl Reach {
    /// Rows that have no place among keys.
    pub(crate) fn rows(batch: u32, rows: u32) -> Self {
        Self { name: "position_ids", ids: [batch, rows], rows, places: None }
    }
}

uniform! {
    /// `Rotary` of `shaders/rotary.wgsl`.
    pub(crate) struct RotaryParams {
        first_position: u32,
        use_ids: u32,
        ids_stream_stride: u32,
        ids_batch_stride: u32,
        table_positions: u32,
        pairs: u32,
        use_axes: u32,
        planes: u32,
        axes: [[u32; 4]; 4],
    }
}

impl RotaryParams {
    /// Checks the rotation of a call that needs one, or none.
    pub(crate) fn optional<B: Binding>(
        checker: &mut Checker<'_, B>,
        rotation: Option<&Rotation<B>>,
        rotary_dim: Option<u32>,
        reach: Reach,
    ) -> Result<Self> {
        present("rotation", rotary_dim.is_some(), rotation.is_some())?;
        match (rotation, rotary_dim) {
            (Some(Rotation { table, positions }), Some(rotary_dim)) => {
                Self::new(checker, table, positions, rotary_dim, reach)
            }
            _ => Ok(Self::default()),
        }
    }

    /// Checks the table and the positions of a call.
    pub(crate) fn new<B: Binding>(
        checker: &mut Checker<'_, B>,
        table: &CosSin<B>,
        positions: &Positions<B>,
        rotary_dim: u32,
        reach: Reach,
    ) -> Result<Self> {
        let mut params = Self::of_table(checker, table, rotary_dim)?;
        let needed = match positions {
            Positions::From(first) => {
                params.first_position = *first;
                u64::from(*first) + u64::from(reach.rows)
            }
            Positions::AmongKeys => match reach.places {
                Some(places) => places.into(),
                None => {
                    return Err(Error::Binding {
                        tensor: "positions",
                        why: "AmongKeys needs an attention call with a causal mask",
                    });
                }
            },
            Positions::Ids { binding, batch_stride, stream_stride } => {
                params.use_ids = 1;
                params.ids_batch_stride = *batch_stride;
                params.ids_stream_stride = *stream_stride;
                let streams = table.shape.axes.as_ref().map_or(1, |axes| axes.streams);
                let entries = params.ids(streams, reach.ids);
                if entries > u64::from(u32::MAX) {
                    return Err(Error::IndexOverflow { tensor: reach.name, index: entries });
                }
                checker.binding(reach.name, binding, Access::Read, 4 * entries)?;
                1
            }
        };
        let available = u64::from(table.shape.positions);
        if needed > available {
            return Err(Error::TableTooShort { needed: needed - 1, available });
        }
        Ok(params)
    }

    /// Entries of the position ids that a call reads.
    fn ids(&self, streams: u32, [batch, rows]: [u32; 2]) -> u64 {
        // A call without rows reads no id.
        if batch == 0 || rows == 0 {
            return 0;
        }
        let n = u64::from;
        let streams = n(streams.saturating_sub(1)) * n(self.ids_stream_stride);
        let batches = n(batch - 1) * n(self.ids_batch_stride);
        streams.saturating_add(batches).saturating_add(n(rows))
    }

    fn of_table<B: Binding>(
        checker: &mut Checker<'_, B>,
        table: &CosSin<B>,
        rotary_dim: u32,
    ) -> Result<Self> {
        let shape = &table.shape;
        if shape.pairs != rotary_dim / 2 {
            return Err(Error::Shape {
                tensor: "cos_sin",
                needed: [1, shape.planes, shape.positions, rotary_dim / 2],
                got: [1, shape.planes, shape.positions, shape.pairs],
            });
        }
        if !(1..=2).contains(&shape.planes) {
            return Err(Error::Invalid {
                what: "planes of the cos/sin table",
                needed: "1, or 2 where keys have their own",
                got: shape.planes.to_string(),
            });
        }
        let entries = u64::from(shape.planes) * u64::from(shape.positions) * u64::from(shape.pairs);
        if entries > u64::from(u32::MAX) {
            return Err(Error::IndexOverflow { tensor: "cos_sin", index: entries });
        }
        checker.binding("cos_sin", &table.binding, Access::Read, 8 * entries)?;
        let mut params = Self {
            table_positions: shape.positions,
            pairs: shape.pairs,
            planes: shape.planes,
            ..Self::default()
        };
        if let Some(axes) = &shape.axes {
            (params.use_axes, params.axes) = (1, axes.packed);
        }
        Ok(params)
    }
}
