//! Appends to caches on the device: compiles a [`KvAppendPlan`], binds tensors to it.

#[cfg(doc)]
use crate::gpu::Positions;
use crate::gpu::{
    Access, CacheBindings, CacheParams, Checker, Compiler, Dispatch, Pipeline, Reach, RotaryParams,
    Rotation, Strides, Tensor, params_buffer,
};
use crate::plan::binding;
use crate::plan::kv_append::{KvAppendPlan, KvAppendShape};
use crate::uniform::uniform;
use crate::{Error, Result};

/// A compiled append. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct KvAppend {
    plan: KvAppendPlan,
    pipeline: Pipeline,
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
    pub rotation: Option<Rotation<'a>>,
}

impl<'a> KvAppendBindings<'a> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(
        k: Tensor<'a>,
        v: Tensor<'a>,
        cache: CacheBindings<'a>,
        lens: wgpu::BufferBinding<'a>,
    ) -> Self {
        Self { k, v, cache, lens, rotation: None }
    }
}

uniform! {
    /// `Params` of `shaders/kv_append.wgsl`.
    struct Params {
        batch: u32,
        seq: u32,
        kv_heads: u32,
        groups_x: u32,
        packed: u32,
        rows: u32,
        plane_k: u32,
        among_keys: u32,
        k: Strides,
        v: Strides,
        cache: CacheParams,
        rotary: RotaryParams,
    }
}

impl KvAppend {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &KvAppendPlan) -> Result<Self> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        Ok(Self { pipeline: Pipeline::new(compiler, plan.shader())?, plan })
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
        let format = &self.plan.problem().cache;
        let (cache, rotary) = self.check(shape, bindings)?;
        let [_, rows] = planes_and_rows(shape);
        let groups = self.plan.groups(shape)?;
        if groups == 0 || rows == 0 || cache.capacity == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = self.plan.capabilities.fold_groups(groups)?;
        let rotation = bindings.rotation.as_ref();
        let params = Params {
            batch: shape.batch,
            seq: shape.seq,
            kv_heads: format.kv_heads,
            groups_x: workgroups[0],
            packed: shape.packed.is_some().into(),
            rows,
            plane_k: rotation.map_or(0, Rotation::plane_k),
            among_keys: rotation.is_some_and(Rotation::among_keys).into(),
            k: Strides::new(&bindings.k.layout, 4),
            v: Strides::new(&bindings.v.layout, 4),
            cache,
            rotary,
        };
        let params = params_buffer(device, "kv_append params", &params)?;
        let v = Some(&bindings.v.binding).filter(|_| !format.v_in_k);
        let call = self
            .pipeline
            .call()
            .bind(binding::PARAMS, params.as_entire_buffer_binding())
            .tensor(binding::K, &bindings.k)
            .read(binding::V, v)
            .bind(binding::LENS, bindings.lens.clone())
            .written_cache(&bindings.cache, format.v_in_k)
            .rotation(rotation);
        Ok(call.dispatch(device, workgroups))
    }

    fn check(
        &self,
        shape: &KvAppendShape,
        bindings: &KvAppendBindings<'_>,
    ) -> Result<(CacheParams, RotaryParams)> {
        let p = self.plan.problem();
        let format = &p.cache;
        let mut checker = Checker::new(&self.plan.capabilities);
        let KvAppendShape { batch, seq, packed } = *shape;
        let [planes, rows] = planes_and_rows(shape);
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
        // Every slot can be reached, whatever the device's lengths are.
        let places = if format.rolling { 1 } else { cache.capacity };
        let reach = Reach { ids: [planes, rows], rows: seq, places: Some(places) };
        let rotary_dim = p.rotate.then_some(p.rotary_dim);
        let rotation = bindings.rotation.as_ref();
        let rotary = RotaryParams::optional(&mut checker, rotation, rotary_dim, reach)?;
        Ok((cache, rotary))
    }
}

/// Planes of the new rows, and rows of each.
fn planes_and_rows(shape: &KvAppendShape) -> [u32; 2] {
    shape.packed.map_or([shape.batch, shape.seq], |rows| [1, rows])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::cache::CacheFormat;
    use crate::plan::kv_append::KvAppendProblem;
    use crate::reflect::assert_uniform;

    #[test]
    fn params_are_the_shaders() {
        let problem = KvAppendProblem::new(CacheFormat::new(2, 64));
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        assert_uniform::<Params>(&plan.shader().source, "Params");
    }
}
