//! Numbers at the ends of 32 bits, in every place of every kernel that takes one: each call is
//! taken or refused with a typed error. Nothing overflows (tests are built with overflow checks),
//! nothing panics, nothing reaches wgpu that it has to refuse.

use phasor::attention::{
    Attention, AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape,
};
use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{Decode, DecodeBindings, DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::kv_move::{KvMove, KvMoveBindings, KvMoveProblem, KvMoveShape, Move};
use phasor::linear_attention::{
    LinearAttention, LinearAttentionBindings, LinearAttentionProblem, LinearAttentionShape,
};
use phasor::merge::{Merge, MergeBindings, MergeProblem, MergeShape};
use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Pairing, Positions, RopeConfig, Rotation, TableShape};
use phasor::scores::{Scores, ScoresBindings, ScoresProblem, ScoresShape};
use phasor::{Capabilities, DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestCaseError, TestRng, TestRunner},
};

use super::bind_silently;
use crate::{
    attention::small_tile,
    harness::{Result, lab},
};

const ENDS: [u32; 20] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    12,
    16,
    64,
    255,
    256,
    65_535,
    65_536,
    1 << 20,
    1 << 29,
    (1 << 31) - 4,
    1 << 31,
    u32::MAX - 3,
    u32::MAX,
];

/// Right numbers, and a few of them replaced.
fn twisted(right: &[u32], twists: &[(Index, u32)]) -> Vec<u32> {
    let mut numbers = right.to_vec();
    for (at, value) in twists {
        numbers[at.index(right.len())] = *value;
    }
    numbers
}

fn sweep(cases: u32, check: impl Fn(&[(Index, u32)]) -> Result) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[3; 32]);
    let twists = prop::collection::vec((any::<Index>(), select(ENDS.to_vec())), 0..4);
    let check =
        |twists: Vec<_>| check(&twists).map_err(|error| TestCaseError::fail(error.to_string()));
    if let Err(error) = TestRunner::new_with_rng(config, rng).run(&twists, check) {
        panic!("{error}");
    }
}

/// A layout as 8 numbers, without the checks of its constructors.
fn layout(n: &[u32]) -> Layout {
    Layout { shape: [n[0], n[1], n[2], n[3]], strides: [n[4], n[5], n[6]], offset: n[7] }
}

fn dense([b, h, s, d]: [u32; 4]) -> [u32; 8] {
    [b, h, s, d, h * s * d, s * d, d, 0]
}

/// Two inputs, four outputs, a table: of 64 KiB each.
struct World {
    inputs: [wgpu::Buffer; 2],
    outputs: [wgpu::Buffer; 4],
    table: wgpu::Buffer,
    table_shape: TableShape,
}

impl World {
    fn new() -> Self {
        let gpu = &lab().gpu;
        let buffer = || gpu.upload_bytes(&[0; 1 << 16]);
        let table = RopeConfig::new(16, 10_000.0).table(64, 64).unwrap();
        Self {
            inputs: [(); 2].map(|()| buffer()),
            outputs: [(); 4].map(|()| buffer()),
            table: gpu.upload_bytes(table.as_bytes()),
            table_shape: table.shape().unwrap(),
        }
    }

    fn input(&self, n: &[u32]) -> Tensor<'_> {
        Tensor::new(&self.inputs[0], DType::F32, layout(n))
    }

    fn output(&self, which: usize, n: &[u32]) -> Tensor<'_> {
        Tensor::new(&self.outputs[which], DType::F32, layout(n))
    }

    fn cache(&self, output: Option<usize>, n: &[u32]) -> CacheTensor<'_> {
        let buffer = output.map_or(&self.inputs[0], |which| &self.outputs[which]);
        let binding = buffer.as_entire_buffer_binding();
        CacheTensor { binding, stored: CacheType::F32, layout: layout(n) }
    }

    fn words(&self) -> wgpu::BufferBinding<'_> {
        self.inputs[1].as_entire_buffer_binding()
    }

    fn table(&self) -> CosSin<'_> {
        CosSin { binding: self.table.as_entire_buffer_binding(), shape: self.table_shape }
    }
}

/// Binds what the twisted numbers make of a right call. The right call itself must be taken.
fn binds(right: &[u32], bind: impl Fn(&World, &[u32]) -> phasor::Result<Dispatch>) {
    let (gpu, world) = (&lab().gpu, World::new());
    bind(&world, right).expect("a right call");
    sweep(120, |twists| {
        let numbers = twisted(right, twists);
        // Taken or refused, both are well.
        let _ = bind_silently(gpu, || bind(&world, &numbers))?;
        Ok(())
    });
}

fn caps() -> Capabilities {
    lab().gpu.capabilities()
}

#[test]
fn attention() {
    let problem =
        AttentionProblem { lse: true, ..AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 16) };
    let plan = AttentionPlan::with_tile(&problem, &caps(), small_tile(16)).unwrap();
    let kernel: Attention = lab().attention(&plan).unwrap();
    let tensors = [[1, 2, 5, 16], [1, 1, 7, 16], [1, 1, 7, 16], [1, 4, 5, 16]].map(dense);
    let right = [&[1, 5, 7, 2][..], &tensors.concat()].concat();
    binds(&right, |world, n| {
        let mut bindings = AttentionBindings::new(
            world.input(&n[4..]),
            world.input(&n[12..]),
            world.input(&n[20..]),
            world.output(0, &n[28..]),
        );
        bindings.lse = Some(world.outputs[1].as_entire_buffer_binding());
        bindings.kv_lens = Some(world.words());
        let shape = AttentionShape {
            query_offset: Some(n[3] as i32),
            ..AttentionShape::new(n[0], n[1], n[2])
        };
        let _ = plan.cost(&shape).to_string();
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

#[test]
fn rope() {
    let plan = RopeProblem::new(2, 1, 16).plan(&caps()).unwrap();
    let kernel = Rope::new(&lab().gpu.device, &plan).unwrap();
    let tensors = [[2, 2, 5, 16], [2, 1, 5, 16], [2, 2, 5, 16], [2, 1, 5, 16]].map(dense);
    let right = [&[2, 5, 3, 0, 0, 0][..], &tensors.concat()].concat();
    binds(&right, |world, n| {
        let positions = match n[3] {
            0 => Positions::From(n[2]),
            _ => Positions::Ids { binding: world.words(), batch_stride: n[4], stream_stride: n[5] },
        };
        let bindings = RopeBindings {
            q: world.input(&n[6..]),
            k: Some(world.input(&n[14..])),
            q_out: Some(world.output(0, &n[22..])),
            k_out: Some(world.output(1, &n[30..])),
            rotation: Rotation::new(world.table(), positions),
        };
        let shape = RopeShape { batch: n[0], seq: n[1] };
        let _ = plan.cost(&shape).bytes;
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

#[test]
fn kv_append() {
    let plan = KvAppendProblem::new(CacheFormat::new(2, 16)).plan(&caps()).unwrap();
    let kernel = KvAppend::new(&lab().gpu.device, &plan).unwrap();
    let tensors = [[2, 2, 3, 16], [2, 2, 3, 16], [2, 2, 9, 16], [2, 2, 9, 16]].map(dense);
    let right = [&[2, 3, 0][..], &tensors.concat()].concat();
    binds(&right, |world, n| {
        let bindings = KvAppendBindings {
            k: world.input(&n[3..]),
            v: world.input(&n[11..]),
            cache: CacheBindings {
                k: world.cache(Some(0), &n[19..]),
                v: world.cache(Some(1), &n[27..]),
                block_table: None,
            },
            lens: world.words(),
            rotation: Some(Rotation::new(world.table(), Positions::AmongKeys)),
        };
        let shape =
            KvAppendShape { ragged: (n[2] > 0).then_some(n[2]), ..KvAppendShape::new(n[0], n[1]) };
        let _ = plan.cost(&shape).bytes;
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

#[test]
fn kv_move() {
    let plan = KvMoveProblem::new(CacheFormat::new(2, 16)).plan(&caps()).unwrap();
    let kernel = KvMove::new(&lab().gpu.device, &plan).unwrap();
    let right = [&[2, 0, 4, 1, 0, 5][..], &[[2, 2, 9, 16]; 2].map(dense).concat()].concat();
    binds(&right, |world, n| {
        let bindings = KvMoveBindings {
            cache: CacheBindings {
                k: world.cache(Some(0), &n[6..]),
                v: world.cache(Some(1), &n[14..]),
                block_table: None,
            },
            table: Some(world.table()),
        };
        let moves = [Move { from: n[1], from_row: n[2], to: n[3], to_row: n[4], rows: n[5] }];
        let shape = KvMoveShape::new(n[0], &moves);
        let _ = plan.cost(&shape).bytes;
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

#[test]
fn decode() {
    let problem = DecodeProblem::new(HeadMap::ropepp(4).unwrap(), CacheFormat::new(2, 16), 2, 9);
    let plan = problem.plan(&caps()).unwrap();
    let kernel: Decode = lab().decode(&plan).unwrap();
    let tensors = [[2, 4, 1, 16], [2, 8, 1, 16], [2, 2, 9, 16], [2, 2, 9, 16]].map(dense);
    let right = [&[2, 1, 9][..], &tensors.concat()].concat();
    binds(&right, |world, n| {
        let bindings = DecodeBindings {
            q: world.input(&n[3..]),
            out: world.output(0, &n[11..]),
            cache: CacheBindings {
                k: world.cache(None, &n[19..]),
                v: world.cache(None, &n[27..]),
                block_table: None,
            },
            kv_lens: world.words(),
            lse: None,
            rotation: None,
            bias: None,
            workspace: (plan.workspace_bytes(&plan.problem().largest()) > 0)
                .then(|| world.outputs[1].as_entire_buffer_binding()),
        };
        let shape = DecodeShape { batch: n[0], seq_q: n[1] };
        let _ = plan.cost_over(&shape, n[2]);
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

#[test]
fn merge() {
    let plan = MergeProblem::new(16).plan(&caps()).unwrap();
    let kernel = Merge::new(&lab().gpu.device, &plan).unwrap();
    let tensors = [[3, 4, 5, 16], [2, 2, 5, 16]].map(dense);
    let right = [&[3, 2, 2, 5][..], &tensors.concat()].concat();
    binds(&right, |world, n| {
        let bindings = MergeBindings {
            parts: world.input(&n[4..]),
            lse_parts: world.words(),
            out: world.output(0, &n[12..]),
            lse: None,
        };
        let shape = MergeShape { parts: n[0], batch: n[1], heads: n[2], seq: n[3] };
        let _ = plan.cost(&shape).bytes;
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

/// Binding alone would compile kernels that take long: the sizes go through the plan, and a call of
/// the shader that the tables use.
#[test]
fn linear_attention() {
    let problem = LinearAttentionProblem::new(HeadMap::plain(2).unwrap(), 2, 32);
    let kernel: LinearAttention = lab().linear_attention(&problem).unwrap();
    let tensors = [[1, 2, 20, 32]; 4].map(dense);
    let right = [&[1, 20, 20][..], &tensors.concat()].concat();
    let table = RopeConfig::new(32, 10_000.0).table(64, 64).unwrap();
    let (table, shape_of) = (lab().gpu.upload_bytes(table.as_bytes()), table.shape().unwrap());
    binds(&right, |world, n| {
        let bindings = LinearAttentionBindings {
            q: world.input(&n[3..]),
            k: world.input(&n[11..]),
            v: world.input(&n[19..]),
            out: world.output(0, &n[27..]),
            workspace: world.outputs[1].as_entire_buffer_binding(),
            rotation: Some(Rotation::new(
                CosSin { binding: table.as_entire_buffer_binding(), shape: shape_of },
                Positions::From(0),
            )),
            q_positions: None,
            state: None,
            random: None,
        };
        let shape = LinearAttentionShape { batch: n[0], seq_q: n[1], seq_k: n[2], resume: false };
        let plan = kernel.plan();
        let _ = (plan.cost(&shape), plan.workspace_bytes(&shape), plan.features_bytes(&shape));
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

#[test]
fn scores() {
    let problem = ScoresProblem::new(4, 2, 32);
    let kernel: Scores = lab().scores(&problem).unwrap();
    let tensors = [[1, 4, 9, 32], [1, 2, 9, 32]].map(dense);
    let right = [&[1, 9, 9, 0, 9, 0, 9, 0][..], &tensors.concat()].concat();
    binds(&right, |world, n| {
        let bindings = ScoresBindings {
            q: world.input(&n[8..]),
            k: world.input(&n[16..]),
            out: world.outputs[0].as_entire_buffer_binding(),
            lse: None,
        };
        let shape = ScoresShape {
            batch: n[0],
            seq_q: n[1],
            seq_k: n[2],
            queries: n[3]..n[4],
            keys: n[5]..n[6],
            query_offset: Some(n[7] as i32),
        };
        let _ = kernel.plan().output_bytes(&shape);
        kernel.bind(&lab().gpu.device, &shape, &bindings)
    });
}

/// Problems, and the numbers that plans give of them.
#[test]
fn plans() {
    let caps = Capabilities::webgpu_default();
    let right = [2, 1, 16, 16, 16, 9, 1, 1, 2, 30];
    sweep(500, |twists| {
        let n = twisted(&right, twists);
        // Maps have a head for each entry: past all devices, but not past the memory of this one.
        let heads = HeadMap::ropepp(n[0].min(1 << 12));
        let pairing = Pairing::HalfBlocks(n[6]);
        let _ = RopeProblem { rotary_dim: n[4], pairing, ..RopeProblem::new(n[0], n[1], n[2]) }
            .plan(&caps);
        let _ = MergeProblem::new(n[3]).plan(&caps);
        let _ = ScoresProblem {
            rotary_dim: n[4],
            pairing,
            ..ScoresProblem::new(n[0].min(1 << 12), n[1], n[2])
        }
        .plan(&caps);
        let cache =
            CacheFormat { value_dim: n[3], k: CacheType::Int8, ..CacheFormat::new(n[1], n[2]) };
        let _ = KvAppendProblem { rotary_dim: n[4], pairing, ..KvAppendProblem::new(cache) }
            .plan(&caps);
        let _ = Layout::bhsd([n[0], n[1], n[2], n[3]]);
        let _ = Layout::bshd([n[0], n[1], n[2], n[3]]);
        let _ = Layout::packed([n[0], n[1], n[2], n[3]], n[4], n[5]);
        let _ =
            RopeConfig { rotary_dim: n[4], ..RopeConfig::new(n[2].min(1 << 16), f64::from(n[5])) }
                .frequencies(n[9].into());
        let Ok(heads) = heads else { return Ok(()) };
        let attention = AttentionProblem {
            value_dim: n[3],
            rotary_dim: n[4],
            window: Some(n[5]),
            ..AttentionProblem::new(heads.clone(), n[1], n[2])
        };
        if let Ok(plan) = attention.plan(&caps) {
            let _ = plan.cost(&AttentionShape::new(n[7], n[8], n[9])).to_string();
        }
        let linear = LinearAttentionProblem {
            value_dim: n[3],
            rotary_dim: n[4],
            pairing,
            ..LinearAttentionProblem::new(heads.clone(), n[1], n[2])
        };
        if let Ok(plan) = linear.plan(&caps) {
            let _ = plan.cost(&LinearAttentionShape::new(n[7], n[9]));
        }
        let decode = DecodeProblem {
            max_seq_q: n[8],
            window: Some(n[5]),
            ..DecodeProblem::new(heads, cache, n[7], n[9])
        };
        if let Ok(plan) = decode.plan(&caps) {
            let _ = (
                plan.workspace_bytes(&plan.problem().largest()),
                plan.cost_over(&DecodeShape { batch: n[7], seq_q: n[8] }, n[9]),
            );
        }
        Ok(())
    });
}
