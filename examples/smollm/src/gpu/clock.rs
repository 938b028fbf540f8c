//! Time between the beginning and the end of compute passes, where the device can tell.

use std::time::Duration;

use phasor::wgpu;
use phasor_kit::gpu::Gpu;

pub(super) struct Clock {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Nanoseconds of a tick.
    period: f32,
    total: Duration,
}

impl Clock {
    /// Two readings.
    pub(super) const BYTES: u64 = 16;

    pub(super) fn new(gpu: &Gpu) -> Option<Self> {
        gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Self {
            queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("clock"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("clock"),
                size: Self::BYTES,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            period: gpu.queue.get_timestamp_period(),
            total: Duration::ZERO,
        })
    }

    /// For the first and the last of the passes that are timed.
    pub(super) fn writes(
        &self,
        first: bool,
        last: bool,
    ) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        (first || last).then(|| wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: first.then_some(0),
            end_of_pass_write_index: last.then_some(1),
        })
    }

    /// Copies the readings to where the host maps them.
    pub(super) fn read(&self, encoder: &mut wgpu::CommandEncoder, to: &wgpu::Buffer, at: u64) {
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, to, at, Self::BYTES);
    }

    /// Adds the time between two readings, which came as the bits of floats.
    pub(super) fn add(&mut self, readings: &[f32]) {
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(readings);
        if let [from, to] = ticks[..] {
            let ticks = to.saturating_sub(from);
            self.total += Duration::from_nanos((ticks as f64 * f64::from(self.period)) as u64);
        }
    }

    pub(super) fn total(&self) -> Duration {
        self.total
    }
}
