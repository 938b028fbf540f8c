//! The checks of a call, and what each of its passes is given.

use super::params::{FavorParams, Params};
use super::{LinearAttentionBindings, Pass};
use crate::call::{
    Access, Binding, Checker, Positions, Reach, RotaryParams, Rotation, Step, Strides, present,
};
use crate::plan::binding;
use crate::plan::linear_attention::{
    FeatureMap, LinearAttentionPlan, LinearAttentionProblem, LinearAttentionShape,
};
use crate::{Error, Layout, Result};

/// A call that has passed every check.
pub(super) struct Call<'a, B> {
    plan: &'a LinearAttentionPlan,
    shape: &'a LinearAttentionShape,
    bindings: &'a LinearAttentionBindings<B>,
    q_rotary: RotaryParams,
    k_rotary: RotaryParams,
    /// Features of q and of k within the buffer of random features.
    features: Option<[B; 2]>,
}

impl<'a, B: Binding> Call<'a, B> {
    pub(super) fn check(
        plan: &'a LinearAttentionPlan,
        shape: &'a LinearAttentionShape,
        bindings: &'a LinearAttentionBindings<B>,
    ) -> Result<Self> {
        let p = plan.problem();
        let caps = &plan.capabilities;
        let LinearAttentionShape { batch, seq_q, seq_k, .. } = *shape;
        shape.check(p)?;
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
        checker.binding("workspace", &bindings.workspace, Access::Scratch, workspace)?;

        present("state", p.state, bindings.state.is_some())?;
        if let Some(state) = &bindings.state {
            let z = Layout::bhsd([batch, kv_heads, f, 1])?.elements();
            let s = Layout::bhsd([batch, kv_heads, f, p.value_dim])?.elements();
            checker.binding("state s", &state.s, Access::Write, 4 * s)?;
            checker.binding("state z", &state.z, Access::Write, 4 * z)?;
        }
        let by = (bindings.rotation.as_ref(), bindings.q_positions.as_ref());
        let (q_rotary, k_rotary) = rotaries(&mut checker, p, shape, by)?;

        present("random", p.is_favor(), bindings.random.is_some())?;
        let mut features = None;
        if let Some(random) = &bindings.random {
            let [q, k] = plan.features_parts(shape);
            index_fits("features", q.max(k) / 4)?;
            let projection = 4 * u64::from(p.head_dim) * u64::from(f);
            checker.binding("projection", &random.projection, Access::Read, projection)?;
            let needed = plan.features_bytes(shape);
            checker.binding("features", &random.features, Access::Scratch, needed)?;
            let parts = [(0, q), (plan.keys_at(q), k)];
            features = Some(parts.map(|(at, bytes)| random.features.part(at, bytes)));
        }
        Ok(Self { plan, shape, bindings, q_rotary, k_rotary, features })
    }

    fn params(&self, rotary: RotaryParams, groups_x: u32) -> Params {
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
            x: Strides::new(&x.layout, 4),
        }
    }

    /// The dispatch of a pass, with its parameters and all that it binds.
    pub(super) fn bind(&self, pass: Pass, step: Step<B>) -> Step<B> {
        let bindings = self.bindings;
        let groups_x = step.workgroups[0];
        let [q, k] = match &self.features {
            Some(features) => features.clone(),
            None => [bindings.q.binding.clone(), bindings.k.binding.clone()],
        };
        // Without keys, k and v may be empty buffers, which cannot be bound: nothing reads them.
        let keys = |step: Step<B>| {
            let [k, v] =
                [&k, &bindings.v.binding].map(|x| Some(x).filter(|_| self.shape.seq_k > 0));
            step.declared(binding::K, k).declared(binding::V, v)
        };
        match pass {
            Pass::Favor { query } => {
                let (x, features) = if query { (&bindings.q, q) } else { (&bindings.k, k) };
                let projection = bindings.random.as_ref().map(|random| &random.projection);
                step.params(&self.favor_params(query, groups_x))
                    .tensor(binding::Q, x)
                    .bind(binding::FEATURES, &features)
                    .optional(binding::PROJECTION, projection)
            }
            Pass::Sums => keys(step.params(&self.params(self.k_rotary, groups_x)))
                .bind(binding::WORKSPACE, &bindings.workspace)
                .rotation(bindings.rotation.as_ref()),
            Pass::Scan => {
                let state = bindings.state.as_ref();
                step.params(&self.params(self.k_rotary, groups_x))
                    .bind(binding::WORKSPACE, &bindings.workspace)
                    .optional(binding::STATE_S, state.map(|state| &state.s))
                    .optional(binding::STATE_Z, state.map(|state| &state.z))
            }
            Pass::Outputs => keys(step.params(&self.params(self.q_rotary, groups_x)))
                .table(binding::HEADS)
                .bind(binding::Q, &q)
                .bind(binding::WORKSPACE, &bindings.workspace)
                .tensor(binding::OUT, &bindings.out)
                .rotation(self.q_rotation().as_ref()),
        }
    }

    /// The rotation of the queries.
    fn q_rotation(&self) -> Option<Rotation<B>> {
        let rotation = self.bindings.rotation.clone()?;
        let positions = self.bindings.q_positions.clone().unwrap_or(rotation.positions);
        Some(Rotation { positions, ..rotation })
    }
}

/// Checks the rotations of the queries and of the keys.
pub(crate) fn rotaries<B: Binding>(
    checker: &mut Checker<'_, B>,
    p: &LinearAttentionProblem,
    shape: &LinearAttentionShape,
    (rotation, q_positions): (Option<&Rotation<B>>, Option<&Positions<B>>),
) -> Result<(RotaryParams, RotaryParams)> {
    present("rotation", p.rotary_dim > 0, rotation.is_some())?;
    if q_positions.is_some() && (p.causal || p.rotary_dim == 0) {
        let why = "given, but queries have the positions of the keys, or none";
        return Err(Error::Binding { tensor: "q_positions", why });
    }
    let Some(Rotation { table, positions }) = rotation else {
        return Ok(Default::default());
    };
    let mut of = |positions, seq| {
        let reach = Reach::rows(shape.batch, seq);
        RotaryParams::new(checker, table, positions, p.rotary_dim, reach)
    };
    Ok((of(q_positions.unwrap_or(positions), shape.seq_q)?, of(positions, shape.seq_k)?))
}

fn index_fits(tensor: &'static str, index: u64) -> Result<()> {
    match u32::try_from(index) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::IndexOverflow { tensor, index }),
    }
}
