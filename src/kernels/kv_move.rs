//! Moves of cache rows on the device: compiles a [`KvMovePlan`], binds a cache to it.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, BLOCK_TABLE, Bind, COS_SIN, CacheBindings, CacheParams, Checker, Compiler, CosSin,
    Dispatch, POSITION_IDS, Pipeline, Positions, RotaryParams, Unused, uniform_buffer,
};
use crate::plan::kv_move::{KvMovePlan, Move, check_moves};
use crate::{Error, Result};

/// A compiled move. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct KvMove {
    plan: KvMovePlan,
    pipeline: Pipeline,
    unused: Unused,
}

/// The tensors of a call.
#[derive(Debug, Clone)]
pub struct KvMoveBindings<'a> {
    /// The cache; read, and written where rows go.
    pub cache: CacheBindings<'a>,
    /// Where keys turn: the table that they were rotated with. It has to be as long as the farthest
    /// move. A factor of its own (YaRN's) is not applied again. Where frequencies follow the length
    /// (dynamic NTK, LongRoPE), keys that were rotated with other frequencies cannot be moved right.
    pub rotation: Option<CosSin<'a>>,
}

/// Binding numbers, by the names of the shader's files.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const K_CACHE: u32 = 5;
    pub(super) const V_CACHE: u32 = 6;
    pub(super) const MOVES: u32 = 10;
}

/// `Params` of `shaders/kv_move.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    moves: u32,
    chains: u32,
    kv_heads: u32,
    groups_x: u32,
    cache: CacheParams,
    rotary: RotaryParams,
}

/// `Move` of `shaders/kv_move.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
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
        let device = compiler.device();
        let plan = plan.problem().plan(&crate::Capabilities::of(device))?;
        let pipeline = Pipeline::new(compiler, plan.shader())?;
        Ok(Self { pipeline, unused: Unused::new(device)?, plan })
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
        let p = self.plan.problem();
        let caps = &self.plan.capabilities;
        let rolling = p.cache.rolling;
        let mut checker = Checker::new(caps);
        let cache =
            CacheParams::new(&mut checker, &p.cache, &bindings.cache, Access::Write, batch)?;
        check_moves(moves, batch, cache.capacity, rolling)?;
        let moves: Vec<Move> = moves.iter().copied().filter(|one| one.rows > 0).collect();
        let farthest = moves.iter().map(|one| one.distance().abs()).max().unwrap_or(0);
        let rotary = match (&bindings.rotation, p.rotate) {
            (None, false) => RotaryParams::default(),
            (Some(_), false) => {
                let why = "given, but the problem does not turn keys";
                return Err(Error::Binding { tensor: "rotation", why });
            }
            (None, true) => {
                let why = "missing, though the problem turns keys";
                return Err(Error::Binding { tensor: "rotation", why });
            }
            (Some(table), true) => {
                if table.shape.planes != 1 {
                    return Err(Error::Invalid {
                        what: "planes of the cos/sin table",
                        needed: "1: keys that decay with their position (xPos) cannot be turned",
                        got: table.shape.planes.to_string(),
                    });
                }
                let reach = u32::try_from(farthest + 1).unwrap_or(u32::MAX);
                let first = Positions::From(0);
                RotaryParams::new(&mut checker, table, &first, p.rotary_dim, [1, reach])?
            }
        };
        let chains = moves.iter().map(|one| one.chains(rolling)).max().unwrap_or(0);
        let groups = [moves.len() as u64, chains.into(), p.cache.kv_heads.into()];
        let groups = groups.iter().fold(1u64, |n, &factor| n.saturating_mul(factor));
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = caps.fold_groups(groups)?;
        let params = Params {
            moves: moves.len() as u32,
            chains,
            kv_heads: p.cache.kv_heads,
            groups_x: workgroups[0],
            cache,
            rotary,
        };
        let params = uniform_buffer(device, "kv_move params", bytemuck::bytes_of(&params))?;
        let list: Vec<Entry> = moves.iter().map(|one| Entry::new(one, rolling)).collect();
        let list = uniform_buffer(device, "kv_move moves", bytemuck::cast_slice(&list))?;
        let mut entries = vec![
            (binding::PARAMS, params.as_entire_buffer_binding()),
            (binding::K_CACHE, bindings.cache.k.binding.clone()),
            (
                binding::V_CACHE,
                match p.cache.v_in_k {
                    true => self.unused.written(),
                    false => bindings.cache.v.binding.clone(),
                },
            ),
            (binding::MOVES, list.as_entire_buffer_binding()),
        ];
        if let Some(table) = &bindings.cache.block_table {
            entries.push((BLOCK_TABLE, table.binding.clone()));
        }
        if let Some(table) = &bindings.rotation {
            entries.push((COS_SIN, table.binding.clone()));
            entries.push((POSITION_IDS, self.unused.read()));
        }
        let bind =
            Bind { label: "kv_move", pipeline: &self.pipeline, entries: &entries, workgroups };
        Ok(Dispatch::new(device, &bind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::cache::CacheFormat;
    use crate::plan::kv_move::KvMoveProblem;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};

    host_struct!(Params { moves, chains, kv_heads, groups_x, cache, rotary });
    host_struct!(Entry {
        from_batch,
        from_row,
        to_batch,
        to_row,
        rows,
        chains,
        last_first,
        distance,
    });

    fn source(paged: bool) -> String {
        let cache = CacheFormat { paged, ..CacheFormat::new(2, 64) };
        let problem = KvMoveProblem::new(cache);
        problem.plan(&Capabilities::webgpu_default()).unwrap().shader().source.clone()
    }

    #[test]
    fn host_structs_are_the_shaders() {
        assert_eq!(host_layout::<Params>(), wgsl_layout(&source(false), "Params"));
        assert_eq!(host_layout::<Entry>(), wgsl_layout(&source(false), "Move"));
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let always = [
            (binding::PARAMS, "params"),
            (binding::K_CACHE, "k_cache"),
            (binding::V_CACHE, "v_cache"),
            (COS_SIN, "cos_sin"),
            (POSITION_IDS, "position_ids"),
            (binding::MOVES, "moves"),
        ];
        for paged in [false, true] {
            let table = paged.then_some((BLOCK_TABLE, "block_table"));
            let all = always.into_iter().chain(table).map(|(n, name)| (n, name.to_owned()));
            assert_eq!(wgsl_bindings(&source(paged)), all.collect::<Vec<_>>());
        }
    }
}
