//! Joins the WGSL files of a decode kernel and fills in its constants.

use super::tile::SEGMENTS;
use super::{DecodeProblem, Tile};
use crate::plan::head_rows::HeadRows;
use crate::plan::shader::{Source, stored, wgsl};
use crate::plan::{KernelKind, Shader};

/// What a kernel binds for its results and its lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// It writes partial results, and a merge the outputs.
    pub(crate) partial: bool,
    /// Lengths and block table share one binding.
    pub(crate) lists: bool,
}

impl Bound {
    /// The first way that the device can bind. One split writes its outputs itself where that
    /// fits.
    pub(super) fn new(problem: &DecodeProblem, splits: u32, most: u32) -> Self {
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        let ways = ways.map(|(partial, lists)| Self { partial, lists });
        let fits =
            |way: &Self| (way.partial || splits == 1) && way.storage_buffers(problem) <= most;
        ways.into_iter().find(fits).unwrap_or(Self { partial: true, lists: true })
    }

    fn storage_buffers(self, problem: &DecodeProblem) -> u32 {
        // q, k, v, lengths, and partial results or the output.
        5 + u32::from(problem.lse && !self.partial)
            + u32::from(problem.cache.paged && !self.lists)
            + u32::from(problem.bias.is_some())
            + 2 * u32::from(problem.rotate_q)
    }
}

pub(super) fn shader(
    problem: &DecodeProblem,
    head_rows: &HeadRows,
    tile: &Tile,
    bound: Bound,
    compact: bool,
) -> Shader {
    let units = problem.channels().units();
    Shader {
        kernel: KernelKind::Decode,
        label: format!(
            "decode D{} Dv{} x{} {}x{} {}{}{}{}{}{}{}",
            problem.cache.head_dim,
            problem.cache.value_dim,
            head_rows.streams,
            tile.rows,
            tile.block_k(),
            problem.q_dtype,
            problem.cache.k,
            problem.cache.v,
            if problem.cache.paged { " paged" } else { "" },
            if bound.partial { " partial" } else { "" },
            if tile.subgroup.is_some() { " shuffled" } else { "" },
            if tile.key_lanes > 1 { " shared" } else { "" },
        ),
        source: constants(problem, head_rows, tile, bound.partial, compact)
            .files(files(problem, tile, bound)),
        entry: "decode",
        overrides: vec![("WORKGROUP", f64::from(tile.threads))],
        workgroup_size: tile.threads,
        workgroup_bytes: tile.bytes(units, head_rows.streams, problem.cache.value_dim),
        storage_buffers: bound.storage_buffers(problem),
        table_bytes: head_rows.bytes(),
        subgroup: tile.subgroups(),
        matrices: None,
    }
}

/// Private arrays need lengths that are constants, and what those depend on is constant as well.
fn constants(
    problem: &DecodeProblem,
    head_rows: &HeadRows,
    tile: &Tile,
    partial: bool,
    compact: bool,
) -> Source {
    let (channels, cache) = (problem.channels(), &problem.cache);
    let (key_groups, lanes, cols) = tile.columns(cache.value_dim);
    let memory = tile.memory(channels.units(), head_rows.streams, cache.value_dim);
    let dims = [("HEAD_DIM", cache.head_dim), ("VALUE_DIM", cache.value_dim)];
    let numbers = [
        ("HEAD_ROWS", head_rows.slots()),
        ("STREAMS", head_rows.streams),
        ("THREADS", tile.threads),
        ("KEYS_EACH", tile.keys_each),
        ("KEY_LEVELS", tile.key_lanes.ilog2()),
        ("ROWS", tile.rows),
        ("KEY_GROUPS", key_groups),
        ("LANES", lanes),
        ("COLS", cols),
        ("RUN", tile.run),
        ("SEGMENTS", SEGMENTS),
        ("SUBGROUP", tile.subgroup.unwrap_or(1)),
        ("Q_AT", 0),
        ("P_AT", memory.p_at),
        ("RED_AT", memory.red_at),
        ("SEG_AT", memory.seg_at),
        ("SHARED", memory.len),
    ];
    let flags = [
        ("COMPACT", compact),
        ("PREFETCH", tile.prefetch),
        ("MIX", head_rows.mix),
        ("TURN", head_rows.turn),
        // Decided by the call's parameters, so that problems share a shader.
        ("SOFTCAP", true),
        // With partial results, the merge adds them.
        ("SINKS", !partial && !problem.sinks.is_empty()),
    ];
    Source::new()
        .numbers(dims)
        .numbers(channels.numbers())
        .numbers(numbers)
        .flags(channels.flags())
        .flags(problem.rules().flags())
        .flags(flags)
}

fn files<'a>(problem: &'a DecodeProblem, tile: &Tile, bound: Bound) -> Vec<&'a str> {
    let mut files: Vec<&str> = vec![wgsl!("finite"), stored!(problem.q_dtype, "io/q")];
    files.extend(problem.cache.readers());
    if bound.partial {
        files.push(wgsl!("decode/store_partial"));
    } else {
        files.extend([stored!(problem.out_dtype, "io/out"), wgsl!("decode/store_out")]);
        files.push(if problem.lse { wgsl!("decode/lse") } else { wgsl!("decode/no_lse") });
    }
    files.extend([
        wgsl!("softmax"),
        wgsl!("strides"),
        wgsl!("cache/rows"),
        wgsl!("rotary"),
        wgsl!("channels"),
        wgsl!("units"),
        if problem.rotate_q { wgsl!("decode/query_rotate") } else { wgsl!("decode/query_ready") },
        match tile.subgroup {
            None => wgsl!("decode/pass_memory"),
            Some(_) => wgsl!("decode/pass_shuffle"),
        },
        match tile.key_lanes {
            1 => wgsl!("decode/keys_own"),
            _ => wgsl!("decode/keys_shared"),
        },
        wgsl!("head_rows"),
        wgsl!("decode/bindings"),
        if bound.lists { wgsl!("decode/one_buffer") } else { wgsl!("lists/kv_lens") },
        wgsl!("decode/load"),
        wgsl!("score"),
        wgsl!("decode/score"),
        wgsl!("decode"),
    ]);
    files.extend(problem.rules().files());
    let [place, slots] = problem.cache.slots();
    let packed = bound.lists && problem.cache.paged;
    files.extend([if packed { wgsl!("lists/paged") } else { place }, slots]);
    files
}
