//! Calls of scores and their statistics: tensors in, a recipe out.

use crate::call::{Access, Binding, Checker, Plan, Recipe, Step, Strides, Tensor, place_of_query};
use crate::plan::scores::{ComponentOrder, Output, ScoresPlan, ScoresShape};
use crate::plan::{KernelKind, Shader, binding};
use crate::uniform::uniform;
use crate::{Error, Layout, Result};

/// The tensors of one call.
#[derive(Debug, Clone)]
pub struct ScoresBindings<B> {
    /// `[B, H_q, S_q, D]`, rotated, read. Strides and offset are multiples of 4 elements.
    pub q: Tensor<B>,
    /// `[B, H_kv, S_k, D]`, rotated, read.
    pub k: Tensor<B>,
    /// What the problem asks for, f32 without gaps, written: [`ScoresPlan::output_bytes`].
    pub out: B,
    /// For probabilities: natural log-sum-exp of every row, f32 `[B, 2 H_q, S_q]`, heads in the
    /// order of [`HeadMap::ropepp`](crate::HeadMap::ropepp); read.
    pub lse: Option<B>,
}

impl<B> ScoresBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(q: Tensor<B>, k: Tensor<B>, out: B) -> Self {
        Self { q, k, out, lse: None }
    }
}

uniform! {
    /// What one row of one component attends to, `[B, heads, queries, 2]` in the output. A row that
    /// sees no key has an lse of −∞ and 0 in all else.
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
}

uniform! {
    /// `Params` of `shaders/scores/tile.wgsl`.
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
        q: Strides,
        k: Strides,
    }
}

impl Plan for ScoresPlan {
    const KERNEL: KernelKind = KernelKind::Scores;

    type Shape<'s> = ScoresShape;
    type Bindings<B> = ScoresBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        vec![self.shader()]
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        vec![Some(bytemuck::cast_slice(&self.problem().heads).to_vec())]
    }

    fn recipe<B: Binding>(
        &self,
        shape: &ScoresShape,
        bindings: &ScoresBindings<B>,
    ) -> Result<Recipe<B>> {
        let p = self.problem();
        let statistics = p.statistics();
        check(self, shape, bindings)?;
        let [q_tiles, k_tiles] =
            [&shape.queries, &shape.keys].map(|window| (window.len() as u32).div_ceil(self.block));
        let groups = self.groups(shape);
        if groups == 0 {
            return Ok(Recipe::empty());
        }
        let workgroups = self.capabilities.fold_groups(groups)?;
        let params =
            Params { groups_x: workgroups[0], q_tiles, k_tiles, ..params(self, shape, bindings)? };
        let step = Step::new(0, workgroups)
            .params(&params)
            .table(binding::CHOSEN)
            .tensor(binding::Q, &bindings.q)
            // With no keys, k may be an empty buffer, which cannot be bound: nothing reads it.
            .declared(binding::K, Some(&bindings.k.binding).filter(|_| shape.seq_k > 0));
        let step = match statistics {
            true => step.bind(binding::ROWS, &bindings.out),
            false => step
                .bind(binding::WINDOW, &bindings.out)
                .declared(binding::LSE, bindings.lse.as_ref()),
        };
        Ok(step.into())
    }
}

fn check<B: Binding>(
    plan: &ScoresPlan,
    shape: &ScoresShape,
    bindings: &ScoresBindings<B>,
) -> Result<()> {
    let p = plan.problem();
    let mut checker = Checker::new(&plan.capabilities);
    let ScoresShape { batch, seq_q, seq_k, .. } = *shape;
    check_window(shape, p.statistics())?;
    let q_shape = [batch, p.q_heads, seq_q, p.head_dim];
    checker.tensor("q", &bindings.q, Access::Read, p.q_dtype, q_shape, 4)?;
    let k_shape = [batch, p.kv_heads, seq_k, p.head_dim];
    checker.tensor("k", &bindings.k, Access::Read, p.k_dtype, k_shape, 4)?;
    let bytes = plan.output_bytes(shape);
    if bytes / 4 > u64::from(u32::MAX) {
        return Err(Error::IndexOverflow { tensor: "out", index: bytes / 4 });
    }
    checker.binding("out", &bindings.out, Access::Write, bytes)?;
    let probabilities = matches!(p.output, Output::Probabilities(_));
    let lses = Layout::bhsd([batch, p.q_heads.saturating_mul(2), seq_q, 1]);
    let reach = if probabilities { 4 * lses?.elements() } else { 0 };
    checker.optional("lse", probabilities, bindings.lse.as_ref(), Access::Read, reach)
}

/// All but the numbers of tiles and workgroups.
fn params<B: Binding>(
    plan: &ScoresPlan,
    shape: &ScoresShape,
    bindings: &ScoresBindings<B>,
) -> Result<Params> {
    let p = plan.problem();
    let [q_count, k_count] = [&shape.queries, &shape.keys].map(|w| w.len() as u32);
    let (step, component) = match p.output {
        Output::Scores(ComponentOrder::Pairs) | Output::Probabilities(ComponentOrder::Pairs) => {
            (2, 1)
        }
        // Fits: all of them lie below the end of the output.
        _ => (1, q_count.wrapping_mul(k_count)),
    };
    Ok(Params {
        batch: shape.batch,
        heads: p.heads.len() as u32,
        q_heads: p.q_heads,
        group: p.q_heads / p.kv_heads,
        seq_q: shape.seq_q,
        q_first: shape.queries.start,
        q_count,
        k_first: shape.keys.start,
        k_count,
        position: place_of_query(shape.offset(), [shape.seq_q, shape.seq_k])?,
        causal: p.causal.into(),
        distance: match p.output {
            Output::Statistics { distance } => distance,
            _ => 0,
        },
        probabilities: matches!(p.output, Output::Probabilities(_)).into(),
        step,
        component,
        scale: p.softmax_scale,
        minus_infinity: f32::NEG_INFINITY,
        q: Strides::new(&bindings.q.layout, 4),
        k: Strides::new(&bindings.k.layout, 4),
        ..Params::default()
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::scores::ScoresProblem;
    use crate::reflect::assert_uniform;

    #[test]
    fn params_and_rows_are_the_shaders() {
        let source = |output| {
            let problem = ScoresProblem { output, ..ScoresProblem::new(2, 1, 64) };
            problem.plan(&Capabilities::webgpu_default()).unwrap().shader().source.clone()
        };
        let statistics = source(Output::Statistics { distance: 1 });
        assert_uniform::<RowStatistics>(&statistics, "Row");
        assert_uniform::<Params>(&statistics, "Params");
        assert_uniform::<Params>(&source(Output::Scores(ComponentOrder::Pairs)), "Params");
    }
}
