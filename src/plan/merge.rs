//! Planning the merge of attention over parts of the keys.

use core::num::Saturating;

use crate::bits::eq_by_bits;
use crate::plan::rules::check_sinks;
use crate::plan::shader::{Source, stored, wgsl};
use crate::plan::softmax::sink_in_base_2;
use crate::plan::{Capabilities, Cost, KernelKind, Shader};
use crate::{DType, Error, Result};

/// Merges the results of attention over P disjoint sets of keys into the result over all of them,
/// exactly: splits of a long cache, a shared prefix and what follows it (cascade), or the parts
/// that several devices hold.
///
/// ```text
/// out_p [B, H, S, D_v], lse_p f32 [B, H, S], natural log, p = 0 .. P
/// out = Σ e^(lse_p − M) out_p / Σ e^(lse_p − M)     lse = M + ln Σ e^(lse_p − M)     M = max lse_p
/// ```
///
/// A part that saw no key has lse −∞; its output is not read. Finite log-sum-exps may have any
/// size: beside the largest, those that are smaller by more than f32 can tell have no weight. The
/// order of summation is that of the parts.
#[derive(Debug, Clone)]
pub struct MergeProblem {
    /// D_v: a multiple of 4.
    pub value_dim: u32,
    /// Storage of the parts' outputs.
    pub part_dtype: DType,
    /// Storage of the output.
    pub out_dtype: DType,
    /// Whether the natural log-sum-exp of the whole is written.
    pub lse: bool,
    /// Attention sinks that no part has counted yet, one logit a head, or none: each joins the
    /// denominator and the log-sum-exp of its head. −∞ is no sink.
    pub sinks: Vec<f32>,
}

eq_by_bits! {
    MergeProblem {
        value_dim, part_dtype, out_dtype, lse;
        sinks,
    }
}

impl MergeProblem {
    /// All in f32, no log-sum-exp, no sinks.
    pub fn new(value_dim: u32) -> Self {
        Self {
            value_dim,
            part_dtype: DType::F32,
            out_dtype: DType::F32,
            lse: false,
            sinks: Vec::new(),
        }
    }

    /// Decides how the merge runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has too
    /// few storage bindings or invocations.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<MergePlan> {
        MergePlan::new(self, PartState::LogSumExp, capabilities)
    }

    fn check(&self) -> Result<()> {
        let invalid = |what, needed, got| Err(Error::Invalid { what, needed, got });
        if self.value_dim == 0 || !self.value_dim.is_multiple_of(4) || self.value_dim > 1 << 16 {
            let got = self.value_dim.to_string();
            return invalid("value_dim", "a multiple of 4 from 4 to 65536", got);
        }
        check_sinks(&self.sinks)
    }
}

/// Sizes that change from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MergeShape {
    /// P: parts that the keys were cut into.
    pub parts: u32,
    /// B.
    pub batch: u32,
    /// H: output heads.
    pub heads: u32,
    /// S: query rows.
    pub seq: u32,
}

impl MergeShape {
    /// Parts of outputs `[B, H, S, D_v]`.
    pub fn new(parts: u32, [batch, heads, seq]: [u32; 3]) -> Self {
        Self { parts, batch, heads, seq }
    }
}

/// What is known of the rows of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartState {
    /// Their natural log-sum-exp.
    LogSumExp,
    /// Maximum in base 2 and sum, by which the outputs were not divided: what decode leaves. The
    /// sum is not lost beside a maximum of −10³⁸, so that splits merge to what one split gives.
    Sums,
}

/// How a [`MergeProblem`] will run.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePlan {
    pub(crate) problem: MergeProblem,
    pub(crate) state: PartState,
    pub(crate) capabilities: Capabilities,
    shader: Shader,
}

/// Invocations of a workgroup: a divisor of what every device offers.
const WORKGROUP: u32 = 64;

impl MergePlan {
    pub(crate) fn new(
        problem: &MergeProblem,
        state: PartState,
        caps: &Capabilities,
    ) -> Result<Self> {
        problem.check()?;
        caps.allow_stored(KernelKind::Merge, [problem.part_dtype, problem.out_dtype])?;
        let sink_quads = Self::sink_quads(problem);
        let files = [
            stored!(problem.part_dtype, "merge/parts"),
            stored!(problem.out_dtype, "io/out"),
            wgsl!("softmax"),
            match state {
                PartState::LogSumExp => wgsl!("merge/by_lse"),
                PartState::Sums => wgsl!("merge/by_sums"),
            },
            wgsl!("strides"),
            wgsl!("merge"),
        ];
        let shader = Shader {
            kernel: KernelKind::Merge,
            label: format!(
                "merge Dv{} {}{}{}",
                problem.value_dim,
                problem.part_dtype,
                problem.out_dtype,
                if state == PartState::Sums { " sums" } else { "" },
            ),
            source: Source::new().numbers([("SINK_QUADS", sink_quads)]).files(files),
            entry: "merge",
            overrides: vec![
                ("WORKGROUP", f64::from(WORKGROUP)),
                ("COLUMNS", f64::from(problem.value_dim / 4)),
            ],
            workgroup_size: WORKGROUP,
            workgroup_bytes: 0,
            storage_buffers: 4,
            table_bytes: 16 * u64::from(sink_quads),
            subgroup: None,
            matrices: None,
        };
        let shader = shader.shared(caps.sharing);
        caps.admit(&shader)?;
        Ok(Self { problem: problem.clone(), state, capabilities: caps.clone(), shader })
    }

    /// Bytes of what is known of a row of a part.
    pub(crate) fn state_bytes(&self) -> u64 {
        if self.state == PartState::Sums { 8 } else { 4 }
    }

    /// Vectors of the table of sinks: few sizes, so that problems share a shader.
    fn sink_quads(problem: &MergeProblem) -> u32 {
        (problem.sinks.len().div_ceil(4) as u32).next_power_of_two().max(4)
    }

    /// The table of sinks, in base 2.
    pub(crate) fn sinks(&self) -> Vec<f32> {
        let all = 0..4 * Self::sink_quads(&self.problem) as usize;
        all.map(|head| sink_in_base_2(self.problem.sinks.get(head))).collect()
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &MergeProblem {
        &self.problem
    }

    /// The shader with its overrides, as it will be compiled.
    pub fn shader(&self) -> &Shader {
        &self.shader
    }

    /// Work of a call. Operations: a multiply-add for every element of every part.
    pub fn cost(&self, shape: &MergeShape) -> Cost {
        let p = &self.problem;
        let n = |x: u32| Saturating(u64::from(x));
        let rows = n(shape.batch) * n(shape.heads) * n(shape.seq);
        let row = |dtype: DType| n(p.value_dim) * Saturating(dtype.size());
        let lse = Saturating(if p.lse { 4 } else { 0 });
        let parts = n(shape.parts) * (row(p.part_dtype) + Saturating(self.state_bytes()));
        let bytes = rows * (parts + row(p.out_dtype) + lse);
        let flops = Saturating(2) * rows * n(shape.parts) * n(p.value_dim);
        Cost::single(self.groups(shape).unwrap_or(u64::MAX), flops.0, bytes.0)
    }

    /// Workgroups of a call.
    pub(crate) fn groups(&self, shape: &MergeShape) -> Result<u64> {
        let heads = u64::from(shape.batch).saturating_mul(u64::from(shape.heads));
        let rows = heads.saturating_mul(u64::from(shape.seq));
        let items = rows.saturating_mul(u64::from(self.problem.value_dim / 4));
        let lses = rows.saturating_mul(u64::from(shape.parts));
        // Room for the surplus of workgroups in the last row of them.
        let largest = items.max(lses);
        if largest > u64::from(u32::MAX) - (1 << 24) {
            return Err(Error::IndexOverflow { tensor: "rows of the merge", index: largest });
        }
        Ok(items.div_ceil(u64::from(WORKGROUP)))
    }
}

impl core::fmt::Display for MergePlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        write!(
            f,
            "merge: D_v {}, parts {}, out {}{}{}\n  path: one dispatch, {} invocations a workgroup, {} storage buffers, workspace 0 bytes",
            p.value_dim,
            p.part_dtype,
            p.out_dtype,
            if p.lse { ", log-sum-exp" } else { "" },
            if p.sinks.is_empty() { "" } else { ", sinks" },
            WORKGROUP,
            self.shader.storage_buffers,
        )?;
        self.capabilities.sharing.describe(f, [&self.shader])
    }
}
