//! Scores and their statistics on the device: compiles a [`ScoresPlan`], binds tensors to it.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, Bind, Checker, Compiler, Dispatch, Pipeline, Tensor, Unused, uniform_buffer,
};
use crate::plan::scores::{ComponentOrder, Output, ScoresPlan, ScoresShape};
use crate::{Error, Layout, Result};

/// A compiled kernel. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Scores {
    plan: ScoresPlan,
    pipeline: Pipeline,
    heads: wgpu::Buffer,
    unused: Unused,
}

/// The tensors of one call.
#[derive(Debug, Clone)]
pub struct ScoresBindings<'a> {
    /// `[B, H_q, S_q, D]`, rotated, read. Strides and offset are multiples of 4 elements.
    pub q: Tensor<'a>,
    /// `[B, H_kv, S_k, D]`, rotated, read.
    pub k: Tensor<'a>,
    /// What the problem asks for, f32 without gaps, written: [`ScoresPlan::output_bytes`].
    pub out: wgpu::BufferBinding<'a>,
    /// For probabilities: natural log-sum-exp of every row, f32 `[B, 2 H_q, S_q]`, heads in the
    /// order of [`HeadMap::ropepp`](crate::HeadMap::ropepp); read.
    pub lse: Option<wgpu::BufferBinding<'a>>,
}

/// What one row of one component attends to, `[B, heads, queries, 2]` in the output. A row that
/// sees no key has an lse of −∞ and 0 in all else.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub struct RowStatistics {
    /// Natural log-sum-exp of the scaled scores.
    pub lse: f32,
    /// −Σ p ln p, in nats: 0 for one key, ln n for n keys alike.
    pub entropy: f32,
    /// Σ p |distance|, in tokens.
    pub mean_distance: f32,
    /// Probability of the keys up to the problem's distance.
    pub mass_within: f32,
    /// Probability of the keys past it.
    pub mass_beyond: f32,
    /// Probability of key 0.
    pub mass_first: f32,
}

/// Binding numbers, by the names of `shaders/scores` and `shaders/io`.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const CHOSEN: u32 = 1;
    pub(super) const Q: u32 = 2;
    pub(super) const K: u32 = 3;
    pub(super) const OUT: u32 = 5;
    pub(super) const LSE: u32 = 7;
}

/// `Quads` of `shaders/scores/tile.wgsl`: offset and strides in groups of four channels.
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

/// `Params` of `shaders/scores/tile.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    batch: u32,
    heads: u32,
    q_heads: u32,
    group: u32,
    groups_x: u32,
    q_tiles: u32,
    k_tiles: u32,
    seq_q: u32,
    q_first: u32,
    q_count: u32,
    k_first: u32,
    k_count: u32,
    position: i32,
    causal: u32,
    distance: u32,
    probabilities: u32,
    step: u32,
    component: u32,
    scale: f32,
    minus_infinity: f32,
    q: Quads,
    k: Quads,
}

impl Scores {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &ScoresPlan) -> Result<Self> {
        let compiler = compiler.into();
        let device = compiler.device();
        let plan = plan.problem().plan(&crate::Capabilities::of(device))?;
        let chosen = bytemuck::cast_slice(&plan.problem().heads);
        Ok(Self {
            pipeline: Pipeline::new(compiler, plan.shader())?,
            heads: uniform_buffer(device, "scores: heads", chosen)?,
            unused: Unused::new(device)?,
            plan,
        })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &ScoresPlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Invalid`] for a window beyond the sequence; [`Error::Binding`] where the
    /// log-sum-exp is missing, or given and not read. The buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &ScoresShape,
        bindings: &ScoresBindings<'_>,
    ) -> Result<Dispatch> {
        let p = self.plan.problem();
        let caps = &self.plan.capabilities;
        let mut checker = Checker::new(caps);
        let ScoresShape { batch, seq_q, seq_k, .. } = *shape;
        let statistics = matches!(p.output, Output::Statistics { .. });
        check_window(shape, statistics)?;
        let q_shape = [batch, p.q_heads, seq_q, p.head_dim];
        checker.tensor("q", &bindings.q, Access::Read, p.q_dtype, q_shape, 4)?;
        let k_shape = [batch, p.kv_heads, seq_k, p.head_dim];
        checker.tensor("k", &bindings.k, Access::Read, p.k_dtype, k_shape, 4)?;
        let bytes = self.plan.output_bytes(shape);
        if bytes / 4 > u64::from(u32::MAX) {
            return Err(Error::IndexOverflow { tensor: "out", index: bytes / 4 });
        }
        checker.binding("out", &bindings.out, Access::Write, bytes)?;
        let probabilities = matches!(p.output, Output::Probabilities(_));
        match (&bindings.lse, probabilities) {
            (Some(lse), true) => {
                let elements = Layout::bhsd([batch, 2 * p.q_heads, seq_q, 1])?.elements();
                checker.binding("lse", lse, Access::Read, 4 * elements)?;
            }
            (None, true) => {
                let why = "missing: probabilities need it";
                return Err(Error::Binding { tensor: "lse", why });
            }
            (Some(_), false) => {
                let why = "given, but only probabilities need it";
                return Err(Error::Binding { tensor: "lse", why });
            }
            (None, false) => {}
        }

        let [q_count, k_count] = [&shape.queries, &shape.keys].map(|w| w.len() as u32);
        let [q_tiles, k_tiles] = [q_count, k_count].map(|n| n.div_ceil(self.plan.block));
        let planes = u64::from(batch) * p.heads.len() as u64;
        let groups = planes * u64::from(q_tiles) * if statistics { 1 } else { u64::from(k_tiles) };
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = caps.fold_groups(groups)?;
        let (step, component) = match p.output {
            Output::Scores(ComponentOrder::Pairs)
            | Output::Probabilities(ComponentOrder::Pairs) => (2, 1),
            // Fits: all of them lie below the end of the output.
            _ => (1, q_count.wrapping_mul(k_count)),
        };
        let params = Params {
            batch,
            heads: p.heads.len() as u32,
            q_heads: p.q_heads,
            group: p.q_heads / p.kv_heads,
            groups_x: workgroups[0],
            q_tiles,
            k_tiles,
            seq_q,
            q_first: shape.queries.start,
            q_count,
            k_first: shape.keys.start,
            k_count,
            position: position(shape)?,
            causal: u32::from(p.causal),
            distance: match p.output {
                Output::Statistics { distance } => distance,
                _ => 0,
            },
            probabilities: u32::from(probabilities),
            step,
            component,
            scale: p.softmax_scale,
            minus_infinity: f32::NEG_INFINITY,
            q: Quads::new(&bindings.q.layout),
            k: Quads::new(&bindings.k.layout),
        };
        let params = uniform_buffer(device, "scores params", bytemuck::bytes_of(&params))?;
        // With no keys, k may be an empty buffer, which cannot be bound: nothing reads it.
        let k = if seq_k == 0 { self.unused.read() } else { bindings.k.binding.clone() };
        let mut entries = vec![
            (binding::PARAMS, params.as_entire_buffer_binding()),
            (binding::CHOSEN, self.heads.as_entire_buffer_binding()),
            (binding::Q, bindings.q.binding.clone()),
            (binding::K, k),
            (binding::OUT, bindings.out.clone()),
        ];
        if !statistics {
            let lse = bindings.lse.clone().unwrap_or_else(|| self.unused.read());
            entries.push((binding::LSE, lse));
        }
        let bind =
            Bind { label: "scores", pipeline: &self.pipeline, entries: &entries, workgroups };
        Ok(Dispatch::new(device, &bind))
    }
}

fn check_window(shape: &ScoresShape, statistics: bool) -> Result<()> {
    let windows = [("queries", &shape.queries, shape.seq_q), ("keys", &shape.keys, shape.seq_k)];
    for (what, window, seq) in windows {
        let got = format!("{window:?} of {seq}");
        if window.start > window.end || window.end > seq {
            return Err(Error::Invalid { what, needed: "a range within the sequence", got });
        }
    }
    if statistics && shape.keys != (0..shape.seq_k) {
        let got = format!("{:?} of {}", shape.keys, shape.seq_k);
        return Err(Error::Invalid { what: "keys", needed: "all of them, for statistics", got });
    }
    Ok(())
}

/// Place of query 0 among the keys, in the 32 bits that the shader has, with room for a row or key.
fn position(shape: &ScoresShape) -> Result<i32> {
    const FAR: i64 = 1 << 30;
    let offset = shape.offset();
    let longest = i64::from(shape.seq_q.max(shape.seq_k));
    match i32::try_from(offset) {
        Ok(narrow) if longest < FAR && offset.abs() <= FAR => Ok(narrow),
        _ => Err(Error::IndexOverflow {
            tensor: "query_offset, seq_q or seq_k",
            index: offset.unsigned_abs().max(longest.unsigned_abs()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::scores::ScoresProblem;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};

    host_struct!(Quads { offset, batch, head, row });
    host_struct!(Params {
        batch,
        heads,
        q_heads,
        group,
        groups_x,
        q_tiles,
        k_tiles,
        seq_q,
        q_first,
        q_count,
        k_first,
        k_count,
        position,
        causal,
        distance,
        probabilities,
        step,
        component,
        scale,
        minus_infinity,
        q,
        k,
    });
    host_struct!(RowStatistics {
        lse,
        entropy,
        mean_distance,
        mass_within,
        mass_beyond,
        mass_first,
    });

    fn source(output: Output) -> String {
        let problem = ScoresProblem { output, ..ScoresProblem::new(2, 1, 64) };
        problem.plan(&Capabilities::webgpu_default()).unwrap().shader().source.clone()
    }

    #[test]
    fn host_structs_and_binding_numbers_are_the_shaders() {
        let scores = source(Output::Scores(ComponentOrder::Pairs));
        let statistics = source(Output::Statistics { distance: 1 });
        assert_eq!(host_layout::<RowStatistics>(), wgsl_layout(&statistics, "Row"));
        let common = [
            (binding::PARAMS, "params"),
            (binding::CHOSEN, "chosen"),
            (binding::Q, "q"),
            (binding::K, "k"),
        ];
        let own = [
            (scores, vec![(binding::OUT, "window"), (binding::LSE, "lse")]),
            (statistics, vec![(binding::OUT, "rows")]),
        ];
        for (source, own) in own {
            assert_eq!(host_layout::<Params>(), wgsl_layout(&source, "Params"));
            let all = common.into_iter().chain(own).map(|(n, name)| (n, name.to_owned()));
            assert_eq!(wgsl_bindings(&source), all.collect::<Vec<_>>());
        }
    }
}
