//! The uniform block of an attention call.

use super::AttentionBindings;
use super::bindings::Checked;
use crate::call::{CacheParams, FAR, NO_WINDOW, RotaryParams, Rotation, Strides, place_of_query};
use crate::plan::attention::{Alignment, AttentionPlan, AttentionShape, CutPart, Queries};
use crate::uniform::uniform;
use crate::{Layout, Result};

uniform! {
    /// `Lists` of `shaders/attention/bindings.wgsl`.
    pub(super) struct Lists {
        pub(super) kv_lens: u32,
        pub(super) cu_seqlens_q: u32,
        pub(super) cu_seqlens_k: u32,
        pub(super) block_table: u32,
        pub(super) prefix_lens: u32,
        pub(super) blocks: u32,
        pub(super) pad0: u32,
        pub(super) pad1: u32,
    }
}

impl Lists {
    /// Where the lists start that share a buffer; without any list, all keys are there.
    pub(super) fn new(places: Option<[u32; 6]>) -> Self {
        let [kv_lens, cu_seqlens_q, cu_seqlens_k, block_table, prefix_lens, blocks] =
            places.unwrap_or([u32::MAX; 6]);
        Self {
            kv_lens,
            cu_seqlens_q,
            cu_seqlens_k,
            block_table,
            prefix_lens,
            blocks,
            ..Self::default()
        }
    }
}

uniform! {
    /// `Params` of `shaders/attention.wgsl`.
    pub(super) struct Params {
        batch: u32,
        seq_q: u32,
        seq_k: u32,
        group: u32,
        groups_x: u32,
        tiles: u32,
        first_group: u32,
        part_groups: u32,
        first_step: u32,
        end_step: u32,
        last_part: u32,
        head_rows: u32,
        offset: i32,
        ahead: i32,
        align_last: u32,
        window: i32,
        q_scale: f32,
        softcap: f32,
        minus_infinity: f32,
        store_lse: u32,
        lse_batch: u32,
        lse_head: u32,
        total_q: u32,
        place_among_keys: u32,
        blocks_batch: u32,
        blocks_row: u32,
        causal: u32,
        bundle: u32,
        zero: u32,
        pad0: u32,
        pad1: u32,
        pad2: u32,
        pub(super) lists: Lists,
        q: Strides,
        out: Strides,
        out_im: Strides,
        bias: Strides,
        cache: CacheParams,
        rotary: RotaryParams,
    }
}

impl Params {
    pub(super) fn new<B>(
        plan: &AttentionPlan,
        shape: &AttentionShape,
        bindings: &AttentionBindings<B>,
        Checked { cache, rotary, bias }: Checked,
    ) -> Result<Self> {
        let problem = plan.problem();
        let ragged_q = problem.queries == Queries::Ragged;
        let q_rows = bindings.q.layout.shape[2];
        let heads_out = problem.heads.heads().len() as u32;
        let q = |layout: &Layout| {
            let strides = Strides::new(layout, 4);
            if ragged_q { strides.ragged() } else { strides }
        };
        let tiles = shape.seq_q.div_ceil(plan.tile().block_q());
        let blocks_row = shape.seq_k.div_ceil(plan.tile().block_k());
        let align_last = problem.rules().placed() && problem.alignment == Alignment::LastKey;
        let rules = problem.rules();
        let (q_scale, softcap) = rules.scale_and_cap();
        let place = if rules.placed() { shape.offset() } else { 0 };
        Ok(Self {
            batch: shape.batch,
            seq_q: shape.seq_q,
            seq_k: shape.seq_k,
            group: problem.heads.q_heads() / problem.kv_heads,
            tiles,
            last_part: 1,
            head_rows: plan.head_rows.len(),
            offset: place_of_query(place, [shape.seq_q, shape.seq_k])?,
            ahead: rules.ahead().map_or(FAR, |keys| keys as i32),
            align_last: u32::from(align_last),
            window: problem.window.map_or(NO_WINDOW, |window| window as i32),
            q_scale,
            softcap,
            minus_infinity: f32::NEG_INFINITY,
            store_lse: u32::from(problem.lse),
            lse_batch: if ragged_q { 0 } else { heads_out * q_rows },
            lse_head: q_rows,
            total_q: q_rows,
            place_among_keys: bindings.rotation.as_ref().is_some_and(Rotation::among_keys).into(),
            blocks_batch: match &bindings.block_list {
                Some(list) if list.per_batch => tiles * blocks_row,
                _ => 0,
            },
            blocks_row,
            causal: u32::from(problem.causal),
            bundle: plan.order(shape).bundle(),
            q: q(&bindings.q.layout),
            out: q(&bindings.out.layout),
            out_im: q(&bindings.out_im.as_ref().unwrap_or(&bindings.out).layout),
            bias,
            cache,
            rotary,
            ..Self::default()
        })
    }

    /// Those of one part of the call.
    pub(super) fn part(&self, part: &CutPart, groups_x: u32) -> Self {
        Self {
            groups_x,
            first_group: part.first_group,
            part_groups: part.groups,
            first_step: part.steps.0,
            end_step: part.steps.1,
            last_part: u32::from(part.last),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::attention::AttentionProblem;
    use crate::reflect::assert_uniform;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn params_are_the_shaders() {
        let problem = AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        assert_uniform::<Params>(&plan.shader().source, "Params");
    }
}
