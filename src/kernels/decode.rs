//! Calls of decode: tensors in, a recipe out.

#[cfg(doc)]
use crate::call::Positions;
use crate::call::{
    Access, Binding, CacheBindings, CacheParams, Checker, Plan, Reach, Recipe, RotaryParams,
    Rotation, Step, Strides, Tensor, pack,
};
use crate::kernels::merge::MergeBindings;
use crate::plan::decode::{DecodePlan, DecodeShape};
use crate::plan::merge::{MergePlan, MergeShape};
use crate::plan::rules::Bias;
use crate::plan::{KernelKind, Shader, binding};
use crate::uniform::uniform;
use crate::{DType, Error, Layout, Result};

/// The tensors of one decode call. Lengths, block table and position ids are read when the call
/// runs, so they may change from call to call without a new bind.
#[derive(Debug, Clone)]
pub struct DecodeBindings<B> {
    /// `[B, H_q, S_q, D]`, read. Strides and offset are multiples of 4 elements, here and below.
    pub q: Tensor<B>,
    /// The cache, read; the new rows are in it already.
    pub cache: CacheBindings<B>,
    /// Rows of each sequence, the S_q new ones included, u32 `[B]`, read. A length above the
    /// capacity counts as the capacity, unless the cache rolls.
    pub kv_lens: B,
    /// `[B, H_out, S_q, D_v]`, heads in the order of the head map; written.
    pub out: Tensor<B>,
    /// Natural log-sum-exp of every output row, f32 `[B, H_out, S_q]` without gaps; written. −∞ in
    /// rows that see no key.
    pub lse: Option<B>,
    /// Table and positions of q, where the kernel rotates it. With [`Positions::AmongKeys`],
    /// row i of sequence b has position `kv_lens[b] − S_q + i`, causal or not. Where the sequence
    /// is shorter than the call that is negative for the first rows, which turn back by as much;
    /// without a causal mask they see all keys, and the table must have S_q positions for them.
    pub rotation: Option<Rotation<B>>,
    /// Bias or mask, `[B, H_out, S_q, capacity]`: layout and binding, both in elements of the bias
    /// (f32, or bytes of a mask). Strides of 0 broadcast; keys are contiguous. Read.
    pub bias: Option<(Layout, B)>,
    /// [`DecodePlan::workspace_bytes`] of scratch memory, where that is not 0. Calls may share it:
    /// each is done with it when the next one starts.
    pub workspace: Option<B>,
}

impl<B> DecodeBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(q: Tensor<B>, cache: CacheBindings<B>, kv_lens: B, out: Tensor<B>) -> Self {
        Self { q, cache, kv_lens, out, lse: None, rotation: None, bias: None, workspace: None }
    }

    /// Lengths and tables, in the order of `Lists`.
    fn lists(&self) -> [(&'static str, Option<&B>); 2] {
        let table = self.cache.block_table.as_ref().map(|table| &table.binding);
        [("kv_lens", Some(&self.kv_lens)), ("block_table", table)]
    }
}

uniform! {
    /// `Lists` of `shaders/decode/bindings.wgsl`.
    struct Lists {
        kv_lens: u32,
        block_table: u32,
        pad0: u32,
        pad1: u32,
    }
}

uniform! {
    /// `Params` of `shaders/decode.wgsl`.
    struct Params {
        batch: u32,
        seq_q: u32,
        heads_out: u32,
        kv_heads: u32,
        groups_x: u32,
        row_blocks: u32,
        splits: u32,
        head_rows: u32,
        causal: u32,
        window: u32,
        q_scale: f32,
        softcap: f32,
        minus_infinity: f32,
        sums_at: u32,
        among_keys: u32,
        zero: u32,
        lists: Lists,
        q: Strides,
        out: Strides,
        cache: CacheParams,
        bias: Strides,
        rotary: RotaryParams,
    }
}

/// What the checks of a call find.
struct Checked {
    cache: CacheParams,
    rotary: RotaryParams,
    bias: Strides,
}

impl Plan for DecodePlan {
    const KERNEL: KernelKind = KernelKind::Decode;

    type Shape<'s> = DecodeShape;
    type Bindings<B> = DecodeBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        [self.shader()].into_iter().chain(self.merge().map(MergePlan::shader)).collect()
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        let head_rows = self.head_rows.table();
        let merge = self.merge().into_iter().flat_map(Plan::tables);
        [Some(head_rows)].into_iter().chain(merge).collect()
    }

    fn recipe<B: Binding>(
        &self,
        shape: &DecodeShape,
        bindings: &DecodeBindings<B>,
    ) -> Result<Recipe<B>> {
        let checked = check(self, shape, bindings)?;
        let groups = self.groups(shape);
        if groups == 0 || rows(self, shape) == 0 {
            return Ok(Recipe::empty());
        }
        let workgroups = self.capabilities.fold_groups(groups)?;
        let empty = checked.cache.capacity == 0;
        let mut params = params(self, shape, bindings, checked);
        params.groups_x = workgroups[0];
        let packed = match self.bound.lists {
            true => pack(bindings.lists(), &self.capabilities)?,
            false => None,
        };
        let mut cache = bindings.cache.clone();
        let (lens_at, lens) = match packed {
            None => (binding::KV_LENS, bindings.kv_lens.clone()),
            Some((whole, [kv_lens, block_table])) => {
                params.lists = Lists { kv_lens, block_table, ..Lists::default() };
                cache.block_table = None;
                (binding::LISTS, whole)
            }
        };
        let step = Step::new(0, workgroups)
            .params(&params)
            .table(binding::HEAD_ROWS)
            .tensor(binding::Q, &bindings.q)
            .read_cache(&cache, empty)
            .bind(lens_at, &lens)
            .rotation(bindings.rotation.as_ref());
        let bias = bindings.bias.as_ref().map(|(_, range)| range);
        let step = match self.problem().bias {
            Some(Bias::Mask) => step.optional(binding::MASK, bias),
            _ => step.optional(binding::BIAS, bias),
        };
        let step = match &bindings.workspace {
            Some(workspace) => step.bind(binding::PARTIALS, workspace),
            None => step
                .tensor(binding::OUT, &bindings.out)
                .optional(binding::LSE, bindings.lse.as_ref()),
        };
        let mut recipe = Recipe::from(step);
        if let (Some(merge), Some(workspace)) = (self.merge(), &bindings.workspace) {
            let merged = merge_recipe(self, merge, shape, bindings, workspace)?;
            recipe.steps.extend(merged.steps.into_iter().map(|step| Step { stage: 1, ..step }));
        }
        Ok(recipe)
    }
}

/// Output rows of a call.
fn rows(plan: &DecodePlan, shape: &DecodeShape) -> u64 {
    let heads = plan.problem().heads.heads().len() as u64;
    u64::from(shape.batch) * heads * u64::from(shape.seq_q)
}

fn check<B: Binding>(
    plan: &DecodePlan,
    shape: &DecodeShape,
    bindings: &DecodeBindings<B>,
) -> Result<Checked> {
    let p = plan.problem();
    let DecodeShape { batch, seq_q } = *shape;
    let limits = [("batch", batch, p.max_batch), ("seq_q", seq_q, p.max_seq_q)];
    for (what, got, most) in limits {
        if got > most {
            let needed = "at most what the problem was planned for";
            return Err(Error::Invalid { what, needed, got: format!("{got} of {most}") });
        }
    }
    let mut checker = Checker::new(&plan.capabilities);
    let q_shape = [batch, p.heads.q_heads(), seq_q, p.cache.head_dim];
    checker.tensor("q", &bindings.q, Access::Read, p.q_dtype, q_shape, 4)?;
    let cache = CacheParams::new(&mut checker, &p.cache, &bindings.cache, Access::Read, batch)?;
    if let Some(window) = p.window.filter(|_| p.cache.rolling)
        && u64::from(window) + u64::from(seq_q) > u64::from(cache.capacity) + 1
    {
        return Err(Error::Invalid {
            what: "window",
            needed: "window + seq_q - 1 <= capacity of a rolling cache",
            got: format!("{window} + {seq_q} - 1 of {}", cache.capacity),
        });
    }
    checker.binding("kv_lens", &bindings.kv_lens, Access::Read, 4 * u64::from(batch))?;
    let heads_out = p.heads.heads().len() as u32;
    let out_shape = [batch, heads_out, seq_q, p.cache.value_dim];
    checker.tensor("out", &bindings.out, Access::Write, p.out_dtype, out_shape, 4)?;
    let rows = rows(plan, shape);
    checker.optional("lse", p.lse, bindings.lse.as_ref(), Access::Write, 4 * rows)?;
    check_workspace(plan, &mut checker, shape, bindings)?;
    // Every slot can be reached, whatever the device's lengths are. Rows before the first key
    // turn back, and see keys without a mask alone.
    let slots = if p.cache.rolling { 1 } else { cache.capacity };
    let places = slots.max(if p.causal { 0 } else { seq_q });
    let reach = Reach { places: Some(places), ..Reach::rows(batch, seq_q) };
    let rotary_dim = p.rotate_q.then_some(p.rotary_dim);
    let rotation = bindings.rotation.as_ref();
    let rotary = RotaryParams::optional(&mut checker, rotation, rotary_dim, reach)?;
    let bias_shape = [batch, heads_out, seq_q, cache.capacity];
    let bias = checker.bias(p.bias, bindings.bias.as_ref(), bias_shape)?;
    Ok(Checked { cache, rotary, bias })
}

fn check_workspace<B: Binding>(
    plan: &DecodePlan,
    checker: &mut Checker<'_, B>,
    shape: &DecodeShape,
    bindings: &DecodeBindings<B>,
) -> Result<()> {
    let (_, bytes) = plan.workspace(shape);
    let given = bindings.workspace.as_ref();
    checker.optional("workspace", plan.merge().is_some(), given, Access::Write, bytes)?;
    if bytes / 4 > u64::from(u32::MAX) {
        return Err(Error::IndexOverflow { tensor: "workspace", index: bytes / 4 });
    }
    Ok(())
}

/// All but the number of workgroups.
fn params<B: Binding>(
    plan: &DecodePlan,
    shape: &DecodeShape,
    bindings: &DecodeBindings<B>,
    Checked { cache, rotary, bias }: Checked,
) -> Params {
    let p = plan.problem();
    let (q_scale, softcap) = p.rules().scale_and_cap();
    Params {
        batch: shape.batch,
        seq_q: shape.seq_q,
        heads_out: p.heads.heads().len() as u32,
        kv_heads: p.cache.kv_heads,
        row_blocks: plan.row_blocks(shape.seq_q),
        splits: plan.splits(),
        head_rows: plan.head_rows.each,
        causal: p.causal.into(),
        window: p.window.unwrap_or(0),
        q_scale,
        softcap,
        minus_infinity: f32::NEG_INFINITY,
        sums_at: (plan.workspace(shape).0 / 4) as u32,
        among_keys: bindings.rotation.as_ref().is_some_and(Rotation::among_keys).into(),
        q: Strides::new(&bindings.q.layout, 4),
        out: Strides::new(&bindings.out.layout, 4),
        cache,
        bias,
        rotary,
        ..Params::default()
    }
}

/// The second dispatch, over the two parts of the workspace.
fn merge_recipe<B: Binding>(
    plan: &DecodePlan,
    merge: &MergePlan,
    shape: &DecodeShape,
    bindings: &DecodeBindings<B>,
    workspace: &B,
) -> Result<Recipe<B>> {
    let p = plan.problem();
    let DecodeShape { batch, seq_q } = *shape;
    let heads = p.heads.heads().len() as u32;
    let (sums_at, bytes) = plan.workspace(shape);
    let splits = plan.splits();
    let parts = MergeBindings {
        parts: Tensor {
            binding: workspace.part(0, sums_at),
            dtype: DType::F32,
            layout: Layout::bhsd([splits, batch * heads, seq_q, p.cache.value_dim])?,
        },
        lse_parts: workspace.part(sums_at, bytes - sums_at),
        out: bindings.out.clone(),
        lse: bindings.lse.clone(),
    };
    merge.recipe(&MergeShape { parts: splits, batch, heads, seq: seq_q }, &parts)
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cache::CacheFormat;
    use crate::plan::decode::DecodeProblem;
    use crate::reflect::assert_uniform;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn params_are_the_shaders() {
        let heads = HeadMap::ropepp(4).unwrap();
        let problem = DecodeProblem::new(heads, CacheFormat::new(2, 64), 1, 64);
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        assert_uniform::<Params>(&plan.shader().source, "Params");
    }
}
