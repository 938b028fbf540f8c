//! Optional: the attention tile that is fastest on the caller's device, found by timing.
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
mod measure;

use std::time::{Duration, Instant};

pub use choice::Choice;
use measure::Bench;

use crate::attention::Attention;
use crate::plan::attention::{
    AttentionPlan, AttentionProblem, AttentionShape, Keys, Outputs, Queries, Tile,
};
use crate::plan::cache::CacheType;
use crate::{Capabilities, DType, Result};

/// What a tuner found.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning {
    /// The fastest tile.
    pub choice: Choice,
    /// Every tile that was timed, the default first, and milliseconds of one call.
    pub trials: Vec<(Tile, f64)>,
    /// Tiles that computed something else than the default one did, which only a broken compiler
    /// or driver can bring about. They are never chosen.
    pub wrong: Vec<Tile>,
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
    let bench = Bench::new(device, queue, &dense, shape)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());

    let mut trials: Vec<(Tile, f64)> = Vec::new();
    let mut wrong = Vec::new();
    let mut expected = None;
    for (i, batch) in tiles.chunks(threads).enumerate() {
        if i > 0 && Instant::now() >= end {
            break;
        }
        for (n, (tile, kernel)) in compile(device, &dense, caps, batch).into_iter().enumerate() {
            let call = bench.bind(&kernel?)?;
            if n == 0 {
                bench.warm(&call);
            }
            let out = bench.run(&call);
            match &expected {
                None => expected = Some(out),
                Some(expected) if !measure::agree(expected, &out) => {
                    wrong.push(tile);
                    continue;
                }
                Some(_) => {}
            }
            let limit = trials.iter().map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min);
            trials.push((tile, bench.time(&call, limit)));
            if Instant::now() >= end {
                break;
            }
        }
    }
    let default_ms = trials.first().map_or(f64::NAN, |(_, ms)| *ms);
    let best = trials.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    let (tile, ms) = best.unwrap_or((tiles[0], f64::NAN));
    let choice = Choice::new(caps, problem, shape, tile, ms, default_ms);
    Ok(Tuning { choice, trials, wrong, candidates: tiles.len() })
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

/// Compiles a kernel for each tile, side by side.
fn compile(
    device: &wgpu::Device,
    problem: &AttentionProblem,
    caps: &Capabilities,
    tiles: &[Tile],
) -> Vec<(Tile, Result<Attention>)> {
    std::thread::scope(|scope| {
        let build = |tile: Tile| {
            let plan = AttentionPlan::with_tile(problem, caps, tile);
            (tile, plan.and_then(|plan| Attention::new(device, &plan)))
        };
        let handles: Vec<_> = tiles.iter().map(|&tile| scope.spawn(move || build(tile))).collect();
        handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
    })
}
