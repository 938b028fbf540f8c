//! Calls of a move of cache rows: a cache and moves in, a recipe out.

use crate::call::{
    Access, Binding, CacheBindings, CacheParams, Checker, CosSin, Plan, Positions, Reach, Recipe,
    RotaryParams, Rotation, Step, present,
};
use crate::plan::kv_move::{KvMovePlan, KvMoveShape, Move, check_moves};
use crate::plan::{KernelKind, Shader, binding};
use crate::uniform::uniform;
use crate::{Error, Result};

/// The tensors of a call.
#[derive(Debug, Clone)]
pub struct KvMoveBindings<B> {
    /// The cache; read, and written where rows go.
    pub cache: CacheBindings<B>,
    /// Where keys turn: the table that they were rotated with. It has to be as long as the farthest
    /// move. A factor of its own (YaRN's) is not applied again. Where frequencies follow the length
    /// (dynamic NTK, LongRoPE), keys that were rotated with other frequencies cannot be moved
    /// right.
    pub table: Option<CosSin<B>>,
}

impl<B> KvMoveBindings<B> {
    /// A cache whose keys do not turn.
    pub fn new(cache: CacheBindings<B>) -> Self {
        Self { cache, table: None }
    }
}

uniform! {
    /// `Params` of `shaders/kv_move.wgsl`.
    struct Params {
        moves: u32,
        chains: u32,
        kv_heads: u32,
        groups_x: u32,
        cache: CacheParams,
        rotary: RotaryParams,
    }
}

uniform! {
    /// `Move` of `shaders/kv_move.wgsl`.
    struct Entry {
        from_batch: u32,
        from_row: u32,
        to_batch: u32,
        to_row: u32,
        rows: u32,
        chains: u32,
        last_first: u32,
        distance: i32,
    }
}

impl Entry {
    fn new(one: &Move, rolling: bool) -> Self {
        Self {
            from_batch: one.from,
            from_row: one.from_row,
            to_batch: one.to,
            to_row: one.to_row,
            rows: one.rows,
            chains: one.chains(rolling),
            last_first: u32::from(one.distance() > 0),
            // Within 32 bits: the moves were checked.
            distance: one.distance() as i32,
        }
    }
}

impl Plan for KvMovePlan {
    const KERNEL: KernelKind = KernelKind::KvMove;

    type Shape<'s> = KvMoveShape<'s>;
    type Bindings<B> = KvMoveBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        vec![self.shader()]
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        vec![None]
    }

    fn recipe<B: Binding>(
        &self,
        shape: &KvMoveShape<'_>,
        bindings: &KvMoveBindings<B>,
    ) -> Result<Recipe<B>> {
        let format = &self.problem().cache;
        let KvMoveShape { batch, moves } = *shape;
        let (cache, rotary) = check(self, batch, moves, bindings)?;
        let groups = self.groups(moves);
        let moves: Vec<&Move> = moves.iter().filter(|one| one.rows > 0).collect();
        let list: Vec<Entry> = moves.iter().map(|one| Entry::new(one, format.rolling)).collect();
        let chains = list.iter().map(|one| one.chains).max().unwrap_or(0);
        if groups == 0 {
            return Ok(Recipe::empty());
        }
        let workgroups = self.capabilities.fold_groups(groups)?;
        let params = Params {
            moves: list.len() as u32,
            chains,
            kv_heads: format.kv_heads,
            groups_x: workgroups[0],
            cache,
            rotary,
        };
        let rotation = bindings.table.clone().map(|table| Rotation::new(table, Positions::From(0)));
        let step = Step::new(0, workgroups)
            .params(&params)
            .data(binding::MOVES, bytemuck::cast_slice(&list).into())
            .written_cache(&bindings.cache, format.v_in_k)
            .rotation(rotation.as_ref());
        Ok(step.into())
    }
}

fn check<B: Binding>(
    plan: &KvMovePlan,
    batch: u32,
    moves: &[Move],
    bindings: &KvMoveBindings<B>,
) -> Result<(CacheParams, RotaryParams)> {
    let p = plan.problem();
    let mut checker = Checker::new(&plan.capabilities);
    let cache = CacheParams::new(&mut checker, &p.cache, &bindings.cache, Access::Write, batch)?;
    check_moves(moves, batch, cache.capacity, p.cache.rolling)?;
    present("table", p.rotate, bindings.table.is_some())?;
    let Some(table) = &bindings.table else { return Ok((cache, RotaryParams::default())) };
    if table.shape.planes != 1 {
        return Err(Error::Invalid {
            what: "planes of the cos/sin table",
            needed: "1: keys that decay with their position (xPos) cannot be turned",
            got: table.shape.planes.to_string(),
        });
    }
    let moved = moves.iter().filter(|one| one.rows > 0);
    let farthest = moved.map(|one| one.distance().abs()).max().unwrap_or(0);
    let reach = Reach::rows(1, u32::try_from(farthest + 1).unwrap_or(u32::MAX));
    let rotary = RotaryParams::new(&mut checker, table, &Positions::From(0), p.rotary_dim, reach)?;
    Ok((cache, rotary))
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::cache::CacheFormat;
    use crate::plan::kv_move::KvMoveProblem;
    use crate::reflect::assert_uniform;

    #[test]
    fn params_and_moves_are_the_shaders() {
        let problem = KvMoveProblem::new(CacheFormat::new(2, 64));
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        assert_uniform::<Params>(&plan.shader().source, "Params");
        assert_uniform::<Entry>(&plan.shader().source, "Move");
    }
}
