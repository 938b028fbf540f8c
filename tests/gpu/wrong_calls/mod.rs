//! Calls that cannot be computed. Each is refused with the error that says why, before anything
//! reaches wgpu, and leaves the buffers as they were: a right call afterwards gives what it gave
//! before.

mod attention;
mod extremes;
mod linear;
mod missing;
mod plans;
mod rope;
mod scores;
mod serving;

use phasor::{Dispatch, Error, wgpu};
use phasor_kit::gpu::Gpu;

use crate::harness::Result;

/// Whether an error is the expected one, and how that is written.
#[derive(Clone, Copy)]
pub struct Expected {
    pub is: fn(&Error) -> bool,
    pub written: &'static str,
}

/// The error that a call is refused with, as a pattern.
macro_rules! error {
    ($($pattern:tt)*) => {
        $crate::wrong_calls::Expected {
            is: |error| matches!(error, phasor::Error::$($pattern)*),
            written: stringify!($($pattern)*),
        }
    };
}
use error;

impl Expected {
    /// Holds a refusal to it.
    fn check<T>(&self, result: phasor::Result<T>) -> Result {
        match result {
            Ok(_) => Err(format!("taken, though {} was due", self.written).into()),
            Err(error) if (self.is)(&error) => Ok(()),
            Err(error) => Err(format!("{error:?}, though {} was due", self.written).into()),
        }
    }
}

/// What `bind` gives; an error if wgpu had to complain about it.
fn bind_silently(
    gpu: &Gpu,
    bind: impl FnOnce() -> phasor::Result<Dispatch>,
) -> Result<phasor::Result<Dispatch>> {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let result = bind();
    match pollster::block_on(scope.pop()) {
        Some(error) => Err(format!("wgpu had to refuse it: {error}").into()),
        None => Ok(result),
    }
}

/// Buffers that something is wrong with.
pub struct Wrongs {
    /// Lacks STORAGE.
    no_storage: wgpu::Buffer,
    /// Of a size that no binding has.
    odd: wgpu::Buffer,
    /// Four bytes.
    tiny: wgpu::Buffer,
    /// Large enough for anything here.
    large: wgpu::Buffer,
    larger: wgpu::Buffer,
}

impl Wrongs {
    fn new(gpu: &Gpu) -> Self {
        let buffer = |size, usage| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let copies = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let storage = wgpu::BufferUsages::STORAGE;
        Self {
            no_storage: buffer(1 << 19, copies),
            odd: buffer((1 << 12) + 2, copies | storage),
            tiny: buffer(4, copies | storage),
            large: buffer(1 << 19, copies | storage),
            larger: buffer(1 << 19, copies | storage),
        }
    }
}

/// The bytes of `buffer` from `offset` on, `size` of them.
fn range(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(size) }
}
