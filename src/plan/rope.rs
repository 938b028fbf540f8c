//! Planning a rotation: path, workgroup, cost.

use core::num::Saturating;

use crate::bits::eq_by_bits;
use crate::plan::shader::{Source, overrides, stored, wgsl};
use crate::plan::{Capabilities, Cost, KernelKind, Shader, rotation_flops};
use crate::rotary::Pairing;
use crate::{DType, Error, Result};

/// Which way a rotation turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// By `+ position · frequency`, times the attention scaling m that the table holds.
    Forward,
    /// Undoes [`Direction::Forward`] by the same table: turns back and divides by m.
    Inverse,
}

/// Rotation of Q and K, `[B, H, S, D]` each, in one dispatch. Fill in what differs from
/// [`RopeProblem::new`].
///
/// ```text
/// a' = m (a cos θ − b sin θ)     b' = m (b cos θ + a sin θ)     θ = position · inv_freq[pair]
/// ```
///
/// (RoFormer, arXiv 2104.09864, eq. 34.) Channels from `rotary_dim` on are copied, or left alone
/// in place.
#[derive(Debug, Clone)]
pub struct RopeProblem {
    /// Heads of Q. A packed QKV tensor is rotated as one Q of `heads + kv_heads` heads.
    pub q_heads: u32,
    /// Heads of K; 0 where there is only Q.
    pub k_heads: u32,
    /// D, even.
    pub head_dim: u32,
    /// Rotated channels, even, from 2 to D.
    pub rotary_dim: u32,
    /// Channels of each pair.
    pub pairing: Pairing,
    /// Storage of Q, K and their outputs.
    pub dtype: DType,
    /// Whether Q and K are overwritten. Not possible for [`Pairing::InterleavedToHalf`].
    pub in_place: bool,
    /// Forward or back.
    pub direction: Direction,
    /// The attention scaling m in the table, which the inverse rotation has to divide out:
    /// [`RopeTable::attention_scaling`](crate::rotary::RopeTable::attention_scaling). With 1 in its
    /// place the inverse multiplies by m: it is the transpose, hence the gradient of the rotation.
    pub attention_scaling: f64,
    /// Promises that all strides and offsets are multiples of 4 elements, as the fast path wants
    /// them; without it one channel is moved at a time.
    pub aligned: bool,
}

eq_by_bits! {
    RopeProblem {
        q_heads, k_heads, head_dim, rotary_dim, pairing, dtype, in_place, direction, aligned;
        attention_scaling,
    }
}

impl RopeProblem {
    /// A forward rotation of all of D in f32, half-split, into other buffers, strides and offsets
    /// multiples of 4 elements.
    pub fn new(q_heads: u32, k_heads: u32, head_dim: u32) -> Self {
        Self {
            q_heads,
            k_heads,
            head_dim,
            rotary_dim: head_dim,
            pairing: Pairing::Half,
            dtype: DType::F32,
            in_place: false,
            direction: Direction::Forward,
            attention_scaling: 1.0,
            aligned: true,
        }
    }

    /// Decides how the rotation runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has too
    /// few storage bindings or invocations.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<RopePlan> {
        RopePlan::new(self, capabilities)
    }

    fn check(&self) -> Result<()> {
        let invalid = |what, needed, got: String| Err(Error::Invalid { what, needed, got });
        if self.q_heads == 0 || self.q_heads.checked_add(self.k_heads).is_none() {
            return invalid("q_heads", "at least 1", self.q_heads.to_string());
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) || self.head_dim > 1 << 16 {
            return invalid("head_dim", "even, from 2 to 65536", self.head_dim.to_string());
        }
        self.pairing.check_within(self.rotary_dim, self.head_dim)?;
        if self.in_place && self.pairing == Pairing::InterleavedToHalf {
            return invalid("in_place", "false where pairs change their place", "true".into());
        }
        let m = self.attention_scaling;
        if !m.is_finite() || m == 0.0 {
            return invalid("attention_scaling", "finite and not 0", m.to_string());
        }
        Ok(())
    }
}

/// Sizes that change from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RopeShape {
    /// B.
    pub batch: u32,
    /// S: positions of each batch.
    pub seq: u32,
}

impl RopeShape {
    /// Sequences and positions of each.
    pub fn new(batch: u32, seq: u32) -> Self {
        Self { batch, seq }
    }
}

/// How a [`RopeProblem`] will run.
#[derive(Debug, Clone, PartialEq)]
pub struct RopePlan {
    pub(crate) problem: RopeProblem,
    pub(crate) capabilities: Capabilities,
    /// Elements that one entry of the bound arrays holds.
    pub(crate) unit: u32,
    /// Elements that strides and offsets are multiples of.
    pub(crate) alignment: u32,
    /// Invocations a position and head block.
    pub(crate) units: u32,
    /// Heads an invocation.
    pub(crate) head_block: u32,
    shader: Shader,
}

/// Invocations of a workgroup: a divisor of what every device offers.
const WORKGROUP: u32 = 64;

/// One of the two ways that channels are moved.
struct Path {
    name: &'static str,
    files: [&'static str; 2],
    /// What [`RopePlan`] has of these names.
    unit: u32,
    alignment: u32,
    units: u32,
    head_block: u32,
    overrides: Vec<(&'static str, f64)>,
}

impl Path {
    /// Four channels at once, all heads of a position in one invocation.
    fn by_four(p: &RopeProblem, copied: u32) -> Self {
        let pair_quads = p.rotary_dim / 8;
        let numbers = overrides([
            ("PAIR_QUADS", pair_quads),
            ("TAIL_QUADS", copied / 4),
            ("BLOCK_QUADS", p.pairing.block_pairs(p.rotary_dim) / 4),
        ]);
        Self {
            name: "by four",
            files: [stored!(p.dtype, "rope/quad"), wgsl!("rope")],
            unit: 4,
            alignment: 4,
            units: pair_quads + copied / 4,
            head_block: p.q_heads + p.k_heads,
            overrides: numbers.collect(),
        }
    }

    /// A channel at once, or as many as fill a word.
    fn by_channel(p: &RopeProblem, copied: u32, write_interleaved: bool) -> Self {
        let pairs = p.rotary_dim / 2;
        let each = RopePlan::pairs_each(p, write_interleaved);
        let (element, alignment, tail_each) = match p.dtype {
            DType::F32 => (wgsl!("rope/channel_f32"), 1, 1),
            DType::F16 => (wgsl!("rope/channel_f16"), 2, 2),
        };
        let numbers = overrides([
            ("PAIRS", pairs),
            ("PAIRS_EACH", each),
            ("TAIL", copied),
            ("TAIL_EACH", tail_each),
            ("BLOCK_PAIRS", p.pairing.block_pairs(p.rotary_dim)),
        ]);
        Self {
            name: "by channel",
            files: [element, wgsl!("rope/channels")],
            unit: 1,
            alignment,
            units: pairs / each + copied / tail_each,
            head_block: 1,
            overrides: numbers.collect(),
        }
    }
}

impl RopePlan {
    fn new(problem: &RopeProblem, capabilities: &Capabilities) -> Result<Self> {
        problem.check()?;
        capabilities.allow_stored(KernelKind::Rope, [problem.dtype])?;
        let p = problem;
        let tail = p.head_dim - p.rotary_dim;
        let quads = p.aligned
            && p.rotary_dim.is_multiple_of(8)
            && p.pairing.block_pairs(p.rotary_dim).is_multiple_of(4)
            && tail.is_multiple_of(4);
        let (mut read, mut write) = (p.pairing.reads_interleaved(), p.pairing.writes_interleaved());
        if p.direction == Direction::Inverse {
            core::mem::swap(&mut read, &mut write);
        }
        let copied = if p.in_place { 0 } else { tail };
        let path = match quads {
            true => Path::by_four(p, copied),
            false => Path::by_channel(p, copied, write),
        };
        let Path { name, files: [element, kernel], unit, alignment, units, head_block, .. } = path;
        let mut values = path.overrides;
        values.extend(overrides([
            ("WORKGROUP", WORKGROUP),
            ("HEAD_BLOCK", head_block),
            ("READ_INTERLEAVED", read.into()),
            ("WRITE_INTERLEAVED", write.into()),
        ]));
        let place = if p.in_place { wgsl!("rope/in_place") } else { wgsl!("rope/apart") };
        let (rotary, strides, params) = (wgsl!("rotary"), wgsl!("strides"), wgsl!("rope/params"));
        let shader = Shader {
            kernel: KernelKind::Rope,
            label: format!(
                "rope D{} r{} {:?} {} {} {name}",
                p.head_dim,
                p.rotary_dim,
                p.pairing,
                p.dtype,
                if p.in_place { "in place" } else { "apart" },
            ),
            source: Source::new().files([element, place, rotary, strides, params, kernel]),
            entry: "rope",
            overrides: values,
            workgroup_size: WORKGROUP,
            workgroup_bytes: 0,
            storage_buffers: if p.in_place { 4 } else { 6 },
            table_bytes: 0,
            subgroup: None,
            matrices: None,
        };
        let shader = shader.shared(capabilities.sharing);
        capabilities.admit(&shader)?;
        let (problem, capabilities) = (problem.clone(), capabilities.clone());
        Ok(Self { problem, capabilities, unit, alignment, units, head_block, shader })
    }

    /// Pairs that one invocation of the slow path owns: as few as fill whole 32-bit words.
    fn pairs_each(p: &RopeProblem, write_interleaved: bool) -> u32 {
        let words = p.dtype == DType::F32 || write_interleaved;
        match p.pairing.block_pairs(p.rotary_dim) {
            _ if words => 1,
            block if block.is_multiple_of(2) => 2,
            _ => p.rotary_dim / 2,
        }
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &RopeProblem {
        &self.problem
    }

    /// The shader with its overrides, as it will be compiled.
    pub fn shader(&self) -> &Shader {
        &self.shader
    }

    /// Work of a call. Bytes: Q and K once in and once out, in place the rotated part alone, and
    /// the table's entries once a position.
    pub fn cost(&self, shape: &RopeShape) -> Cost {
        let p = &self.problem;
        let n = |x: u32| Saturating(u64::from(x));
        let rows = n(shape.batch) * n(shape.seq);
        let channels = if p.in_place { p.rotary_dim } else { p.head_dim };
        let moved = Saturating(2) * (n(p.q_heads) + n(p.k_heads)) * n(channels);
        let bytes = rows * (moved * Saturating(p.dtype.size()) + Saturating(4) * n(p.rotary_dim));
        let pairs = rows * (n(p.q_heads) + n(p.k_heads)) * n(p.rotary_dim / 2);
        Cost::single(self.groups(shape).1, rotation_flops(pairs.0), bytes.0)
    }

    /// Workgroups that share a batch and a head block, and workgroups of the whole call.
    pub(crate) fn groups(&self, shape: &RopeShape) -> (u64, u64) {
        let places = u64::from(shape.seq) * u64::from(self.units);
        let blocks = places.div_ceil(u64::from(WORKGROUP));
        let heads = u64::from(self.head_blocks());
        (blocks, blocks.saturating_mul(heads).saturating_mul(u64::from(shape.batch)))
    }

    pub(crate) fn head_blocks(&self) -> u32 {
        (self.problem.q_heads + self.problem.k_heads).div_ceil(self.head_block)
    }
}

impl core::fmt::Display for RopePlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        write!(
            f,
            "rope: {} + {} heads, D {}, rotary {}, {:?}, {}, {}, {:?}\n  path: {}, {} invocations a workgroup, {} heads an invocation, workspace 0 bytes",
            p.q_heads,
            p.k_heads,
            p.head_dim,
            p.rotary_dim,
            p.pairing,
            p.dtype,
            if p.in_place { "in place" } else { "to other buffers" },
            p.direction,
            if self.unit == 4 { "four channels at a time" } else { "one channel at a time" },
            WORKGROUP,
            self.head_block,
        )?;
        self.capabilities.sharing.describe(f, [&self.shader])
    }
}
