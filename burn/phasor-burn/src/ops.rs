//! The operations as Burn knows them: on its buffers, under fusion, and with their gradients.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward as Step, Ops, OpsKind};
#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Cube, backend_extension};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;

use crate::attention::{AttentionCall, Backward, Forward, split};
use crate::launch::run;
use crate::rotary::{RopeCall, Turn};

type Two<B> = (FloatTensor<B>, FloatTensor<B>);
type Three<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

#[cfg(feature = "fusion")]
fn forward_specs(
    q: &TensorSpec,
    _: &TensorSpec,
    _: &TensorSpec,
    call: &AttentionCall,
) -> (TensorSpec, TensorSpec) {
    let out = TensorSpec::new(Shape::from(call.out_shape()), q.dtype);
    (out, TensorSpec::new(Shape::from(call.lse_shape()), DType::F32))
}

// The macro reads the attributes of methods as they stand and takes them away where there is no
// fusion; it does not look into `cfg_attr`.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait PhasorOps: Backend {
    /// `[B, H_out, S_q, D_v]` and its log-sum-exp `[B, H_out, S_q]`, without gradients.
    #[fusion(meta = forward_specs)]
    fn phasor_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        call: AttentionCall,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The output alone, with gradients.
    #[fusion(default)]
    fn phasor_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        call: AttentionCall,
    ) -> FloatTensor<Self> {
        Self::phasor_forward(q, k, v, call).0
    }

    /// Both behind each other in f32, with gradients.
    #[fusion(default)]
    fn phasor_attention_lse(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        call: AttentionCall,
    ) -> FloatTensor<Self> {
        let (out, lse) = Self::phasor_forward(q, k, v, call.clone());
        together::<Self>(out, lse, &call)
    }

    /// Gradients of q, k and v.
    #[fusion(meta = |q, k, v, _out, _lse, _d_out, _call| (q.clone(), k.clone(), v.clone()))]
    fn phasor_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        call: AttentionCall,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The same for a loss that reads the log-sum-exp as well.
    #[allow(clippy::too_many_arguments, reason = "operations of Burn's take tensors one by one")]
    #[fusion(meta = |q, k, v, _out, _lse, _d_out, _d_lse, _call| (q.clone(), k.clone(), v.clone()))]
    fn phasor_backward_lse(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        d_lse: FloatTensor<Self>,
        call: AttentionCall,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// x `[B, H, S, D]` rotated, with its gradient; positions are counted.
    #[fusion(meta = |x, _table, _call| x.clone())]
    fn phasor_rope(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        call: RopeCall,
    ) -> FloatTensor<Self>;

    /// The same at positions `[streams, B, S]`.
    #[fusion(meta = |x, _table, _ids, _call| x.clone())]
    fn phasor_rope_at(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        ids: IntTensor<Self>,
        call: RopeCall,
    ) -> FloatTensor<Self>;
}

/// Output and log-sum-exp behind each other; [`split`] takes them apart.
fn together<B: Backend>(
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    call: &AttentionCall,
) -> FloatTensor<B> {
    let [b, h, s, d] = call.out_shape();
    let out = match call.dtype() {
        DType::F32 => out,
        _ => B::float_cast(out, DType::F32.into()),
    };
    let flat = |t, n: usize| B::float_reshape(t, Shape::from([n]));
    B::float_cat(vec![flat(out, b * h * s * d), flat(lse, b * h * s)], 0)
}

/// The first of what a job writes, in the types that the call has.
fn first<const N: usize>(written: Vec<CubeTensor>, dtype: Option<DType>) -> [CubeTensor; N] {
    let mut written = written.into_iter().map(|t| match dtype {
        Some(dtype) if t.dtype != dtype => cast(t, dtype),
        _ => t,
    });
    core::array::from_fn(|_| written.next().expect("a job writes what it says"))
}

impl PhasorOps for CubeBackend {
    fn phasor_forward(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        call: AttentionCall,
    ) -> Two<Self> {
        first::<2>(run(&Forward(&call), vec![q, k, v]), None).into()
    }

    fn phasor_backward(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        out: CubeTensor,
        lse: CubeTensor,
        d_out: CubeTensor,
        call: AttentionCall,
    ) -> Three<Self> {
        let job = Backward { call: &call, d_lse: false };
        first::<3>(run(&job, vec![q, k, v, out, lse, d_out]), Some(call.dtype())).into()
    }

    fn phasor_backward_lse(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        out: CubeTensor,
        lse: CubeTensor,
        d_out: CubeTensor,
        d_lse: CubeTensor,
        call: AttentionCall,
    ) -> Three<Self> {
        let job = Backward { call: &call, d_lse: true };
        first::<3>(run(&job, vec![q, k, v, out, lse, d_out, d_lse]), Some(call.dtype())).into()
    }

    fn phasor_rope(x: CubeTensor, table: CubeTensor, call: RopeCall) -> CubeTensor {
        let [out] = first(run(&Turn(&call), vec![x, table]), None);
        out
    }

    fn phasor_rope_at(
        x: CubeTensor,
        table: CubeTensor,
        ids: CubeTensor,
        call: RopeCall,
    ) -> CubeTensor {
        let [out] = first(run(&Turn(&call), vec![x, table, ids]), None);
        out
    }
}

/// What the way back of attention reads. Handles, no nodes of the graph.
#[derive(Debug, Clone)]
struct Kept {
    qkv: [FloatTensor<Cube>; 3],
    out: FloatTensor<Cube>,
    lse: FloatTensor<Cube>,
    call: AttentionCall,
}

/// From the gradient of the output to those of q, k and v.
#[derive(Debug)]
struct AttentionStep;

/// From the gradient of output and log-sum-exp.
#[derive(Debug)]
struct AttentionLseStep;

fn register(
    ops: [Option<burn::backend::autodiff::NodeId>; 3],
    found: Three<Cube>,
    grads: &mut Gradients,
) {
    for (node, gradient) in ops.into_iter().zip([found.0, found.1, found.2]) {
        if let Some(node) = node {
            grads.register::<Cube>(node, gradient);
        }
    }
}

impl Step<Cube, 3> for AttentionStep {
    type State = Kept;

    fn backward(self, ops: Ops<Kept, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_out = grads.consume::<Cube>(&ops.node);
        let Kept { qkv: [q, k, v], out, lse, call } = ops.state;
        let found = Cube::phasor_backward(q, k, v, out, lse, d_out, call);
        register(ops.parents.map(|node| node.map(|node| node.id)), found, grads);
    }
}

impl Step<Cube, 3> for AttentionLseStep {
    type State = Kept;

    fn backward(self, ops: Ops<Kept, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let both = grads.consume::<Cube>(&ops.node);
        let Kept { qkv: [q, k, v], out, lse, call } = ops.state;
        let (d_out, d_lse) = split(Tensor::from_primitive::<Cube>(both), call.out_shape());
        let d_out = d_out.cast(call.dtype()).try_into_primitive::<Cube>();
        let d_out = d_out.expect("a tensor of this backend stays one");
        let d_lse = d_lse.try_into_primitive::<Cube>().expect("and so does its other half");
        let found = Cube::phasor_backward_lse(q, k, v, out, lse, d_out, d_lse, call);
        register(ops.parents.map(|node| node.map(|node| node.id)), found, grads);
    }
}

/// From the gradient of what a rotation wrote to that of what it read.
#[derive(Debug)]
struct RopeStep;

impl Step<Cube, 1> for RopeStep {
    type State = (FloatTensor<Cube>, Option<IntTensor<Cube>>, RopeCall);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_out = grads.consume::<Cube>(&ops.node);
        let (table, ids, call) = ops.state;
        let call = call.transposed();
        let found = match ids {
            None => Cube::phasor_rope(d_out, table, call),
            Some(ids) => Cube::phasor_rope_at(d_out, table, ids, call),
        };
        let [node] = ops.parents;
        if let Some(node) = node {
            grads.register::<Cube>(node.id, found);
        }
    }
}

// For this one backend, and not for any: there is no other that has the kernels.
impl<C: CheckpointStrategy> PhasorOps for Autodiff<Cube, C> {
    fn phasor_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        call: AttentionCall,
    ) -> Two<Self> {
        let [q, k, v] = [q, k, v].map(Self::inner);
        let (out, lse) = Cube::phasor_forward(q, k, v, call);
        (Self::from_inner(out), Self::from_inner(lse))
    }

    fn phasor_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        call: AttentionCall,
    ) -> FloatTensor<Self> {
        let [(q, nq), (k, nk), (v, nv)] = [q, k, v].map(|t| t.into_parts());
        match AttentionStep.prepare::<C>([nq, nk, nv]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let qkv = [q.clone(), k.clone(), v.clone()];
                let (out, lse) = Cube::phasor_forward(q, k, v, call.clone());
                prep.finish(Kept { qkv, out: out.clone(), lse, call }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Cube::phasor_attention(q, k, v, call)),
        }
    }

    fn phasor_attention_lse(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        call: AttentionCall,
    ) -> FloatTensor<Self> {
        let [(q, nq), (k, nk), (v, nv)] = [q, k, v].map(|t| t.into_parts());
        match AttentionLseStep.prepare::<C>([nq, nk, nv]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let qkv = [q.clone(), k.clone(), v.clone()];
                let (out, lse) = Cube::phasor_forward(q, k, v, call.clone());
                let both = together::<Cube>(out.clone(), lse.clone(), &call);
                prep.finish(Kept { qkv, out, lse, call }, both)
            }
            OpsKind::UnTracked(prep) => prep.finish(Cube::phasor_attention_lse(q, k, v, call)),
        }
    }

    fn phasor_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        call: AttentionCall,
    ) -> Three<Self> {
        let [q, k, v, out, lse, d_out] = [q, k, v, out, lse, d_out].map(Self::inner);
        let (dq, dk, dv) = Cube::phasor_backward(q, k, v, out, lse, d_out, call);
        [dq, dk, dv].map(Self::from_inner).into()
    }

    fn phasor_backward_lse(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        d_lse: FloatTensor<Self>,
        call: AttentionCall,
    ) -> Three<Self> {
        let all = [q, k, v, out, lse, d_out, d_lse];
        let [q, k, v, out, lse, d_out, d_lse] = all.map(Self::inner);
        let (dq, dk, dv) = Cube::phasor_backward_lse(q, k, v, out, lse, d_out, d_lse, call);
        [dq, dk, dv].map(Self::from_inner).into()
    }

    fn phasor_rope(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        call: RopeCall,
    ) -> FloatTensor<Self> {
        let ((x, node), table) = (x.into_parts(), Self::inner(table));
        match RopeStep.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = Cube::phasor_rope(x, table.clone(), call.clone());
                prep.finish((table, None, call), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Cube::phasor_rope(x, table, call)),
        }
    }

    fn phasor_rope_at(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        ids: IntTensor<Self>,
        call: RopeCall,
    ) -> FloatTensor<Self> {
        let ((x, node), table) = (x.into_parts(), Self::inner(table));
        match RopeStep.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = Cube::phasor_rope_at(x, table.clone(), ids.clone(), call.clone());
                prep.finish((table, Some(ids), call), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Cube::phasor_rope_at(x, table, ids, call)),
        }
    }
}
