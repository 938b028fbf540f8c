//! Attention of Burn's tensors.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Tensor};
use phasor::Kernel;
use phasor::attention::{AttentionPlan, AttentionProblem, AttentionShape};
use phasor::attention_backward::{AttentionBackwardPlan, AttentionBackwardProblem};
use phasor::recipe::{self, Binding};

use crate::device::{self, Host};
use crate::error::narrow;
use crate::launch::{Job, Operand, Output, check, stored, tensors};
use crate::ops::PhasorOps;
use crate::{AttentionOptions, Error, Result};

/// Attention of rotated q and k, in one pass over k and v, with nothing of size S_q × S_k stored.
///
/// | | shape | |
/// |---|---|---|
/// | q | `[B, H_q, S_q, D]` | f32 or f16, D a multiple of 8 |
/// | k | `[B, H_kv, S_k, D]` | H_kv divides H_q |
/// | v | `[B, H_kv, S_k, D_v]` | |
/// | returned | `[B, H_out, S_q, D_v]` | H_out is 2 H_q with RoPE++, else H_q |
///
/// Views need no copy where channels lie side by side and strides are multiples of 4 elements, such
/// as `swap_dims(1, 2)` of a projection. On a device with autodiff, gradients of q, k and v come
/// from phasor's backward kernels.
///
/// # Errors
/// [`Error::NotAttached`] for a device that phasor does not know, [`Error::Device`],
/// [`Error::DType`], [`Error::Empty`], and [`Error::Phasor`] for shapes and options that no kernel
/// fits; on a device with autodiff also for those without a gradient, such as D above 256.
pub fn ropepp_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Result<Tensor<4>> {
    let call = AttentionCall::new([&q, &k, &v], options, false)?;
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Ok(Tensor::from_dispatch(<Dispatch as PhasorOps>::phasor_attention(q, k, v, call)))
}

/// As [`ropepp_attention`], with the natural log-sum-exp of every output row, f32
/// `[B, H_out, S_q]`. Both have gradients: with them, sinks can be learned, and attention over
/// parts of the keys merged.
///
/// # Errors
/// As [`ropepp_attention`].
pub fn ropepp_attention_lse(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Result<(Tensor<4>, Tensor<3>)> {
    let call = AttentionCall::new([&q, &k, &v], options, true)?;
    let (device, dtype, shape) = (q.device(), q.dtype(), call.out_shape());
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    if !device.is_autodiff() {
        let (out, lse) = <Dispatch as PhasorOps>::phasor_forward(q, k, v, call);
        return Ok((Tensor::from_dispatch(out), Tensor::from_dispatch(lse)));
    }
    // A node of Burn's autodiff has one output: both come in one tensor.
    let both = <Dispatch as PhasorOps>::phasor_attention_lse(q, k, v, call);
    let (out, lse) = split(Tensor::from_dispatch(both), shape);
    Ok((if dtype == DType::F32 { out } else { out.cast(dtype) }, lse))
}

/// Output and log-sum-exp that lie behind each other.
pub(crate) fn split(both: Tensor<1>, shape: [usize; 4]) -> (Tensor<4>, Tensor<3>) {
    let [b, h, s, d] = shape;
    let rows = b * h * s;
    let lse = both.clone().narrow(0, rows * d, rows).reshape([b, h, s]);
    (both.narrow(0, 0, rows * d).reshape(shape), lse)
}

/// One attention configuration and the sizes of a call.
#[derive(Debug, Clone)]
pub struct AttentionCall(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<Host>,
    problem: AttentionProblem,
    shape: AttentionShape,
    dtype: DType,
}

impl AttentionCall {
    fn new([q, k, v]: [&Tensor<4>; 3], options: &AttentionOptions, with_lse: bool) -> Result<Self> {
        let (device, dtype) = (q.device(), q.dtype());
        let host = device::host(&device)?;
        for (name, tensor) in [("q", q), ("k", k), ("v", v)] {
            fits(name, tensor, &device)?;
            if tensor.dtype() != dtype {
                let needed = "what q holds";
                return Err(Error::DType { tensor: name, needed, got: tensor.dtype() });
            }
        }
        let ([batch, q_heads, seq_q, dim], [_, kv_heads, seq_k, _]) = (q.dims(), k.dims());
        let value_dim = v.dims()[3];
        let problem = options.problem([q_heads, kv_heads, dim, value_dim], stored(dtype)?)?;
        let size = |n| narrow("q", n);
        let shape = AttentionShape::new(size(batch)?, size(seq_q)?, size(seq_k)?);
        let call = Self(Arc::new(Inner { host, problem, shape, dtype }));
        let dims = [q.dims(), k.dims(), v.dims()];
        let inputs = dims.each_ref().map(|dims| (&dims[..], dtype));
        check(&Forward(&call), &inputs)?;
        if device.is_autodiff() {
            let (out, lse) = (call.out_shape(), call.lse_shape());
            let [q, k, v] = inputs;
            let all =
                [q, k, v, (&out, dtype), (&lse, DType::F32), (&out, dtype), (&lse, DType::F32)];
            let given = if with_lse { 7 } else { 6 };
            check(&Backward { call: &call, d_lse: with_lse }, &all[..given])?;
        }
        Ok(call)
    }

    pub(crate) fn out_shape(&self) -> [usize; 4] {
        let Inner { problem, shape, .. } = &*self.0;
        let heads = problem.heads.heads().len();
        [shape.batch as usize, heads, shape.seq_q as usize, problem.value_dim as usize]
    }

    pub(crate) fn lse_shape(&self) -> [usize; 3] {
        let [b, h, s, _] = self.out_shape();
        [b, h, s]
    }

    fn inputs(&self) -> [[usize; 4]; 3] {
        let Inner { problem, shape, .. } = &*self.0;
        let of =
            |heads: u32, seq: u32, dim: u32| [shape.batch, heads, seq, dim].map(|n| n as usize);
        let (kv, dim) = (problem.kv_heads, problem.head_dim);
        let q = of(problem.heads.q_heads(), shape.seq_q, dim);
        [q, of(kv, shape.seq_k, dim), of(kv, shape.seq_k, problem.value_dim)]
    }

    pub(crate) fn dtype(&self) -> DType {
        self.0.dtype
    }
}

/// Refuses a tensor that is elsewhere, holds something else, or nothing.
pub(crate) fn fits<const D: usize>(
    name: &'static str,
    tensor: &Tensor<D>,
    device: &Device,
) -> Result<()> {
    if tensor.device() != *device {
        let (needed, got) = (format!("{device:?}"), format!("{:?}", tensor.device()));
        return Err(Error::Device { tensor: name, needed, got });
    }
    if !matches!(tensor.dtype(), DType::F32 | DType::F16) {
        return Err(Error::DType { tensor: name, needed: "F32 or F16", got: tensor.dtype() });
    }
    match tensor.dims().contains(&0) {
        true => Err(Error::Empty { tensor: name, shape: tensor.dims().to_vec() }),
        false => Ok(()),
    }
}

/// q, k, v → out, lse.
pub(crate) struct Forward<'a>(pub(crate) &'a AttentionCall);

impl Job for Forward<'_> {
    type Plan = AttentionPlan;

    fn host(&self) -> &Host {
        &self.0.0.host
    }

    fn kernel(&self, pooled: bool) -> phasor::Result<Kernel<AttentionPlan>> {
        self.0.0.host.attention.get(&self.0.0.problem, pooled)
    }

    fn shape(&self) -> AttentionShape {
        self.0.0.shape
    }

    fn outputs(&self, _: &AttentionPlan) -> Vec<Output> {
        let out = Output::new(self.0.out_shape(), self.0.dtype());
        vec![out, Output::new(self.0.lse_shape(), DType::F32)]
    }

    fn bindings<B: Binding>(
        &self,
        inputs: &[Operand<B>],
        outputs: &[Operand<B>],
    ) -> phasor::Result<recipe::AttentionBindings<B>> {
        let [q, k, v] = tensors(inputs, ["q", "k", "v"])?;
        let [out] = tensors(outputs, ["out"])?;
        let lse = Some(outputs[1].binding.clone());
        Ok(recipe::AttentionBindings { lse, ..recipe::AttentionBindings::new(q, k, v, out) })
    }
}

/// q, k, v, out, lse, d_out, and d_lse where there is one → dq, dk, dv in f32.
pub(crate) struct Backward<'a> {
    pub(crate) call: &'a AttentionCall,
    pub(crate) d_lse: bool,
}

impl Job for Backward<'_> {
    type Plan = AttentionBackwardPlan;

    fn host(&self) -> &Host {
        &self.call.0.host
    }

    fn kernel(&self, pooled: bool) -> phasor::Result<Kernel<AttentionBackwardPlan>> {
        let new = AttentionBackwardProblem::new(self.call.0.problem.clone());
        let problem = AttentionBackwardProblem { d_lse: self.d_lse, ..new };
        self.call.0.host.backward.get(&problem, pooled)
    }

    fn shape(&self) -> AttentionShape {
        self.call.0.shape
    }

    fn outputs(&self, plan: &AttentionBackwardPlan) -> Vec<Output> {
        let shape = &self.call.0.shape;
        let rows = shape.batch.saturating_mul(shape.seq_q);
        let gradients = self.call.inputs().map(|shape| Output::new(shape, DType::F32));
        let scratch = Output::bytes(plan.workspace_bytes(shape, rows));
        gradients.into_iter().chain([scratch]).collect()
    }

    fn bindings<B: Binding>(
        &self,
        inputs: &[Operand<B>],
        outputs: &[Operand<B>],
    ) -> phasor::Result<recipe::AttentionBackwardBindings<B>> {
        let qkv = tensors(inputs, ["q", "k", "v"])?;
        let [out] = tensors(&inputs[3..], ["out"])?;
        let [d_out] = tensors(&inputs[5..], ["d_out"])?;
        let gradients = tensors(outputs, ["dq", "dk", "dv"])?;
        let (lse, scratch) = (inputs[4].binding.clone(), outputs[3].binding.clone());
        let new =
            recipe::AttentionBackwardBindings::new(qkv, (out, lse), d_out, gradients, scratch);
        let d_lse = self.d_lse.then(|| inputs[6].binding.clone());
        Ok(recipe::AttentionBackwardBindings { d_lse, ..new })
    }
}
