//! Tables and positions of a test case: for the device, for the oracle, for the naive run.

use phasor::rotary::{CosSin, Frequencies, Positions, RopeConfig, RopeTable, TableShape, Xpos};
use phasor::wgpu;
use phasor_kit::gpu::Gpu;

use super::Result;

/// Which position each row has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ids {
    /// Row s has position `n + s`.
    From(u32),
    /// The same ids for every batch.
    Shared,
    /// Ids of their own for every batch, in every stream that the table reads.
    PerBatch,
}

/// Positions that the tables hold. Ids stay below.
const TABLE: u32 = 150;

#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    pub config: RopeConfig,
    pub xpos: Option<Xpos>,
    pub ids: Ids,
}

/// The table and the ids on a device.
pub struct Uploaded {
    table: wgpu::Buffer,
    shape: TableShape,
    ids: Option<wgpu::Buffer>,
    first: u32,
    strides: [u32; 2],
}

impl Rotation {
    pub fn new(config: RopeConfig, ids: Ids) -> Self {
        Self { config, xpos: None, ids }
    }

    pub fn frequencies(&self) -> Result<Frequencies> {
        let frequencies = self.config.frequencies(u64::from(TABLE))?;
        Ok(match self.xpos {
            Some(xpos) => frequencies.with_xpos(xpos)?,
            None => frequencies,
        })
    }

    pub fn table(&self) -> Result<RopeTable> {
        Ok(self.frequencies()?.table(TABLE)?)
    }

    /// Position of row `s` of batch `b` in the stream that drives a pair.
    fn position(&self, stream: u32, b: u32, s: u32) -> u32 {
        match self.ids {
            Ids::From(first) => first + s,
            Ids::Shared => (3 * s + 17 * stream) % TABLE,
            Ids::PerBatch => (7 * s + 31 * b + 17 * stream) % TABLE,
        }
    }

    /// cos and sin in double precision, of queries (plane 0) or keys (plane 1, with xPos).
    pub fn exact(&self, key: bool) -> Result<impl Fn(u32, u32, u32) -> (f64, f64)> {
        let frequencies = self.frequencies()?;
        Ok(move |b, s, pair: u32| {
            let stream = frequencies.axes().map_or(0, |axes| u32::from(axes[pair as usize]));
            let position = self.position(stream, b, s);
            let (cos, sin) = frequencies.cos_sin(position, pair as usize);
            let scale = frequencies.query_scale(position, pair as usize);
            let scale = if key { 1.0 / scale } else { scale };
            (cos * scale, sin * scale)
        })
    }

    /// The same from the f32 table.
    pub fn rounded(&self, key: bool) -> Result<impl Fn(u32, u32, u32) -> (f32, f32)> {
        let table = self.table()?;
        let plane = u32::from(key) * (table.planes() - 1);
        Ok(move |b, s, pair: u32| {
            let stream = table.axes().map_or(0, |axes| u32::from(axes[pair as usize]));
            let row = plane * table.positions() + self.position(stream, b, s);
            let [cos, sin] = table.entries()[(row * table.pairs() + pair) as usize];
            (cos, sin)
        })
    }

    pub fn upload(&self, gpu: &Gpu, batch: u32, seq: u32) -> Result<Uploaded> {
        let table = self.table()?;
        // Gaps between batches and streams hold ids that no row may take.
        let (batch_stride, stream_stride) = match self.ids {
            Ids::PerBatch => (seq + 3, batch * (seq + 3) + 5),
            _ => (0, seq + 2),
        };
        let streams = table.streams();
        let mut ids = vec![u32::MAX; (streams * stream_stride.max(1)) as usize];
        for stream in 0..streams {
            for b in 0..batch {
                for s in 0..seq {
                    let at = stream * stream_stride + b * batch_stride + s;
                    ids[at as usize] = self.position(stream, b, s);
                }
            }
        }
        let from = matches!(self.ids, Ids::From(_));
        Ok(Uploaded {
            table: gpu.upload_bytes(table.as_bytes()),
            shape: table.shape()?,
            ids: (!from).then(|| gpu.upload_u32(&ids)),
            first: self.position(0, 0, 0),
            strides: [batch_stride, stream_stride],
        })
    }
}

impl Uploaded {
    pub fn table(&self) -> CosSin<'_> {
        CosSin { binding: self.table.as_entire_buffer_binding(), shape: self.shape }
    }

    pub fn rotation(&self) -> phasor::rotary::Rotation<'_> {
        phasor::rotary::Rotation::new(self.table(), self.positions())
    }

    pub fn positions(&self) -> Positions<'_> {
        let [batch_stride, stream_stride] = self.strides;
        match &self.ids {
            None => Positions::From(self.first),
            Some(ids) => {
                let binding = ids.as_entire_buffer_binding();
                Positions::Ids { binding, batch_stride, stream_stride }
            }
        }
    }
}
