//! Runs and times bound calls.

use std::time::{Duration, Instant};

use wgpu::util::DeviceExt as _;

use crate::attention::{Attention, AttentionBindings};
use crate::plan::attention::{AttentionProblem, AttentionShape};
use crate::{DType, Dispatch, Layout, Result, Tensor};

/// A timed submission lasts this long at least, where the call allows.
const BATCH_MS: f64 = 5.0;
const ROUNDS: u32 = 3;
/// A GPU that was idle while kernels were compiled takes this long to come back to its clocks.
const WARM: Duration = Duration::from_millis(300);

/// A device and the tensors of a call.
pub(super) struct Bench<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    shape: AttentionShape,
    /// q, k, v, out.
    tensors: [(wgpu::Buffer, DType, Layout); 4],
    staging: wgpu::Buffer,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        device: &'a wgpu::Device,
        queue: &'a wgpu::Queue,
        problem: &AttentionProblem,
        shape: &AttentionShape,
    ) -> Result<Self> {
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let heads_out = problem.heads.heads().len() as u32;
        let (dim, value_dim) = (problem.head_dim, problem.value_dim);
        let make = |dtype, shape: [u32; 4], usage| -> Result<_> {
            let layout = Layout::bhsd(shape)?;
            let elements = layout.last_index("tuner")?.map_or(0, |last| u64::from(last) + 1);
            let buffer = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("tuner"),
                contents: &pattern(elements, dtype),
                usage: wgpu::BufferUsages::STORAGE | usage,
            });
            Ok((buffer, dtype, layout))
        };
        let read = wgpu::BufferUsages::empty();
        let tensors = [
            make(problem.q_dtype, [batch, problem.heads.q_heads(), seq_q, dim], read)?,
            make(problem.kv_dtype, [batch, problem.kv_heads, seq_k, dim], read)?,
            make(problem.kv_dtype, [batch, problem.kv_heads, seq_k, value_dim], read)?,
            make(
                problem.out_dtype,
                [batch, heads_out, seq_q, value_dim],
                wgpu::BufferUsages::COPY_SRC,
            )?,
        ];
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("tuner"),
            size: tensors[3].0.size(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        Ok(Self { device, queue, shape: *shape, tensors, staging })
    }

    pub(super) fn bind(&self, kernel: &Attention) -> Result<Dispatch> {
        let tensor = |i: usize| {
            let (buffer, dtype, layout) = &self.tensors[i];
            Tensor::new(buffer, *dtype, *layout)
        };
        let bindings = AttentionBindings::new(tensor(0), tensor(1), tensor(2), tensor(3));
        kernel.bind(self.device, &self.shape, &bindings)
    }

    /// Runs a call once and reads its output, widened to f32.
    pub(super) fn run(&self, call: &Dispatch) -> Vec<f32> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        call.encode(&mut encoder);
        let (out, dtype, _) = &self.tensors[3];
        encoder.copy_buffer_to_buffer(out, 0, &self.staging, 0, None);
        self.queue.submit([encoder.finish()]);
        self.staging.slice(..).map_async(wgpu::MapMode::Read, |_| {});
        self.wait();
        // A lost device reads as an empty output, which agrees with none.
        let Ok(bytes) = self.staging.slice(..).get_mapped_range() else { return Vec::new() };
        let values = match dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::F16 => {
                let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(&bytes);
                halves.into_iter().map(f32::from).collect()
            }
        };
        drop(bytes);
        self.staging.unmap();
        values
    }

    /// Keeps the device busy until it runs at its working clocks.
    pub(super) fn warm(&self, call: &Dispatch) {
        let start = Instant::now();
        while start.elapsed() < WARM {
            self.submit(call, 1);
        }
    }

    /// Milliseconds of one call, the least of some rounds; of one round alone where that is far
    /// above `best`.
    pub(super) fn time(&self, call: &Dispatch, best: f64) -> f64 {
        let mut calls = 1;
        let mut ms = self.submit(call, calls);
        while ms * f64::from(calls) < BATCH_MS && calls < 1024 {
            calls *= 2;
            ms = self.submit(call, calls);
        }
        for _ in 1..ROUNDS {
            if ms > 1.5 * best {
                break;
            }
            ms = ms.min(self.submit(call, calls));
        }
        ms
    }

    fn submit(&self, call: &Dispatch, calls: u32) -> f64 {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for _ in 0..calls {
                call.record(&mut pass);
            }
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.queue.submit([commands]);
        self.wait();
        start.elapsed().as_secs_f64() * 1e3 / f64::from(calls)
    }

    /// A lost device ends the wait too; the caller learns of it from wgpu.
    fn wait(&self) {
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }
}

/// Numbers in (−1, 1) that look alike everywhere: multiples of the golden ratio, without their
/// whole parts. Their products give scores of no particular order.
fn pattern(elements: u64, dtype: DType) -> Vec<u8> {
    let value = |i: u64| {
        let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        hash as f32 / (1 << 23) as f32 - 1.0
    };
    let mut bytes = match dtype {
        DType::F32 => (0..elements).flat_map(|i| value(i).to_le_bytes()).collect(),
        DType::F16 => (0..elements)
            .flat_map(|i| half::f16::from_f32(value(i)).to_le_bytes())
            .collect::<Vec<u8>>(),
    };
    bytes.resize(bytes.len().next_multiple_of(16).max(16), 0);
    bytes
}

/// Whether two outputs differ by rounding only. Values lie within (−1, 1).
pub(super) fn agree(expected: &[f32], got: &[f32]) -> bool {
    expected.len() == got.len()
        && !got.is_empty()
        && expected.iter().zip(got).all(|(a, b)| (a - b).abs() <= 4e-3)
}
