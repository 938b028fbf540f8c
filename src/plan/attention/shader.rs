//! Joins the WGSL files of an attention kernel and fills in its constants.

use super::cut::state_len;
use super::matrix_shader;
use super::memory::Memory;
use super::{AttentionProblem, BlockedTile, Keys, Outputs, Queries, Tile};
use crate::plan::head_rows::HeadRows;
use crate::plan::shader::{Source, stored, wgsl};
use crate::plan::{KernelKind, Precision, Shader};

/// What gives way where a device binds few storage buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// A binding for log-sum-exps, whether or not they are asked for: problems that differ in that
    /// alone share a shader.
    pub(crate) lse: bool,
    /// Lengths and tables share one binding.
    pub(crate) lists: bool,
}

impl Bound {
    /// As little as the device makes necessary.
    pub(super) fn new(problem: &AttentionProblem, most: u32) -> Self {
        let lse = problem.lse;
        let ways = [(true, false), (lse, false), (true, true)];
        let ways = ways.map(|(lse, lists)| Self { lse, lists });
        let fits = |way: &Self| way.storage_buffers(problem) <= most;
        ways.into_iter().find(fits).unwrap_or(Self { lse, lists: true })
    }

    fn storage_buffers(self, problem: &AttentionProblem) -> u32 {
        let lists = 1
            + u32::from(problem.prefix)
            + u32::from(problem.block_list)
            + u32::from(problem.queries == Queries::Ragged)
            + u32::from(problem.cache().paged);
        // q, k, v and out, and what the problem adds.
        4 + if self.lists { 1 } else { lists }
            + u32::from(self.lse)
            + u32::from(problem.outputs == Outputs::Split)
            + 2 * u32::from(problem.rotate_q)
            + u32::from(problem.bias.is_some())
            + u32::from(problem.resumable)
    }
}

pub(super) fn shader(
    problem: &AttentionProblem,
    head_rows: &HeadRows,
    tile: &Tile,
    bound: Bound,
) -> Shader {
    let [q, k, v, out] = problem.stored();
    Shader {
        kernel: KernelKind::Attention,
        label: format!(
            "attention D{} Dv{} x{} {}x{}{} {q}{k}{v}{out}",
            problem.head_dim,
            problem.value_dim,
            head_rows.streams,
            tile.block_q(),
            tile.block_k(),
            match tile {
                Tile::Blocked(_) => "",
                Tile::Shuffled(_) => " shuffled",
                Tile::Matrices(tile) if tile.precision == Precision::F16x3Products =>
                    " matrices x3",
                Tile::Matrices(_) => " matrices",
            },
        ),
        source: constants(problem, head_rows, tile).files(files(problem, head_rows, tile, bound)),
        entry: "attention",
        overrides: vec![("WORKGROUP", f64::from(tile.threads()))],
        workgroup_size: tile.threads(),
        workgroup_bytes: Memory::bytes(problem, head_rows, tile),
        table_bytes: head_rows.bytes(),
        subgroup: tile.subgroup().map(|size| (size, size)),
        matrices: tile.matrices().map(|tile| tile.side),
        storage_buffers: bound.storage_buffers(problem),
    }
}

/// Private arrays need lengths that are constants, and what those depend on is constant as well.
fn constants(problem: &AttentionProblem, head_rows: &HeadRows, tile: &Tile) -> Source {
    let channels = problem.channels();
    let numbers = [
        ("HEAD_DIM", problem.head_dim),
        ("VALUE_DIM", problem.value_dim),
        ("HEAD_ROWS", head_rows.slots()),
        ("STREAMS", head_rows.streams),
    ];
    let flags = [
        ("SOFTCAP", problem.softcap.is_some()),
        ("BLOCKS", problem.block_list),
        ("SPLIT", problem.outputs == Outputs::Split),
        ("SINKS", !problem.sinks.is_empty()),
        ("RESUMABLE", problem.resumable),
    ];
    let source = match tile {
        Tile::Blocked(blocked) => {
            let source = invocations(Source::new(), problem, head_rows, tile);
            staging(source, problem, head_rows, blocked)
        }
        Tile::Shuffled(_) => invocations(Source::new(), problem, head_rows, tile),
        Tile::Matrices(tile) => matrix_shader::constants(problem, head_rows, tile),
    };
    source
        .numbers(numbers)
        .numbers(channels.numbers())
        .flags(channels.flags())
        .flags(problem.rules().flags())
        .flags(flags)
}

/// What tiles add whose invocations own queries.
fn invocations(
    source: Source,
    problem: &AttentionProblem,
    head_rows: &HeadRows,
    tile: &Tile,
) -> Source {
    let [tx, ty, row_pairs, key_quads] = tile.grid();
    let numbers = [
        ("TX", tx),
        ("TY", ty),
        ("ROW_PAIRS", row_pairs),
        ("KEY_QUADS", key_quads),
        ("COLS", tile.cols(problem.value_dim)),
        ("STATE_LEN", state_len(head_rows, tile, problem)),
    ];
    source.numbers(numbers).flags([("MIX", head_rows.mix), ("TURN", head_rows.turn)])
}

/// What a tile in workgroup memory adds.
fn staging(
    source: Source,
    problem: &AttentionProblem,
    head_rows: &HeadRows,
    tile: &BlockedTile,
) -> Source {
    let memory = Memory::new(problem, head_rows, tile);
    let numbers = [
        ("CHUNK_UNITS", tile.chunk_units),
        ("CHUNKS", problem.channels().units().div_ceil(tile.chunk_units)),
        ("V_QUADS", tile.v_quads),
        ("Q_AT", memory.q_at),
        ("K_AT", memory.k_at),
        ("V_AT", memory.v_at),
        ("P_AT", memory.p_at),
        ("P_ROW", memory.p_row),
        ("RED_AT", memory.red_at),
        ("SHARED", memory.len),
    ];
    let flags = [
        ("Q_RESIDENT", tile.q_resident),
        ("PV_ALIASED", memory.pv_aliased),
        ("RED_ALIASED", memory.red_aliased),
        ("PLACES_STAGED", problem.has_slots()),
    ];
    source.numbers(numbers).flags(flags)
}

/// Lengths and tables, each by itself or all in one binding.
fn lists(problem: &AttentionProblem, bound: Bound) -> Vec<&'static str> {
    if bound.lists {
        return vec![wgsl!("attention/one_buffer")];
    }
    let mut lists = vec![match problem.keys {
        Keys::Ragged => wgsl!("lists/cu_seqlens_k"),
        Keys::Batched | Keys::Cache(_) => wgsl!("lists/kv_lens"),
    }];
    if problem.queries == Queries::Ragged {
        lists.push(wgsl!("lists/cu_seqlens_q"));
    }
    if problem.prefix {
        lists.push(wgsl!("lists/prefix_lens"));
    }
    if problem.block_list {
        lists.push(wgsl!("lists/blocks"));
    }
    lists
}

/// Where keys and values come from.
fn keys(problem: &AttentionProblem, bound: Bound) -> Vec<&'static str> {
    let cache = problem.cache();
    let mut keys = cache.readers();
    match problem.keys {
        Keys::Ragged => keys.push(wgsl!("attention/keys_ragged")),
        _ if !problem.has_slots() => keys.push(wgsl!("attention/keys_batched")),
        _ => {
            let [place, slots] = cache.slots();
            let packed = bound.lists && cache.paged;
            keys.push(if packed { wgsl!("lists/paged") } else { place });
            keys.extend([slots, wgsl!("attention/keys_cache")]);
        }
    }
    keys
}

/// Where queries come from.
fn queries(problem: &AttentionProblem) -> [&'static str; 2] {
    let query = match problem.rotate_q {
        true => wgsl!("attention/query_rotate"),
        false => wgsl!("attention/query_ready"),
    };
    let rows = match problem.queries {
        Queries::Batched => wgsl!("attention/rows_batched"),
        Queries::Ragged => wgsl!("attention/rows_ragged"),
    };
    [query, rows]
}

/// What a problem may leave out.
fn options(problem: &AttentionProblem) -> [&'static str; 3] {
    let prefix = match problem.prefix {
        true => wgsl!("attention/prefix_lens"),
        false => wgsl!("attention/prefix_none"),
    };
    let blocks = match problem.block_list {
        true => wgsl!("attention/blocks_list"),
        false => wgsl!("attention/blocks_none"),
    };
    let state = match problem.resumable {
        true => wgsl!("attention/state_kept"),
        false => wgsl!("attention/state_none"),
    };
    [prefix, blocks, state]
}

/// The kernel, and the sizes that it works by.
fn kernel(
    problem: &AttentionProblem,
    head_rows: &HeadRows,
    tile: &Tile,
) -> (&'static str, Vec<&'static str>) {
    let places = match problem.has_slots() {
        true => wgsl!("attention/places_staged"),
        false => wgsl!("attention/places_computed"),
    };
    // The tile is declared before the kernel's flag: the first variable of workgroup memory begins
    // at a multiple of 16 bytes.
    let sizes = wgsl!("attention/sizes");
    match tile {
        Tile::Shuffled(_) => (sizes, vec![wgsl!("attention_shuffled")]),
        Tile::Blocked(_) => (sizes, vec![places, wgsl!("attention/stage"), wgsl!("attention")]),
        Tile::Matrices(tile) => {
            (wgsl!("attention_matrix/sizes"), matrix_shader::files(head_rows, tile, places))
        }
    }
}

fn files<'a>(
    problem: &'a AttentionProblem,
    head_rows: &HeadRows,
    tile: &Tile,
    bound: Bound,
) -> impl Iterator<Item = &'a str> {
    let lse = if bound.lse { wgsl!("attention/lse") } else { wgsl!("attention/lse_none") };
    let out_im = match problem.outputs {
        Outputs::Merged => wgsl!("io/out_im_none"),
        Outputs::Split => stored!(problem.out_dtype, "io/out_im"),
    };
    let (sizes, kernel) = kernel(problem, head_rows, tile);
    let common = [
        stored!(problem.q_dtype, "io/q"),
        stored!(problem.out_dtype, "io/out"),
        out_im,
        wgsl!("rotary"),
        wgsl!("strides"),
        wgsl!("cache/rows"),
        wgsl!("head_rows"),
        wgsl!("attention/bindings"),
        sizes,
        wgsl!("finite"),
        wgsl!("softmax"),
        wgsl!("channels"),
        wgsl!("attention/load"),
        wgsl!("attention/load_keys"),
        wgsl!("attention/work"),
        wgsl!("score"),
        wgsl!("attention/score"),
    ];
    let bindings = keys(problem, bound).into_iter().chain([lse]).chain(lists(problem, bound));
    bindings
        .chain(common)
        .chain(queries(problem))
        .chain(problem.rules().files())
        .chain(options(problem))
        .chain([wgsl!("attention/sees")])
        .chain(kernel)
}
