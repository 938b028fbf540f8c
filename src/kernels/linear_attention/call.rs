//! The checks of a call, and what each of its passes is given.

use super::params::{FavorParams, Params};
use super::{LinearAttentionBindings, Pass};
use crate::gpu::{self, Access, Checker, Reach, RotaryParams, Rotation, Strides, present};
use crate::plan::binding;
use crate::plan::linear_attention::{
    FeatureMap, LinearAttentionPlan, LinearAttentionProblem, LinearAttentionShape,
};
use crate::{Error, Layout, Result};

/// A call that has passed every check.
pub(super) struct Call<'a> {
    plan: &'a LinearAttentionPlan,
    shape: &'a LinearAttentionShape,
    bindings: &'a LinearAttentionBindings<'a>,
    pub(super) q_rotary: RotaryParams,
    pub(super) k_rotary: RotaryParams,
    /// Features of q and of k within the buffer of random features.
    features: Option<[wgpu::BufferBinding<'a>; 2]>,
}

impl<'a> Call<'a> {
    pub(super) fn check(
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
        present("rotation", p.rotary_dim > 0, bindings.rotation.is_some())?;
        if bindings.q_positions.is_some() && (p.causal || p.rotary_dim == 0) {
            let why = "given, but queries have the positions of the keys, or none";
            return Err(Error::Binding { tensor: "q_positions", why });
        }
        let Some(Rotation { table, positions }) = &bindings.rotation else {
            return Ok(Default::default());
        };
        let q_positions = bindings.q_positions.as_ref().unwrap_or(positions);
        let mut of = |positions, seq| {
            let reach = Reach::rows(shape.batch, seq);
            RotaryParams::new(checker, table, positions, p.rotary_dim, reach)
        };
        Ok((of(q_positions, shape.seq_q)?, of(positions, shape.seq_k)?))
    }

    pub(super) fn params(&self, rotary: RotaryParams, groups_x: u32) -> Params {
        let p = self.plan.problem();
        let dense = |heads: u32, seq: u32| {
            let row = p.feature_dim() / 4;
            // Fits: the buffer was checked to reach no further than 2^32 elements.
            Strides { offset: 0, batch: heads * seq * row, head: seq * row, row }
        };
        let (q, k) = match self.features {
            None => {
                (Strides::new(&self.bindings.q.layout, 4), Strides::new(&self.bindings.k.layout, 4))
            }
            Some(_) => {
                (dense(p.heads.q_heads(), self.shape.seq_q), dense(p.kv_heads, self.shape.seq_k))
            }
        };
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
            plane_k: self.bindings.rotation.as_ref().map_or(0, Rotation::plane_k),
            q,
            k,
            v: Strides::new(&self.bindings.v.layout, 4),
            out: Strides::new(&self.bindings.out.layout, 4),
            rotary,
        }
    }

    pub(super) fn favor_params(&self, query: bool, groups_x: u32) -> FavorParams {
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
            x: Strides::new(&x.layout, 4),
        }
    }

    /// What a pass binds beside its parameters.
    pub(super) fn bind<'b>(
        &'b self,
        pass: Pass,
        heads: &'b wgpu::Buffer,
        call: gpu::Call<'b>,
    ) -> gpu::Call<'b> {
        let bindings = self.bindings;
        let [q, k] = match &self.features {
            Some(features) => features.clone(),
            None => [bindings.q.binding.clone(), bindings.k.binding.clone()],
        };
        // Without keys, k and v may be empty buffers, which cannot be bound: nothing reads them.
        let keys = |call: gpu::Call<'b>| {
            let [k, v] =
                [&k, &bindings.v.binding].map(|x| Some(x).filter(|_| self.shape.seq_k > 0));
            call.read(binding::K, k).read(binding::V, v)
        };
        match pass {
            Pass::Favor { query } => {
                let (x, features) = if query { (&bindings.q, q) } else { (&bindings.k, k) };
                let projection = bindings.random.as_ref().map(|random| &random.projection);
                call.tensor(binding::Q, x)
                    .bind(binding::FEATURES, features)
                    .optional(binding::PROJECTION, projection)
            }
            Pass::Sums => keys(call)
                .bind(binding::WORKSPACE, bindings.workspace.clone())
                .rotation(bindings.rotation.as_ref()),
            Pass::Scan => {
                let state = bindings.state.as_ref();
                call.bind(binding::WORKSPACE, bindings.workspace.clone())
                    .optional(binding::STATE_S, state.map(|state| &state.s))
                    .optional(binding::STATE_Z, state.map(|state| &state.z))
            }
            Pass::Outputs => keys(call)
                .bind(binding::HEADS, heads.as_entire_buffer_binding())
                .bind(binding::Q, q)
                .bind(binding::WORKSPACE, bindings.workspace.clone())
                .tensor(binding::OUT, &bindings.out)
                .rotation(self.q_rotation().as_ref()),
        }
    }

    /// The rotation of the queries.
    fn q_rotation(&self) -> Option<Rotation<'a>> {
        let rotation = self.bindings.rotation.clone()?;
        let positions = self.bindings.q_positions.clone().unwrap_or(rotation.positions);
        Some(Rotation { positions, ..rotation })
    }
}

fn index_fits(tensor: &'static str, index: u64) -> Result<()> {
    match u32::try_from(index) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::IndexOverflow { tensor, index }),
    }
}
