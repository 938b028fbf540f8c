//! The uniform block of a backward call.

use super::bindings::{AttentionBackwardBindings, Checked};
use crate::call::{FAR, NO_WINDOW, Positions, RotaryParams, Strides, place_of_query};
use crate::plan::attention::{Alignment, AttentionShape, Keys, Queries};
use crate::plan::attention_backward::{AttentionBackwardPlan, Part, Side};
use crate::uniform::uniform;
use crate::{Layout, Result};

uniform! {
    /// `Params` of `shaders/attention_backward/bindings.wgsl`.
    pub(super) struct Params {
        batch: u32,
        seq_q: u32,
        seq_k: u32,
        group: u32,
        groups_x: u32,
        tiles: u32,
        first_group: u32,
        part_groups: u32,
        head_rows: u32,
        offset: i32,
        align_last: u32,
        window: i32,
        causal: u32,
        q_scale: f32,
        scale: f32,
        softcap: f32,
        q_heads: u32,
        kv_heads: u32,
        heads_out: u32,
        total_q: u32,
        extent_k: u32,
        q_batches: u32,
        rows_at: u32,
        rows_batch: u32,
        rows_head: u32,
        q_places_at: u32,
        k_places_at: u32,
        streams: u32,
        q_among_keys: u32,
        zero: u32,
        ahead: i32,
        k_scale: f32,
        q: Strides,
        k: Strides,
        v: Strides,
        out: Strides,
        d_out: Strides,
        grad: Strides,
        dv: Strides,
        bias: Strides,
        rotary: RotaryParams,
        k_rotary: RotaryParams,
    }
}

fn strides(layout: &Layout, unit: u32, ragged: bool) -> Strides {
    let strides = Strides::new(layout, unit);
    if ragged { strides.ragged() } else { strides }
}

impl Params {
    pub(super) fn new<B>(
        plan: &AttentionBackwardPlan,
        shape: &AttentionShape,
        bindings: &AttentionBackwardBindings<B>,
        checked: &Checked,
    ) -> Result<Self> {
        let p = &plan.problem().attention;
        let ragged_q = p.queries == Queries::Ragged;
        let ragged_k = p.keys == Keys::Ragged;
        let [q_batches, total_q] = checked.q_rows;
        let heads_out = p.heads.heads().len() as u32;
        let workspace = plan.workspace(shape, u64::from(q_batches) * u64::from(total_q));
        let among_keys = match &bindings.rotation {
            Some(rotation) => matches!(rotation.q_positions, Positions::AmongKeys),
            None => false,
        };
        let rules = p.rules();
        let (q_scale, softcap) = rules.scale_and_cap();
        let place = if rules.placed() { shape.offset() } else { 0 };
        Ok(Self {
            batch: shape.batch,
            seq_q: shape.seq_q,
            seq_k: shape.seq_k,
            group: p.heads.q_heads() / p.kv_heads,
            head_rows: plan.head_rows.len(),
            offset: place_of_query(place, [shape.seq_q, shape.seq_k])?,
            align_last: u32::from(rules.placed() && p.alignment == Alignment::LastKey),
            window: p.window.map_or(NO_WINDOW, |window| window as i32),
            causal: u32::from(p.causal),
            q_scale,
            scale: p.softmax_scale,
            softcap,
            ahead: rules.ahead().map_or(FAR, |keys| keys as i32),
            // Queries came scaled by softmax_scale · log2 e, or by softmax_scale / softcap.
            k_scale: p.softcap.unwrap_or(core::f32::consts::LN_2),
            q_heads: p.heads.q_heads(),
            kv_heads: p.kv_heads,
            heads_out,
            total_q,
            extent_k: bindings.k.layout.shape[2],
            q_batches,
            // All fit: the workspace was checked to have no more than 2^32 words.
            rows_at: workspace.rows_at as u32,
            rows_batch: if ragged_q { 0 } else { heads_out * total_q },
            rows_head: total_q,
            q_places_at: workspace.q_places_at as u32,
            k_places_at: workspace.k_places_at as u32,
            streams: plan.problem().position_streams,
            q_among_keys: u32::from(among_keys),
            q: strides(&bindings.q.layout, 4, ragged_q),
            k: strides(&bindings.k.layout, 4, ragged_k),
            v: strides(&bindings.v.layout, 4, ragged_k),
            out: strides(&bindings.out.layout, 4, false),
            d_out: strides(&bindings.d_out.layout, 4, false),
            dv: strides(&bindings.dv.layout, 1, ragged_k),
            bias: checked.bias,
            rotary: checked.q_rotary,
            k_rotary: checked.k_rotary,
            ..Self::default()
        })
    }

    /// Those of a small pass, with so many workgroups along x.
    pub(super) fn folded(&self, groups_x: u32) -> Self {
        Self { groups_x, ..*self }
    }

    /// Those of one part of a large pass.
    pub(super) fn part<B>(
        &self,
        plan: &AttentionBackwardPlan,
        shape: &AttentionShape,
        bindings: &AttentionBackwardBindings<B>,
        (side, part, groups_x): (Side, &Part, u32),
    ) -> Self {
        let p = &plan.problem().attention;
        let (layout, ragged) = match side {
            Side::Queries => (&bindings.dq.layout, p.queries == Queries::Ragged),
            Side::Keys => (&bindings.dk.layout, p.keys == Keys::Ragged),
        };
        let ragged_q = p.queries == Queries::Ragged;
        Self {
            groups_x,
            tiles: plan.tiles(shape, side),
            first_group: part.first_group,
            part_groups: part.groups,
            grad: strides(layout, 1, ragged),
            d_out: strides(&bindings.d_out.layout, 4, ragged_q),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::attention::AttentionProblem;
    use crate::plan::attention_backward::AttentionBackwardProblem;
    use crate::reflect::assert_uniform;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn host_struct_is_the_shaders() {
        let forward = AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        let plan = AttentionBackwardProblem::new(forward);
        let plan = plan.plan(&Capabilities::webgpu_default()).unwrap();
        for shader in plan.shaders() {
            assert_uniform::<Params>(&shader.source, "Params");
        }
    }
}
