//! The cos/sin table and the positions of a call, as kernels bind them.

use bytemuck::{Pod, Zeroable};

use super::{Access, Checker};
use crate::rotary::TableShape;
use crate::{Error, Result};

/// A table of cosines and sines on the device: the bytes of a
/// [`RopeTable`](crate::rotary::RopeTable), `[planes, positions, pairs]` of `(cos, sin)` in f32.
#[derive(Debug, Clone)]
pub struct CosSin<'a> {
    /// Where it lies.
    pub binding: wgpu::BufferBinding<'a>,
    /// Its sizes, from [`RopeTable::shape`](crate::rotary::RopeTable::shape).
    pub shape: TableShape,
}

/// Which position each row has.
#[derive(Debug, Clone)]
pub enum Positions<'a> {
    /// Row s has position `first + s`, in every batch and every position stream.
    From(u32),
    /// The place of the row among the keys: of a query as the causal mask has it, of a new key as
    /// the cache has it. For attention kernels with a causal mask, decode and appends: what a
    /// decode loop wants, since the positions grow with the cache. Rows before key 0, which a
    /// sequence has that is shorter than the call, turn back by as much: R(−p), the transpose of R(p).
    AmongKeys,
    /// Positions in a buffer of u32, entry `stream · stream_stride + b · batch_stride + s`. One
    /// stream, or as many as the table's axes name (M-RoPE: three). The device cannot report an id
    /// past the table: it reads the table's last row.
    Ids {
        /// Where the ids lie.
        binding: wgpu::BufferBinding<'a>,
        /// Entries between batches; 0 where all batches share their positions.
        batch_stride: u32,
        /// Entries between position streams.
        stream_stride: u32,
    },
}

/// Binding of `cos_sin` in `shaders/rotary.wgsl`.
pub(crate) const COS_SIN: u32 = 8;
/// Binding of `position_ids` in `shaders/rotary.wgsl`.
pub(crate) const POSITION_IDS: u32 = 9;

/// `Rotary` of `shaders/rotary.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct RotaryParams {
    pub(crate) first_position: u32,
    pub(crate) use_ids: u32,
    pub(crate) ids_stream_stride: u32,
    pub(crate) ids_batch_stride: u32,
    pub(crate) table_positions: u32,
    pub(crate) pairs: u32,
    pub(crate) use_axes: u32,
    pub(crate) planes: u32,
    pub(crate) axes: [[u32; 4]; 4],
}

impl RotaryParams {
    /// Checks the table and the positions of a call with `batch` times `seq` rows.
    pub(crate) fn new(
        checker: &mut Checker<'_>,
        table: &CosSin<'_>,
        positions: &Positions<'_>,
        rotary_dim: u32,
        [batch, seq]: [u32; 2],
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
        let streams = match &shape.axes {
            Some(axes) => {
                params.use_axes = 1;
                params.axes = axes.packed;
                axes.streams
            }
            None => 1,
        };
        let needed = match positions {
            Positions::From(first) => {
                params.first_position = *first;
                u64::from(*first) + u64::from(seq)
            }
            Positions::AmongKeys => {
                return Err(Error::Binding {
                    tensor: "positions",
                    why: "AmongKeys needs an attention call with a causal mask",
                });
            }
            Positions::Ids { binding, batch_stride, stream_stride } => {
                params.use_ids = 1;
                params.ids_batch_stride = *batch_stride;
                params.ids_stream_stride = *stream_stride;
                let n = u64::from;
                // A call without rows reads no id.
                let reach = match batch == 0 || seq == 0 {
                    true => 0,
                    false => {
                        let streams = n(streams.saturating_sub(1)) * n(*stream_stride);
                        let batches = n(batch - 1) * n(*batch_stride);
                        streams.saturating_add(batches).saturating_add(n(seq))
                    }
                };
                if reach > n(u32::MAX) {
                    return Err(Error::IndexOverflow { tensor: "position_ids", index: reach });
                }
                checker.binding("position_ids", binding, Access::Read, 4 * reach)?;
                1
            }
        };
        if needed > u64::from(shape.positions) {
            return Err(Error::TableTooShort {
                needed: needed - 1,
                available: u64::from(shape.positions),
            });
        }
        Ok(params)
    }
}

#[cfg(test)]
crate::reflect::host_struct!(RotaryParams {
    first_position,
    use_ids,
    ids_stream_stride,
    ids_batch_stride,
    table_positions,
    pairs,
    use_axes,
    planes,
    axes,
});
