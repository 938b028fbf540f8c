//! Rotary position embedding of Burn's tensors.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use phasor::Kernel;
use phasor::recipe::{self, Binding};
use phasor::rope::{Direction, RopePlan, RopeProblem, RopeShape};
use phasor::rotary::{Pairing, RopeConfig, RopeTable, TableShape};

use crate::attention::fits;
use crate::device::{self, Host};
use crate::error::narrow;
use crate::launch::{Job, Operand, Output, check, stored, tensors};
use crate::ops::PhasorOps;
use crate::{Error, Result};

/// Cosines and sines of a model's rotary embedding on a device, by any rule of
/// [`phasor::rotary`](phasor::rotary): they are computed in more than f64 and rounded once.
///
/// ```no_run
/// use burn::tensor::{Device, Distribution, Tensor};
/// use phasor::rotary::{RopeConfig, RopeRule};
/// use phasor_burn::{Positions, Rotary};
///
/// let (device, _) = phasor_burn::init(Device::wgpu_options())?;
/// let rule = RopeRule::Linear { factor: 4.0 };
/// let rotary = Rotary::new(&RopeConfig { rule, ..RopeConfig::new(64, 1e4) }, 4096, &device)?;
/// let q = Tensor::<4>::random([1, 8, 128, 64], Distribution::Default, &device);
/// let rotated = rotary.query(q, &Positions::From(0))?;
/// # Ok::<(), phasor_burn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[positions, pairs, 2]`, a table for queries and one for keys; they are the same but for
    /// xPos and query scalings.
    pub(crate) tables: [Tensor<3>; 2],
    shape: TableShape,
    pub(crate) axes: Option<Vec<u8>>,
    pub(crate) pairing: Pairing,
}

/// Which position each row has.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "made once a call; a box would be in callers' way")]
pub enum Positions {
    /// Row s has position `first + s`.
    From(u32),
    /// Positions `[streams, B, S]`, or `[streams, 1, S]` for all batches; one stream, or as many as
    /// the table's axes read (M-RoPE: three). One past the table reads the table's last row.
    Ids(Tensor<3, Int>),
}

/// Queries and keys differ where the table has a plane for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Query,
    Key,
}

impl Rotary {
    /// The table of `config` for positions `0 .. positions`.
    ///
    /// # Errors
    /// [`Error::Phasor`] where the configuration or the size of the table is out of range.
    pub fn new(config: &RopeConfig, positions: u32, device: &Device) -> Result<Self> {
        Self::of_table(&config.table(positions, u64::from(positions))?, device)
    }

    /// A table that was made elsewhere.
    ///
    /// # Errors
    /// [`Error::Phasor`] where the table is of another size than kernels take.
    pub fn of_table(table: &RopeTable, device: &Device) -> Result<Self> {
        let shape = TableShape { planes: 1, ..table.shape()? };
        let device = device.clone().without_autodiff();
        let size = [table.positions() as usize, table.pairs() as usize, 2];
        let plane = |n: u32| {
            let entries = table.entries().chunks_exact((size[0] * size[1]).max(1)).nth(n as usize);
            let values: Vec<f32> = entries.unwrap_or_default().as_flattened().to_vec();
            Tensor::<3>::from_data(TensorData::new(values, size), &device)
        };
        let queries = plane(0);
        let keys = if table.planes() > 1 { plane(1) } else { queries.clone() };
        let axes = table.axes().map(<[u8]>::to_vec);
        Ok(Self { tables: [queries, keys], shape, axes, pairing: table.pairing() })
    }

    /// Rotates queries `[B, H, S, D]`, in f32 or f16; channels past the rotary ones stay as they
    /// are. On a device with autodiff, the gradient is the transposed rotation.
    ///
    /// # Errors
    /// [`Error::NotAttached`], [`Error::Device`], [`Error::DType`], [`Error::Empty`],
    /// [`Error::Shape`] for positions of another shape, and [`Error::Phasor`] where D is less than
    /// the channels that rotate or a position is past the table.
    pub fn query(&self, x: Tensor<4>, positions: &Positions) -> Result<Tensor<4>> {
        self.rotate(x, positions, Side::Query)
    }

    /// Rotates keys; as [`Rotary::query`].
    ///
    /// # Errors
    /// As [`Rotary::query`].
    pub fn key(&self, x: Tensor<4>, positions: &Positions) -> Result<Tensor<4>> {
        self.rotate(x, positions, Side::Key)
    }

    /// Positions that the table holds.
    pub fn positions(&self) -> u32 {
        self.shape.positions
    }

    /// Channels that rotate.
    pub fn rotary_dim(&self) -> u32 {
        2 * self.shape.pairs
    }

    /// Where the pairs lie.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    pub(crate) fn table(&self, side: Side) -> Tensor<3> {
        self.tables[side as usize].clone()
    }

    fn rotate(&self, x: Tensor<4>, positions: &Positions, side: Side) -> Result<Tensor<4>> {
        let call = RopeCall::new(self, &x, positions)?;
        let (x, table) = (x.into_dispatch(), self.table(side).into_dispatch());
        Ok(Tensor::from_dispatch(match positions {
            Positions::From(_) => <Dispatch as PhasorOps>::phasor_rope(x, table, call),
            Positions::Ids(ids) => {
                let ids = ids.clone().into_dispatch();
                <Dispatch as PhasorOps>::phasor_rope_at(x, table, ids, call)
            }
        }))
    }

    /// Refuses positions that do not fit rows `[B, S]`.
    pub(crate) fn check(
        &self,
        [batch, seq]: [usize; 2],
        positions: &Positions,
        device: &Device,
    ) -> Result<()> {
        let Positions::Ids(ids) = positions else { return Ok(()) };
        if ids.device() != *device {
            let (needed, got) = (format!("{device:?}"), format!("{:?}", ids.device()));
            return Err(Error::Device { tensor: "positions", needed, got });
        }
        if !matches!(ids.dtype(), DType::I32 | DType::U32) {
            let needed = "I32 or U32";
            return Err(Error::DType { tensor: "positions", needed, got: ids.dtype() });
        }
        let streams = self.shape.axes.map_or(1, |axes| axes.streams as usize);
        let [s, b, rows] = ids.dims();
        if s < streams || rows != seq || (b != batch && b != 1) {
            let needed = format!("[{streams}, {batch} or 1, {seq}]");
            return Err(Error::Shape { tensor: "positions", needed, got: ids.dims().to_vec() });
        }
        Ok(())
    }
}

/// One rotation and the sizes of a call.
#[derive(Debug, Clone)]
pub struct RopeCall(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    host: Arc<Host>,
    problem: RopeProblem,
    shape: RopeShape,
    table: TableShape,
    dtype: DType,
    /// Of positions that are counted.
    first: u32,
    /// Entries between streams and between batches, of positions that are given.
    ids: Option<[u32; 2]>,
}

impl RopeCall {
    fn new(rotary: &Rotary, x: &Tensor<4>, positions: &Positions) -> Result<Self> {
        let (device, dtype) = (x.device(), x.dtype());
        let host = device::host(&device)?;
        fits("x", x, &device)?;
        fits("the table of the rotation", &rotary.tables[0], &device)?;
        let [batch, heads, seq, dim] = x.dims();
        rotary.check([batch, seq], positions, &device)?;
        let size = |n| narrow("x", n);
        let problem = RopeProblem {
            rotary_dim: rotary.rotary_dim(),
            pairing: rotary.pairing,
            dtype: stored(dtype)?,
            aligned: dim.is_multiple_of(4),
            ..RopeProblem::new(size(heads)?, 0, size(dim)?)
        };
        let (first, ids) = match positions {
            Positions::From(first) => (*first, None),
            Positions::Ids(ids) => {
                let [_, b, s] = ids.dims();
                (0, Some([size(b * s)?, if b > 1 { size(s)? } else { 0 }]))
            }
        };
        let shape = RopeShape::new(size(batch)?, size(seq)?);
        let table = rotary.shape;
        let inner = Inner { host, problem, shape, table, dtype, first, ids };
        let call = Self(Arc::new(inner));
        let dims = (x.dims(), rotary.tables[0].dims());
        let mut inputs = vec![(&dims.0[..], dtype), (&dims.1[..], DType::F32)];
        let ids_dims;
        if let Positions::Ids(ids) = positions {
            ids_dims = ids.dims();
            inputs.push((&ids_dims, DType::F32));
        }
        check(&Turn(&call), &inputs)?;
        Ok(call)
    }

    /// The transposed rotation: the inverse that leaves the table's scaling in, and reads the same
    /// table.
    pub(crate) fn transposed(&self) -> Self {
        let problem = RopeProblem { direction: Direction::Inverse, ..self.0.problem.clone() };
        Self(Arc::new(Inner { problem, ..(*self.0).clone() }))
    }
}

/// x, table, and ids where there are some → x rotated.
pub(crate) struct Turn<'a>(pub(crate) &'a RopeCall);

impl Job for Turn<'_> {
    type Plan = RopePlan;

    fn host(&self) -> &Host {
        &self.0.0.host
    }

    fn kernel(&self, pooled: bool) -> phasor::Result<Kernel<RopePlan>> {
        self.0.0.host.rope.get(&self.0.0.problem, pooled)
    }

    fn shape(&self) -> RopeShape {
        self.0.0.shape
    }

    fn outputs(&self, _: &RopePlan) -> Vec<Output> {
        let Inner { problem, shape, dtype, .. } = &*self.0.0;
        let shape = [shape.batch, problem.q_heads, shape.seq, problem.head_dim];
        vec![Output::new(shape.map(|n| n as usize), *dtype)]
    }

    fn bindings<B: Binding>(
        &self,
        inputs: &[Operand<B>],
        outputs: &[Operand<B>],
    ) -> phasor::Result<recipe::RopeBindings<B>> {
        let ([x], [out]) = (tensors(inputs, ["x"])?, tensors(outputs, ["out"])?);
        let Inner { table, first, ids, .. } = &*self.0.0;
        let table = recipe::CosSin { binding: inputs[1].binding.clone(), shape: *table };
        let positions = match *ids {
            None => recipe::Positions::From(*first),
            Some([stream_stride, batch_stride]) => {
                let binding = inputs[2].binding.clone();
                recipe::Positions::Ids { binding, batch_stride, stream_stride }
            }
        };
        let rotation = recipe::Rotation::new(table, positions);
        Ok(recipe::RopeBindings { q_out: Some(out), ..recipe::RopeBindings::new(x, rotation) })
    }
}
