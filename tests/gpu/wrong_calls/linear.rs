//! Wrong calls of linear attention that has all that there is: random features, rotation by ids and
//! a state; and of one that has nothing. Problems that no plan fits.

use phasor::linear_attention::{
    Directions, FeatureMap, LinearAttention, LinearAttentionBindings, LinearAttentionProblem,
    LinearAttentionShape, RandomFeatureBindings, RandomFeatures, State,
};
use phasor::rotary::{CosSin, Pairing, Positions, RopeConfig, Rotation, TableShape};
use phasor::{Capabilities, DType, HeadMap, Layout, Tensor, wgpu};

use super::{Expected, Wrongs, bind_silently, error, range};
use crate::harness::{Result, lab, random, run_table};

/// Sizes of the right call; queries of two heads.
const B: u32 = 2;
const S: u32 = 5;
const D: u32 = 16;
const D_V: u32 = 8;
const F: u32 = 12;
/// Rows of the table.
const POSITIONS: u32 = 64;

struct World {
    wrong: Wrongs,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    out: wgpu::Buffer,
    s: wgpu::Buffer,
    z: wgpu::Buffer,
    workspace: wgpu::Buffer,
    features: wgpu::Buffer,
    projection: wgpu::Buffer,
    ids: wgpu::Buffer,
    table: wgpu::Buffer,
    table_shape: TableShape,
}

struct Call<'a> {
    shape: LinearAttentionShape,
    bindings: LinearAttentionBindings<'a>,
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

fn all() -> phasor::Result<LinearAttentionProblem> {
    Ok(LinearAttentionProblem {
        value_dim: D_V,
        feature_map: FeatureMap::Favor { features: F, key_offset: 0.5 },
        rotary_dim: F,
        state: true,
        ..LinearAttentionProblem::new(HeadMap::ropepp(2)?, 1, D)
    })
}

/// No rotation, no state, no random features, no mask.
fn least() -> phasor::Result<LinearAttentionProblem> {
    Ok(LinearAttentionProblem {
        value_dim: D_V,
        rotary_dim: 0,
        causal: false,
        ..LinearAttentionProblem::new(HeadMap::plain(2)?, 1, D)
    })
}

impl World {
    fn new() -> Result<Self> {
        let gpu = &lab().gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        let kernel = lab().linear_attention(&all()?)?;
        let plan = kernel.plan();
        let shape = LinearAttentionShape::new(B, S);
        let scratch = |bytes: u64| gpu.output(bytes as usize / 4, DType::F32);
        let table = RopeConfig::new(F, 10_000.0).table(POSITIONS, 64)?;
        let random = RandomFeatures::new(D, F, 5, Directions::Independent)?;
        Ok(Self {
            wrong: Wrongs::new(gpu),
            q: data([B, 2, S, D], 1),
            k: data([B, 1, S, D], 2),
            v: data([B, 1, S, D_V], 3),
            out: gpu.output((B * 4 * S * D_V) as usize, DType::F32),
            s: gpu.output((B * F * D_V) as usize, DType::F32),
            z: gpu.output((B * F) as usize, DType::F32),
            workspace: scratch(plan.workspace_bytes(&shape)),
            features: scratch(plan.features_bytes(&shape)),
            projection: gpu.upload_bytes(random.as_bytes()),
            ids: gpu.upload_u32(&[3; 16]),
            table: gpu.upload_bytes(table.as_bytes()),
            table_shape: table.shape()?,
        })
    }

    fn positions(&self) -> Positions<'_> {
        let binding = self.ids.as_entire_buffer_binding();
        Positions::Ids { binding, batch_stride: S, stream_stride: 0 }
    }

    fn rotation(&self) -> Rotation<'_> {
        let binding = self.table.as_entire_buffer_binding();
        let table = CosSin { binding, shape: self.table_shape };
        Rotation::new(table, self.positions())
    }

    fn state(&self) -> State<'_> {
        let [s, z] = [&self.s, &self.z].map(|buffer| buffer.as_entire_buffer_binding());
        State { s, z }
    }

    fn random(&self) -> RandomFeatureBindings<'_> {
        RandomFeatureBindings {
            projection: self.projection.as_entire_buffer_binding(),
            features: self.features.as_entire_buffer_binding(),
        }
    }

    fn least(&self) -> phasor::Result<Call<'_>> {
        let tensor = |buffer, shape| -> phasor::Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let bindings = LinearAttentionBindings {
            q: tensor(&self.q, [B, 2, S, D])?,
            k: tensor(&self.k, [B, 1, S, D])?,
            v: tensor(&self.v, [B, 1, S, D_V])?,
            out: tensor(&self.out, [B, 2, S, D_V])?,
            // Larger than that of the other problem: more features.
            workspace: self.wrong.larger.as_entire_buffer_binding(),
            rotation: None,
            q_positions: None,
            state: None,
            random: None,
        };
        Ok(Call { shape: LinearAttentionShape::new(B, S), bindings })
    }

    fn all(&self) -> phasor::Result<Call<'_>> {
        let mut call = self.least()?;
        call.bindings.out.layout = Layout::bhsd([B, 4, S, D_V])?;
        call.bindings.workspace = self.workspace.as_entire_buffer_binding();
        call.bindings.rotation = Some(self.rotation());
        call.bindings.state = Some(self.state());
        call.bindings.random = Some(self.random());
        Ok(call)
    }

    fn outputs(&self) -> Vec<u8> {
        [&self.out, &self.s, &self.z].map(|buffer| lab().gpu.download_bytes(buffer)).concat()
    }

    fn run(&self, kernel: &LinearAttention, call: &Call<'_>) -> Result<Vec<u8>> {
        let gpu = &lab().gpu;
        for output in [&self.out, &self.s, &self.z] {
            gpu.queue.write_buffer(output, 0, &vec![0xff; output.size() as usize]);
        }
        let dispatch = kernel.bind(&gpu.device, &call.shape, &call.bindings)?;
        gpu.run(|encoder| dispatch.encode(encoder));
        Ok(self.outputs())
    }

    /// Twists a right call into a wrong one, has it refused, and runs the right call again.
    fn refuse(
        &self,
        kernel: &LinearAttention,
        right: fn(&Self) -> phasor::Result<Call<'_>>,
        wrong: &Wrong,
    ) -> Result {
        let before = self.run(kernel, &right(self)?)?;
        let mut call = right(self)?;
        (wrong.twist)(self, &mut call);
        let gpu = &lab().gpu;
        let bind = || kernel.bind(&gpu.device, &call.shape, &call.bindings);
        wrong.expected.check(bind_silently(gpu, bind)?)?;
        if self.outputs() != before {
            return Err("the refused call has changed an output".into());
        }
        match self.run(kernel, &right(self)?)? == before {
            true => Ok(()),
            false => Err("a right call after it gives something else".into()),
        }
    }
}

/// Changes the rotation of a call that has one.
macro_rules! rotation {
    (|$world:ident, $rotation:ident| $change:expr) => {
        |$world: &_, c: &mut Call<'_>| {
            let _: &World = $world;
            if let Some($rotation) = &mut c.bindings.rotation {
                $change
            }
        }
    };
}

#[test]
fn calls_of_all_that_there_is() {
    let table = [
        wrong(
            "a head too many in q",
            |_, c| c.bindings.q.layout.shape[1] = 3,
            error!(Shape { tensor: "q", needed: [2, 2, 5, 16], got: [2, 3, 5, 16] }),
        ),
        wrong(
            "as many kv heads as query heads",
            |_, c| c.bindings.k.layout.shape[1] = 2,
            error!(Shape { tensor: "k", needed: [2, 1, 5, 16], .. }),
        ),
        wrong(
            "features for channels",
            |_, c| c.bindings.k.layout.shape[3] = F,
            error!(Shape { tensor: "k", .. }),
        ),
        wrong(
            "another value_dim",
            |_, c| c.bindings.v.layout.shape[3] = 16,
            error!(Shape { tensor: "v", .. }),
        ),
        wrong(
            "one output head a query head",
            |_, c| c.bindings.out.layout.shape[1] = 2,
            error!(Shape { tensor: "out", needed: [2, 4, 5, 8], .. }),
        ),
        wrong(
            "fewer keys than queries under a causal mask",
            |_, c| c.shape.seq_k = 4,
            error!(Invalid { what: "seq_q", .. }),
        ),
        wrong(
            "a row stride between quads",
            |_, c| c.bindings.v.layout.strides[2] = 9,
            error!(Stride { tensor: "v", what: "position stride", got: 9, .. }),
        ),
        wrong(
            "rows of out that share an address",
            |_, c| c.bindings.out.layout.strides[2] = 0,
            error!(SelfOverlap { tensor: "out", .. }),
        ),
        wrong(
            "f16 keys",
            |_, c| c.bindings.k.dtype = DType::F16,
            error!(DType { tensor: "k", needed: DType::F32, got: DType::F16 }),
        ),
        wrong(
            "a tiny workspace",
            |w, c| c.bindings.workspace = w.wrong.tiny.as_entire_buffer_binding(),
            error!(BindingTooSmall { tensor: "workspace", available: 4, .. }),
        ),
        wrong(
            "a workspace of one batch",
            |w, c| {
                let half = c.bindings.workspace.buffer.size() / 2;
                c.bindings.workspace = range(&w.workspace, 0, half);
            },
            error!(BindingTooSmall { tensor: "workspace", .. }),
        ),
        wrong(
            "a workspace of an odd size",
            |w, c| c.bindings.workspace = w.wrong.odd.as_entire_buffer_binding(),
            error!(Alignment { tensor: "workspace", needed: 4, .. }),
        ),
        wrong(
            "out without STORAGE",
            |w, c| c.bindings.out.binding.buffer = &w.wrong.no_storage,
            error!(Usage { tensor: "out", .. }),
        ),
        wrong(
            "out in v",
            |w, c| c.bindings.out.binding.buffer = &w.v,
            error!(BindingTooSmall { tensor: "out", .. }),
        ),
        wrong(
            "out in q",
            |w, c| {
                c.bindings.q.binding.buffer = &w.wrong.large;
                c.bindings.out.binding = w.wrong.large.as_entire_buffer_binding();
            },
            error!(Overlap { a: "q", b: "out" }),
        ),
        wrong(
            "the workspace in out",
            |w, c| {
                c.bindings.out.binding = w.wrong.large.as_entire_buffer_binding();
                c.bindings.workspace = w.wrong.large.as_entire_buffer_binding();
            },
            error!(Overlap { a: "out", b: "workspace" }),
        ),
        wrong("no state", |_, c| c.bindings.state = None, error!(Binding { tensor: "state", .. })),
        wrong(
            "S of one batch",
            |w, c| {
                let half = w.s.size() / 2;
                c.bindings.state = Some(State { s: range(&w.s, 0, half), ..w.state() });
            },
            error!(BindingTooSmall { tensor: "state s", .. }),
        ),
        wrong(
            "z in four bytes",
            |w, c| {
                let z = w.wrong.tiny.as_entire_buffer_binding();
                c.bindings.state = Some(State { z, ..w.state() });
            },
            error!(BindingTooSmall { tensor: "state z", available: 4, .. }),
        ),
        wrong(
            "z over S",
            |w, c| {
                let z = w.s.as_entire_buffer_binding();
                c.bindings.state = Some(State { z, ..w.state() });
            },
            error!(Overlap { a: "state s", b: "state z" }),
        ),
        wrong(
            "no rotation",
            |_, c| c.bindings.rotation = None,
            error!(Binding { tensor: "rotation", .. }),
        ),
        wrong(
            "a table of the head's channels",
            rotation!(|_w, r| r.table.shape.pairs = D / 2),
            error!(Shape { tensor: "cos_sin", needed: [1, 1, 64, 6], got: [1, 1, 64, 8] }),
        ),
        wrong(
            "a position past the table",
            rotation!(|_w, r| r.positions = Positions::From(60)),
            error!(TableTooShort { needed: 64, available: 64 }),
        ),
        wrong(
            "too few ids",
            |w, c| {
                let binding = w.wrong.tiny.as_entire_buffer_binding();
                let ids = Positions::Ids { binding, batch_stride: 0, stream_stride: 0 };
                c.bindings.rotation = Some(Rotation { positions: ids, ..w.rotation() });
            },
            error!(BindingTooSmall { tensor: "position_ids", needed: 20, available: 4 }),
        ),
        wrong(
            "places among keys",
            rotation!(|_w, r| r.positions = Positions::AmongKeys),
            error!(Binding { tensor: "positions", .. }),
        ),
        wrong(
            "other positions for queries under a causal mask",
            |_, c| c.bindings.q_positions = Some(Positions::From(0)),
            error!(Binding { tensor: "q_positions", .. }),
        ),
        wrong(
            "no random features",
            |_, c| c.bindings.random = None,
            error!(Binding { tensor: "random", .. }),
        ),
        wrong(
            "a projection of fewer features",
            |w, c| {
                let projection = range(&w.projection, 0, u64::from(4 * D * (F - 4)));
                c.bindings.random = Some(RandomFeatureBindings { projection, ..w.random() });
            },
            error!(BindingTooSmall { tensor: "projection", needed: 768, available: 512 }),
        ),
        wrong(
            "room for the features of queries alone",
            |w, c| {
                let features = range(&w.features, 0, u64::from(4 * B * 2 * S * F));
                c.bindings.random = Some(RandomFeatureBindings { features, ..w.random() });
            },
            error!(BindingTooSmall { tensor: "features", .. }),
        ),
        wrong(
            "features in the workspace",
            |w, c| {
                c.bindings.workspace = w.wrong.large.as_entire_buffer_binding();
                let features = w.wrong.large.as_entire_buffer_binding();
                c.bindings.random = Some(RandomFeatureBindings { features, ..w.random() });
            },
            error!(Overlap { a: "workspace", b: "features" }),
        ),
    ];
    let world = World::new().unwrap();
    let kernel = lab().linear_attention(&all().unwrap()).unwrap();
    run_table(&table, |wrong| world.refuse(&kernel, World::all, wrong));
}

#[test]
fn what_a_call_has_no_use_for() {
    let table = [
        wrong(
            "a rotation",
            |w, c| c.bindings.rotation = Some(w.rotation()),
            error!(Binding { tensor: "rotation", .. }),
        ),
        wrong(
            "a state",
            |w, c| c.bindings.state = Some(w.state()),
            error!(Binding { tensor: "state", .. }),
        ),
        wrong(
            "random features",
            |w, c| c.bindings.random = Some(w.random()),
            error!(Binding { tensor: "random", .. }),
        ),
        wrong(
            "going on from no state",
            |_, c| c.shape.resume = true,
            error!(Invalid { what: "resume", .. }),
        ),
    ];
    let world = World::new().unwrap();
    let kernel = lab().linear_attention(&least().unwrap()).unwrap();
    run_table(&table, |wrong| world.refuse(&kernel, World::least, wrong));
}

#[test]
fn problems() {
    let good = least().unwrap();
    let favor = |features, key_offset| FeatureMap::Favor { features, key_offset };
    let one = |name: &str, problem, expected| (name.to_owned(), (problem, expected));
    let table: Vec<(String, (LinearAttentionProblem, Expected))> = vec![
        one(
            "head_dim 0",
            LinearAttentionProblem { head_dim: 0, ..good.clone() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "head_dim 18",
            LinearAttentionProblem { head_dim: 18, ..good.clone() },
            error!(Invalid { what: "head_dim", .. }),
        ),
        one(
            "value_dim 260",
            LinearAttentionProblem { value_dim: 260, ..good.clone() },
            error!(Invalid { what: "value_dim", .. }),
        ),
        one(
            "no features",
            LinearAttentionProblem { feature_map: favor(0, 0.0), ..good.clone() },
            error!(Invalid { what: "features", .. }),
        ),
        one(
            "an infinite offset",
            LinearAttentionProblem { feature_map: favor(8, f32::INFINITY), ..good.clone() },
            error!(Invalid { what: "key_offset", .. }),
        ),
        one(
            "no kv heads",
            LinearAttentionProblem { kv_heads: 0, ..good.clone() },
            error!(Invalid { what: "kv_heads", .. }),
        ),
        one(
            "more features rotate than there are",
            LinearAttentionProblem { rotary_dim: 16, feature_map: favor(12, 0.0), ..good.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "an odd rotary_dim",
            LinearAttentionProblem { rotary_dim: 5, ..good.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "three blocks of 16",
            LinearAttentionProblem {
                rotary_dim: 16,
                pairing: Pairing::HalfBlocks(3),
                ..good.clone()
            },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
        one(
            "an imaginary head where nothing rotates",
            LinearAttentionProblem { heads: HeadMap::ropepp(2).unwrap(), ..good.clone() },
            error!(Invalid { what: "rotary_dim", .. }),
        ),
    ];
    let caps = Capabilities::webgpu_default();
    run_table(&table, |(problem, expected)| expected.check(problem.plan(&caps)));

    let mut small = caps.clone();
    small.max_storage_buffers = 4;
    let few = error!(Limit { limit: "max_storage_buffers_per_shader_stage", available: 4, .. });
    few.check(good.plan(&small)).unwrap();
    let mut small = caps;
    small.max_workgroup_bytes = 1024;
    let few = error!(Limit { limit: "max_compute_workgroup_storage_size", available: 1024, .. });
    few.check(good.plan(&small)).unwrap();
}
