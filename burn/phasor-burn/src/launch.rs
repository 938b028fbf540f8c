//! From Burn's tensors to a call of phasor's and back.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::wgpu::{AutoCompiler, WgpuResource, WgpuServer, wgpu};
use cubecl::zspace::{Strides, metadata::Metadata};
use phasor::recipe::{Binding, Plan, Range, Tensor};
use phasor::{Kernel, Layout};

use crate::device::Host;

/// One call of a kernel: what it is planned from, and which tensor goes where.
pub(crate) trait Job {
    type Plan: Plan;

    fn host(&self) -> &Host;

    /// Compiled, once a problem: for tensors in one buffer, or with outputs in buffers of their
    /// own.
    fn kernel(&self, pooled: bool) -> phasor::Result<Kernel<Self::Plan>>;

    /// The sizes of the call.
    fn shape(&self) -> <Self::Plan as Plan>::Shape<'static>;

    /// What it writes, scratch memory last.
    fn outputs(&self, plan: &Self::Plan) -> Vec<Output>;

    fn bindings<B: Binding>(
        &self,
        inputs: &[Operand<B>],
        outputs: &[Operand<B>],
    ) -> phasor::Result<<Self::Plan as Plan>::Bindings<B>>;
}

/// A tensor that a call writes.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
}

impl Output {
    pub(crate) fn new(shape: impl Into<Vec<usize>>, dtype: DType) -> Self {
        Self { shape: shape.into(), dtype }
    }

    /// Scratch memory.
    pub(crate) fn bytes(bytes: u64) -> Self {
        Self::new([usize::try_from(bytes.div_ceil(4)).unwrap_or(usize::MAX)], DType::F32)
    }

    fn size(&self) -> usize {
        self.shape.iter().fold(self.dtype.size(), |size, &n| size.saturating_mul(n))
    }

    /// `[B, H, S, D]` lies as `[B, S, H, D]`, which is what the projection after it reads as rows.
    fn strides(&self) -> Vec<usize> {
        match *self.shape {
            [_, h, s, d] => vec![s * h * d, d, h * d, 1],
            _ => row_major(&self.shape),
        }
    }
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// A tensor of a call, over a range of a buffer.
#[derive(Debug, Clone)]
pub(crate) struct Operand<B> {
    pub(crate) binding: B,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<B: Binding> Operand<B> {
    /// As a `[B, H, S, D]` tensor.
    pub(crate) fn tensor(&self, name: &'static str) -> phasor::Result<Tensor<B>> {
        let (Ok(shape), Ok(strides)) = (self.shape[..].try_into(), self.strides[..].try_into())
        else {
            let got = format!("{:?}", self.shape);
            return Err(phasor::Error::Invalid { what: name, needed: "of rank 4", got });
        };
        let layout = Layout::strided(shape, strides, 0)?;
        Tensor::at(self.binding.clone(), stored(self.dtype)?, layout)
    }
}

/// The first of the operands, by their names in errors.
pub(crate) fn tensors<B: Binding, const N: usize>(
    operands: &[Operand<B>],
    names: [&'static str; N],
) -> phasor::Result<[Tensor<B>; N]> {
    let all = operands.iter().zip(names).map(|(operand, name)| operand.tensor(name));
    let all = all.collect::<phasor::Result<Vec<_>>>()?;
    let missing = || phasor::Error::Binding { tensor: names[0], why: "missing" };
    all.try_into().map_err(|_| missing())
}

/// An element type of Burn's as a kernel stores it.
pub(crate) fn stored(dtype: DType) -> phasor::Result<phasor::DType> {
    match dtype {
        DType::F32 => Ok(phasor::DType::F32),
        DType::F16 => Ok(phasor::DType::F16),
        other => {
            let got = format!("{other:?}");
            Err(phasor::Error::Invalid { what: "dtype", needed: "F32 or F16", got })
        }
    }
}

/// Compiles the kernel, and checks everything that does not depend on where tensors lie, as if they
/// lay without gaps in buffers of their own: on the caller's thread, since on Burn's device thread
/// an error could only panic.
pub(crate) fn check<J: Job>(job: &J, inputs: &[(&[usize], DType)]) -> phasor::Result<()> {
    let kernel = job.kernel(true)?;
    let mut buffers = 0..;
    let mut operand = |shape: &[usize], dtype: DType| {
        let size = Output::new(shape, dtype).size() as u64;
        Operand {
            binding: Range::new(buffers.next().unwrap_or(0), 0, size.next_multiple_of(4)),
            dtype,
            shape: shape.to_vec(),
            strides: row_major(shape),
        }
    };
    let inputs: Vec<_> = inputs.iter().map(|(shape, dtype)| operand(shape, *dtype)).collect();
    let outputs: Vec<_> =
        job.outputs(kernel.plan()).iter().map(|out| operand(&out.shape, out.dtype)).collect();
    kernel.plan().recipe(&job.shape(), &job.bindings(&inputs, &outputs)?).map(drop)
}

/// Runs the call on Burn's own buffers, behind all that Burn has queued, and returns what it
/// writes.
///
/// # Panics
/// Where the device is lost or out of memory: an operation of Burn's has no other way to say so.
/// All else [`check`] has refused before.
#[expect(clippy::panic, reason = "operations of Burn's return tensors, and nothing else")]
pub(crate) fn run<J: Job>(job: &J, inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    match try_run(job, inputs) {
        Ok(outputs) => outputs,
        Err(why) => panic!("phasor: {why}"),
    }
}

type Server = WgpuServer<AutoCompiler>;
fn try_run<J: Job>(job: &J, inputs: Vec<CubeTensor>) -> Result<Vec<CubeTensor>, String> {
    let text = |error: phasor::Error| error.to_string();
    // Where a tensor lies. What Burn has queued that concerns it is submitted on the way.
    let hold = |tensor: &CubeTensor| {
        let held = tensor.client.get_resource::<Server>(tensor.handle.clone());
        held.map_err(|error| format!("a tensor that is not on a wgpu device: {error}"))
    };
    let host = job.host();
    let inputs: Vec<_> = inputs.into_iter().map(rows).collect();
    let held_inputs = inputs.iter().map(hold).collect::<Result<Vec<_>, _>>()?;
    let ranges: Vec<_> = held_inputs.iter().map(|held| held.resource()).collect();
    // Tensors of a pool lie in one buffer, which a dispatch may write all of or nothing of. Ranges
    // that overlap, such as views of a fused projection, must not be written, and so they ask for
    // outputs in buffers of their own.
    let views = overlap(&ranges);
    let kernel = job.kernel(!views).map_err(text)?;
    let outputs: Vec<_> = job
        .outputs(kernel.plan())
        .iter()
        .map(|output| allocate(&inputs[0], output, views))
        .collect();
    let held_outputs = outputs.iter().map(hold).collect::<Result<Vec<_>, _>>()?;
    let read: Vec<_> = inputs.iter().zip(ranges).map(|(t, at)| operand(t, at)).collect();
    let written = outputs.iter().zip(&held_outputs);
    let written: Vec<_> = written.map(|(t, held)| operand(t, held.resource())).collect();
    let bindings = job.bindings(&read, &written).map_err(text)?;
    let dispatch = kernel.bind(&host.device, &job.shape(), &bindings).map_err(text)?;
    let mut encoder = host.device.create_command_encoder(&Default::default());
    dispatch.encode(&mut encoder);
    host.queue.submit([encoder.finish()]);
    // Until here nobody may move or free what the call reads. What Burn does later comes behind it
    // on the same queue.
    drop((read, written, bindings));
    drop((held_inputs, held_outputs));
    Ok(outputs)
}

fn binding(resource: &WgpuResource) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding {
        buffer: &resource.buffer,
        offset: resource.offset,
        // Slices of a pool are padded to more than that.
        size: wgpu::BufferSize::new(resource.size.next_multiple_of(4)),
    }
}

fn operand<'a>(
    tensor: &CubeTensor,
    resource: &'a WgpuResource,
) -> Operand<wgpu::BufferBinding<'a>> {
    Operand {
        binding: binding(resource),
        dtype: tensor.dtype,
        shape: tensor.meta.shape().to_vec(),
        strides: tensor.meta.strides().to_vec(),
    }
}

/// Whether two of the ranges have bytes in common.
fn overlap(ranges: &[&WgpuResource]) -> bool {
    let end = |r: &WgpuResource| r.offset + r.size.next_multiple_of(4);
    let two = |a: &WgpuResource, b: &WgpuResource| {
        a.buffer == b.buffer && a.offset < end(b) && b.offset < end(a)
    };
    (1..ranges.len()).any(|i| ranges[..i].iter().any(|a| two(a, ranges[i])))
}

/// From the pool, or in a buffer of its own.
fn allocate(like: &CubeTensor, output: &Output, own: bool) -> CubeTensor {
    let (client, size) = (like.client.clone(), output.size());
    let handle = match own {
        true => client.memory_dedicated_allocation((), |()| client.empty(size)),
        false => client.empty(size),
    };
    let metadata =
        Metadata::new(Shape::from(output.shape.clone()), Strides::new(&output.strides()));
    CubeTensor::new(client, handle, metadata, like.device.clone(), output.dtype)
}

/// A tensor with strides that kernels take: `[B, H, S, D]` with any that are multiples of 4
/// elements and channels side by side, others without gaps. Copied only where it has to be.
fn rows(tensor: CubeTensor) -> CubeTensor {
    let (shape, strides) = (tensor.meta.shape().to_vec(), tensor.meta.strides().to_vec());
    let gapless = row_major(&shape);
    let fits = |axis: usize| match shape.len() {
        4 if axis < 3 => strides[axis].is_multiple_of(4),
        _ => strides[axis] == gapless[axis],
    };
    let fine = !tensor.meta.is_tiled() && (0..shape.len()).all(|i| shape[i] == 1 || fits(i));
    if fine { tensor } else { into_contiguous(tensor) }
}
