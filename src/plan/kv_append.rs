//! Planning an append to a cache.

use crate::plan::cache::{CacheFormat, CacheType};
use crate::plan::shader::{Source, cached, codecs, overrides, stored, wgsl};
use crate::plan::{Capabilities, Cost, KernelKind, Shader, rotation_flops};
use crate::rotary::Pairing;
use crate::{DType, Error, Result};

/// New keys and values of B sequences into their cache, in one dispatch: K rotated on its way
/// where asked, both converted to what the cache stores.
///
/// ```text
/// k [B, H_kv, S, D]   v [B, H_kv, S, D_v]   lens u32 [B]: rows before the call, on the device
/// row i of sequence b has position lens[b] + i, and goes into that slot (rolling: mod capacity)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KvAppendProblem {
    /// The cache.
    pub cache: CacheFormat,
    /// Whether K comes un-rotated.
    pub rotate: bool,
    /// Channels that rotate, even, at most D. Read only where K is rotated; likewise the pairing.
    pub rotary_dim: u32,
    /// Channels of each pair.
    pub pairing: Pairing,
    /// Storage of the new rows.
    pub dtype: DType,
}

impl KvAppendProblem {
    /// New rows in f32, all of D rotated, half-split.
    pub fn new(cache: CacheFormat) -> Self {
        Self {
            cache,
            rotate: true,
            rotary_dim: cache.head_dim,
            pairing: Pairing::Half,
            dtype: DType::F32,
        }
    }

    /// Decides how the append runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has too
    /// few storage bindings or invocations.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<KvAppendPlan> {
        KvAppendPlan::new(self, capabilities)
    }

    fn check(&self) -> Result<()> {
        self.cache.check()?;
        if self.rotate {
            self.pairing.check_within(self.rotary_dim, self.cache.head_dim)?;
        }
        Ok(())
    }
}

/// Sizes that change from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvAppendShape {
    /// B.
    pub batch: u32,
    /// S: new rows of a sequence; with ragged rows, the most that any sequence may have.
    pub seq: u32,
    /// Ragged rows: how many there are of all sequences together. K and V are
    /// `[1, H_kv, rows, D]` then, and `lens` is u32 `[B + B + 1]`: the lengths, and behind them
    /// where the rows of each sequence start and the last ones end (`cu_seqlens`).
    pub ragged: Option<u32>,
}

impl KvAppendShape {
    /// `seq` new rows for each of `batch` sequences.
    pub fn new(batch: u32, seq: u32) -> Self {
        Self { batch, seq, ragged: None }
    }
}

/// How a [`KvAppendProblem`] will run.
#[derive(Debug, Clone, PartialEq)]
pub struct KvAppendPlan {
    pub(crate) problem: KvAppendProblem,
    pub(crate) capabilities: Capabilities,
    shader: Shader,
}

/// Invocations of a workgroup: a divisor of what every device offers.
const WORKGROUP: u32 = 64;

impl KvAppendPlan {
    fn new(problem: &KvAppendProblem, caps: &Capabilities) -> Result<Self> {
        problem.check()?;
        let cache = &problem.cache;
        caps.allow_stored(KernelKind::KvAppend, [cache.k, cache.v, problem.dtype.into()])?;
        let mut values: Vec<_> = overrides([
            ("WORKGROUP", WORKGROUP),
            ("HEAD_DIM", cache.head_dim),
            ("VALUE_DIM", cache.value_dim),
            ("K_PIECES", Self::k_pieces(problem)),
            ("V_PIECES", cache.v_pieces()),
            ("PIECES", Self::pieces(problem)),
            ("HEADS_EACH", Self::heads_each(problem)),
        ])
        .collect();
        if problem.rotate {
            let (pairing, read) = (problem.pairing, problem.pairing.reads_interleaved());
            let block_pairs = pairing.block_pairs(problem.rotary_dim);
            values.extend(overrides([
                ("PAIRS", problem.rotary_dim / 2),
                ("BLOCK_PAIRS", block_pairs),
                ("READ_INTERLEAVED", read.into()),
                ("WRITE_INTERLEAVED", pairing.writes_interleaved().into()),
                ("BY_QUADS", (!read && block_pairs.is_multiple_of(4)).into()),
            ]));
        }
        let shader = Shader {
            kernel: KernelKind::KvAppend,
            label: format!(
                "kv_append D{} Dv{} {} to {} {}{}{}",
                cache.head_dim,
                cache.value_dim,
                problem.dtype,
                cache.k,
                cache.v,
                if cache.paged { " paged" } else { "" },
                if problem.rotate { " rotating" } else { "" },
            ),
            source: Source::new().files(Self::files(problem)),
            entry: "kv_append",
            overrides: values,
            workgroup_size: WORKGROUP,
            workgroup_bytes: 0,
            storage_buffers: 5 + u32::from(cache.paged) + 2 * u32::from(problem.rotate),
            table_bytes: 0,
            subgroup: None,
            matrices: None,
        };
        let shader = shader.shared(caps.sharing);
        caps.admit(&shader)?;
        Ok(Self { problem: problem.clone(), capabilities: caps.clone(), shader })
    }

    /// Whether K goes by whole groups of four pairs: a float cache, and no group straddles two
    /// parts.
    fn by_pairs(problem: &KvAppendProblem) -> bool {
        let float = matches!(problem.cache.k, CacheType::F32 | CacheType::F16);
        problem.rotate && float && problem.pairing.block_pairs(problem.rotary_dim).is_multiple_of(4)
    }

    fn k_pieces(problem: &KvAppendProblem) -> u32 {
        let cache = &problem.cache;
        if Self::by_pairs(problem) {
            return problem.rotary_dim / 8 + (cache.head_dim - problem.rotary_dim) / 4;
        }
        cache.k.pieces(cache.head_dim)
    }

    /// Invocations of a row: one a piece of K, and up to two pieces of V each.
    fn pieces(problem: &KvAppendProblem) -> u32 {
        Self::k_pieces(problem).max(problem.cache.v_pieces().div_ceil(2))
    }

    /// Kv heads of an invocation: two share a fetch of cos and sin. More would stride by large
    /// powers of two, which thrash CPU caches, and leave a GPU too few invocations. One where an
    /// invocation rotates a whole row: compilers would keep the row's cos and sin in registers from
    /// head to head.
    fn heads_each(problem: &KvAppendProblem) -> u32 {
        let whole_rows = problem.rotate && !Self::by_pairs(problem);
        problem.cache.kv_heads.min(if whole_rows { 1 } else { 2 })
    }

    fn files(problem: &KvAppendProblem) -> Vec<&'static str> {
        let place = match problem.cache.paged {
            true => wgsl!("cache/paged"),
            false => wgsl!("cache/contiguous"),
        };
        let rotate = match problem.rotate {
            true => wgsl!("kv_append/rotate"),
            false => wgsl!("kv_append/ready"),
        };
        let pieces = match Self::by_pairs(problem) {
            true => wgsl!("kv_append/pieces_pairs"),
            false => wgsl!("kv_append/pieces"),
        };
        let mut files = vec![wgsl!("finite")];
        files.extend(codecs(problem.cache.k, problem.cache.v));
        files.extend([
            stored!(problem.dtype, "io/k"),
            stored!(problem.dtype, "io/v"),
            cached!(problem.cache.k, "cache/write_k"),
            cached!(problem.cache.v, "cache/write_v"),
            wgsl!("strides"),
            wgsl!("cache/rows"),
            place,
            wgsl!("rotary"),
            rotate,
            pieces,
            wgsl!("kv_append"),
        ]);
        files
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &KvAppendProblem {
        &self.problem
    }

    /// The shader with its overrides, as it will be compiled.
    pub fn shader(&self) -> &Shader {
        &self.shader
    }

    /// Work of a call. Bytes: new rows once in, cache rows once out, and the table's entries once a
    /// row.
    pub fn cost(&self, shape: &KvAppendShape) -> Cost {
        let p = &self.problem;
        let all = u64::from(shape.batch) * u64::from(shape.seq);
        let rows = shape.ragged.map_or(all, u64::from);
        let values = if p.cache.v_in_k { 0 } else { u64::from(p.cache.value_dim) };
        let channels = u64::from(p.cache.head_dim) + values;
        let read = u64::from(p.cache.kv_heads) * (channels * p.dtype.size());
        let table = if p.rotate { 4 * u64::from(p.rotary_dim) } else { 0 };
        let bytes = rows.saturating_mul(read + p.cache.bytes_per_token() + table);
        let pairs = if p.rotate { u64::from(p.rotary_dim / 2) } else { 0 };
        let pairs = rows.saturating_mul(pairs * u64::from(p.cache.kv_heads));
        Cost::single(self.groups(shape).unwrap_or(u64::MAX), rotation_flops(pairs), bytes)
    }

    /// Workgroups of a call.
    pub(crate) fn groups(&self, shape: &KvAppendShape) -> Result<u64> {
        let cache = &self.problem.cache;
        let pieces = u64::from(Self::pieces(&self.problem));
        let rows = u64::from(shape.batch) * u64::from(shape.seq);
        let each = Self::heads_each(&self.problem);
        let items = rows.saturating_mul(u64::from(cache.kv_heads.div_ceil(each)) * pieces);
        // Room for the surplus of workgroups in the last row of them.
        if items > u64::from(u32::MAX) - (1 << 24) {
            return Err(Error::IndexOverflow { tensor: "new rows", index: items });
        }
        Ok(items.div_ceil(u64::from(WORKGROUP)))
    }
}

impl core::fmt::Display for KvAppendPlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        write!(
            f,
            "kv_append: {}, rows in {}{}\n  path: one dispatch, {} invocations a workgroup, {} storage buffers, workspace 0 bytes",
            p.cache,
            p.dtype,
            match p.rotate {
                true => format!(", rotating {} channels, {:?}", p.rotary_dim, p.pairing),
                false => String::new(),
            },
            WORKGROUP,
            self.shader.storage_buffers,
        )?;
        self.capabilities.sharing.describe(f, [&self.shader])
    }
}
