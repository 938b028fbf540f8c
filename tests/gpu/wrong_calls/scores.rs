//! Wrong calls of the kernels that show what attention does, and problems that no plan fits.

use phasor::scores::{
    ComponentOrder, Output, Scores, ScoresBindings, ScoresPlan, ScoresProblem, ScoresShape,
};
use phasor::{Capabilities, DType, Layout, Tensor, wgpu};

use super::{TOO_FAR, World as _, Wrongs, calls, error, problems, range, whole};
use crate::harness::{Result, lab, random, run_table};

/// Sizes of the right call: the keys 2 … 7 of 7 for the queries 1 … 4 of 5, of one of two heads.
const B: u32 = 2;
const S_Q: u32 = 5;
const S_K: u32 = 7;
const D: u32 = 16;

struct World {
    wrong: Wrongs,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    lse: wgpu::Buffer,
    out: wgpu::Buffer,
}

type Call = super::Call<ScoresPlan>;

impl super::World for World {
    fn outputs(&self) -> Vec<&wgpu::Buffer> {
        vec![&self.out]
    }
}

fn problem(output: Output) -> ScoresProblem {
    ScoresProblem { heads: vec![1], output, ..ScoresProblem::new(2, 1, D) }
}

fn kernel(output: Output) -> Result<Scores> {
    let gpu = &lab().gpu;
    Ok(Scores::new(&gpu.device, &problem(output).plan(&gpu.capabilities())?)?)
}

impl World {
    fn new() -> &'static Self {
        let gpu = &lab().gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        Box::leak(Box::new(Self {
            wrong: Wrongs::new(gpu),
            q: data([B, 2, S_Q, D], 1),
            k: data([B, 1, S_K, D], 2),
            lse: gpu.upload(&[1.0; (B * 4 * S_Q) as usize], DType::F32),
            // Two components of three queries and five keys.
            out: gpu.output((B * 2 * 3 * 5) as usize, DType::F32),
        }))
    }

    fn probabilities(&'static self) -> phasor::Result<Call> {
        let shape = ScoresShape { queries: 1..4, keys: 2..7, ..ScoresShape::new(B, S_Q, S_K) };
        let bindings = ScoresBindings {
            q: Tensor::new(&self.q, DType::F32, Layout::bhsd([B, 2, S_Q, D])?),
            k: Tensor::new(&self.k, DType::F32, Layout::bhsd([B, 1, S_K, D])?),
            out: whole(&self.out),
            lse: Some(whole(&self.lse)),
        };
        Ok((shape, bindings))
    }

    /// Of two queries, which fit where a window of probabilities does.
    fn statistics(&'static self) -> phasor::Result<Call> {
        let (shape, bindings) = self.probabilities()?;
        let shape = ScoresShape { queries: 1..3, keys: 0..S_K, ..shape };
        Ok((shape, ScoresBindings { lse: None, ..bindings }))
    }
}

#[test]
pub fn windows() {
    let table = calls! { World, ScoresPlan, |w, s, b|
        "queries past the last": s.queries = 3..6 => Invalid { what: "queries", .. };
        "keys past the last": s.keys = 7..8 => Invalid { what: "keys", .. };
        "keys from back to front": (s.keys.start, s.keys.end) = (5, 4)
            => Invalid { what: "keys", .. };
        "a smaller batch than q's": s.batch = 1 => Shape { tensor: "q", needed: [1, 2, 5, 16], .. };
        "more keys than k has": s.seq_k = 8 => Shape { tensor: "k", .. };
        "an offset between quads": b.k.layout.offset = 2
            => Stride { tensor: "k", what: "offset", got: 2, .. };
        "f16 queries": b.q.dtype = DType::F16 => DType { tensor: "q", .. };
        "a query past all keys": s.query_offset = Some(TOO_FAR)
            => IndexOverflow { tensor: "query_offset, seq_q or seq_k", .. };
        "a query before all keys": s.query_offset = Some(-TOO_FAR) => IndexOverflow { .. };
        "a query offset at the start": s.query_offset = Some(i32::MIN) => IndexOverflow { .. };
        "room for one component": b.out = range(&w.out, 0, w.out.size() / 2)
            => BindingTooSmall { tensor: "out", needed: 240, .. };
        "out in q": { b.q.binding.buffer = &w.wrong.large; b.out = whole(&w.wrong.large) }
            => Overlap { a: "q", b: "out" };
        "out without STORAGE": b.out = whole(&w.wrong.no_storage) => Usage { tensor: "out", .. };
        "out of an odd size": b.out = whole(&w.wrong.odd) => Alignment { tensor: "out", .. };
        "no lse": b.lse = None => Binding { tensor: "lse", .. };
        "lse of plain attention": b.lse = Some(range(&w.lse, 0, w.lse.size() / 2))
            => BindingTooSmall { tensor: "lse", needed: 160, available: 80 };
        "lse in out": { b.out = whole(&w.wrong.large); b.lse = Some(whole(&w.wrong.large)) }
            => Overlap { a: "lse", b: "out" };
    };
    let kernel = kernel(Output::Probabilities(ComponentOrder::Pairs)).unwrap();
    World::new().refuse(lab(), &kernel, World::probabilities, &table);
}

#[test]
fn statistics() {
    let table = calls! { World, ScoresPlan, |w, s, b|
        "some of the keys": s.keys = 0..6
            => Invalid { what: "keys", needed: "all of them, for statistics", .. };
        "a log-sum-exp": b.lse = Some(whole(&w.lse)) => Binding { tensor: "lse", .. };
        "room for two rows, of three": s.queries = 1..4
            => BindingTooSmall { tensor: "out", needed: 288, available: 240 };
    };
    let kernel = kernel(Output::Statistics { distance: 3 }).unwrap();
    World::new().refuse(lab(), &kernel, World::statistics, &table);
}

#[test]
pub fn problems() {
    let good = problem(Output::Statistics { distance: 3 });
    let table = problems! { good.clone(), |p|
        "a head past the last": p.heads = vec![0, 2]
            => Invalid { what: "heads", needed: "below q_heads", .. };
        "no head": p.heads = vec![] => Invalid { what: "heads", needed: "at least one", .. };
        "head_dim 18": p.head_dim = 18 => Invalid { what: "head_dim", .. };
        "three kv heads for two": p.kv_heads = 3 => Invalid { what: "kv_heads", .. };
        "more channels rotate than there are": p.rotary_dim = 18
            => Invalid { what: "rotary_dim", .. };
        "a scale that is no number": p.softmax_scale = f32::NAN
            => Invalid { what: "softmax_scale", .. };
    };
    let caps = Capabilities::webgpu_default();
    run_table(&table, |(problem, expected)| expected.check(problem.plan(&caps)));

    let mut small = caps;
    small.max_storage_buffers = 3;
    let few = error!(Limit { limit: "max_storage_buffers_per_shader_stage", available: 3, .. });
    few.check(good.plan(&small)).unwrap();
}
