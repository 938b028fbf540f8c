//! What one dispatch binds, as it is collected.

use super::{CacheBindings, Dispatch, Pipeline, Positions, Rotation, Tensor};
use crate::plan::binding;

/// The bindings of one dispatch of a kernel. All of them have passed the
/// [`Checker`](super::Checker).
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) entries: Vec<(u32, wgpu::BufferBinding<'a>)>,
}

impl<'a> Call<'a> {
    pub(super) fn new(pipeline: &'a Pipeline) -> Self {
        Self { pipeline, entries: Vec::new() }
    }

    pub(crate) fn bind(mut self, number: u32, buffer: wgpu::BufferBinding<'a>) -> Self {
        self.entries.push((number, buffer));
        self
    }

    pub(crate) fn tensor(self, number: u32, tensor: &Tensor<'a>) -> Self {
        self.bind(number, tensor.binding.clone())
    }

    /// A binding that the shader has where the call has it.
    pub(crate) fn optional(self, number: u32, buffer: Option<&wgpu::BufferBinding<'a>>) -> Self {
        match buffer {
            Some(buffer) => self.bind(number, buffer.clone()),
            None => self,
        }
    }

    /// A binding that the shader has always, and reads where the call has it.
    pub(crate) fn read(self, number: u32, buffer: Option<&wgpu::BufferBinding<'a>>) -> Self {
        let buffer = buffer.cloned().unwrap_or_else(|| self.pipeline.unused.read());
        self.bind(number, buffer)
    }

    /// A binding that the shader has always, and writes where the call has it.
    pub(crate) fn written(self, number: u32, buffer: Option<&wgpu::BufferBinding<'a>>) -> Self {
        let buffer = buffer.cloned().unwrap_or_else(|| self.pipeline.unused.written());
        self.bind(number, buffer)
    }

    /// Table and positions, where the call rotates.
    pub(crate) fn rotation(self, rotation: Option<&Rotation<'a>>) -> Self {
        let Some(Rotation { table, positions }) = rotation else { return self };
        let ids = match positions {
            Positions::Ids { binding, .. } => Some(binding),
            Positions::From(_) | Positions::AmongKeys => None,
        };
        self.bind(binding::COS_SIN, table.binding.clone()).read(binding::POSITION_IDS, ids)
    }

    /// A cache that is written; V alone where it is not a part of K.
    pub(crate) fn written_cache(self, cache: &CacheBindings<'a>, v_in_k: bool) -> Self {
        let v = Some(&cache.v.binding).filter(|_| !v_in_k);
        self.bind(binding::K_CACHE, cache.k.binding.clone())
            .written(binding::V_CACHE, v)
            .block_table(cache)
    }

    /// A cache that is read. An empty one may have no buffer that could be bound: nothing reads it.
    pub(crate) fn read_cache(self, cache: &CacheBindings<'a>, empty: bool) -> Self {
        let [k, v] = [&cache.k, &cache.v].map(|side| Some(&side.binding).filter(|_| !empty));
        self.read(binding::K, k).read(binding::V, v).block_table(cache)
    }

    fn block_table(self, cache: &CacheBindings<'a>) -> Self {
        let table = cache.block_table.as_ref().map(|table| &table.binding);
        self.optional(binding::BLOCK_TABLE, table)
    }

    pub(crate) fn dispatch(&self, device: &wgpu::Device, workgroups: [u32; 2]) -> Dispatch {
        Dispatch::new(device, self, workgroups)
    }
}
