//! Submitting a probe and judging what comes back.

use core::fmt;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::memory::{GUARD, POISON};
use super::probes::{Expected, Probe, Ready};
use super::{Finding, Outcome};
use crate::{DType, Error};

/// A probe whose results are on their way.
pub(super) struct Pending {
    probe: String,
    suspects: Vec<crate::plan::Suspect>,
    outputs: Vec<Returning>,
    /// Validation and internal errors on the way.
    errors: Vec<Errors>,
}

#[cfg(not(target_arch = "wasm32"))]
type Errors = Pin<Box<dyn Future<Output = Option<wgpu::Error>> + Send>>;
#[cfg(target_arch = "wasm32")]
type Errors = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

struct Returning {
    staging: wgpu::Buffer,
    mapped: Arc<AtomicU8>,
    expected: Expected,
}

const UNDER_WAY: u8 = 0;
const MAPPED: u8 = 1;
const LOST: u8 = 2;

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("probe", &self.probe).finish_non_exhaustive()
    }
}

/// A probe under way, or what was found out already.
type Submitted = Result<Pending, Finding>;

impl Pending {
    /// Submits every probe. Drivers compile for most of the time, and most of them several shaders
    /// at once: so each core takes a probe, and then the next.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn submit_all(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        probes: Vec<Probe>,
    ) -> Vec<Submitted> {
        use std::sync::{Mutex, PoisonError};
        use std::thread;

        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let helpers = cores.min(probes.len()).saturating_sub(1);
        let waiting = Mutex::new(probes.into_iter().enumerate());
        let submitted = Mutex::new(Vec::new());
        let work = || {
            loop {
                let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((i, probe)) = next else { break };
                let outcome = Self::submit(device, queue, probe);
                let mut submitted = submitted.lock().unwrap_or_else(PoisonError::into_inner);
                submitted.push((i, outcome));
            }
        };
        thread::scope(|scope| {
            for _ in 0..helpers {
                // Without a thread, the others have more to do.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let mut submitted = submitted.into_inner().unwrap_or_else(PoisonError::into_inner);
        submitted.sort_by_key(|&(i, _)| i);
        submitted.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Submits every probe: a browser's device belongs to one thread.
    #[cfg(target_arch = "wasm32")]
    pub(super) fn submit_all(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        probes: Vec<Probe>,
    ) -> Vec<Submitted> {
        probes.into_iter().map(|probe| Self::submit(device, queue, probe)).collect()
    }

    /// Compiles, records and submits a probe, and asks for its outputs. A probe that no plan fits
    /// is a finding already.
    fn submit(device: &wgpu::Device, queue: &wgpu::Queue, probe: Probe) -> Submitted {
        let Probe { name, suspects, ready } = probe;
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation];
        let mut scopes = filters.map(|filter| device.push_error_scope(filter)).into_iter();
        let ready = ready(device);
        let outputs = ready.map(|ready| Self::run(device, queue, ready));
        // Scopes close in the opposite order.
        let mut errors: Vec<Errors> = Vec::new();
        while let Some(scope) = scopes.next_back() {
            errors.push(Box::pin(scope.pop()));
        }
        match outputs {
            Ok(outputs) => Ok(Self { probe: name, suspects, outputs, errors }),
            Err(error) => {
                let reason = error.to_string();
                let outcome = match error {
                    Error::Limit { .. } | Error::Feature { .. } | Error::Quarantined { .. } => {
                        Outcome::NotRun { reason }
                    }
                    _ => Outcome::Failed { reason },
                };
                Err(Finding { probe: name, suspects, outcome })
            }
        }
    }

    fn run(device: &wgpu::Device, queue: &wgpu::Queue, ready: Ready) -> Vec<Returning> {
        let mut encoder = device.create_command_encoder(&Default::default());
        ready.dispatch.encode(&mut encoder);
        let mut returning = Vec::new();
        for (output, expected) in ready.outputs {
            let (buffer, offset, size) = ready.memory.guarded(output);
            let staging = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("self-test"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
            returning.push(Returning { staging, mapped: Arc::default(), expected });
        }
        queue.submit([encoder.finish()]);
        for Returning { staging, mapped, .. } in &returning {
            let mapped = Arc::clone(mapped);
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                mapped.store(if result.is_ok() { MAPPED } else { LOST }, Ordering::Release);
            });
        }
        returning
    }

    pub(super) fn is_ready(&mut self) -> bool {
        self.outputs.iter().all(|output| output.mapped.load(Ordering::Acquire) != UNDER_WAY)
    }

    /// What the outputs say.
    pub(super) fn judge(mut self) -> Finding {
        let mut context = Context::from_waker(Waker::noop());
        for error in &mut self.errors {
            // Known by the time that a later submission's result has come back.
            if let Poll::Ready(Some(error)) = pin!(error).poll(&mut context) {
                return self.failed(&error.to_string());
            }
        }
        let (mut error, mut bound) = (0.0, 0.0);
        for output in &self.outputs {
            let judged = output.read().and_then(|got| output.expected.judge(&got));
            match judged {
                // Of several outputs, the one that comes closest to its bound.
                Ok((e, b)) if bound == 0.0 || e * bound > error * b => (error, bound) = (e, b),
                Ok(_) => {}
                Err(reason) => return self.failed(&reason),
            }
        }
        let outcome = Outcome::Passed { error, bound };
        Finding { probe: self.probe, suspects: self.suspects, outcome }
    }

    pub(super) fn failed(self, reason: &str) -> Finding {
        let outcome = Outcome::Failed { reason: reason.to_owned() };
        Finding { probe: self.probe, suspects: self.suspects, outcome }
    }
}

impl Returning {
    fn read(&self) -> Result<Vec<f32>, String> {
        if self.mapped.load(Ordering::Acquire) != MAPPED {
            return Err("the result could not be read back".to_owned());
        }
        let bytes = self.staging.get_mapped_range(..).map_err(|error| error.to_string())?;
        let inner = GUARD as usize..bytes.len() - GUARD as usize;
        let guards = bytes[..inner.start].chunks_exact(4).chain(bytes[inner.end..].chunks_exact(4));
        if guards.into_iter().any(|word| word != POISON) {
            return Err(format!("{}: memory beside it was written", self.expected.what));
        }
        let words = bytes[inner].chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
        let numbers = match self.expected.dtype {
            DType::F32 => words.map(f32::from_le_bytes).collect(),
            DType::F16 => words
                .flat_map(|[a, b, c, d]| [[a, b], [c, d]])
                .map(|half| half::f16::from_le_bytes(half).to_f32())
                .collect(),
        };
        Ok(numbers)
    }
}

impl Expected {
    /// The largest error and its bound, or what is wrong.
    pub(super) fn judge(&self, got: &[f32]) -> Result<(f64, f64), String> {
        let Self { what, truth, bound, .. } = self;
        let Some(got) = got.get(..truth.len()) else {
            return Err(format!("{what}: {} of {} numbers", got.len(), truth.len()));
        };
        if got.iter().all(|&x| x == 0.0) && truth.iter().any(|&x| x != 0.0) {
            return Err(format!("{what}: nothing but zeros, as if nothing had been computed"));
        }
        let mut largest = 0.0_f64;
        for (i, (&got, &truth)) in got.iter().zip(truth).enumerate() {
            let error = (f64::from(got) - truth).abs();
            if error.is_nan() || error > *bound {
                return Err(format!(
                    "{what}: number {i} is {got}, where {truth:.6} was due, within {bound:.1e}"
                ));
            }
            largest = largest.max(error);
        }
        Ok((largest, *bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        let truth = vec![1.0, -2.0, 0.0];
        Expected { what: "out", dtype: DType::F32, truth, bound: 1e-6 }
    }

    #[test]
    fn zeros_nans_and_wrong_numbers_fail() {
        let judge = |got: &[f32]| expected().judge(got);
        assert_eq!(judge(&[1.0, -2.0, 0.0, f32::NAN]), Ok((0.0, 1e-6)));
        assert!(judge(&[0.0; 3]).unwrap_err().contains("zeros"));
        assert!(judge(&[1.0, f32::NAN, 0.0]).unwrap_err().contains("number 1"));
        assert!(judge(&[1.0, -2.0, 1e-5]).unwrap_err().contains("number 2"));
        assert!(judge(&[1.0]).unwrap_err().contains("1 of 3"));
        assert!(judge(&[f32::INFINITY, -2.0, 0.0]).is_err());
    }
}
