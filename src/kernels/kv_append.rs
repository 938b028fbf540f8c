//! Calls of an append to a cache: tensors in, a recipe out.

#[cfg(doc)]
use crate::call::Positions;
use crate::call::{
    Access, Binding, CacheBindings, CacheParams, Checker, Plan, Reach, Recipe, RotaryParams,
    Rotation, Step, Strides, Tensor,
};
use crate::plan::kv_append::{KvAppendPlan, KvAppendShape};
use crate::plan::{KernelKind, Shader, binding};
use crate::uniform::uniform;
use crate::{Error, Result};

/// The tensors of one append. Lengths, block table and position ids are read when the call runs,
/// so they may change from call to call without a new bind.
#[derive(Debug, Clone)]
pub struct KvAppendBindings<B> {
    /// `[B, H_kv, S, D]`, or ragged `[1, H_kv, rows, D]`. Strides and offset are multiples of 4
    /// elements, here and below.
    pub k: Tensor<B>,
    /// `[B, H_kv, S, D_v]`, or ragged `[1, H_kv, rows, D_v]`. Not read where V is a part of K
    /// ([`CacheFormat::v_in_k`](crate::cache::CacheFormat)): hand over k again.
    pub v: Tensor<B>,
    /// The cache; written where the new rows go, untouched elsewhere.
    pub cache: CacheBindings<B>,
    /// Rows of each sequence before the call, u32 `[B]`; more for ragged rows, see
    /// [`KvAppendShape::ragged`]. Rows for which a sequence has no slot are left out.
    pub lens: B,
    /// Table and positions of K, where it is rotated. With [`Positions::AmongKeys`], row i of
    /// sequence b has position `lens[b] + i`, which is what a growing cache wants. Ids are given
    /// for every new row, ragged rows one behind the other.
    pub rotation: Option<Rotation<B>>,
}

impl<B> KvAppendBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(k: Tensor<B>, v: Tensor<B>, cache: CacheBindings<B>, lens: B) -> Self {
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
        ragged: u32,
        rows: u32,
        plane_k: u32,
        among_keys: u32,
        k: Strides,
        v: Strides,
        cache: CacheParams,
        rotary: RotaryParams,
    }
}

impl Plan for KvAppendPlan {
    const KERNEL: KernelKind = KernelKind::KvAppend;

    type Shape<'s> = KvAppendShape;
    type Bindings<B> = KvAppendBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        vec![self.shader()]
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        vec![None]
    }

    fn recipe<B: Binding>(
        &self,
        shape: &KvAppendShape,
        bindings: &KvAppendBindings<B>,
    ) -> Result<Recipe<B>> {
        let format = &self.problem().cache;
        let (cache, rotary) = check(self, shape, bindings)?;
        let [_, rows] = planes_and_rows(shape);
        let groups = self.groups(shape)?;
        if groups == 0 || rows == 0 || cache.capacity == 0 {
            return Ok(Recipe::empty());
        }
        let workgroups = self.capabilities.fold_groups(groups)?;
        let rotation = bindings.rotation.as_ref();
        let params = Params {
            batch: shape.batch,
            seq: shape.seq,
            kv_heads: format.kv_heads,
            groups_x: workgroups[0],
            ragged: shape.ragged.is_some().into(),
            rows,
            plane_k: rotation.map_or(0, Rotation::plane_k),
            among_keys: rotation.is_some_and(Rotation::among_keys).into(),
            k: Strides::new(&bindings.k.layout, 4),
            v: Strides::new(&bindings.v.layout, 4),
            cache,
            rotary,
        };
        let v = Some(&bindings.v.binding).filter(|_| !format.v_in_k);
        let step = Step::new(0, workgroups)
            .params(&params)
            .tensor(binding::K, &bindings.k)
            .declared(binding::V, v)
            .bind(binding::LENS, &bindings.lens)
            .written_cache(&bindings.cache, format.v_in_k)
            .rotation(rotation);
        Ok(step.into())
    }
}

fn check<B: Binding>(
    plan: &KvAppendPlan,
    shape: &KvAppendShape,
    bindings: &KvAppendBindings<B>,
) -> Result<(CacheParams, RotaryParams)> {
    let p = plan.problem();
    let format = &p.cache;
    let mut checker = Checker::new(&plan.capabilities);
    let KvAppendShape { batch, seq, ragged } = *shape;
    let [planes, rows] = planes_and_rows(shape);
    let shape_of = |dim| [planes, format.kv_heads, rows, dim];
    let (k, v) = (&bindings.k, &bindings.v);
    checker.tensor("k", k, Access::Read, p.dtype, shape_of(format.head_dim), 4)?;
    if !format.v_in_k {
        checker.tensor("v", v, Access::Read, p.dtype, shape_of(format.value_dim), 4)?;
    }
    let cache = CacheParams::new(&mut checker, format, &bindings.cache, Access::Write, batch)?;
    let lens = 4 * (u64::from(batch) + ragged.map_or(0, |_| u64::from(batch) + 1));
    checker.binding("lens", &bindings.lens, Access::Read, lens)?;
    if !format.rolling && ragged.is_none() && seq > cache.capacity && batch > 0 {
        let (needed, capacity) = (seq.into(), cache.capacity.into());
        return Err(Error::CacheFull { sequence: 0, needed, capacity });
    }
    // Every slot can be reached, whatever the device's lengths are.
    let places = if format.rolling { 1 } else { cache.capacity };
    let reach = Reach { ids: [planes, rows], places: Some(places), ..Reach::rows(0, seq) };
    let rotary_dim = p.rotate.then_some(p.rotary_dim);
    let rotation = bindings.rotation.as_ref();
    let rotary = RotaryParams::optional(&mut checker, rotation, rotary_dim, reach)?;
    Ok((cache, rotary))
}
/// Planes of the new rows, and rows of each.
fn planes_and_rows(shape: &KvAppendShape) -> [u32; 2] {
    shape.ragged.map_or([shape.batch, shape.seq], |rows| [1, rows])
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
