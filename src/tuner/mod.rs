//! Optional: the tiles of attention, of its backward pass or of decode that are fastest on the
//! caller's device, found by timing.
//!
//! Plans are good without it: their tiles come from a table. A tuner pays where one kernel will run
//! for hours on a device that the table's authors never saw. It **submits work and waits for it**,
//! as [`selftest`](crate::selftest()) does, and allocates tensors of its own. Run it at start-up,
//! or once and keep its choice: [`Choice`] prints itself as one line of text that parses back, and
//! is refused where adapter, driver, crate version or problem are others.
//!
//! ```no_run
//! # use phasor::attention::{AttentionProblem, AttentionShape};
//! # use phasor::{Capabilities, HeadMap, tuner, wgpu};
//! # fn f(device: &wgpu::Device, queue: &wgpu::Queue) -> phasor::Result<()> {
//! let problem = AttentionProblem::new(HeadMap::ropepp(8)?, 2, 64);
//! let shape = AttentionShape::new(1, 2048, 2048);
//! let budget = std::time::Duration::from_secs(10);
//! let choice = tuner::attention(device, queue, &problem, &shape, budget)?.choice;
//! let line = choice.to_string(); // keep this
//! let plan = line.parse::<tuner::Choice>()?.plan(&problem, &Capabilities::of(device))?;
//! # Ok(()) }
//! ```

mod choice;
mod decode;
mod measure;

use std::time::{Duration, Instant};

pub use choice::{Choice, Tiles};
pub use decode::decode;
use measure::{BackwardCall, Bench, Call};

use crate::attention::Attention;
use crate::attention_backward::AttentionBackward;
use crate::plan::attention::{
    AttentionPlan, AttentionProblem, AttentionShape, Keys, Outputs, Queries, Tile,
};
use crate::plan::attention_backward::{self as backward, AttentionBackwardPlan};
use crate::plan::cache::CacheType;
use crate::{Capabilities, DType, Dispatch, Result};

/// What a tuner found.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning<T = Tile> {
    /// The fastest tile, or tiles.
    pub choice: Choice<T>,
    /// Every tile that was timed, the default first, and milliseconds of one call.
    pub trials: Vec<(T, f64)>,
    /// Tiles that computed something else than the default one did, which only a broken compiler
    /// or driver can bring about. They are never chosen.
    pub wrong: Vec<T>,
    /// Legal tiles, of which the budget may have cut off the last.
    pub candidates: usize,
}

/// Times the tiles of [`Tile::candidates`] on calls of `shape` until `budget` is used up (the
/// compilation and timing of tiles in hand is finished, so it may be passed by seconds). Pipelines
/// are compiled on as many threads as the machine has cores.
///
/// Timed are dense calls with `problem`'s dimensions, storage and score options; raggedness, pages,
/// bias, prefix, hooks and block lists are left out, since they do not move the optimum much and
/// need the caller's data.
///
/// # Errors
/// As [`AttentionProblem::plan`] and [`Attention::bind`].
pub fn attention(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    problem: &AttentionProblem,
    shape: &AttentionShape,
    budget: Duration,
) -> Result<Tuning> {
    attention_with(device, queue, &Capabilities::of(device), problem, shape, budget)
}

/// The same with what is known of the device: its matrix units
/// ([`Capabilities::with_adapter`] and the report of a self-test), and what is quarantined.
///
/// # Errors
/// As [`attention`].
pub fn attention_with(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    caps: &Capabilities,
    problem: &AttentionProblem,
    shape: &AttentionShape,
    budget: Duration,
) -> Result<Tuning> {
    let end = Instant::now() + budget;
    let dense = dense(problem);
    let tiles = Tile::candidates(&dense, caps)?;
    let call = Call::new(device, &dense, shape)?;
    let prepare = |tile| {
        let plan = AttentionPlan::with_tile(&dense, caps, tile)?;
        call.bind(device, &Attention::new(device, &plan)?)
    };
    let mut trials = Trials::new(Bench::new(device, queue, call.outputs()), end);
    trials.run(&tiles, prepare)?;
    let described = (caps, choice::describe(problem), choice::sizes(shape));
    Ok(trials.tuning(described, tiles[0], tiles.len()))
}

/// Times the tiles of [`AttentionBackwardPlan::candidates`] as [`attention`] does its own: first
/// those of dQ, then, with the best of them, those of dK and dV. Every trial is a whole backward
/// call, with respect to rotated vectors.
///
/// # Errors
/// As [`AttentionBackwardProblem::plan`](backward::AttentionBackwardProblem::plan) and
/// [`AttentionBackward::bind`].
pub fn attention_backward(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    problem: &backward::AttentionBackwardProblem,
    shape: &AttentionShape,
    budget: Duration,
) -> Result<Tuning<[backward::Tile; 2]>> {
    let end = Instant::now() + budget;
    let caps = Capabilities::of(device);
    let forward = dense(&problem.attention);
    let forward = AttentionProblem { sinks: Vec::new(), resumable: false, ..forward };
    let dense = backward::AttentionBackwardProblem::new(forward);
    let plan = dense.plan(&caps)?;
    let [of_queries, of_keys] = AttentionBackwardPlan::candidates(&dense, &caps)?;
    let candidates = of_queries.len() + of_keys.len() - 1;
    let default = [of_queries[0], of_keys[0]];
    let call = BackwardCall::new(device, &plan, shape)?;
    let prepare = |tiles| {
        let plan = AttentionBackwardPlan::with_tiles(&dense, &caps, tiles)?;
        call.bind(device, &AttentionBackward::new(device, &plan)?)
    };
    let described = choice::describe_backward(problem);
    let mut trials = Trials::new(Bench::new(device, queue, call.outputs()), end);
    let pairs: Vec<_> = of_queries.iter().map(|&tile| [tile, of_keys[0]]).collect();
    trials.run(&pairs, prepare)?;
    let best = trials.best().map_or(of_queries[0], |(tiles, _)| tiles[0]);
    let pairs: Vec<_> = of_keys[1..].iter().map(|&tile| [best, tile]).collect();
    trials.run(&pairs, prepare)?;
    Ok(trials.tuning((&caps, described, choice::sizes(shape)), default, candidates))
}

/// Tiles that were tried so far.
struct Trials<'a, T> {
    bench: Bench<'a>,
    end: Instant,
    expected: Option<Vec<f32>>,
    timed: Vec<(T, f64)>,
    wrong: Vec<T>,
}

impl<'a, T: Tiles + Send> Trials<'a, T> {
    fn new(bench: Bench<'a>, end: Instant) -> Self {
        Self { bench, end, expected: None, timed: Vec::new(), wrong: Vec::new() }
    }

    /// Prepares calls side by side and times them one after the other. The very first is alone, and
    /// is timed whatever the budget.
    fn run(&mut self, tiles: &[T], prepare: impl Fn(T) -> Result<Dispatch> + Sync) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let (first, rest) = tiles.split_at(tiles.len().min(usize::from(self.expected.is_none())));
        for batch in core::iter::once(first).chain(rest.chunks(threads)) {
            if self.expected.is_some() && Instant::now() >= self.end {
                break;
            }
            for (tile, call) in side_by_side(batch, &prepare) {
                self.time(tile, &call?);
                if Instant::now() >= self.end {
                    break;
                }
            }
        }
        Ok(())
    }

    fn time(&mut self, tile: T, call: &Dispatch) {
        if self.expected.is_none() {
            self.bench.warm(call);
        }
        let out = self.bench.run(call);
        match &self.expected {
            None => self.expected = Some(out),
            Some(expected) if !measure::agree(expected, &out) => {
                self.wrong.push(tile);
                return;
            }
            Some(_) => {}
        }
        let limit = self.best().map_or(f64::INFINITY, |(_, ms)| ms);
        self.timed.push((tile, self.bench.time(call, limit)));
    }

    fn best(&self) -> Option<(T, f64)> {
        self.timed.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn tuning(
        self,
        (caps, problem, shape): (&Capabilities, String, String),
        default: T,
        candidates: usize,
    ) -> Tuning<T> {
        let default_ms = self.timed.first().map_or(f64::NAN, |(_, ms)| *ms);
        let (tile, ms) = self.best().unwrap_or((default, f64::NAN));
        let choice = Choice::new(caps, problem, shape, tile, ms, default_ms);
        Tuning { choice, trials: self.timed, wrong: self.wrong, candidates }
    }
}

/// The problem without what needs the caller's data.
fn dense(problem: &AttentionProblem) -> AttentionProblem {
    let kv_dtype = match problem.cache().k {
        CacheType::F32 => DType::F32,
        // Of what is not a tensor, the nearest.
        CacheType::F16 | CacheType::Int8 | CacheType::Q4 => DType::F16,
    };
    AttentionProblem {
        kv_dtype,
        rotate_q: false,
        bias: None,
        score_mod: None,
        mask_mod: None,
        block_list: false,
        prefix: false,
        queries: Queries::Batched,
        keys: Keys::Batched,
        outputs: Outputs::Merged,
        lse: false,
        ..problem.clone()
    }
}

/// What comes of each tile, on as many threads.
fn side_by_side<T: Copy + Send, R: Send>(
    tiles: &[T],
    prepare: &(impl Fn(T) -> R + Sync),
) -> Vec<(T, R)> {
    std::thread::scope(|scope| {
        let start = |&tile: &T| scope.spawn(move || (tile, prepare(tile)));
        let handles: Vec<_> = tiles.iter().map(start).collect();
        handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
    })
}
