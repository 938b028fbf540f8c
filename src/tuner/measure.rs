//! Runs and times bound calls.

use std::time::{Duration, Instant};

use wgpu::util::DeviceExt as _;

use crate::attention::{Attention, AttentionBindings};
use crate::attention_backward::{AttentionBackward, AttentionBackwardBindings};
use crate::plan::attention::{AttentionProblem, AttentionShape};
use crate::plan::attention_backward::AttentionBackwardPlan;
use crate::{DType, Dispatch, Layout, Result, Tensor};

/// A timed submission lasts this long at least, where the call allows.
const BATCH_MS: f64 = 5.0;
const ROUNDS: u32 = 3;
/// A GPU that was idle while kernels were compiled takes this long to come back to its clocks.
const WARM: Duration = Duration::from_millis(300);

pub(super) type Stored = (wgpu::Buffer, DType, Layout);

/// The tensors of a call.
pub(super) struct Call {
    shape: AttentionShape,
    /// q, k, v, out.
    tensors: [Stored; 4],
}

impl Call {
    pub(super) fn new(
        device: &wgpu::Device,
        problem: &AttentionProblem,
        shape: &AttentionShape,
    ) -> Result<Self> {
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let heads_out = problem.heads.heads().len() as u32;
        let (q_heads, kv_heads) = (problem.heads.q_heads(), problem.kv_heads);
        let (dim, value_dim) = (problem.head_dim, problem.value_dim);
        let make = |dtype, heads, seq, dim| stored(device, dtype, [batch, heads, seq, dim]);
        let tensors = [
            make(problem.q_dtype, q_heads, seq_q, dim)?,
            make(problem.kv_dtype, kv_heads, seq_k, dim)?,
            make(problem.kv_dtype, kv_heads, seq_k, value_dim)?,
            make(problem.out_dtype, heads_out, seq_q, value_dim)?,
        ];
        Ok(Self { shape: *shape, tensors })
    }

    pub(super) fn outputs(&self) -> &[Stored] {
        &self.tensors[3..]
    }

    pub(super) fn bind(&self, device: &wgpu::Device, kernel: &Attention) -> Result<Dispatch> {
        let [q, k, v, out] = self.tensors.each_ref().map(tensor);
        kernel.bind(device, &self.shape, &AttentionBindings::new(q, k, v, out))
    }
}

/// The tensors of a backward call. Its log-sum-exps are no softmax's, so weights do not sum to 1;
/// that makes no difference to the time.
pub(super) struct BackwardCall {
    call: Call,
    lse: Stored,
    d_out: Stored,
    /// dq, dk, dv.
    gradients: [Stored; 3],
    workspace: wgpu::Buffer,
}

impl BackwardCall {
    pub(super) fn new(
        device: &wgpu::Device,
        plan: &AttentionBackwardPlan,
        shape: &AttentionShape,
    ) -> Result<Self> {
        let problem = &plan.problem().attention;
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let heads_out = problem.heads.heads().len() as u32;
        let (q_heads, kv_heads) = (problem.heads.q_heads(), problem.kv_heads);
        let (dim, value_dim) = (problem.head_dim, problem.value_dim);
        let make = |dtype, heads, seq, dim| stored(device, dtype, [batch, heads, seq, dim]);
        let rows = batch.saturating_mul(seq_q);
        Ok(Self {
            call: Call::new(device, problem, shape)?,
            lse: make(DType::F32, heads_out, seq_q, 1)?,
            d_out: make(problem.out_dtype, heads_out, seq_q, value_dim)?,
            gradients: [
                make(DType::F32, q_heads, seq_q, dim)?,
                make(DType::F32, kv_heads, seq_k, dim)?,
                make(DType::F32, kv_heads, seq_k, value_dim)?,
            ],
            workspace: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("tuner"),
                size: plan.workspace_bytes(shape, rows).next_multiple_of(16).max(16),
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }),
        })
    }

    pub(super) fn outputs(&self) -> &[Stored] {
        &self.gradients
    }

    pub(super) fn bind(
        &self,
        device: &wgpu::Device,
        kernel: &AttentionBackward,
    ) -> Result<Dispatch> {
        let [q, k, v, out] = self.call.tensors.each_ref().map(tensor);
        let bindings = AttentionBackwardBindings::new(
            [q, k, v],
            (out, self.lse.0.as_entire_buffer_binding()),
            tensor(&self.d_out),
            self.gradients.each_ref().map(tensor),
            self.workspace.as_entire_buffer_binding(),
        );
        kernel.bind(device, &self.call.shape, &bindings)
    }
}

/// A device, and what calls on it write, all of one type.
pub(super) struct Bench<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    outputs: &'a [Stored],
    staging: wgpu::Buffer,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        device: &'a wgpu::Device,
        queue: &'a wgpu::Queue,
        outputs: &'a [Stored],
    ) -> Self {
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("tuner"),
            size: outputs.iter().map(|output| output.0.size()).sum(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        Self { device, queue, outputs, staging }
    }

    /// Runs a call once and reads its output, or its gradients, widened to f32.
    pub(super) fn run(&self, call: &Dispatch) -> Vec<f32> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        call.encode(&mut encoder);
        let dtype = self.outputs.first().map_or(DType::F32, |output| output.1);
        let mut end = 0;
        for (output, ..) in self.outputs {
            encoder.copy_buffer_to_buffer(output, 0, &self.staging, end, None);
            end += output.size();
        }
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

pub(super) fn stored(device: &wgpu::Device, dtype: DType, shape: [u32; 4]) -> Result<Stored> {
    let layout = Layout::bhsd(shape)?;
    let elements = layout.last_index("tuner")?.map_or(0, |last| u64::from(last) + 1);
    let buffer = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("tuner"),
        contents: &pattern(elements, dtype),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    });
    Ok((buffer, dtype, layout))
}

pub(super) fn tensor((buffer, dtype, layout): &Stored) -> Tensor<'_> {
    Tensor::new(buffer, *dtype, *layout)
}

/// Numbers in (−1, 1) that look alike everywhere: multiples of the golden ratio, without their
/// whole parts. Their products give scores of no particular order.
pub(super) fn pattern(elements: u64, dtype: DType) -> Vec<u8> {
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

/// Whether two outputs differ by rounding only. Values lie within (−1, 1), and gradients of them
/// are as large as the rows that they are summed over.
pub(super) fn agree(expected: &[f32], got: &[f32]) -> bool {
    let size = expected.iter().fold(1.0, |size: f32, x| size.max(x.abs()));
    expected.len() == got.len()
        && !got.is_empty()
        && expected.iter().zip(got).all(|(a, b)| (a - b).abs() <= 4e-3 * size)
}
