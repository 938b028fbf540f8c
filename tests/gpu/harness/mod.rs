//! The device that all tests share, its compiled kernels, and what every test is made of.

mod cache;
mod every_kernel;
mod fault;
mod placed;
mod rotation;

use std::{
    cell::Cell,
    collections::HashMap,
    error::Error,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use phasor::attention::{Attention, AttentionPlan};
use phasor::attention_backward::{AttentionBackward, AttentionBackwardPlan};
use phasor::decode::{Decode, DecodePlan};
use phasor::kv_move::{KvMove, KvMoveProblem};
use phasor::linear_attention::{LinearAttention, LinearAttentionProblem};
use phasor::linear_attention_backward::{LinearAttentionBackward, LinearAttentionBackwardProblem};
use phasor::rope::{Rope, RopeProblem};
use phasor::scores::{Scores, ScoresProblem};
use phasor::{Capabilities, DType, KernelKind, wgpu};
use phasor_kit::{gpu::Gpu, tolerance};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

pub use cache::{HostCache, Slots, within_a_code};
pub use every_kernel::every_kernel;
pub use fault::{Fault, execute, with_fault};
pub use placed::{Place, Placed};
pub use rotation::{Ids, Rotation};

pub type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// A test of each kernel, or why there is none.
pub type KernelTests =
    [(KernelKind, std::result::Result<fn(), &'static str>); KernelKind::ALL.len()];

/// A device and the kernels that were compiled on it.
pub struct Lab {
    pub gpu: Gpu,
    attention: Mutex<HashMap<String, Attention>>,
    backward: Mutex<HashMap<String, AttentionBackward>>,
    ropes: Mutex<HashMap<String, Rope>>,
    linear: Mutex<HashMap<String, LinearAttention>>,
    linear_backward: Mutex<HashMap<String, LinearAttentionBackward>>,
    decodes: Mutex<HashMap<String, Decode>>,
    moves: Mutex<HashMap<String, KvMove>>,
    scores: Mutex<HashMap<String, Scores>>,
}

/// Devices that tests run on side by side: a software adapter compiles the shaders of one device
/// one after another.
const DEVICES: usize = 2;

/// The adapter with all that it has. Tests that run at the same time have devices of their own, as
/// far as there are some.
pub fn lab() -> &'static Lab {
    static LABS: [OnceLock<Lab>; DEVICES] = [const { OnceLock::new() }; DEVICES];
    let place = Seat::mine();
    take_turns(LABS[place].get_or_init(|| Lab::new(Gpu::new())))
}

/// A test's place among [`DEVICES`]: the least used one at its beginning, held to its end.
struct Seat(usize);

static SEATS: Mutex<[usize; DEVICES]> = Mutex::new([0; DEVICES]);

impl Seat {
    fn mine() -> usize {
        thread_local! {
            // Every test has a thread of its own, and what a thread holds goes with it.
            static SEAT: Seat = Seat::take();
        }
        SEAT.with(|seat| seat.0)
    }

    fn take() -> Self {
        let mut seats = SEATS.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..DEVICES).min_by_key(|&i| seats[i]).unwrap_or(0);
        seats[free] += 1;
        Self(free)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        SEATS.lock().unwrap_or_else(PoisonError::into_inner)[self.0] -= 1;
    }
}

/// On OpenGL, tests run one at a time: a context belongs to one thread, and wgpu gives up waiting
/// for it after a second, which is less than a software adapter takes to compile a shader.
fn take_turns(lab: &'static Lab) -> &'static Lab {
    static ALL: Mutex<()> = Mutex::new(());
    thread_local! {
        static TURN: Cell<Option<MutexGuard<'static, ()>>> = const { Cell::new(None) };
    }
    if lab.gpu.info.backend == wgpu::Backend::Gl {
        TURN.with(|turn| {
            let mine = turn.take();
            let mine = mine.unwrap_or_else(|| ALL.lock().unwrap_or_else(PoisonError::into_inner));
            turn.set(Some(mine));
        });
    }
    lab
}

/// Workgroups that [`narrow`] takes along one dimension.
pub const NARROW_WORKGROUPS: u32 = 7;
/// Bytes that [`narrow`] binds.
pub const NARROW_BINDING: u64 = 1 << 18;

/// The same adapter with the least that WebGPU promises, and with so few workgroups and so small
/// bindings that tests can reach their ends.
pub fn narrow() -> &'static Lab {
    static NARROW: OnceLock<Lab> = OnceLock::new();
    let narrow = NARROW.get_or_init(|| {
        let least = wgpu::Limits::defaults();
        let limits = |all| wgpu::Limits {
            max_compute_workgroups_per_dimension: NARROW_WORKGROUPS,
            max_storage_buffer_binding_size: NARROW_BINDING,
            max_compute_workgroup_storage_size: least.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: least.max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x: least.max_compute_workgroup_size_x,
            max_storage_buffers_per_shader_stage: least.max_storage_buffers_per_shader_stage,
            min_storage_buffer_offset_alignment: least.min_storage_buffer_offset_alignment,
            ..all
        };
        Lab::new(Gpu::with(|adapter| {
            (limits(adapter.limits()), adapter.features() & Capabilities::MATRIX_FEATURES)
        }))
    });
    take_turns(narrow)
}

impl Lab {
    fn new(gpu: std::result::Result<Gpu, String>) -> Self {
        // There is nothing to test without a device, and a test that does not test must not pass.
        let gpu = gpu.unwrap_or_else(|why| panic!("{why}"));
        println!("{} ({:?}, {})", gpu.info.name, gpu.info.backend, gpu.info.driver_info);
        Self {
            gpu,
            attention: Mutex::default(),
            backward: Mutex::default(),
            ropes: Mutex::default(),
            decodes: Mutex::default(),
            moves: Mutex::default(),
            scores: Mutex::default(),
            linear: Mutex::default(),
            linear_backward: Mutex::default(),
        }
    }

    /// Plans share what is compiled where their shaders are the same.
    pub fn attention(&self, plan: &AttentionPlan) -> Result<Attention> {
        let device = &self.gpu.device;
        let key = format!("{:?}", plan.shader());
        let kernel = cached(&self.attention, key, || Attention::new(device, plan))?;
        Ok(kernel.reuse(device, plan)?.ok_or("the same shader, but not to be shared")?)
    }

    /// Likewise.
    pub fn attention_backward(&self, plan: &AttentionBackwardPlan) -> Result<AttentionBackward> {
        let device = &self.gpu.device;
        let key = format!("{:?}", plan.shaders());
        let kernel = cached(&self.backward, key, || AttentionBackward::new(device, plan))?;
        Ok(kernel.reuse(device, plan)?.ok_or("the same shaders, but not to be shared")?)
    }

    pub fn linear_attention(
        &self,
        problem: &LinearAttentionProblem,
    ) -> phasor::Result<LinearAttention> {
        cached(&self.linear, format!("{problem:?}"), || {
            LinearAttention::new(&self.gpu.device, &problem.plan(&self.gpu.capabilities())?)
        })
    }

    pub fn linear_attention_backward(
        &self,
        problem: &LinearAttentionBackwardProblem,
    ) -> phasor::Result<LinearAttentionBackward> {
        cached(&self.linear_backward, format!("{problem:?}"), || {
            LinearAttentionBackward::new(&self.gpu.device, &problem.plan(&self.gpu.capabilities())?)
        })
    }

    /// A kernel for the plan; one that another plan compiled serves, where the shaders are the
    /// same.
    pub fn decode(&self, plan: &DecodePlan) -> phasor::Result<Decode> {
        let shader = format!("{:?}", plan.shader());
        let kernel = cached(&self.decodes, shader, || Decode::new(&self.gpu.device, plan))?;
        let again = kernel.reuse(&self.gpu.device, plan)?;
        again.map_or_else(|| Decode::new(&self.gpu.device, plan), Ok)
    }

    pub fn scores(&self, problem: &ScoresProblem) -> phasor::Result<Scores> {
        cached(&self.scores, format!("{problem:?}"), || {
            Scores::new(&self.gpu.device, &problem.plan(&self.gpu.capabilities())?)
        })
    }

    pub fn kv_move(&self, problem: &KvMoveProblem) -> phasor::Result<KvMove> {
        cached(&self.moves, format!("{problem:?}"), || {
            KvMove::new(&self.gpu.device, &problem.plan(&self.gpu.capabilities())?)
        })
    }

    pub fn rope(&self, problem: &RopeProblem) -> phasor::Result<Rope> {
        cached(&self.ropes, format!("{problem:?}"), || {
            Rope::new(&self.gpu.device, &problem.plan(&self.gpu.capabilities())?)
        })
    }
}

fn cached<K: Clone>(
    cache: &Mutex<HashMap<String, K>>,
    key: String,
    compile: impl FnOnce() -> phasor::Result<K>,
) -> phasor::Result<K> {
    let lock = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    let known = lock().get(&key).cloned();
    // Compiled outside of the lock: two tests may compile at the same time.
    known.map_or_else(
        || {
            let kernel = compile()?;
            Ok(lock().entry(key).or_insert(kernel).clone())
        },
        Ok,
    )
}

/// Numbers of a tensor, evenly spread over ±`size`, as `dtype` holds them.
pub fn random(shape: [u32; 4], size: f32, dtype: DType, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let elements: usize = shape.iter().map(|&n| n as usize).product();
    let data: Vec<f32> = (0..elements).map(|_| rng.random_range(-size..=size)).collect();
    tolerance::stored(&data, dtype)
}

pub fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Runs every case of a table and fails with the names of all that went wrong.
pub fn run_table<'a, C: 'a>(
    cases: impl IntoIterator<Item = &'a (String, C)>,
    run: impl Fn(&C) -> Result,
) {
    let mut count = 0;
    let mut wrong = Vec::new();
    for (name, case) in cases {
        count += 1;
        if let Err(error) = run(case) {
            wrong.push(format!("  {name}: {error}"));
        }
    }
    assert!(count > 0, "an empty table proves nothing");
    assert!(wrong.is_empty(), "{} of {count} cases failed:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} cases");
}
