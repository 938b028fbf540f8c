//! Linear attention on the device: compiles a [`LinearAttentionPlan`], binds tensors to it.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, Bind, COS_SIN, Checker, Compiler, CosSin, Dispatch, POSITION_IDS, Pipeline, Positions,
    RotaryParams, Tensor, Unused, uniform_buffer,
};
use crate::plan::linear_attention::{
    FeatureMap, LinearAttentionPlan, LinearAttentionProblem, LinearAttentionShape,
};
use crate::{Error, Layout, Result};

/// A compiled linear attention. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct LinearAttention {
    plan: LinearAttentionPlan,
    /// In the order of the plan's shaders.
    pipelines: Vec<Pipeline>,
    heads: wgpu::Buffer,
    unused: Unused,
}

/// The tensors of one call.
#[derive(Debug, Clone)]
pub struct LinearAttentionBindings<'a> {
    /// `[B, H_q, S_q, D]`, not rotated, read. Strides and offset are multiples of 4 elements, here
    /// and below.
    pub q: Tensor<'a>,
    /// `[B, H_kv, S_k, D]`, not rotated, read.
    pub k: Tensor<'a>,
    /// `[B, H_kv, S_k, D_v]`, read.
    pub v: Tensor<'a>,
    /// `[B, H_out, S_q, D_v]`, written.
    pub out: Tensor<'a>,
    /// [`LinearAttentionPlan::workspace_bytes`] of scratch memory.
    pub workspace: wgpu::BufferBinding<'a>,
    /// Table and positions, where features rotate.
    pub rotation: Option<LinearRotation<'a>>,
    /// The state, where the problem has one.
    pub state: Option<LinearStateBinding<'a>>,
    /// For [`FeatureMap::Favor`].
    pub random: Option<RandomFeatureBindings<'a>>,
}

/// How the features of a call rotate.
#[derive(Debug, Clone)]
pub struct LinearRotation<'a> {
    /// A table of `rotary_dim / 2` pairs: its configuration has the number of features for its
    /// `head_dim`.
    pub table: CosSin<'a>,
    /// Positions of the keys, and with a causal mask of the queries too.
    pub positions: Positions<'a>,
    /// Positions of the queries, where there is no causal mask and they are others.
    pub q_positions: Option<Positions<'a>>,
}

/// What the keys so far leave to those behind them: read where a call resumes, always written.
/// Copy it to go on from one point twice.
#[derive(Debug, Clone)]
pub struct LinearStateBinding<'a> {
    /// S = Σ (R φ(k)) vᵀ, f32 `[B, H_kv, F, D_v]` without gaps.
    pub s: wgpu::BufferBinding<'a>,
    /// z = Σ φ(k), f32 `[B, H_kv, F]` without gaps.
    pub z: wgpu::BufferBinding<'a>,
}

/// What random features need beside the tensors.
#[derive(Debug, Clone)]
pub struct RandomFeatureBindings<'a> {
    /// The bytes of a [`RandomFeatures`](crate::features::RandomFeatures), f32 `[D, F]`, read.
    pub projection: wgpu::BufferBinding<'a>,
    /// [`LinearAttentionPlan::features_bytes`] of scratch memory, in a buffer of its own.
    pub features: wgpu::BufferBinding<'a>,
}

/// Binding numbers, by the names of `shaders/linear_attention` and `shaders/io`.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const HEADS: u32 = 1;
    pub(super) const Q: u32 = 2;
    pub(super) const K: u32 = 3;
    pub(super) const V: u32 = 4;
    pub(super) const OUT: u32 = 5;
    pub(super) const WORKSPACE: u32 = 6;
    pub(super) const FEATURES: u32 = 6;
    pub(super) const STATE_S: u32 = 7;
    pub(super) const STATE_Z: u32 = 10;
    pub(super) const PROJECTION: u32 = 11;
}

/// `Quads` of `shaders/linear_attention.wgsl`: offset and strides in groups of four channels.
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

/// `Params` of `shaders/linear_attention.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    batch: u32,
    seq_q: u32,
    seq_k: u32,
    kv_heads: u32,
    group: u32,
    groups_x: u32,
    chunks: u32,
    tiles: u32,
    heads_out: u32,
    resume: u32,
    plane_q: u32,
    plane_k: u32,
    q: Quads,
    k: Quads,
    v: Quads,
    out: Quads,
    rotary: RotaryParams,
}

/// `Params` of `shaders/linear_attention/favor.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct FavorParams {
    batch: u32,
    heads: u32,
    seq: u32,
    groups_x: u32,
    tiles: u32,
    is_query: u32,
    key_offset: f32,
    scale: f32,
    x: Quads,
}

/// `Head` of `shaders/linear_attention/outputs.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
struct Head {
    source: u32,
    cos: f32,
    sin: f32,
    pad: u32,
}

impl LinearAttention {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &LinearAttentionPlan) -> Result<Self> {
        let compiler = compiler.into();
        let device = compiler.device();
        let plan = plan.problem().plan(&crate::Capabilities::of(device))?;
        let mut heads = vec![Head::default(); plan.head_slots()];
        for (slot, head) in heads.iter_mut().zip(plan.problem().heads.heads()) {
            let (cos, sin) = (head.phase.cos() as f32, head.phase.sin() as f32);
            *slot = Head { source: head.source, cos, sin, pad: 0 };
        }
        let heads = uniform_buffer(device, "linear attention heads", bytemuck::cast_slice(&heads))?;
        Ok(Self {
            pipelines: plan
                .shaders()
                .iter()
                .map(|s| Pipeline::new(compiler, s))
                .collect::<Result<_>>()?,
            heads,
            unused: Unused::new(device)?,
            plan,
        })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &LinearAttentionPlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Binding`] for a binding that the problem needs and the call lacks, or the
    /// other way round; [`Error::TableTooShort`] where a token has a position past the table. The
    /// buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &LinearAttentionShape,
        bindings: &LinearAttentionBindings<'_>,
    ) -> Result<Dispatch> {
        let call = Call::check(&self.plan, shape, bindings)?;
        let groups = self.plan.groups(shape);
        let mut passes = Vec::new();
        let mut all = self.pipelines.iter().zip(groups);
        let favor = self.plan.problem().is_favor();
        let favor_passes = if favor { [Some(true), Some(false)] } else { [None; 2] };
        let own = favor_passes.into_iter().flatten().map(Pass::Favor);
        let kinds = own.chain([Pass::Sums, Pass::Scan, Pass::Outputs]);
        for (kind, (pipeline, groups)) in kinds.zip(&mut all) {
            if groups > 0 {
                let workgroups = self.plan.capabilities.fold_groups(groups)?;
                passes.push(self.pass(device, &call, kind, pipeline, workgroups)?);
            }
        }
        Ok(Dispatch::sequence(passes))
    }

    fn pass(
        &self,
        device: &wgpu::Device,
        call: &Call<'_>,
        kind: Pass,
        pipeline: &Pipeline,
        workgroups: [u32; 2],
    ) -> Result<Dispatch> {
        let bytes = match kind {
            Pass::Favor(query) => {
                bytemuck::bytes_of(&call.favor_params(query, workgroups[0])).to_vec()
            }
            Pass::Outputs => {
                bytemuck::bytes_of(&call.params(call.q_rotary, workgroups[0])).to_vec()
            }
            _ => bytemuck::bytes_of(&call.params(call.k_rotary, workgroups[0])).to_vec(),
        };
        let params = uniform_buffer(device, "linear attention params", &bytes)?;
        let mut entries = vec![(binding::PARAMS, params.as_entire_buffer_binding())];
        call.entries(kind, &self.heads, &self.unused, &mut entries);
        Ok(Dispatch::new(
            device,
            &Bind { label: "linear attention", pipeline, entries: &entries, workgroups },
        ))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pass {
    /// Of the queries, or of the keys.
    Favor(bool),
    Sums,
    Scan,
    Outputs,
}

/// A call that has passed every check.
struct Call<'a> {
    plan: &'a LinearAttentionPlan,
    shape: &'a LinearAttentionShape,
    bindings: &'a LinearAttentionBindings<'a>,
    q_rotary: RotaryParams,
    k_rotary: RotaryParams,
    /// Features of q and of k within the buffer of random features.
    features: Option<[wgpu::BufferBinding<'a>; 2]>,
}

impl<'a> Call<'a> {
    fn check(
        plan: &'a LinearAttentionPlan,
        shape: &'a LinearAttentionShape,
        bindings: &'a LinearAttentionBindings<'a>,
    ) -> Result<Self> {
        let p = plan.problem();
        let caps = &plan.capabilities;
        let LinearAttentionShape { batch, seq_q, seq_k, .. } = *shape;
        if p.causal && seq_q != seq_k {
            let got = format!("{seq_q} queries, {seq_k} keys");
            return Err(Error::Invalid { what: "seq_q", needed: "seq_k, if causal", got });
        }
        if shape.resume && !p.state {
            let (needed, got) = ("false where the problem has no state", "true".into());
            return Err(Error::Invalid { what: "resume", needed, got });
        }
        let mut checker = Checker::new(caps);
        let (q_heads, kv_heads) = (p.heads.q_heads(), p.kv_heads);
        let (heads_out, f) = (p.heads.heads().len() as u32, p.feature_dim());
        let q_shape = [batch, q_heads, seq_q, p.head_dim];
        checker.tensor("q", &bindings.q, Access::Read, p.q_dtype, q_shape, 4)?;
        let k_shape = [batch, kv_heads, seq_k, p.head_dim];
        checker.tensor("k", &bindings.k, Access::Read, p.kv_dtype, k_shape, 4)?;
        let v_shape = [batch, kv_heads, seq_k, p.value_dim];
        checker.tensor("v", &bindings.v, Access::Read, p.kv_dtype, v_shape, 4)?;
        let out_shape = [batch, heads_out, seq_q, p.value_dim];
        checker.tensor("out", &bindings.out, Access::Write, p.out_dtype, out_shape, 4)?;

        let workspace = plan.workspace_bytes(shape);
        index_fits("workspace", workspace / 16)?;
        checker.binding("workspace", &bindings.workspace, Access::Write, workspace)?;

        present("state", p.state, bindings.state.is_some())?;
        if let Some(state) = &bindings.state {
            let z = Layout::bhsd([batch, kv_heads, f, 1])?.elements();
            let s = Layout::bhsd([batch, kv_heads, f, p.value_dim])?.elements();
            checker.binding("state s", &state.s, Access::Write, 4 * s)?;
            checker.binding("state z", &state.z, Access::Write, 4 * z)?;
        }
        present("rotation", p.rotary_dim > 0, bindings.rotation.is_some())?;
        let (q_rotary, k_rotary) = Self::rotaries(&mut checker, p, shape, bindings)?;

        present("random", p.is_favor(), bindings.random.is_some())?;
        let mut features = None;
        if let Some(random) = &bindings.random {
            let [q, k] = plan.features_parts(shape);
            index_fits("features", q.max(k) / 4)?;
            let projection = 4 * u64::from(p.head_dim) * u64::from(f);
            checker.binding("projection", &random.projection, Access::Read, projection)?;
            let needed = plan.features_bytes(shape);
            checker.binding("features", &random.features, Access::Write, needed)?;
            features = Some([(0, q), (plan.keys_at(q), k)].map(|(at, bytes)| {
                let mut part = random.features.clone();
                part.offset += at;
                part.size = wgpu::BufferSize::new(bytes);
                part
            }));
        }
        Ok(Self { plan, shape, bindings, q_rotary, k_rotary, features })
    }

    /// Rotations of the queries and of the keys.
    fn rotaries(
        checker: &mut Checker<'_>,
        p: &LinearAttentionProblem,
        shape: &LinearAttentionShape,
        bindings: &LinearAttentionBindings<'_>,
    ) -> Result<(RotaryParams, RotaryParams)> {
        let Some(rotation) = &bindings.rotation else {
            return Ok(Default::default());
        };
        if p.causal && rotation.q_positions.is_some() {
            let why = "given, but with a causal mask queries have the positions of the keys";
            return Err(Error::Binding { tensor: "q_positions", why });
        }
        let q_positions = rotation.q_positions.as_ref().unwrap_or(&rotation.positions);
        let mut of = |positions, seq| {
            let rows = [shape.batch, seq];
            RotaryParams::new(checker, &rotation.table, positions, p.rotary_dim, rows)
        };
        Ok((of(q_positions, shape.seq_q)?, of(&rotation.positions, shape.seq_k)?))
    }

    fn params(&self, rotary: RotaryParams, groups_x: u32) -> Params {
        let p = self.plan.problem();
        let dense = |heads: u32, seq: u32| {
            let row = p.feature_dim() / 4;
            // Fits: the buffer was checked to reach no further than 2^32 elements.
            Quads { offset: 0, batch: heads * seq * row, head: seq * row, row }
        };
        let (q, k) = match self.features {
            None => (Quads::new(&self.bindings.q.layout), Quads::new(&self.bindings.k.layout)),
            Some(_) => {
                (dense(p.heads.q_heads(), self.shape.seq_q), dense(p.kv_heads, self.shape.seq_k))
            }
        };
        let planes = self.bindings.rotation.as_ref().map_or(1, |r| r.table.shape.planes);
        Params {
            batch: self.shape.batch,
            seq_q: self.shape.seq_q,
            seq_k: self.shape.seq_k,
            kv_heads: p.kv_heads,
            group: p.heads.q_heads() / p.kv_heads,
            groups_x,
            chunks: self.plan.chunks(self.shape),
            tiles: self.plan.tiles(self.shape),
            heads_out: p.heads.heads().len() as u32,
            resume: u32::from(self.shape.resume),
            plane_q: 0,
            plane_k: planes.saturating_sub(1),
            q,
            k,
            v: Quads::new(&self.bindings.v.layout),
            out: Quads::new(&self.bindings.out.layout),
            rotary,
        }
    }

    fn favor_params(&self, query: bool, groups_x: u32) -> FavorParams {
        let p = self.plan.problem();
        let (x, heads, seq) = match query {
            true => (&self.bindings.q, p.heads.q_heads(), self.shape.seq_q),
            false => (&self.bindings.k, p.kv_heads, self.shape.seq_k),
        };
        let key_offset = match p.feature_map {
            FeatureMap::Favor { key_offset, .. } => key_offset,
            _ => 0.0,
        };
        FavorParams {
            batch: self.shape.batch,
            heads,
            seq,
            groups_x,
            tiles: LinearAttentionPlan::favor_tiles(seq),
            is_query: u32::from(query),
            key_offset,
            scale: f64::from(p.head_dim).powf(-0.25) as f32,
            x: Quads::new(&x.layout),
        }
    }

    /// What a pass binds beside its parameters.
    fn entries<'b>(
        &'b self,
        pass: Pass,
        heads: &'b wgpu::Buffer,
        unused: &'b Unused,
        entries: &mut Vec<(u32, wgpu::BufferBinding<'b>)>,
    ) {
        let bindings = self.bindings;
        let [q, k] = match &self.features {
            Some(features) => features.clone(),
            None => [bindings.q.binding.clone(), bindings.k.binding.clone()],
        };
        // Without keys, k and v may be empty buffers, which cannot be bound: nothing reads them.
        let (k, v) = match self.shape.seq_k {
            0 => (unused.read(), unused.read()),
            _ => (k, bindings.v.binding.clone()),
        };
        let workspace = (binding::WORKSPACE, bindings.workspace.clone());
        match pass {
            Pass::Favor(query) => {
                let (x, features) = match query {
                    true => (&bindings.q, q),
                    false => (&bindings.k, k),
                };
                entries.push((binding::Q, x.binding.clone()));
                entries.push((binding::FEATURES, features));
                if let Some(random) = &bindings.random {
                    entries.push((binding::PROJECTION, random.projection.clone()));
                }
            }
            Pass::Sums => {
                entries.extend([(binding::K, k), (binding::V, v), workspace]);
                self.rotation_entries(
                    bindings.rotation.as_ref().map(|r| &r.positions),
                    unused,
                    entries,
                );
            }
            Pass::Scan => {
                entries.push(workspace);
                if let Some(state) = &bindings.state {
                    entries.push((binding::STATE_S, state.s.clone()));
                    entries.push((binding::STATE_Z, state.z.clone()));
                }
            }
            Pass::Outputs => {
                entries.push((binding::HEADS, heads.as_entire_buffer_binding()));
                entries.extend([(binding::Q, q), (binding::K, k), (binding::V, v), workspace]);
                entries.push((binding::OUT, bindings.out.binding.clone()));
                let positions = bindings
                    .rotation
                    .as_ref()
                    .map(|r| r.q_positions.as_ref().unwrap_or(&r.positions));
                self.rotation_entries(positions, unused, entries);
            }
        }
    }

    fn rotation_entries<'b>(
        &'b self,
        positions: Option<&'b Positions<'b>>,
        unused: &'b Unused,
        entries: &mut Vec<(u32, wgpu::BufferBinding<'b>)>,
    ) {
        if let (Some(rotation), Some(positions)) = (&self.bindings.rotation, positions) {
            entries.push((COS_SIN, rotation.table.binding.clone()));
            entries.push((
                POSITION_IDS,
                match positions {
                    Positions::Ids { binding, .. } => binding.clone(),
                    Positions::From(_) | Positions::AmongKeys => unused.read(),
                },
            ));
        }
    }
}

fn present(tensor: &'static str, needed: bool, given: bool) -> Result<()> {
    let why = match (needed, given) {
        (true, false) => "missing, though the problem asks for it",
        (false, true) => "given, but the problem does not use it",
        _ => return Ok(()),
    };
    Err(Error::Binding { tensor, why })
}

fn index_fits(tensor: &'static str, index: u64) -> Result<()> {
    match u32::try_from(index) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::IndexOverflow { tensor, index }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};
    use crate::{Capabilities, HeadMap};

    host_struct!(Quads { offset, batch, head, row });
    host_struct!(Head { source, cos, sin, pad });
    host_struct!(Params {
        batch,
        seq_q,
        seq_k,
        kv_heads,
        group,
        groups_x,
        chunks,
        tiles,
        heads_out,
        resume,
        plane_q,
        plane_k,
        q,
        k,
        v,
        out,
        rotary,
    });
    host_struct!(FavorParams {
        batch,
        heads,
        seq,
        groups_x,
        tiles,
        is_query,
        key_offset,
        scale,
        x,
    });

    fn plan() -> LinearAttentionPlan {
        let problem = LinearAttentionProblem {
            feature_map: FeatureMap::Favor { features: 32, key_offset: 0.0 },
            rotary_dim: 32,
            state: true,
            ..LinearAttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64)
        };
        problem.plan(&Capabilities::webgpu_default()).unwrap()
    }

    #[test]
    fn host_structs_are_the_shaders() {
        let plan = plan();
        let [favor_q, favor_k, passes @ ..] = plan.shaders() else { panic!("five passes") };
        for shader in [favor_q, favor_k] {
            assert_eq!(host_layout::<FavorParams>(), wgsl_layout(&shader.source, "Params"));
        }
        for shader in passes {
            assert_eq!(host_layout::<Params>(), wgsl_layout(&shader.source, "Params"));
        }
        assert_eq!(host_layout::<Head>(), wgsl_layout(&passes[2].source, "Head"));
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let params = (binding::PARAMS, "params");
        let workspace = (binding::WORKSPACE, "workspace");
        let table = [(COS_SIN, "cos_sin"), (POSITION_IDS, "position_ids")];
        let (k, v) = ((binding::K, "k"), (binding::V, "v"));
        let features = (binding::FEATURES, "features");
        let favor = vec![params, (binding::Q, "q"), features, (binding::PROJECTION, "projection")];
        let state = [(binding::STATE_S, "state_s"), (binding::STATE_Z, "state_z")];
        let wanted = [
            favor.clone(),
            favor,
            [vec![params, k, v, workspace], table.to_vec()].concat(),
            [vec![params, workspace, state[0]], table.to_vec(), vec![state[1]]].concat(),
            [
                vec![params, (binding::HEADS, "heads"), (binding::Q, "q"), k, v],
                vec![(binding::OUT, "out"), workspace],
                table.to_vec(),
            ]
            .concat(),
        ];
        for (shader, wanted) in plan().shaders().iter().zip(wanted) {
            let wanted: Vec<_> = wanted.into_iter().map(|(n, name)| (n, name.to_owned())).collect();
            assert_eq!(wgsl_bindings(&shader.source), wanted, "{}", shader.label);
        }
    }
}
