//! Gradients of attention by the kernels: a forward pass, and the backward pass over what it wrote.

use phasor::attention::AttentionShape;
use phasor::attention_backward::{
    AttentionBackward, AttentionBackwardBindings, AttentionBackwardProblem, BackwardRotation,
};
use phasor::{DType, Layout, Tensor, oracle, wgpu};

use super::{Device, Gradients, device::ids_of};
use crate::cases::{BackwardCase, Order, Result, Rotation};

impl Device<'_> {
    fn backward_kernel(&self, problem: &AttentionBackwardProblem) -> Result<AttentionBackward> {
        let plan = problem.plan(&self.gpu.capabilities())?;
        let mut known = self.backwards.borrow_mut();
        for other in known.iter() {
            if let Some(kernel) = other.reuse(&self.gpu.device, &plan)? {
                return Ok(kernel);
            }
        }
        known.push(AttentionBackward::new(&self.gpu.device, &plan)?);
        Ok(known[known.len() - 1].clone())
    }

    /// With respect to un-rotated vectors, and to rotated ones where the case has references for
    /// them.
    pub(super) fn gradients(&self, case: &BackwardCase) -> Result<Gradients> {
        let attention = self.prefill(&case.attention)?;
        let both = case.attention.rotations.is_some()
            && case.gradients.iter().any(|(_, expected)| expected.name.ends_with("_rot"));
        let mut all = self.backward_pass(case, &attention, true)?;
        if both {
            let rotated = self.backward_pass(case, &attention, false)?;
            (all.dq_rotated, all.dk_rotated) = (rotated.dq, rotated.dk);
        }
        Ok(all)
    }

    fn backward_pass(
        &self,
        case: &BackwardCase,
        forward: &oracle::Attended<f64>,
        unrotate: bool,
    ) -> Result<Gradients> {
        let gpu = self.gpu;
        let BackwardCase { attention, d_out, d_lse, .. } = case;
        let [batch, _, seq_q, _] = attention.q_shape;
        let seq_k = attention.k_shape[2];
        let variant = &attention.variant;
        let kernel = self.backward_kernel(&AttentionBackwardProblem {
            unrotate: unrotate && attention.rotations.is_some(),
            d_lse: d_lse.is_some(),
            d_sinks: !variant.sinks.is_empty(),
            d_bias: variant.bias.is_some(),
            ..AttentionBackwardProblem::new(Self::problem_in_f32(attention))
        })?;
        let upload = |x: &[f32]| gpu.upload(x, DType::F32);
        let narrowed = |x: &[f64]| upload(&x.iter().map(|&x| x as f32).collect::<Vec<_>>());
        let (q, v) = (upload(&attention.q), upload(&attention.v));
        let k = match &attention.rotations {
            None => upload(&attention.k),
            Some([_, keys]) => self.rotate(&attention.k, attention.k_shape, Order::Bhsd, keys)?,
        };
        let (out, lse) = (narrowed(&forward.out), narrowed(&forward.lse));
        let (d_out, d_lse) = (upload(d_out), d_lse.as_deref().map(upload));
        let lens = |x: &Option<Vec<u32>>| x.as_ref().map(|lens| gpu.upload_u32(lens));
        let (kv_lens, prefix_lens) = (lens(&attention.kv_lens), lens(&variant.prefix_lens));
        let bias = variant.bias.as_deref().map(upload);
        let len = |shape: [u32; 4]| shape.iter().map(|&n| n as usize).product::<usize>();
        let heads_out = attention.heads.heads().len() as u32;
        let scores = [batch, heads_out, seq_q, seq_k];
        let shapes = [attention.q_shape, attention.k_shape, attention.v_shape];
        let [dq, dk, dv] = shapes.map(|shape| gpu.output(len(shape), DType::F32));
        let d_sinks = gpu.output(heads_out as usize, DType::F32);
        let d_bias = gpu.output(len(scores), DType::F32);
        let shape = AttentionShape {
            query_offset: variant.query_offset,
            ..AttentionShape::new(batch, seq_q, seq_k)
        };
        let bytes = kernel.plan().workspace_bytes(&shape, batch * seq_q);
        let workspace = gpu.output(bytes as usize / 4, DType::F32);
        let rotation = match &attention.rotations {
            None => None,
            Some([queries, keys]) => {
                let ids = |rotation: &Rotation| gpu.upload_u32(&rotation.positions.concat());
                // One table reaches both.
                let mut longest = queries.clone();
                longest.positions = vec![[&queries.positions[0][..], &keys.positions[0]].concat()];
                Some((self.table(&longest)?, ids(queries), ids(keys)))
            }
        };
        let tensor = |buffer, shape| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let bound = wgpu::Buffer::as_entire_buffer_binding;
        let out_shape = attention.out_shape();
        let mut bindings = AttentionBackwardBindings::new(
            [tensor(&q, shapes[0])?, tensor(&k, shapes[1])?, tensor(&v, shapes[2])?],
            (tensor(&out, out_shape)?, bound(&lse)),
            tensor(&d_out, out_shape)?,
            [tensor(&dq, shapes[0])?, tensor(&dk, shapes[1])?, tensor(&dv, shapes[2])?],
            bound(&workspace),
        );
        bindings.d_lse = d_lse.as_ref().map(bound);
        bindings.d_sinks = (!variant.sinks.is_empty()).then(|| bound(&d_sinks));
        bindings.d_bias = variant.bias.as_ref().map(|_| bound(&d_bias));
        bindings.kv_lens = kv_lens.as_ref().map(bound);
        bindings.prefix_lens = prefix_lens.as_ref().map(bound);
        let layout = Layout::bhsd(scores)?;
        bindings.bias = bias.as_ref().map(|bias| (layout, bound(bias)));
        bindings.rotation = rotation.as_ref().map(|(table, queries, keys)| BackwardRotation {
            table: table.bind(),
            q_positions: ids_of(queries, seq_q),
            k_positions: ids_of(keys, seq_k),
        });
        self.run(&kernel, &shape, &bindings)?;
        let of = |buffer, shape| self.download(buffer, len(shape));
        Ok(Gradients {
            attention: forward.clone(),
            dq: of(&dq, shapes[0]),
            dk: of(&dk, shapes[1]),
            dv: of(&dv, shapes[2]),
            dq_rotated: Vec::new(),
            dk_rotated: Vec::new(),
            d_sinks: self.download(&d_sinks, variant.sinks.len()),
            d_bias: variant.bias.as_ref().map_or(Vec::new(), |_| of(&d_bias, scores)),
            d_alibi_slopes: Vec::new(),
        })
    }
}
