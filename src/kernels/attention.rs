//! Fused attention on the device: compiles an [`AttentionPlan`], binds tensors to it.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, Bind, COS_SIN, Checker, CosSin, Dispatch, POSITION_IDS, Pipeline, Positions,
    RotaryParams, Tensor, Unused, uniform_buffer,
};
use crate::plan::attention::{AttentionPlan, AttentionShape, Outputs, in_base_2};
use crate::{Error, Layout, Result};

/// A compiled attention kernel. It belongs to the device it was made on, is cheap to clone, and
/// holds nothing that changes from call to call.
#[derive(Debug, Clone)]
pub struct Attention {
    plan: AttentionPlan,
    pipeline: Pipeline,
    programs: wgpu::Buffer,
    unused: Unused,
}

/// The tensors of one attention call.
#[derive(Debug, Clone)]
pub struct AttentionBindings<'a> {
    /// `[B, H_q, S_q, D]`, read. Strides and offset are multiples of 4 elements, here and below.
    pub q: Tensor<'a>,
    /// `[B, H_kv, S_k, D]`, rotated, read.
    pub k: Tensor<'a>,
    /// `[B, H_kv, S_k, D_v]`, read.
    pub v: Tensor<'a>,
    /// `[B, H_out, S_q, D_v]`, or `[B, H_q, S_q, D_v]` for split outputs; written.
    pub out: Tensor<'a>,
    /// Split outputs: `[B, H_q, S_q, D_v]`, the second stream of every query head; written.
    pub out_im: Option<Tensor<'a>>,
    /// Natural log-sum-exp of every output row, f32 `[B, H_out, S_q]` without gaps, heads in the
    /// order of the head map; written. −∞ in rows that see no key.
    pub lse: Option<wgpu::BufferBinding<'a>>,
    /// Keys of each batch, u32 `[B]`, read: the keys behind them are padding and never read.
    /// Numbers above S_k count as S_k.
    pub kv_lens: Option<wgpu::BufferBinding<'a>>,
    /// Table and positions of q, where the kernel rotates it.
    pub rotation: Option<(CosSin<'a>, Positions<'a>)>,
}

impl<'a> AttentionBindings<'a> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(q: Tensor<'a>, k: Tensor<'a>, v: Tensor<'a>, out: Tensor<'a>) -> Self {
        Self { q, k, v, out, out_im: None, lse: None, kv_lens: None, rotation: None }
    }
}

/// Binding numbers, by the names of `shaders/attention.wgsl` and `shaders/io`.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const PROGRAMS: u32 = 1;
    pub(super) const Q: u32 = 2;
    pub(super) const K: u32 = 3;
    pub(super) const V: u32 = 4;
    pub(super) const OUT: u32 = 5;
    pub(super) const OUT_IM: u32 = 6;
    pub(super) const LSE: u32 = 7;
    pub(super) const KV_LENS: u32 = 10;
}

/// `Params` of `shaders/attention.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    batch: u32,
    seq_q: u32,
    seq_k: u32,
    group: u32,
    groups_x: u32,
    tiles: u32,
    heads_out: u32,
    causal_offset: i32,
    scale_log2: f32,
    minus_infinity: f32,
    window: i32,
    softcap: f32,
    store_lse: u32,
    programs: u32,
    pad0: u32,
    pad1: u32,
    q: Quads,
    k: Quads,
    v: Quads,
    out: Quads,
    out_im: Quads,
    rotary: RotaryParams,
}

/// `Quads` of `shaders/attention.wgsl`: offset and strides in groups of four channels.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
struct Quads {
    offset: u32,
    batch: u32,
    head: u32,
    row: u32,
}

impl Quads {
    fn new(layout: &Layout) -> Self {
        let [batch, head, row] = layout.strides.map(|stride| stride / 4);
        Self { offset: layout.offset / 4, batch, head, row }
    }
}

impl Attention {
    /// Compiles `plan` on `device`. Do this once for every configuration; it takes milliseconds on
    /// a GPU and can take seconds on a software adapter.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for.
    pub fn new(device: &wgpu::Device, plan: &AttentionPlan) -> Result<Self> {
        let plan = Self::replan(device, plan)?;
        Ok(Self {
            pipeline: Pipeline::new(device, plan.shader()),
            programs: Self::programs(device, &plan),
            unused: Unused::new(device),
            plan,
        })
    }

    /// The same plan, every check repeated against the real device.
    fn replan(device: &wgpu::Device, plan: &AttentionPlan) -> Result<AttentionPlan> {
        let caps = crate::Capabilities::of(device);
        AttentionPlan::with_tile(plan.problem(), &caps, *plan.tile())
    }

    fn programs(device: &wgpu::Device, plan: &AttentionPlan) -> wgpu::Buffer {
        let table = plan.programs.table();
        uniform_buffer(device, "attention programs", bytemuck::cast_slice(&table))
    }

    /// A kernel for another plan with the very same shader, without compiling again: problems that
    /// differ in scale, mask, log-sum-exp or, within limits, head counts. `None` where the shaders
    /// differ.
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn reuse(&self, device: &wgpu::Device, plan: &AttentionPlan) -> Result<Option<Self>> {
        let plan = Self::replan(device, plan)?;
        if plan.shader() != self.plan.shader() {
            return Ok(None);
        }
        Ok(Some(Self { programs: Self::programs(device, &plan), plan, ..self.clone() }))
    }

    /// The plan that runs.
    pub fn plan(&self) -> &AttentionPlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Binding`] for a tensor that the problem needs and the call lacks, or the
    /// other way round; [`Error::TableTooShort`] where a query has a position past the table. The
    /// buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &AttentionShape,
        bindings: &AttentionBindings<'_>,
    ) -> Result<Dispatch> {
        let problem = self.plan.problem();
        let caps = &self.plan.capabilities;
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let heads_out = problem.heads.heads().len() as u32;
        let (d, dv) = (problem.head_dim, problem.value_dim);
        let q_heads = problem.heads.q_heads();
        let mut checker = Checker::new(caps);

        let q_shape = [batch, q_heads, seq_q, d];
        checker.tensor("q", &bindings.q, Access::Read, problem.q_dtype, q_shape, 4)?;
        let k_shape = [batch, problem.kv_heads, seq_k, d];
        checker.tensor("k", &bindings.k, Access::Read, problem.kv_dtype, k_shape, 4)?;
        let v_shape = [batch, problem.kv_heads, seq_k, dv];
        checker.tensor("v", &bindings.v, Access::Read, problem.kv_dtype, v_shape, 4)?;
        let split = problem.outputs == Outputs::Split;
        let out_shape = [batch, if split { q_heads } else { heads_out }, seq_q, dv];
        checker.tensor("out", &bindings.out, Access::Write, problem.out_dtype, out_shape, 4)?;
        present("out_im", split, bindings.out_im.is_some(), "split outputs")?;
        if let Some(out_im) = &bindings.out_im {
            checker.tensor("out_im", out_im, Access::Write, problem.out_dtype, out_shape, 4)?;
        }
        present("lse", problem.lse, bindings.lse.is_some(), "lse: true")?;
        if let Some(lse) = &bindings.lse {
            let dense = Layout::bhsd([batch, heads_out, seq_q, 1])?;
            checker.binding("lse", lse, Access::Write, 4 * dense.elements())?;
        }
        if let Some(kv_lens) = &bindings.kv_lens {
            checker.binding("kv_lens", kv_lens, Access::Read, 4 * u64::from(batch))?;
        }
        present("rotation", problem.rotate_q, bindings.rotation.is_some(), "rotate_q: true")?;
        let rotary = match &bindings.rotation {
            Some((table, positions)) => RotaryParams::new(
                &mut checker,
                table,
                positions,
                problem.rotary_dim,
                [batch, seq_q],
            )?,
            None => RotaryParams::default(),
        };
        let causal_offset = causal_offset(shape, problem.causal)?;

        let tiles = seq_q.div_ceil(self.plan.tile().block_q());
        let programs = self.plan.programs.rows.len() as u64;
        let groups = u64::from(batch) * programs * u64::from(tiles);
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = caps.fold_groups(groups)?;
        let params = Params {
            batch,
            seq_q,
            seq_k,
            group: q_heads / problem.kv_heads,
            groups_x: workgroups[0],
            tiles,
            heads_out,
            causal_offset,
            scale_log2: (f64::from(problem.softmax_scale) * core::f64::consts::LOG2_E) as f32,
            minus_infinity: f32::NEG_INFINITY,
            window: problem.window.map_or(NO_WINDOW, |window| window as i32),
            softcap: problem.softcap.map_or(1.0, in_base_2),
            store_lse: u32::from(problem.lse),
            programs: self.plan.programs.rows.len() as u32,
            pad0: 0,
            pad1: 0,
            q: Quads::new(&bindings.q.layout),
            k: Quads::new(&bindings.k.layout),
            v: Quads::new(&bindings.v.layout),
            out: Quads::new(&bindings.out.layout),
            out_im: match &bindings.out_im {
                Some(out_im) => Quads::new(&out_im.layout),
                None => Quads::new(&bindings.out.layout),
            },
            rotary,
        };

        let params = uniform_buffer(device, "attention params", bytemuck::bytes_of(&params));
        let lens = bindings.kv_lens.is_none().then(|| {
            let all = vec![seq_k; batch as usize];
            uniform_buffer(device, "attention: all keys", bytemuck::cast_slice(&all))
        });
        let kv_lens = match (&bindings.kv_lens, &lens) {
            (Some(binding), _) => binding.clone(),
            (None, Some(buffer)) => buffer.as_entire_buffer_binding(),
            (None, None) => self.unused.read(),
        };
        // With no keys, k and v may be empty buffers, which cannot be bound: nothing reads them.
        let (k, v) = match seq_k {
            0 => (self.unused.read(), self.unused.read()),
            _ => (bindings.k.binding.clone(), bindings.v.binding.clone()),
        };
        let mut entries = vec![
            (binding::PARAMS, params.as_entire_buffer_binding()),
            (binding::PROGRAMS, self.programs.as_entire_buffer_binding()),
            (binding::Q, bindings.q.binding.clone()),
            (binding::K, k),
            (binding::V, v),
            (binding::OUT, bindings.out.binding.clone()),
            (binding::LSE, bindings.lse.clone().unwrap_or_else(|| self.unused.written())),
            (binding::KV_LENS, kv_lens),
        ];
        if let Some(out_im) = &bindings.out_im {
            entries.push((binding::OUT_IM, out_im.binding.clone()));
        }
        if let Some((table, positions)) = &bindings.rotation {
            entries.push((COS_SIN, table.binding.clone()));
            entries.push((
                POSITION_IDS,
                match positions {
                    Positions::Ids { binding, .. } => binding.clone(),
                    Positions::From(_) => self.unused.read(),
                },
            ));
        }
        let bind =
            Bind { label: "attention", pipeline: &self.pipeline, entries: &entries, workgroups };
        Ok(Dispatch::new(device, &bind))
    }
}

/// Sequences are shorter than this, and offsets no longer, so that sums of them fit an i32.
const FAR: i32 = 1 << 29;
/// Further back than any key, and still no i32 overflows.
const NO_WINDOW: i32 = 3 << 29;

/// Place of query 0 among the keys, in the 32 bits that the shader has. Without a causal mask it
/// lies so far behind them that every key is visible.
fn causal_offset(shape: &AttentionShape, causal: bool) -> Result<i32> {
    let offset = if causal { shape.offset() } else { i64::from(FAR) };
    // Room for a tile past the last row and the last key.
    let longest = i64::from(shape.seq_q.max(shape.seq_k));
    match i32::try_from(offset) {
        Ok(narrow) if longest <= i64::from(FAR) - (1 << 16) && (-FAR..=FAR).contains(&narrow) => {
            Ok(narrow)
        }
        _ => Err(Error::IndexOverflow {
            tensor: "query_offset, seq_q or seq_k",
            index: offset.unsigned_abs().max(longest.unsigned_abs()),
        }),
    }
}

fn present(tensor: &'static str, needed: bool, given: bool, setting: &'static str) -> Result<()> {
    let why = match (needed, given, setting) {
        (true, false, "split outputs") => "missing, though the problem has split outputs",
        (false, true, "split outputs") => "given, but the problem has merged outputs",
        (true, false, _) => "missing, though the problem asks for it",
        (false, true, _) => "given, but the problem does not use it",
        _ => return Ok(()),
    };
    Err(Error::Binding { tensor, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::attention::AttentionProblem;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};
    use crate::{Capabilities, HeadMap};

    host_struct!(Quads { offset, batch, head, row });
    host_struct!(Params {
        batch,
        seq_q,
        seq_k,
        group,
        groups_x,
        tiles,
        heads_out,
        causal_offset,
        scale_log2,
        minus_infinity,
        window,
        softcap,
        store_lse,
        programs,
        pad0,
        pad1,
        q,
        k,
        v,
        out,
        out_im,
        rotary,
    });

    fn source(outputs: Outputs, rotate_q: bool) -> String {
        let mut caps = Capabilities::webgpu_default();
        caps.max_storage_buffers = 16;
        let mut problem = AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        (problem.outputs, problem.rotate_q) = (outputs, rotate_q);
        problem.plan(&caps).unwrap().shader().source.clone()
    }

    #[test]
    fn host_struct_is_the_shaders() {
        let source = source(Outputs::Merged, false);
        assert_eq!(host_layout::<Params>(), wgsl_layout(&source, "Params"));
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let name = |(number, name): (u32, &str)| (number, name.to_owned());
        let always = [
            (binding::PARAMS, "params"),
            (binding::PROGRAMS, "programs"),
            (binding::Q, "q"),
            (binding::K, "k"),
            (binding::V, "v"),
            (binding::OUT, "out"),
        ];
        let behind = [
            (binding::LSE, "lse"),
            (COS_SIN, "cos_sin"),
            (POSITION_IDS, "position_ids"),
            (binding::KV_LENS, "kv_lens"),
        ];
        let all = |out_im| always.into_iter().chain(out_im).chain(behind).map(name);
        for rotate_q in [false, true] {
            let merged = wgsl_bindings(&source(Outputs::Merged, rotate_q));
            assert_eq!(merged, all(None).collect::<Vec<_>>());
            let split = wgsl_bindings(&source(Outputs::Split, rotate_q));
            assert_eq!(split, all(Some((binding::OUT_IM, "out_im"))).collect::<Vec<_>>());
        }
    }
}
