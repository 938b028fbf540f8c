//! Joins the WGSL files of a decode kernel and fills in its constants.

use core::fmt::Write as _;

use super::{DecodeProblem, DecodeTile, Programs};
use crate::DType;
use crate::plan::Shader;
use crate::plan::attention::Bias;
use crate::plan::cache::CacheType;

macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!("../../../shaders/", $name, ".wgsl"))
    };
}

/// Storage buffers of a call that writes partial results, or its results.
pub(super) fn storage_buffers(problem: &DecodeProblem, partial: bool) -> u32 {
    // q, k, v, kv_lens, and partial results or the output.
    5 + u32::from(problem.lse && !partial)
        + u32::from(problem.cache.paged)
        + u32::from(problem.bias.is_some())
        + 2 * u32::from(problem.rotate_q)
}

pub(super) fn shader(
    problem: &DecodeProblem,
    programs: &Programs,
    tile: &DecodeTile,
    partial: bool,
    compact: bool,
) -> Shader {
    let mut source = constants(problem, programs, tile, partial, compact);
    for part in files(problem, tile, partial) {
        source.push_str(part);
        // A hook need not end in a newline.
        source.push('\n');
    }
    Shader {
        label: format!(
            "decode D{} Dv{} x{} {}x{} {}{}{}{}{}{}",
            problem.cache.head_dim,
            problem.cache.value_dim,
            programs.streams,
            tile.rows,
            tile.block_k(),
            problem.q_dtype,
            problem.cache.k,
            problem.cache.v,
            if problem.cache.paged { " paged" } else { "" },
            if partial { " partial" } else { "" },
            if tile.subgroup.is_some() { " shuffled" } else { "" },
        ),
        source,
        entry: "decode",
        overrides: vec![("WORKGROUP", f64::from(tile.threads))],
        workgroup_size: tile.threads,
        workgroup_bytes: tile.bytes(problem.units(), programs.streams, problem.cache.value_dim),
        storage_buffers: storage_buffers(problem, partial),
        subgroup: tile.subgroup.is_some(),
    }
}

/// Private arrays need lengths that are constants, and what those depend on is constant as well.
fn constants(
    problem: &DecodeProblem,
    programs: &Programs,
    tile: &DecodeTile,
    partial: bool,
    compact: bool,
) -> String {
    let (pairs, pair_quads, tail_quads) = problem.pairs();
    let (q_interleaved, k_interleaved, blocks) = problem.pair_layout();
    let (key_groups, lanes, cols) = tile.columns(problem.cache.value_dim);
    let memory = tile.memory(problem.units(), programs.streams, problem.cache.value_dim);
    let numbers = [
        ("HEAD_DIM", problem.cache.head_dim),
        ("VALUE_DIM", problem.cache.value_dim),
        ("PAIRS", pairs),
        ("PAIR_QUADS", pair_quads),
        ("TAIL_QUADS", tail_quads),
        ("BLOCK_PAIRS", pairs / blocks),
        ("PROGRAM_SLOTS", programs.slots() as u32),
        ("STREAMS", programs.streams),
        ("THREADS", tile.threads),
        ("KEYS_EACH", tile.keys_each),
        ("ROWS", tile.rows),
        ("KEY_GROUPS", key_groups),
        ("LANES", lanes),
        ("COLS", cols),
        ("RUN", tile.run),
        ("SUBGROUP", tile.subgroup.unwrap_or(1)),
        ("Q_AT", 0),
        ("P_AT", memory.p_at),
        ("RED_AT", memory.red_at),
        ("SEG_AT", memory.seg_at),
        ("SHARED", memory.len),
    ];
    let flags = [
        ("Q_INTERLEAVED", q_interleaved),
        ("K_INTERLEAVED", k_interleaved),
        ("COMPACT", compact),
        ("PREFETCH", tile.prefetch),
        ("MIX", programs.mix),
        ("TURN", programs.turn),
        ("BIAS", problem.bias.is_some()),
        ("ALIBI", !problem.alibi_slopes.is_empty()),
        ("HOOKS", problem.score_mod.is_some() || problem.mask_mod.is_some()),
        // With partial results, the merge adds them.
        ("SINKS", !partial && !problem.sinks.is_empty()),
    ];
    let mut block = String::new();
    for (name, value) in numbers {
        // Writing to a String cannot fail.
        let _ = writeln!(block, "const {name}: u32 = {value}u;");
    }
    for (name, value) in flags {
        let _ = writeln!(block, "const {name}: bool = {value};");
    }
    block.push('\n');
    block
}

fn files<'a>(problem: &'a DecodeProblem, tile: &DecodeTile, partial: bool) -> Vec<&'a str> {
    let mut files = vec![match problem.q_dtype {
        DType::F32 => wgsl!("io/q_f32"),
        DType::F16 => wgsl!("io/q_f16"),
    }];
    files.extend(match problem.cache.k {
        CacheType::F32 => vec![wgsl!("io/k_f32"), wgsl!("cache/read_k_float")],
        CacheType::F16 => vec![wgsl!("io/k_f16"), wgsl!("cache/read_k_float")],
        CacheType::Int8 => vec![wgsl!("cache/read_k_int8")],
        CacheType::Q4 => vec![wgsl!("cache/read_k_q4")],
    });
    files.extend(match problem.cache.v {
        CacheType::F32 => vec![wgsl!("io/v_f32"), wgsl!("cache/read_v_float")],
        CacheType::F16 => vec![wgsl!("io/v_f16"), wgsl!("cache/read_v_float")],
        CacheType::Int8 => vec![wgsl!("cache/read_v_int8")],
        CacheType::Q4 => vec![wgsl!("cache/read_v_q4")],
    });
    if partial {
        files.push(wgsl!("decode/store_partial"));
    } else {
        files.push(match problem.out_dtype {
            DType::F32 => wgsl!("io/out_f32"),
            DType::F16 => wgsl!("io/out_f16"),
        });
        files.push(wgsl!("decode/store_out"));
        files.push(if problem.lse { wgsl!("decode/lse") } else { wgsl!("decode/no_lse") });
    }
    files.extend([
        wgsl!("finite"),
        wgsl!("cache/rows"),
        if problem.cache.paged { wgsl!("cache/paged") } else { wgsl!("cache/contiguous") },
        wgsl!("rotary"),
        wgsl!("units"),
        if problem.rotate_q { wgsl!("decode/query_rotate") } else { wgsl!("decode/query_ready") },
        match problem.bias {
            None => wgsl!("bias/none"),
            Some(Bias::Additive) => wgsl!("bias/add"),
            Some(Bias::Mask) => wgsl!("bias/mask"),
        },
        problem.score_mod.as_ref().map_or(wgsl!("attention/score_mod_none"), |hook| hook.wgsl()),
        problem.mask_mod.as_ref().map_or(wgsl!("attention/mask_mod_none"), |hook| hook.wgsl()),
        match tile.subgroup {
            None => wgsl!("decode/pass_memory"),
            Some(_) => wgsl!("decode/pass_shuffle"),
        },
        wgsl!("decode/bindings"),
        wgsl!("decode/load"),
        wgsl!("decode/score"),
        wgsl!("decode"),
    ]);
    files
}
