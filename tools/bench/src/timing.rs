//! Times dispatches by two clocks: timestamps around the pass, and the wall.

use std::time::Instant;

use phasor::wgpu;
use phasor_kit::gpu::Gpu;

/// What one call took.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Between the pass's timestamps, where the adapter has them.
    pub pass_ms: Option<f64>,
    /// A share of a submission of many calls and the wait for it, less the cost of an empty one.
    pub wall_ms: f64,
}

impl Time {
    /// The time to judge by: the pass's, unless the two clocks disagree.
    pub fn ms(&self) -> f64 {
        self.pass_ms.filter(|_| !self.disagree()).unwrap_or(self.wall_ms)
    }

    /// Whether the clocks are more than a fifth apart. Drivers have been seen to attribute time to
    /// the wrong pass, and to write zeros.
    pub fn disagree(&self) -> bool {
        let Some(pass) = self.pass_ms else { return false };
        (pass - self.wall_ms).abs() > 0.2 * self.wall_ms.max(pass)
    }

    fn faster(self, other: Self) -> Self {
        Self {
            pass_ms: self.pass_ms.zip(other.pass_ms).map(|(a, b)| a.min(b)),
            wall_ms: self.wall_ms.min(other.wall_ms),
        }
    }
}

/// What calls took that were run in turns, round after round.
pub struct Race {
    /// The fastest round of each call.
    pub best: Vec<Time>,
    /// Milliseconds by round and call.
    rounds: Vec<Vec<f64>>,
}

impl Race {
    /// How much longer one call took than another: the median over the rounds, in each of which
    /// both ran one after the other, at whatever speed the machine had just then.
    pub fn ratio(&self, call: usize, to: usize) -> f64 {
        let mut ratios: Vec<f64> = self.rounds.iter().map(|ms| ms[call] / ms[to]).collect();
        ratios.sort_by(f64::total_cmp);
        (ratios[(ratios.len() - 1) / 2] + ratios[ratios.len() / 2]) / 2.0
    }
}

/// Records a call into a pass.
pub type Call<'a> = &'a dyn Fn(&mut wgpu::ComputePass<'_>);

pub struct Clock<'a> {
    pub gpu: &'a Gpu,
    rounds: usize,
    /// Nanoseconds a tick, where there are timestamps.
    period: Option<f64>,
    /// Wall time of a submission with nothing in it.
    pub empty_ms: f64,
}

/// A submission is made this long at least, so that its fixed costs are small.
const BATCH_MS: f64 = 20.0;
const MOST_CALLS: u32 = 4096;
const WARM_MS: f64 = 300.0;

impl<'a> Clock<'a> {
    pub fn new(gpu: &'a Gpu, rounds: usize) -> Self {
        let timestamps = gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let period = timestamps.then(|| f64::from(gpu.queue.get_timestamp_period()));
        let mut clock = Self { gpu, rounds, period, empty_ms: 0.0 };
        let nothing: Call<'_> = &|_| {};
        clock.submit(nothing, 1);
        clock.empty_ms = (0..20).map(|_| clock.submit(nothing, 1).wall_ms).fold(f64::MAX, f64::min);
        clock
    }

    /// Several rounds of every call, taken in turns, so that what disturbs the machine disturbs all
    /// of them alike. Each call has run before.
    pub fn race(&self, calls: &[Call<'_>]) -> Race {
        self.warm(calls[0]);
        let (counts, mut best): (Vec<u32>, Vec<Time>) =
            calls.iter().map(|call| self.first_batch(call)).unzip();
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let mut round = Vec::new();
            for ((best, call), &n) in best.iter_mut().zip(calls).zip(&counts) {
                let time = self.submit(call, n);
                *best = best.faster(time);
                round.push(time.ms());
            }
            rounds.push(round);
        }
        Race { best, rounds }
    }

    /// A GPU that was idle while inputs and references were computed takes a while to come back to
    /// its clocks; an H100 ran the first kernels after a pause of seconds at a third of its speed.
    fn warm(&self, call: Call<'_>) {
        let start = Instant::now();
        while start.elapsed().as_secs_f64() * 1e3 < WARM_MS {
            self.submit(call, 1);
        }
    }

    /// How many calls make a batch long enough, and the time of one in such a batch.
    fn first_batch(&self, call: Call<'_>) -> (u32, Time) {
        let mut n = 1;
        loop {
            let time = self.submit(call, n);
            if time.wall_ms * f64::from(n) >= BATCH_MS || n >= MOST_CALLS {
                return (n, time);
            }
            n *= 4;
        }
    }

    /// `n` calls in one pass and one submission.
    fn submit(&self, call: Call<'_>, n: u32) -> Time {
        let device = &self.gpu.device;
        let stamps = self.period.map(|period| {
            let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let resolved = device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (period, queries, resolved)
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: stamps.as_ref().map(|(_, queries, _)| {
                wgpu::ComputePassTimestampWrites {
                    query_set: queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }
            }),
        });
        for _ in 0..n {
            call(&mut pass);
        }
        drop(pass);
        if let Some((_, queries, resolved)) = &stamps {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.gpu.queue.submit([commands]);
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is lost");
        let wall = start.elapsed().as_secs_f64() * 1e3 - self.empty_ms;
        let pass_ms = stamps.map(|(period, _, resolved)| {
            let bytes = self.gpu.download_bytes(&resolved);
            let ticks: Vec<u64> = bytes
                .chunks_exact(8)
                .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
                .collect();
            ticks[1].saturating_sub(ticks[0]) as f64 * period * 1e-6 / f64::from(n)
        });
        Time { pass_ms, wall_ms: wall.max(0.0) / f64::from(n) }
    }
}

/// One line a figure; says so where the clocks disagree.
pub fn print(name: &str, time: &Time, figures: &str) {
    let pass = time.pass_ms.map_or("       -".into(), |ms| format!("{ms:8.3}"));
    let warning = if time.disagree() { "  (the clocks disagree)" } else { "" };
    println!("  {name:44} {pass} ms pass {:8.3} ms wall  {figures}{warning}", time.wall_ms);
}
