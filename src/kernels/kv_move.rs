//! Moves of cache rows on the device: compiles a [`KvMovePlan`], binds a cache to it.

use crate::gpu::{
    Access, CacheBindings, CacheParams, Checker, Compiler, CosSin, Dispatch, Pipeline, Positions,
    Reach, RotaryParams, Rotation, params_buffer, present, uniform_buffer,
};
use crate::plan::binding;
use crate::plan::kv_move::{KvMovePlan, Move, check_moves};
use crate::uniform::uniform;
use crate::{Error, Result};

/// A compiled move. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct KvMove {
    plan: KvMovePlan,
    pipeline: Pipeline,
}

/// The tensors of a call.
#[derive(Debug, Clone)]
pub struct KvMoveBindings<'a> {
    /// The cache; read, and written where rows go.
    pub cache: CacheBindings<'a>,
    /// Where keys turn: the table that they were rotated with. It has to be as long as the farthest
    /// move. A factor of its own (YaRN's) is not applied again. Where frequencies follow the length
    /// (dynamic NTK, LongRoPE), keys that were rotated with other frequencies cannot be moved right.
    pub table: Option<CosSin<'a>>,
}

impl<'a> KvMoveBindings<'a> {
    /// A cache whose keys do not turn.
    pub fn new(cache: CacheBindings<'a>) -> Self {
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

impl KvMove {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &KvMovePlan) -> Result<Self> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        Ok(Self { pipeline: Pipeline::new(compiler, plan.shader())?, plan })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &KvMovePlan {
        &self.plan
    }

    /// Checks a call that makes `moves` between the `batch` sequences of a cache, all at once, and
    /// binds it. Lengths are the caller's: nothing reads or writes them.
    ///
    /// # Errors
    /// As [`check_moves`]; any of [`Error`]'s variants on shapes, strides, sizes, alignment,
    /// overlap, usage, storage and limits; [`Error::Binding`] for a table too many or too few;
    /// [`Error::TableTooShort`] where a move goes farther than the table. The buffers stay as they
    /// are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        batch: u32,
        moves: &[Move],
        bindings: &KvMoveBindings<'_>,
    ) -> Result<Dispatch> {
        let format = &self.plan.problem().cache;
        let (cache, rotary) = self.check(batch, moves, bindings)?;
        let groups = self.plan.groups(moves);
        let moves: Vec<&Move> = moves.iter().filter(|one| one.rows > 0).collect();
        let list: Vec<Entry> = moves.iter().map(|one| Entry::new(one, format.rolling)).collect();
        let chains = list.iter().map(|one| one.chains).max().unwrap_or(0);
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = self.plan.capabilities.fold_groups(groups)?;
        let params = Params {
            moves: list.len() as u32,
            chains,
            kv_heads: format.kv_heads,
            groups_x: workgroups[0],
            cache,
            rotary,
        };
        let params = params_buffer(device, "kv_move params", &params)?;
        let list = uniform_buffer(device, "kv_move moves", bytemuck::cast_slice(&list))?;
        let rotation = bindings.table.clone().map(|table| Rotation::new(table, FIRST));
        let call = self
            .pipeline
            .call()
            .bind(binding::PARAMS, params.as_entire_buffer_binding())
            .bind(binding::MOVES, list.as_entire_buffer_binding())
            .written_cache(&bindings.cache, format.v_in_k)
            .rotation(rotation.as_ref());
        Ok(call.dispatch(device, workgroups))
    }

    fn check(
        &self,
        batch: u32,
        moves: &[Move],
        bindings: &KvMoveBindings<'_>,
    ) -> Result<(CacheParams, RotaryParams)> {
        let p = self.plan.problem();
        let mut checker = Checker::new(&self.plan.capabilities);
        let cache =
            CacheParams::new(&mut checker, &p.cache, &bindings.cache, Access::Write, batch)?;
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
        let rotary = RotaryParams::new(&mut checker, table, &FIRST, p.rotary_dim, reach)?;
        Ok((cache, rotary))
    }
}

/// Distances are counted from 0.
const FIRST: Positions<'static> = Positions::From(0);

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
