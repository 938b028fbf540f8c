//! Wrong calls of linear attention that has all that there is: random features, rotation by ids and
//! a state; and of one that has nothing. Problems that no plan fits.

use phasor::linear_attention::{
    Directions, FeatureMap, LinearAttentionBindings, LinearAttentionPlan, LinearAttentionProblem,
    LinearAttentionShape, RandomFeatureBindings, RandomFeatures, State,
};
use phasor::rotary::{CosSin, Pairing, Positions, RopeConfig, Rotation, TableShape};
use phasor::{Capabilities, DType, HeadMap, Layout, Tensor, wgpu};

use super::{World as _, Wrongs, calls, error, ids, problems, range, whole};
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

type Call = super::Call<LinearAttentionPlan>;

impl super::World for World {
    fn outputs(&self) -> Vec<&wgpu::Buffer> {
        vec![&self.out, &self.s, &self.z]
    }
}

impl World {
    fn new() -> Result<&'static Self> {
        let gpu = &lab().gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        let kernel = lab().linear_attention(&all()?)?;
        let plan = kernel.plan();
        let shape = LinearAttentionShape::new(B, S);
        let scratch = |bytes: u64| gpu.output(bytes as usize / 4, DType::F32);
        let table = RopeConfig::new(F, 10_000.0).table(POSITIONS, 64)?;
        let random = RandomFeatures::new(D, F, 5, Directions::Independent)?;
        Ok(Box::leak(Box::new(Self {
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
        })))
    }

    fn rotation(&self) -> Rotation<'_> {
        let table = CosSin { binding: whole(&self.table), shape: self.table_shape };
        Rotation::new(table, ids(whole(&self.ids), S))
    }

    fn state(&self) -> State<'_> {
        State { s: whole(&self.s), z: whole(&self.z) }
    }

    fn random(&self) -> RandomFeatureBindings<'_> {
        RandomFeatureBindings {
            projection: whole(&self.projection),
            features: whole(&self.features),
        }
    }

    fn least(&'static self) -> phasor::Result<Call> {
        let tensor = |buffer, shape| -> phasor::Result<Tensor<'static>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let bindings = LinearAttentionBindings {
            q: tensor(&self.q, [B, 2, S, D])?,
            k: tensor(&self.k, [B, 1, S, D])?,
            v: tensor(&self.v, [B, 1, S, D_V])?,
            out: tensor(&self.out, [B, 2, S, D_V])?,
            // Larger than that of the other problem: more features.
            workspace: whole(&self.wrong.larger),
            rotation: None,
            q_positions: None,
            state: None,
            random: None,
        };
        Ok((LinearAttentionShape::new(B, S), bindings))
    }

    fn all(&'static self) -> phasor::Result<Call> {
        let (shape, mut bindings) = self.least()?;
        bindings.out.layout = Layout::bhsd([B, 4, S, D_V])?;
        bindings.workspace = whole(&self.workspace);
        bindings.rotation = Some(self.rotation());
        bindings.state = Some(self.state());
        bindings.random = Some(self.random());
        Ok((shape, bindings))
    }
}

/// The rotation of a call that has one.
fn turn<'b>(b: &'b mut LinearAttentionBindings<'static>) -> &'b mut Rotation<'static> {
    b.rotation.as_mut().expect("a rotation")
}

#[test]
pub fn calls_of_all_that_there_is() {
    let table = calls! { World, LinearAttentionPlan, |w, s, b|
        "a head too many in q": b.q.layout.shape[1] = 3
            => Shape { tensor: "q", needed: [2, 2, 5, 16], got: [2, 3, 5, 16] };
        "as many kv heads as query heads": b.k.layout.shape[1] = 2
            => Shape { tensor: "k", needed: [2, 1, 5, 16], .. };
        "features for channels": b.k.layout.shape[3] = F => Shape { tensor: "k", .. };
        "another value_dim": b.v.layout.shape[3] = 16 => Shape { tensor: "v", .. };
        "one output head a query head": b.out.layout.shape[1] = 2
            => Shape { tensor: "out", needed: [2, 4, 5, 8], .. };
        "fewer keys than queries under a causal mask": s.seq_k = 4 => Invalid { what: "seq_q", .. };
        "a row stride between quads": b.v.layout.strides[2] = 9
            => Stride { tensor: "v", what: "position stride", got: 9, .. };
        "rows of out that share an address": b.out.layout.strides[2] = 0
            => SelfOverlap { tensor: "out", .. };
        "f16 keys": b.k.dtype = DType::F16
            => DType { tensor: "k", needed: DType::F32, got: DType::F16 };
        "a tiny workspace": b.workspace = whole(&w.wrong.tiny)
            => BindingTooSmall { tensor: "workspace", available: 4, .. };
        "a workspace of one batch": {
            let half = b.workspace.buffer.size() / 2;
            b.workspace = range(&w.workspace, 0, half);
        } => BindingTooSmall { tensor: "workspace", .. };
        "a workspace of an odd size": b.workspace = whole(&w.wrong.odd)
            => Alignment { tensor: "workspace", needed: 4, .. };
        "out without STORAGE": b.out.binding.buffer = &w.wrong.no_storage
            => Usage { tensor: "out", .. };
        "out in v": b.out.binding.buffer = &w.v => BindingTooSmall { tensor: "out", .. };
        "out in q": { b.q.binding.buffer = &w.wrong.large; b.out.binding = whole(&w.wrong.large) }
            => Overlap { a: "q", b: "out" };
        "the workspace in out": {
            b.out.binding = whole(&w.wrong.large);
            b.workspace = whole(&w.wrong.large);
        } => Overlap { a: "out", b: "workspace" };
        "no state": b.state = None => Binding { tensor: "state", .. };
        "S of one batch": {
            let half = w.s.size() / 2;
            b.state = Some(State { s: range(&w.s, 0, half), ..w.state() });
        } => BindingTooSmall { tensor: "state s", .. };
        "z in four bytes": b.state = Some(State { z: whole(&w.wrong.tiny), ..w.state() })
            => BindingTooSmall { tensor: "state z", available: 4, .. };
        "z over S": b.state = Some(State { z: whole(&w.s), ..w.state() })
            => Overlap { a: "state s", b: "state z" };
        "no rotation": b.rotation = None => Binding { tensor: "rotation", .. };
        "a table of the head's channels": turn(b).table.shape.pairs = D / 2
            => Shape { tensor: "cos_sin", needed: [1, 1, 64, 6], got: [1, 1, 64, 8] };
        "a position past the table": turn(b).positions = Positions::From(60)
            => TableTooShort { needed: 64, available: 64 };
        "too few ids":
            b.rotation = Some(Rotation { positions: ids(whole(&w.wrong.tiny), 0), ..w.rotation() })
            => BindingTooSmall { tensor: "position_ids", needed: 20, available: 4 };
        "places among keys": turn(b).positions = Positions::AmongKeys
            => Binding { tensor: "positions", .. };
        "other positions for queries under a causal mask": b.q_positions = Some(Positions::From(0))
            => Binding { tensor: "q_positions", .. };
        "no random features": b.random = None => Binding { tensor: "random", .. };
        "a projection of fewer features": {
            let projection = range(&w.projection, 0, u64::from(4 * D * (F - 4)));
            b.random = Some(RandomFeatureBindings { projection, ..w.random() });
        } => BindingTooSmall { tensor: "projection", needed: 768, available: 512 };
        "room for the features of queries alone": {
            let features = range(&w.features, 0, u64::from(4 * B * 2 * S * F));
            b.random = Some(RandomFeatureBindings { features, ..w.random() });
        } => BindingTooSmall { tensor: "features", .. };
        "features in the workspace": {
            b.workspace = whole(&w.wrong.large);
            let features = whole(&w.wrong.large);
            b.random = Some(RandomFeatureBindings { features, ..w.random() });
        } => Overlap { a: "workspace", b: "features" };
    };
    let kernel = lab().linear_attention(&all().unwrap()).unwrap();
    World::new().unwrap().refuse(lab(), &kernel, World::all, &table);
}

#[test]
fn what_a_call_has_no_use_for() {
    let table = calls! { World, LinearAttentionPlan, |w, s, b|
        "a rotation": b.rotation = Some(w.rotation()) => Binding { tensor: "rotation", .. };
        "a state": b.state = Some(w.state()) => Binding { tensor: "state", .. };
        "random features": b.random = Some(w.random()) => Binding { tensor: "random", .. };
        "going on from no state": s.resume = true => Invalid { what: "resume", .. };
    };
    let kernel = lab().linear_attention(&least().unwrap()).unwrap();
    World::new().unwrap().refuse(lab(), &kernel, World::least, &table);
}

#[test]
pub fn problems() {
    let good = least().unwrap();
    let favor = |features, key_offset| FeatureMap::Favor { features, key_offset };
    let table = problems! { good.clone(), |p|
        "head_dim 0": p.head_dim = 0 => Invalid { what: "head_dim", .. };
        "head_dim 18": p.head_dim = 18 => Invalid { what: "head_dim", .. };
        "value_dim 260": p.value_dim = 260 => Invalid { what: "value_dim", .. };
        "no features": p.feature_map = favor(0, 0.0) => Invalid { what: "features", .. };
        "an infinite offset": p.feature_map = favor(8, f32::INFINITY)
            => Invalid { what: "key_offset", .. };
        "no kv heads": p.kv_heads = 0 => Invalid { what: "kv_heads", .. };
        "more features rotate than there are": { p.rotary_dim = 16; p.feature_map = favor(12, 0.0) }
            => Invalid { what: "rotary_dim", .. };
        "an odd rotary_dim": p.rotary_dim = 5 => Invalid { what: "rotary_dim", .. };
        "three blocks of 16": { p.rotary_dim = 16; p.pairing = Pairing::HalfBlocks(3) }
            => Invalid { what: "rotary_dim", .. };
        "an imaginary head where nothing rotates": p.heads = HeadMap::ropepp(2).unwrap()
            => Invalid { what: "rotary_dim", .. };
    };
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
