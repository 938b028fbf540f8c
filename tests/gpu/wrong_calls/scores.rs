//! Wrong calls of the kernels that show what attention does, and problems that no plan fits.

use phasor::scores::{ComponentOrder, Output, Scores, ScoresBindings, ScoresProblem, ScoresShape};
use phasor::{Capabilities, DType, Layout, Tensor, wgpu};

use super::{Expected, Wrongs, bind_silently, error, range};
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

struct Call<'a> {
    shape: ScoresShape,
    bindings: ScoresBindings<'a>,
}

struct Wrong {
    twist: for<'a> fn(&'a World, &mut Call<'a>),
    expected: Expected,
}

fn wrong(
    name: &str,
    twist: for<'a> fn(&'a World, &mut Call<'a>),
    expected: Expected,
) -> (String, Wrong) {
    (name.to_owned(), Wrong { twist, expected })
}

fn problem(output: Output) -> ScoresProblem {
    ScoresProblem { heads: vec![1], output, ..ScoresProblem::new(2, 1, D) }
}

fn kernel(output: Output) -> Result<Scores> {
    let gpu = &lab().gpu;
    Ok(Scores::new(&gpu.device, &problem(output).plan(&gpu.capabilities())?)?)
}

impl World {
    fn new() -> Self {
        let gpu = &lab().gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        Self {
            wrong: Wrongs::new(gpu),
            q: data([B, 2, S_Q, D], 1),
            k: data([B, 1, S_K, D], 2),
            lse: gpu.upload(&[1.0; (B * 4 * S_Q) as usize], DType::F32),
            // Two components of three queries and five keys.
            out: gpu.output((B * 2 * 3 * 5) as usize, DType::F32),
        }
    }

    fn probabilities(&self) -> phasor::Result<Call<'_>> {
        let shape = ScoresShape { queries: 1..4, keys: 2..7, ..ScoresShape::new(B, S_Q, S_K) };
        let bindings = ScoresBindings {
            q: Tensor::new(&self.q, DType::F32, Layout::bhsd([B, 2, S_Q, D])?),
            k: Tensor::new(&self.k, DType::F32, Layout::bhsd([B, 1, S_K, D])?),
            out: self.out.as_entire_buffer_binding(),
            lse: Some(self.lse.as_entire_buffer_binding()),
        };
        Ok(Call { shape, bindings })
    }

    /// Of two queries, which fit where a window of probabilities does.
    fn statistics(&self) -> phasor::Result<Call<'_>> {
        let mut call = self.probabilities()?;
        (call.shape.queries, call.shape.keys) = (1..3, 0..S_K);
        call.bindings.lse = None;
        Ok(call)
    }

    fn run(&self, kernel: &Scores, call: &Call<'_>) -> Result<Vec<u8>> {
        let gpu = &lab().gpu;
        gpu.queue.write_buffer(&self.out, 0, &vec![0xff; self.out.size() as usize]);
        let dispatch = kernel.bind(&gpu.device, &call.shape, &call.bindings)?;
        gpu.run(|encoder| dispatch.encode(encoder));
        Ok(gpu.download_bytes(&self.out))
    }

    /// Twists a right call into a wrong one, has it refused, and runs the right call again.
    fn refuse(
        &self,
        kernel: &Scores,
        right: fn(&Self) -> phasor::Result<Call<'_>>,
        wrong: &Wrong,
    ) -> Result {
        let gpu = &lab().gpu;
        let before = self.run(kernel, &right(self)?)?;
        let mut call = right(self)?;
        (wrong.twist)(self, &mut call);
        let bind = || kernel.bind(&gpu.device, &call.shape, &call.bindings);
        wrong.expected.check(bind_silently(gpu, bind)?)?;
        if gpu.download_bytes(&self.out) != before {
            return Err("the refused call has changed the output".into());
        }
        match self.run(kernel, &right(self)?)? == before {
            true => Ok(()),
            false => Err("a right call after it gives something else".into()),
        }
    }
}

#[test]
fn windows() {
    let table = [
        wrong(
            "queries past the last",
            |_, c| c.shape.queries = 3..6,
            error!(Invalid { what: "queries", .. }),
        ),
        wrong(
            "keys past the last",
            |_, c| c.shape.keys = 7..8,
            error!(Invalid { what: "keys", .. }),
        ),
        wrong(
            "keys from back to front",
            |_, c| (c.shape.keys.start, c.shape.keys.end) = (5, 4),
            error!(Invalid { what: "keys", .. }),
        ),
        wrong(
            "a smaller batch than q's",
            |_, c| c.shape.batch = 1,
            error!(Shape { tensor: "q", needed: [1, 2, 5, 16], .. }),
        ),
        wrong("more keys than k has", |_, c| c.shape.seq_k = 8, error!(Shape { tensor: "k", .. })),
        wrong(
            "an offset between quads",
            |_, c| c.bindings.k.layout.offset = 2,
            error!(Stride { tensor: "k", what: "offset", got: 2, .. }),
        ),
        wrong(
            "f16 queries",
            |_, c| c.bindings.q.dtype = DType::F16,
            error!(DType { tensor: "q", .. }),
        ),
        wrong(
            "a place past all keys",
            |_, c| c.shape.query_offset = Some(i32::MIN),
            error!(IndexOverflow { .. }),
        ),
        wrong(
            "room for one component",
            |w, c| c.bindings.out = range(&w.out, 0, w.out.size() / 2),
            error!(BindingTooSmall { tensor: "out", needed: 240, .. }),
        ),
        wrong(
            "out in q",
            |w, c| {
                c.bindings.q.binding.buffer = &w.wrong.large;
                c.bindings.out = w.wrong.large.as_entire_buffer_binding();
            },
            error!(Overlap { a: "q", b: "out" }),
        ),
        wrong(
            "out without STORAGE",
            |w, c| c.bindings.out = w.wrong.no_storage.as_entire_buffer_binding(),
            error!(Usage { tensor: "out", .. }),
        ),
        wrong(
            "out of an odd size",
            |w, c| c.bindings.out = w.wrong.odd.as_entire_buffer_binding(),
            error!(Alignment { tensor: "out", .. }),
        ),
        wrong("no lse", |_, c| c.bindings.lse = None, error!(Binding { tensor: "lse", .. })),
        wrong(
            "lse of plain attention",
            |w, c| c.bindings.lse = Some(range(&w.lse, 0, w.lse.size() / 2)),
            error!(BindingTooSmall { tensor: "lse", needed: 160, available: 80 }),
        ),
        wrong(
            "lse in out",
            |w, c| {
                c.bindings.out = w.wrong.large.as_entire_buffer_binding();
                c.bindings.lse = Some(w.wrong.large.as_entire_buffer_binding());
            },
            error!(Overlap { a: "lse", b: "out" }),
        ),
    ];
    let kernel = kernel(Output::Probabilities(ComponentOrder::Pairs)).unwrap();
    let world = World::new();
    run_table(&table, |wrong| world.refuse(&kernel, World::probabilities, wrong));
}

#[test]
fn statistics() {
    let table = [
        wrong(
            "some of the keys",
            |_, c| c.shape.keys = 0..6,
            error!(Invalid { what: "keys", needed: "all of them, for statistics", .. }),
        ),
        wrong(
            "a log-sum-exp",
            |w, c| c.bindings.lse = Some(w.lse.as_entire_buffer_binding()),
            error!(Binding { tensor: "lse", .. }),
        ),
        wrong(
            "room for two rows, of three",
            |_, c| c.shape.queries = 1..4,
            error!(BindingTooSmall { tensor: "out", needed: 288, available: 240 }),
        ),
    ];
    let kernel = kernel(Output::Statistics { distance: 3 }).unwrap();
    let world = World::new();
    run_table(&table, |wrong| world.refuse(&kernel, World::statistics, wrong));
}

#[test]
fn problems() {
    let good = problem(Output::Statistics { distance: 3 });
    let one = |name: &str, problem, expected| (name.to_owned(), (problem, expected));
    let table: Vec<(String, (ScoresProblem, Expected))> = vec![
        one(
            "a head past the last",
            ScoresProblem { heads: vec![0, 2], ..good.clone() },
            error!(Invalid { what: "heads", needed: "below q_heads", .. }),
        ),
        one(
            "no head",
            ScoresProblem { heads: vec![], ..good.clone() },
            error!(Invalid { what: "heads", needed: "at least one", .. }),
        ),
        one(
            "head_dim 18",
            ScoresProblem { head_dim: 18, ..good.clone() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "three kv heads for two",
            ScoresProblem { kv_heads: 3, ..good.clone() },
            error!(Invalid { what: "kv_heads", .. }),
        ),
        one(
            "more channels rotate than there are",
            ScoresProblem { rotary_dim: 18, ..good.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "a scale that is no number",
            ScoresProblem { softmax_scale: f32::NAN, ..good.clone() },
            error!(Invalid { what: "softmax_scale", .. }),
        ),
    ];
    let caps = Capabilities::webgpu_default();
    run_table(&table, |(problem, expected)| expected.check(problem.plan(&caps)));

    let mut small = caps;
    small.max_storage_buffers = 3;
    let few = error!(Limit { limit: "max_storage_buffers_per_shader_stage", available: 3, .. });
    few.check(good.plan(&small)).unwrap();
}
