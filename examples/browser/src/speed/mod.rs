//! How fast the device is: calls that are checked, then timed, in pieces that leave the page alive.

mod judge;
mod prefill;
mod steps;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use futures_channel::oneshot;
use phasor::{Dispatch, Part, wgpu};
use wasm_bindgen::prelude::*;

use crate::gpu::{Gpu, Shared};
use crate::{Result, thrown};
use judge::Judge;

/// Milliseconds that one submission should take, so that the page can draw between two.
const BUDGET: f64 = 8.0;

/// Operations of a submission while nothing is known of the device's speed.
const CAUTIOUS: f64 = 2e7;

/// Submissions under way at once: the device must not wait for the page.
const IN_FLIGHT: usize = 3;

#[wasm_bindgen]
extern "C" {
    /// Milliseconds since the page began to load.
    #[wasm_bindgen(js_namespace = performance)]
    pub fn now() -> f64;
}

/// Calls over tensors of one size, and what is known of them.
#[wasm_bindgen]
pub struct Trial {
    gpu: Rc<Shared>,
    calls: Vec<Dispatch>,
    flops: u64,
    bytes: u64,
    judge: Judge,
    /// Operations a millisecond, as far as is known; 0 where it is not.
    rate: Cell<f64>,
    /// Milliseconds of the checked run, where nothing was left to compile in it.
    checked: Cell<Option<f64>>,
    stopped: Cell<bool>,
}

#[wasm_bindgen]
impl Trial {
    /// Operations that the results need.
    #[wasm_bindgen(getter)]
    pub fn flops(&self) -> f64 {
        self.flops as f64
    }

    /// Bytes that have to move.
    #[wasm_bindgen(getter)]
    pub fn bytes(&self) -> f64 {
        self.bytes as f64
    }

    /// Dispatches that the calls were cut into.
    #[wasm_bindgen(getter)]
    pub fn parts(&self) -> usize {
        self.calls.iter().map(|call| call.parts().len()).sum()
    }

    /// Ends what runs, at the next submission.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Runs the calls once and compares some rows with the formula: the largest error, and what it
    /// may be. `progress` is told the share that is done.
    ///
    /// # Errors
    /// Where the device is lost, or the trial was stopped.
    pub async fn check(
        &self,
        progress: &js_sys::Function,
    ) -> std::result::Result<Vec<f64>, JsError> {
        let compiled = self.rate.get() > 0.0;
        let ms = self.run_once(progress).await.map_err(thrown)?;
        self.checked.set(compiled.then_some(ms));
        let judged = self.judge.judge(&self.gpu).await.map_err(thrown)?;
        Ok(judged.to_vec())
    }

    /// Milliseconds of one run of the calls, from as many as take `at_least` milliseconds.
    ///
    /// # Errors
    /// Where the device is lost, or the trial was stopped.
    pub async fn time(
        &self,
        at_least: f64,
        progress: &js_sys::Function,
    ) -> std::result::Result<f64, JsError> {
        self.timed(at_least, progress).await.map_err(thrown)
    }
}

impl Trial {
    fn new(gpu: &Gpu, calls: Vec<Dispatch>, work: [u64; 2], judge: Judge, rate: f64) -> Self {
        let [flops, bytes] = work;
        let (rate, checked, stopped) = (Cell::new(rate), Cell::default(), Cell::new(false));
        Self { gpu: gpu.shared(), calls, flops, bytes, judge, rate, checked, stopped }
    }

    async fn run_once(&self, progress: &js_sys::Function) -> Result<f64> {
        let start = now();
        self.submit(1, progress).await?;
        let ms = now() - start;
        Ok(ms)
    }

    async fn timed(&self, at_least: f64, progress: &js_sys::Function) -> Result<f64> {
        // The check has compiled and warmed up, or was a run as good as any. How many make
        // submissions of some length?
        let mut runs = 1_u32;
        let mut ms = match self.checked.get().filter(|&ms| ms >= at_least) {
            Some(ms) => ms,
            None => self.run_once(progress).await?,
        };
        while ms < at_least && runs < 1 << 12 {
            self.rate.set(self.flops as f64 * f64::from(runs) / ms);
            runs = (f64::from(runs) * (1.2 * at_least / ms).clamp(2.0, 16.0)) as u32;
            let start = now();
            self.submit(runs, progress).await?;
            ms = now() - start;
        }
        Ok(ms / f64::from(runs))
    }

    /// Runs the calls so often, in submissions of about the budget each.
    async fn submit(&self, runs: u32, progress: &js_sys::Function) -> Result<()> {
        let rate = self.rate.get();
        let budget = if rate > 0.0 { BUDGET * rate } else { CAUTIOUS };
        let parts: Vec<Part<'_>> = self.calls.iter().flat_map(Dispatch::parts).collect();
        // Parts of kernels that take no budget say no number: their share of the whole.
        let even = self.flops as f64 / parts.len().max(1) as f64;
        let all = parts.len() * runs as usize;
        let (mut first, mut under_way) = (0, VecDeque::new());
        while first < all {
            let mut flops = 0.0;
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            let start = first;
            while first < all {
                let part = parts[first % parts.len()];
                flops += part.flops().map_or(even, |flops| flops as f64);
                if first > start && flops > budget {
                    break;
                }
                part.encode(&mut encoder);
                first += 1;
            }
            self.gpu.queue.submit([encoder.finish()]);
            let (sender, receiver) = oneshot::channel::<()>();
            self.gpu.queue.on_submitted_work_done(move || {
                // Nobody listens any more where a trial was stopped.
                let _ = sender.send(());
            });
            under_way.push_back(receiver);
            if under_way.len() >= IN_FLIGHT
                && let Some(oldest) = under_way.pop_front()
            {
                oldest.await?;
                if self.stopped.get() {
                    return Err("stopped".into());
                }
                // A page that fails to draw its progress is no reason to end.
                let _ = progress.call1(&JsValue::NULL, &(first as f64 / all as f64).into());
            }
        }
        for receiver in under_way {
            receiver.await?;
        }
        self.gpu.done().await
    }
}

/// Numbers between −1 and 1, the same everywhere, of no pattern that a kernel could profit from.
fn numbers(len: u32, seed: u32) -> Vec<f32> {
    let mix = |i: u32| {
        let mut x = i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    };
    (1..=len).map(|i| (mix(i) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}
