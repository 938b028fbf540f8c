//! Prefill of a case on a device.

use phasor::attention::{AttentionBindings, AttentionProblem, AttentionShape};
use phasor::{Bias, DType, Layout, Tensor, oracle};

use super::device::{Device, ids_of};
use crate::cases::{AttentionCase, Order, Result};

impl Device<'_> {
    /// The forward pass of a case, q rotated in the kernel.
    pub(super) fn problem_in_f32(case: &AttentionCase) -> AttentionProblem {
        let (rotary_dim, pairing) = case.pairs();
        AttentionProblem {
            value_dim: case.v_shape[3],
            rotary_dim,
            pairing,
            rotate_q: case.rotations.is_some(),
            causal: case.causal,
            window: case.variant.window,
            softcap: case.variant.softcap.map(|cap| cap as f32),
            sinks: case.variant.sinks.clone(),
            alibi_slopes: case.variant.alibi_slopes.clone(),
            bias: case.variant.bias.as_ref().map(|_| Bias::Additive),
            prefix: case.variant.prefix_lens.is_some(),
            softmax_scale: case.softmax_scale as f32,
            lse: true,
            ..AttentionProblem::new(case.heads.clone(), case.k_shape[1], case.q_shape[3])
        }
    }

    pub(super) fn problem(&self, case: &AttentionCase) -> AttentionProblem {
        AttentionProblem { precision: self.precision, ..Self::problem_in_f32(case) }
    }

    pub(super) fn prefill(&self, case: &AttentionCase) -> Result<oracle::Attended<f64>> {
        self.prefilled(case, &Self::problem_in_f32(case))
    }

    /// Keys through the rope kernel, queries rotated inside the attention kernel.
    pub(super) fn prefilled(
        &self,
        case: &AttentionCase,
        problem: &AttentionProblem,
    ) -> Result<oracle::Attended<f64>> {
        let [batch, _, seq_q, _] = case.q_shape;
        let [_, _, seq_k, _] = case.k_shape;
        let kernel = self.attention_kernel(problem)?;
        let q = self.gpu.upload(&case.q, DType::F32);
        let v = self.gpu.upload(&case.v, DType::F32);
        let k = match &case.rotations {
            None => self.gpu.upload(&case.k, DType::F32),
            Some([_, keys]) => self.rotate(&case.k, case.k_shape, Order::Bhsd, keys)?,
        };
        let elements = |shape: [u32; 4]| shape.iter().map(|&n| n as usize).product::<usize>();
        let (out_len, lse_len) = (elements(case.out_shape()), elements(case.lse_shape()));
        let out = self.gpu.output(out_len, DType::F32);
        let lse = self.gpu.output(lse_len, DType::F32);
        let kv_lens = case.kv_lens.as_ref().map(|lens| self.gpu.upload_u32(lens));

        let mut bindings = AttentionBindings::new(
            Tensor::new(&q, DType::F32, Layout::bhsd(case.q_shape)?),
            Tensor::new(&k, DType::F32, Layout::bhsd(case.k_shape)?),
            Tensor::new(&v, DType::F32, Layout::bhsd(case.v_shape)?),
            Tensor::new(&out, DType::F32, Layout::bhsd(case.out_shape())?),
        );
        bindings.lse = Some(lse.as_entire_buffer_binding());
        bindings.kv_lens = kv_lens.as_ref().map(|lens| lens.as_entire_buffer_binding());
        let rotation = match &case.rotations {
            None => None,
            Some([queries, _]) => {
                queries.check(seq_q)?;
                let ids = self.gpu.upload_u32(&queries.positions.concat());
                Some((self.table(queries)?, ids))
            }
        };
        bindings.rotation = rotation.as_ref().map(|(table, ids)| table.at(ids_of(ids, seq_q)));

        let bias = case.variant.bias.as_ref().map(|bias| self.gpu.upload(bias, DType::F32));
        let scores = [batch, case.heads.heads().len() as u32, seq_q, seq_k];
        bindings.bias = match &bias {
            None => None,
            Some(bias) => Some((Layout::bhsd(scores)?, bias.as_entire_buffer_binding())),
        };
        let prefix_lens = case.variant.prefix_lens.as_ref().map(|lens| self.gpu.upload_u32(lens));
        bindings.prefix_lens = prefix_lens.as_ref().map(|lens| lens.as_entire_buffer_binding());

        let query_offset = case.variant.query_offset;
        let shape = AttentionShape { query_offset, ..AttentionShape::new(batch, seq_q, seq_k) };
        self.run(&kernel, &shape, &bindings)?;
        Ok(oracle::Attended {
            out: self.download(&out, out_len),
            lse: self.download(&lse, lse_len),
        })
    }
}
