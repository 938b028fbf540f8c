//! Appends to caches on the device: compiles a [`KvAppendPlan`], binds tensors to it.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, BLOCK_TABLE, Bind, COS_SIN, CacheBindings, CacheParams, CacheRows, Checker, Compiler,
    CosSin, Dispatch, POSITION_IDS, Pipeline, Positions, RotaryParams, Tensor, Unused,
    uniform_buffer,
};
use crate::plan::kv_append::{KvAppendPlan, KvAppendShape};
use crate::{Error, Result};

/// A compiled append. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct KvAppend {
    plan: KvAppendPlan,
    pipeline: Pipeline,
    unused: Unused,
}

/// The tensors of one append. Lengths, block table and position ids are read when the call runs,
/// so they may change from call to call without a new bind.
#[derive(Debug, Clone)]
pub struct KvAppendBindings<'a> {
    /// `[B, H_kv, S, D]`, or packed `[1, H_kv, rows, D]`. Strides and offset are multiples of 4
    /// elements, here and below.
    pub k: Tensor<'a>,
    /// `[B, H_kv, S, D_v]`, or packed `[1, H_kv, rows, D_v]`. Not read where V is a part of K
    /// ([`CacheFormat::v_in_k`](crate::cache::CacheFormat)): hand over k again.
    pub v: Tensor<'a>,
    /// The cache; written where the new rows go, untouched elsewhere.
    pub cache: CacheBindings<'a>,
    /// Rows of each sequence before the call, u32 `[B]`; more for packed rows, see
    /// [`KvAppendShape::packed`]. Rows for which a sequence has no slot are left out.
    pub lens: wgpu::BufferBinding<'a>,
    /// Table and positions of K, where it is rotated. With [`Positions::AmongKeys`], row i of
    /// sequence b has position `lens[b] + i`, which is what a growing cache wants. Ids are given for
    /// every new row, packed rows one behind the other.
    pub rotation: Option<(CosSin<'a>, Positions<'a>)>,
}

/// Binding numbers, by the names of the shader's files.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const K: u32 = 3;
    pub(super) const V: u32 = 4;
    pub(super) const K_CACHE: u32 = 5;
    pub(super) const V_CACHE: u32 = 6;
    pub(super) const LENS: u32 = 10;
}

/// `Params` of `shaders/kv_append.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    batch: u32,
    seq: u32,
    kv_heads: u32,
    groups_x: u32,
    packed: u32,
    rows: u32,
    plane_k: u32,
    among_keys: u32,
    k: CacheRows,
    v: CacheRows,
    cache: CacheParams,
    rotary: RotaryParams,
}

impl KvAppend {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &KvAppendPlan) -> Result<Self> {
        let compiler = compiler.into();
        let device = compiler.device();
        let plan = plan.problem().plan(&crate::Capabilities::of(device))?;
        let pipeline = Pipeline::new(compiler, plan.shader())?;
        Ok(Self { pipeline, unused: Unused::new(device)?, plan })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &KvAppendPlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, storage and
    /// limits; [`Error::Binding`] for a tensor too many or too few; [`Error::CacheFull`] where even
    /// an empty sequence has no room; [`Error::TableTooShort`] where a slot of the cache (unless it
    /// rolls) has a position past the table. The buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &KvAppendShape,
        bindings: &KvAppendBindings<'_>,
    ) -> Result<Dispatch> {
        let p = self.plan.problem();
        let format = &p.cache;
        let caps = &self.plan.capabilities;
        let mut checker = Checker::new(caps);
        let KvAppendShape { batch, seq, packed } = *shape;
        let [planes, rows] = packed.map_or([batch, seq], |rows| [1, rows]);
        let shape_of = |dim| [planes, format.kv_heads, rows, dim];
        let (k, v) = (&bindings.k, &bindings.v);
        checker.tensor("k", k, Access::Read, p.dtype, shape_of(format.head_dim), 4)?;
        if !format.v_in_k {
            checker.tensor("v", v, Access::Read, p.dtype, shape_of(format.value_dim), 4)?;
        }
        let cache = CacheParams::new(&mut checker, format, &bindings.cache, Access::Write, batch)?;
        let lens = 4 * (u64::from(batch) + packed.map_or(0, |_| u64::from(batch) + 1));
        checker.binding("lens", &bindings.lens, Access::Read, lens)?;
        if !format.rolling && packed.is_none() && seq > cache.capacity && batch > 0 {
            let (needed, capacity) = (seq.into(), cache.capacity.into());
            return Err(Error::CacheFull { sequence: 0, needed, capacity });
        }
        let rotary = match (&bindings.rotation, p.rotate) {
            (None, false) => RotaryParams::default(),
            (Some(_), false) => {
                let why = "given, but the problem does not rotate";
                return Err(Error::Binding { tensor: "rotation", why });
            }
            (None, true) => {
                let why = "missing, though the problem rotates";
                return Err(Error::Binding { tensor: "rotation", why });
            }
            (Some((table, positions)), true) => {
                let (positions, reach) = match positions {
                    // Every slot can be reached, whatever the device's lengths are.
                    Positions::AmongKeys if !format.rolling => (&FIRST, [batch, cache.capacity]),
                    Positions::AmongKeys => (&FIRST, [batch, 1]),
                    Positions::Ids { .. } => (positions, [planes, rows]),
                    Positions::From(_) => (positions, [batch, seq]),
                };
                RotaryParams::new(&mut checker, table, positions, p.rotary_dim, reach)?
            }
        };
        let groups = self.plan.groups(shape)?;
        if groups == 0 || rows == 0 || cache.capacity == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = caps.fold_groups(groups)?;
        let last_plane = |table: &CosSin<'_>| table.shape.planes.saturating_sub(1);
        let params = Params {
            batch,
            seq,
            kv_heads: format.kv_heads,
            groups_x: workgroups[0],
            packed: u32::from(packed.is_some()),
            rows,
            plane_k: bindings.rotation.as_ref().map_or(0, |(table, _)| last_plane(table)),
            among_keys: u32::from(among_keys(bindings)),
            k: CacheRows::new(&k.layout, 4),
            v: CacheRows::new(&v.layout, 4),
            cache,
            rotary,
        };
        let params = uniform_buffer(device, "kv_append params", bytemuck::bytes_of(&params))?;
        let (v, v_cache) = match format.v_in_k {
            true => (self.unused.read(), self.unused.written()),
            false => (v.binding.clone(), bindings.cache.v.binding.clone()),
        };
        let mut entries = vec![
            (binding::PARAMS, params.as_entire_buffer_binding()),
            (binding::K, k.binding.clone()),
            (binding::V, v),
            (binding::K_CACHE, bindings.cache.k.binding.clone()),
            (binding::V_CACHE, v_cache),
            (binding::LENS, bindings.lens.clone()),
        ];
        if let Some(table) = &bindings.cache.block_table {
            entries.push((BLOCK_TABLE, table.binding.clone()));
        }
        if let Some((table, positions)) = &bindings.rotation {
            entries.push((COS_SIN, table.binding.clone()));
            entries.push((
                POSITION_IDS,
                match positions {
                    Positions::Ids { binding, .. } => binding.clone(),
                    _ => self.unused.read(),
                },
            ));
        }
        let bind =
            Bind { label: "kv_append", pipeline: &self.pipeline, entries: &entries, workgroups };
        Ok(Dispatch::new(device, &bind))
    }
}

/// Places among the keys, without an offset.
const FIRST: Positions<'static> = Positions::From(0);

fn among_keys(bindings: &KvAppendBindings<'_>) -> bool {
    matches!(bindings.rotation, Some((_, Positions::AmongKeys)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::cache::CacheFormat;
    use crate::plan::kv_append::KvAppendProblem;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};

    host_struct!(Params {
        batch,
        seq,
        kv_heads,
        groups_x,
        packed,
        rows,
        plane_k,
        among_keys,
        k,
        v,
        cache,
        rotary,
    });

    fn source(paged: bool, rotate: bool) -> String {
        let cache = CacheFormat { paged, ..CacheFormat::new(2, 64) };
        let problem = KvAppendProblem { rotate, ..KvAppendProblem::new(cache) };
        problem.plan(&Capabilities::webgpu_default()).unwrap().shader().source.clone()
    }

    #[test]
    fn host_struct_is_the_shaders() {
        assert_eq!(host_layout::<Params>(), wgsl_layout(&source(false, true), "Params"));
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let always = [
            (binding::PARAMS, "params"),
            (binding::K, "k"),
            (binding::V, "v"),
            (binding::K_CACHE, "k_cache"),
            (binding::V_CACHE, "v_cache"),
            (COS_SIN, "cos_sin"),
            (POSITION_IDS, "position_ids"),
            (binding::LENS, "lens"),
        ];
        for paged in [false, true] {
            let table = paged.then_some((BLOCK_TABLE, "block_table"));
            let all = always.into_iter().chain(table).map(|(n, name)| (n, name.to_owned()));
            assert_eq!(wgsl_bindings(&source(paged, true)), all.collect::<Vec<_>>());
        }
    }
}
