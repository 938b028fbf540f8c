//! What runs a call, for any host: which shaders in which order, over what.

use std::sync::Arc;

use super::{Binding, CacheBindings, Positions, Rotation, Tensor};
use crate::plan::binding;
#[cfg(feature = "serde")]
use crate::plan::{Declared, Shader};

/// A call, checked and ready to be run by any host: its dispatches in order, each seeing what the
/// ones before it wrote. Empty where the call's output is.
///
/// The shaders, with entry points, overrides and bindings by name, are those of the plan
/// ([`Plan::stages`](super::Plan::stages)).
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe<B> {
    /// Dispatches.
    pub steps: Vec<Step<B>>,
}

/// One dispatch of a [`Recipe`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Step<B> {
    /// Which of the plan's stages runs.
    pub stage: usize,
    /// Workgroups along x and y; there is 1 along z.
    pub workgroups: [u32; 2],
    /// What is bound, in group 0: one entry for every binding that the shader declares.
    pub entries: Vec<Entry<B>>,
    /// Floating-point operations that it executes, of kernels that take a budget.
    pub flops: Option<u64>,
}

/// One binding of a [`Step`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Entry<B> {
    /// `@binding` of the shader.
    pub binding: u32,
    /// What to bind there.
    pub resource: Resource<B>,
}

/// What a [`Step`] binds.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource<B> {
    /// A range of the caller's, as it was handed over or a part of it.
    Caller(B),
    /// The step's parameters: the bytes of a uniform buffer.
    Params(Vec<u8>),
    /// The stage's table, the same in every call.
    Table,
    /// Numbers of this call: the bytes of a storage buffer.
    Data(Arc<[u8]>),
    /// Declared and not used by this call: any 16 bytes of storage that nothing else is bound to.
    Unused,
}

impl<B> Recipe<B> {
    /// A call that computes nothing, since its output has no elements.
    pub(crate) fn empty() -> Self {
        Self { steps: Vec::new() }
    }
}

impl<B> Recipe<B> {
    /// The same call over other ranges: those of a host's buffers as numbers, for one.
    pub fn map<C>(&self, mut range: impl FnMut(&B) -> C) -> Recipe<C> {
        let mut entry = |entry: &Entry<B>| Entry {
            binding: entry.binding,
            resource: match &entry.resource {
                Resource::Caller(mine) => Resource::Caller(range(mine)),
                Resource::Params(bytes) => Resource::Params(bytes.clone()),
                Resource::Table => Resource::Table,
                Resource::Data(bytes) => Resource::Data(bytes.clone()),
                Resource::Unused => Resource::Unused,
            },
        };
        let steps = self.steps.iter().map(|step| Step {
            stage: step.stage,
            workgroups: step.workgroups,
            entries: step.entries.iter().map(&mut entry).collect(),
            flops: step.flops,
        });
        Recipe { steps: steps.collect() }
    }
}

impl<B> From<Step<B>> for Recipe<B> {
    fn from(step: Step<B>) -> Self {
        Self { steps: vec![step] }
    }
}

impl<B: Binding> Step<B> {
    /// A dispatch of the plan's stage `stage`, to be given its bindings. All of them have passed
    /// the [`Checker`](super::Checker).
    pub(crate) fn new(stage: usize, workgroups: [u32; 2]) -> Self {
        Self { stage, workgroups, entries: Vec::with_capacity(16), flops: None }
    }

    pub(crate) fn entry(mut self, binding: u32, resource: Resource<B>) -> Self {
        self.entries.push(Entry { binding, resource });
        self
    }

    pub(crate) fn params<T: bytemuck::Pod>(self, params: &T) -> Self {
        self.entry(binding::PARAMS, Resource::Params(bytemuck::bytes_of(params).to_vec()))
    }

    pub(crate) fn table(self, number: u32) -> Self {
        self.entry(number, Resource::Table)
    }

    pub(crate) fn data(self, number: u32, bytes: Arc<[u8]>) -> Self {
        self.entry(number, Resource::Data(bytes))
    }

    pub(crate) fn bind(self, number: u32, range: &B) -> Self {
        self.entry(number, Resource::Caller(range.clone()))
    }

    pub(crate) fn tensor(self, number: u32, tensor: &Tensor<B>) -> Self {
        self.bind(number, &tensor.binding)
    }

    /// A binding that the shader has where the call has it.
    pub(crate) fn optional(self, number: u32, range: Option<&B>) -> Self {
        match range {
            Some(range) => self.bind(number, range),
            None => self,
        }
    }

    /// A binding that the shader has always, and uses where the call has it.
    pub(crate) fn declared(self, number: u32, range: Option<&B>) -> Self {
        match range {
            Some(range) => self.bind(number, range),
            None => self.entry(number, Resource::Unused),
        }
    }

    /// Table and positions, where the call rotates.
    pub(crate) fn rotation(self, rotation: Option<&Rotation<B>>) -> Self {
        let Some(Rotation { table, positions }) = rotation else { return self };
        let ids = match positions {
            Positions::Ids { binding, .. } => Some(binding),
            Positions::From(_) | Positions::AmongKeys => None,
        };
        self.bind(binding::COS_SIN, &table.binding).declared(binding::POSITION_IDS, ids)
    }

    /// A cache that is written; V alone where it is not a part of K.
    pub(crate) fn written_cache(self, cache: &CacheBindings<B>, v_in_k: bool) -> Self {
        let v = Some(&cache.v.binding).filter(|_| !v_in_k);
        self.bind(binding::K_CACHE, &cache.k.binding)
            .declared(binding::V_CACHE, v)
            .block_table(cache)
    }

    /// A cache that is read. An empty one may have no buffer that could be bound: nothing reads it.
    pub(crate) fn read_cache(self, cache: &CacheBindings<B>, empty: bool) -> Self {
        let [k, v] = [&cache.k, &cache.v].map(|side| Some(&side.binding).filter(|_| !empty));
        self.declared(binding::K, k).declared(binding::V, v).block_table(cache)
    }

    fn block_table(self, cache: &CacheBindings<B>) -> Self {
        let table = cache.block_table.as_ref().map(|table| &table.binding);
        self.optional(binding::BLOCK_TABLE, table)
    }
}

#[cfg(feature = "serde")]
impl Recipe<super::Range> {
    /// The recipe as a JSON object, for hosts in other languages:
    ///
    /// ```text
    /// {"wishes": {"zero_initialize_workgroup_memory", "bound_loops", "check_bounds": bool},
    ///  "stages": [{…Shader::to_json, "bindings": [{"binding", "name", "type"}, …]}, …],
    ///  "steps": [{"stage", "workgroups": [x, y], "entries": [ENTRY, …]}, …]}
    ///
    /// ENTRY: {"binding", "name", "type", and one of
    ///   "range": {"buffer", "offset", "size"}    the host's
    ///   "words": [u32, …]                        the contents of a small buffer
    ///   "unused": 16                             bytes of storage, of which nothing is used}
    /// ```
    ///
    /// Types are those of WebGPU (`uniform`, `storage`, `read-only-storage`); every binding is of
    /// group
    /// 0. `text` may rewrite the shaders, as [`Shader::renumbered`] does; `Shader::clone` leaves
    ///    them.
    pub fn to_json<P: super::Plan>(
        &self,
        plan: &P,
        text: impl Fn(&Shader) -> Shader,
    ) -> serde_json::Value {
        use serde_json::{Value, json};

        let words = |bytes: &[u8]| -> Value {
            let words = bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
            words.collect()
        };
        let binding = |one: &Declared| {
            let ty = one.ty.name();
            json!({ "binding": one.binding, "name": one.name, "type": ty })
        };
        let old: Vec<_> = plan.stages().into_iter().map(Shader::bindings).collect();
        let shaders: Vec<_> = plan.stages().into_iter().map(text).collect();
        let new: Vec<_> = shaders.iter().map(Shader::bindings).collect();
        let stages = shaders.iter().zip(&new).map(|(shader, bindings)| {
            let mut json = shader.to_json();
            json["bindings"] = bindings.iter().map(binding).collect();
            json
        });
        let tables = plan.tables();
        let step = |step: &Step<super::Range>| {
            let stage = step.stage;
            let entry = |entry: &Entry<super::Range>| {
                let at = old[stage].iter().position(|one| one.binding == entry.binding)?;
                let mut json = binding(&new[stage][at]);
                let (key, value) = match &entry.resource {
                    Resource::Caller(range) => {
                        let super::Range { buffer, offset, size } = *range;
                        ("range", json!({ "buffer": buffer, "offset": offset, "size": size }))
                    }
                    Resource::Params(bytes) => ("words", words(bytes)),
                    Resource::Table => ("words", words(tables[stage].as_deref()?)),
                    Resource::Data(bytes) => ("words", words(bytes)),
                    Resource::Unused => ("unused", 16.into()),
                };
                json[key] = value;
                Some(json)
            };
            let entries: Vec<_> = step.entries.iter().filter_map(entry).collect();
            json!({ "stage": stage, "workgroups": step.workgroups, "entries": entries })
        };
        let wishes = Shader::WISHES;
        json!({
            "wishes": {
                "zero_initialize_workgroup_memory": wishes.zero_initialize_workgroup_memory,
                "bound_loops": wishes.bound_loops,
                "check_bounds": wishes.check_bounds,
            },
            "stages": stages.collect::<Vec<_>>(),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
        })
    }
}
