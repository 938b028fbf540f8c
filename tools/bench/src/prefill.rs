//! Causal prefill calls: their tensors, their check and their work.

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::rotary::Pairing;
use phasor::{Cost, DType, Dispatch, HeadMap, Layout, Precision, Sharing, Tensor, oracle, wgpu};
use phasor_kit::tolerance;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::Result;
use crate::timing::Clock;

/// Sizes of a causal prefill, batch 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub seq: u32,
    pub dim: u32,
    pub heads: u32,
    pub kv_heads: u32,
}

/// Query, key and value tensors, on the host and on the device.
pub struct Tensors {
    pub sizes: Sizes,
    pub data: [Vec<f32>; 3],
    pub buffers: [wgpu::Buffer; 3],
    /// Storage of all, outputs too.
    pub stored: DType,
    /// What calls over them are planned for.
    pub sharing: Sharing,
    pub precision: Precision,
}

/// A bound call and where it writes.
pub struct Pass {
    pub dispatch: Dispatch,
    pub cost: Cost,
    kernel: Attention,
    out: wgpu::Buffer,
    heads: HeadMap,
}

impl Tensors {
    pub fn new(clock: &Clock<'_>, sizes: Sizes) -> Self {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut random = |heads: u32| -> Vec<f32> {
            let len = (heads * sizes.seq * sizes.dim) as usize;
            (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        let data = [random(sizes.heads), random(sizes.kv_heads), random(sizes.kv_heads)];
        Self::upload(clock, sizes, data, DType::F32)
    }

    fn upload(clock: &Clock<'_>, sizes: Sizes, data: [Vec<f32>; 3], stored: DType) -> Self {
        let buffers = data.each_ref().map(|data| clock.gpu.upload(data, stored));
        let (sharing, precision) = (Sharing::Apart, Precision::F32);
        Self { sizes, data, buffers, stored, sharing, precision }
    }

    /// The same numbers in other storage.
    pub fn stored_in(&self, clock: &Clock<'_>, stored: DType) -> Self {
        let data = self.data.each_ref().map(|data| tolerance::stored(data, stored));
        let Self { sharing, precision, .. } = *self;
        Self { sharing, precision, ..Self::upload(clock, self.sizes, data, stored) }
    }

    /// The same keys and values under twice the query heads: each as it is, then turned by −π/2,
    /// (a, b) into (b, −a) over the two halves. What a kernel without RoPE++ is handed.
    pub fn packed(&self, clock: &Clock<'_>) -> Self {
        let Sizes { seq, dim, heads, .. } = self.sizes;
        let half = dim as usize / 2;
        let mut q = Vec::with_capacity(2 * self.data[0].len());
        for head in self.data[0].chunks((seq * dim) as usize) {
            q.extend_from_slice(head);
            for row in head.chunks(2 * half) {
                q.extend_from_slice(&row[half..]);
                q.extend(row[..half].iter().map(|x| -x));
            }
        }
        let sizes = Sizes { heads: 2 * heads, ..self.sizes };
        let data = [q, self.data[1].clone(), self.data[2].clone()];
        Self::upload(clock, sizes, data, self.stored)
    }

    /// A call over these tensors, run once and checked. `like` lends its kernel where the shader is
    /// the same, so that nothing is compiled twice.
    pub fn pass(&self, clock: &Clock<'_>, heads: HeadMap, like: Option<&Pass>) -> Result<Pass> {
        let pass = self.bind(clock, heads, like)?;
        clock.gpu.run(|encoder| pass.dispatch.encode(encoder));
        self.check(clock, &pass)?;
        Ok(pass)
    }

    /// The same, neither run nor checked.
    pub fn bind(&self, clock: &Clock<'_>, heads: HeadMap, like: Option<&Pass>) -> Result<Pass> {
        let Sizes { seq, dim, kv_heads, .. } = self.sizes;
        let device = &clock.gpu.device;
        let mut caps = clock.gpu.capabilities().sharing(self.sharing);
        if self.precision.on_matrices() {
            // Asked for by name, and every call is checked before it is timed.
            caps = caps.insist_on_matrices();
        }
        let problem = AttentionProblem {
            precision: self.precision,
            q_dtype: self.stored,
            kv_dtype: self.stored,
            out_dtype: self.stored,
            ..AttentionProblem::new(heads.clone(), kv_heads, dim)
        };
        let plan = problem.plan(&caps)?;
        let lent = like.map(|pass| pass.kernel.reuse(device, &plan)).transpose()?.flatten();
        let kernel = match lent {
            Some(kernel) => kernel,
            None => Attention::new(device, &plan)?,
        };
        let heads_out = heads.heads().len() as u32;
        let out = clock.gpu.output((heads_out * seq * dim) as usize, self.stored);
        let layout = |heads| Layout::bhsd([1, heads, seq, dim]);
        let [q, k, v] = &self.buffers;
        let bindings = AttentionBindings::new(
            Tensor::new(q, self.stored, layout(self.sizes.heads)?),
            Tensor::new(k, self.stored, layout(kv_heads)?),
            Tensor::new(v, self.stored, layout(kv_heads)?),
            Tensor::new(&out, self.stored, layout(heads_out)?),
        );
        let shape = AttentionShape::new(1, seq, seq);
        let dispatch = kernel.bind(device, &shape, &bindings)?;
        Ok(Pass { dispatch, cost: plan.cost(&shape), kernel, out, heads })
    }

    /// A call over a contiguous cache of these keys and values, run once and checked against what
    /// the cache holds of them.
    pub fn over_cache(&self, clock: &Clock<'_>, heads: HeadMap, stored: CacheType) -> Result<Pass> {
        let Sizes { seq, dim, kv_heads, .. } = self.sizes;
        let device = &clock.gpu.device;
        let format = CacheFormat { k: stored, v: stored, ..CacheFormat::new(kv_heads, dim) };
        let plan = AttentionProblem::over(heads.clone(), format).plan(&clock.gpu.capabilities())?;
        let kernel = Attention::new(device, &plan)?;
        let [k, v] = [1, 2].map(|i| oracle::encode_rows(&self.data[i], dim, stored));
        let rows = [k?, v?];
        let [k, v] = rows.each_ref().map(|rows| oracle::decode_rows(rows, dim, stored));
        let held =
            Self { data: [self.data[0].clone(), k?, v?], buffers: self.buffers.clone(), ..*self };
        let sides = rows.each_ref().map(|rows| clock.gpu.upload_bytes(rows));
        let layout = Layout::bhsd([1, kv_heads, seq, stored.row(dim)])?;
        let [k, v] = sides.each_ref().map(|side| CacheTensor {
            binding: side.as_entire_buffer_binding(),
            stored,
            layout,
        });
        let heads_out = heads.heads().len() as u32;
        let out = clock.gpu.output((heads_out * seq * dim) as usize, DType::F32);
        let lens = clock.gpu.upload_u32(&[seq]);
        let tensor = |buffer, heads| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, seq, dim])?))
        };
        let bindings = AttentionBindings::over(
            tensor(&self.buffers[0], self.sizes.heads)?,
            CacheBindings::new(k, v),
            lens.as_entire_buffer_binding(),
            tensor(&out, heads_out)?,
        );
        let shape = AttentionShape::new(1, seq, seq);
        let dispatch = kernel.bind(device, &shape, &bindings)?;
        let pass = Pass { dispatch, cost: plan.cost(&shape), kernel, out, heads };
        clock.gpu.run(|encoder| pass.dispatch.encode(encoder));
        held.check(clock, &pass)?;
        Ok(pass)
    }

    /// Compares some rows of every output head with the f64 oracle. With scores and values of the
    /// size of 1 the error of f32 is a few units in the last place of 1, and that of f16 products
    /// or of storage in f16 one of f16's.
    fn check(&self, clock: &Clock<'_>, pass: &Pass) -> Result<()> {
        let Sizes { seq, dim, heads, kv_heads } = self.sizes;
        let rounded = self.precision == Precision::F16Products || self.stored == DType::F16;
        let most = if rounded { 1e-3 } else { 4e-6 };
        let out = clock.gpu.download(&pass.out, self.stored);
        let wide = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<f64>>();
        let [k, v] = [1, 2].map(|i| wide(&self.data[i]));
        let (seq_len, row_len) = (seq as usize, dim as usize);
        for row in [0, seq_len / 3, seq_len - 1] {
            let q: Vec<f64> = self.data[0]
                .chunks(seq_len * row_len)
                .flat_map(|head| wide(&head[row * row_len..][..row_len]))
                .collect();
            let truth = oracle::attention(&oracle::AttentionInputs {
                q: &q,
                q_shape: [1, heads, 1, dim],
                k: &k,
                k_shape: [1, kv_heads, seq, dim],
                v: &v,
                v_shape: [1, kv_heads, seq, dim],
                rotary_dim: dim,
                pairing: Pairing::Half,
                heads: pass.heads.heads(),
                softmax_scale: f64::from(dim).powf(-0.5),
                causal: true,
                q_offset: Some(row as i64),
                kv_lens: None,
            })?;
            for (head, truth) in truth.out.chunks(row_len).enumerate() {
                let got = &out[(head * seq_len + row) * row_len..][..row_len];
                for (&got, &truth) in got.iter().zip(truth) {
                    let error = (f64::from(got) - truth).abs();
                    if error.is_nan() || error > most {
                        return Err(format!(
                            "wrong result: head {head}, row {row} of {:?}: {got} instead of {truth}",
                            self.sizes
                        )
                        .into());
                    }
                }
            }
        }
        Ok(())
    }
}
