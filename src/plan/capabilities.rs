//! What a device offers, as far as plans depend on it.

use super::{Matrices, NoMatrices, Quarantine, Shader, Sharing, Suspect};
use crate::{Error, Result};

/// The limits and traits of a device that plans are made from. Take them from a device with
/// [`Capabilities::of`], or fill them in by hand to plan for a device that is not at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Adapter, backend and driver, for messages and reports only.
    pub adapter: String,
    /// Whether shaders run on the CPU (lavapipe, SwiftShader, llvmpipe, WARP). Such adapters want
    /// small workgroups and much work a thread.
    pub software: bool,
    /// PCI id of the vendor (0x10de is NVIDIA), 0 where the API does not say. Only tiles depend on
    /// it.
    pub vendor: u32,
    /// `max_compute_workgroup_storage_size`, in bytes.
    pub max_workgroup_bytes: u32,
    /// `max_compute_invocations_per_workgroup`.
    pub max_invocations: u32,
    /// `max_compute_workgroup_size_x`.
    pub max_workgroup_size: u32,
    /// `max_compute_workgroups_per_dimension`.
    pub max_workgroups: u32,
    /// `max_storage_buffers_per_shader_stage`.
    pub max_storage_buffers: u32,
    /// `max_storage_buffer_binding_size`, in bytes.
    pub max_storage_binding: u64,
    /// `max_uniform_buffer_binding_size`, in bytes.
    pub max_uniform_binding: u64,
    /// `min_storage_buffer_offset_alignment`, in bytes.
    pub storage_alignment: u32,
    /// `min_uniform_buffer_offset_alignment`, in bytes.
    pub uniform_alignment: u32,
    /// Smallest and largest subgroup, where the device was created with subgroup operations.
    pub subgroup: Option<(u32, u32)>,
    /// Matrix units.
    pub matrices: Matrices,
    /// What plans take only where a self-test found it right on this device: tiles of matrices.
    pub probed: Vec<Suspect>,
    /// What plans leave out, since the device was seen to get it wrong: see
    /// [`selftest`](crate::selftest()) and [`Capabilities::without`].
    pub quarantined: Vec<Quarantine>,
    /// How the host lays tensors out in buffers: no trait of the device, and yet what plans depend
    /// on.
    pub sharing: Sharing,
}

impl Capabilities {
    /// The limits that every WebGPU implementation guarantees, without any optional feature.
    pub fn webgpu_default() -> Self {
        Self {
            adapter: "WebGPU default limits".into(),
            software: false,
            vendor: 0,
            max_workgroup_bytes: 16 << 10,
            max_invocations: 256,
            max_workgroup_size: 256,
            max_workgroups: 65535,
            max_storage_buffers: 8,
            max_storage_binding: 128 << 20,
            max_uniform_binding: 64 << 10,
            storage_alignment: 256,
            uniform_alignment: 256,
            subgroup: None,
            matrices: Matrices::Off,
            probed: Vec::new(),
            quarantined: Vec::new(),
            sharing: Sharing::Apart,
        }
    }

    /// The same device, for a host that shares buffers so: plans that are made from these take it
    /// into account, at every kernel.
    ///
    /// ```
    /// use phasor::{Capabilities, HeadMap, Sharing, attention::AttentionProblem};
    ///
    /// let pooled = Capabilities::webgpu_default().sharing(Sharing::Ranges);
    /// let plan = AttentionProblem::new(HeadMap::ropepp(4)?, 2, 64).plan(&pooled)?;
    /// assert!(!plan.shader().source.contains("var<storage, read>"));
    /// # Ok::<(), phasor::Error>(())
    /// ```
    #[must_use]
    pub fn sharing(self, sharing: Sharing) -> Self {
        Self { sharing, ..self }
    }

    /// Refuses a need that passes a limit.
    pub(crate) fn need(
        limit: &'static str,
        what: &'static str,
        needed: u64,
        available: u64,
    ) -> Result<()> {
        if needed > available {
            return Err(Error::Limit { limit, what, needed, available });
        }
        Ok(())
    }

    /// Refuses a device that may have subgroups of other sizes than these.
    pub(crate) fn need_subgroup(&self, what: &'static str, sizes: (u32, u32)) -> Result<()> {
        match self.subgroup {
            Some((least, most)) if sizes.0 <= least && most <= sizes.1 => Ok(()),
            Some((least, most)) => Err(Error::Invalid {
                what,
                needed: "for subgroups of the sizes that the device has",
                got: format!("for {} to {}, of {least} to {most}", sizes.0, sizes.1),
            }),
            None => Err(Error::Feature { missing: "SUBGROUP", what }),
        }
    }

    /// Refuses a shader that the device has no room for. Every plan ends here, when it is made and
    /// when a kernel is compiled from it.
    pub(crate) fn admit(&self, shader: &Shader) -> Result<()> {
        let what = shader.kernel.name();
        let n = u64::from;
        let size = n(shader.workgroup_size);
        for (limit, needed, available) in [
            (
                "max_compute_workgroup_storage_size",
                n(shader.workgroup_bytes),
                n(self.max_workgroup_bytes),
            ),
            ("max_compute_invocations_per_workgroup", size, n(self.max_invocations)),
            ("max_compute_workgroup_size_x", size, n(self.max_workgroup_size)),
            (
                "max_storage_buffers_per_shader_stage",
                n(shader.storage_buffers),
                n(self.max_storage_buffers),
            ),
            ("max_uniform_buffer_binding_size", shader.table_bytes, self.max_uniform_binding),
        ] {
            Self::need(limit, what, needed, available)?;
        }
        if shader.matrices.is_some() && self.matrices == Matrices::Off {
            return Err(Error::NoMatrices(NoMatrices::FeatureOff));
        }
        shader.subgroup.map_or(Ok(()), |sizes| self.need_subgroup(what, sizes))
    }

    /// What a plan that was made for `planned` has on this device: its limits, without what the
    /// plan leaves out. Refuses shaders that it has no room for.
    pub(crate) fn for_plan<'a>(
        self,
        planned: &Self,
        shaders: impl IntoIterator<Item = &'a Shader>,
    ) -> Result<Self> {
        shaders.into_iter().try_for_each(|shader| self.admit(shader))?;
        Ok(Self {
            matrices: planned.matrices,
            probed: planned.probed.clone(),
            quarantined: planned.quarantined.clone(),
            sharing: planned.sharing,
            ..self
        })
    }

    /// Spreads `groups` workgroups over two dimensions, each within the limit. The shader folds
    /// them back with `id.x + id.y * x` and lets the surplus return.
    pub(crate) fn fold_groups(&self, groups: u64) -> Result<[u32; 2]> {
        let max = u64::from(self.max_workgroups.max(1));
        let y = groups.div_ceil(max).max(1);
        let x = groups.div_ceil(y).max(1);
        Self::need("max_compute_workgroups_per_dimension", "one call's workgroups", y, max)?;
        match (u32::try_from(x), u32::try_from(y), u32::try_from(groups)) {
            (Ok(x), Ok(y), Ok(_)) => Ok([x, y]),
            _ => Err(Error::IndexOverflow { tensor: "workgroups", index: groups }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;
    use crate::plan::attention::{AttentionProblem, Outputs, Queries};
    use crate::plan::attention_backward::AttentionBackwardProblem;
    use crate::plan::cache::{CacheFormat, CacheType};
    use crate::plan::decode::DecodeProblem;
    use crate::plan::kv_append::KvAppendProblem;
    use crate::plan::kv_move::KvMoveProblem;
    use crate::plan::linear_attention::LinearAttentionProblem;
    use crate::plan::linear_attention_backward::LinearAttentionBackwardProblem;
    use crate::plan::merge::MergeProblem;
    use crate::plan::rope::RopeProblem;
    use crate::plan::rules::Bias;
    use crate::plan::scores::ScoresProblem;
    use crate::plan::{KernelKind, Suspect};

    /// The shaders of a plan of every kernel.
    fn plans(caps: &Capabilities) -> Vec<Result<Vec<Shader>>> {
        let heads = || HeadMap::ropepp(64);
        let cache = CacheFormat { paged: true, ..CacheFormat::new(4, 64) };
        let one = |shader: &Shader| vec![shader.clone()];
        vec![
            RopeProblem::new(2, 1, 64).plan(caps).map(|plan| one(plan.shader())),
            KvAppendProblem::new(cache).plan(caps).map(|plan| one(plan.shader())),
            KvMoveProblem::new(cache).plan(caps).map(|plan| one(plan.shader())),
            heads()
                .and_then(|heads| AttentionProblem::new(heads, 1, 64).plan(caps))
                .map(|plan| one(plan.shader())),
            heads()
                .map(|heads| AttentionProblem {
                    sinks: vec![0.0; 128],
                    ..AttentionProblem::new(heads, 1, 64)
                })
                .map(|forward| AttentionBackwardProblem {
                    d_sinks: true,
                    ..AttentionBackwardProblem::new(forward)
                })
                .and_then(|problem| problem.plan(caps))
                .map(|plan| plan.shaders().to_vec()),
            heads()
                .and_then(|heads| DecodeProblem::new(heads, cache, 1, 1 << 16).plan(caps))
                .map(|plan| one(plan.shader())),
            MergeProblem { sinks: vec![0.0; 99], ..MergeProblem::new(64) }
                .plan(caps)
                .map(|plan| one(plan.shader())),
            heads()
                .and_then(|heads| LinearAttentionProblem::new(heads, 1, 64).plan(caps))
                .map(|plan| plan.shaders().to_vec()),
            heads()
                .map(|heads| LinearAttentionProblem::new(heads, 1, 64))
                .and_then(|forward| LinearAttentionBackwardProblem::new(forward).plan(caps))
                .map(|plan| plan.shaders().to_vec()),
            ScoresProblem::new(2, 1, 64).plan(caps).map(|plan| one(plan.shader())),
        ]
    }

    /// A row for each kernel, and each is left out where it, or the storage of its tensors, is in
    /// quarantine.
    #[test]
    fn every_plan_keeps_to_the_quarantine() {
        let all = Capabilities::webgpu_default();
        let kernels = plans(&all).into_iter().map(|plan| plan.unwrap()[0].kernel);
        let kernels: Vec<_> = kernels.collect();
        assert_eq!(KernelKind::not_once(kernels.iter().copied()), []);
        for (n, kernel) in kernels.into_iter().enumerate() {
            for suspect in [Suspect::Kernel(kernel), Suspect::Storage(CacheType::F32)] {
                let plan = plans(&all.clone().without(suspect, "zeros")).swap_remove(n);
                let refused = Err(Error::Quarantined { suspect, reason: "zeros".into() });
                assert_eq!(plan.map(drop), refused, "{kernel}");
            }
        }
    }

    /// With every limit a little lower than what a shader asks for, the plan is another one that
    /// fits, or there is none, and the error names the limit.
    #[test]
    fn no_plan_passes_a_limit() {
        let all = Capabilities::webgpu_default();
        for (n, wanted) in plans(&all).into_iter().enumerate() {
            for shader in wanted.unwrap() {
                let mut less = vec![("max_compute_invocations_per_workgroup", all.clone()); 5];
                less[0].1.max_invocations = shader.workgroup_size - 1;
                less[1].0 = "max_compute_workgroup_size_x";
                less[1].1.max_workgroup_size = shader.workgroup_size - 1;
                less[2].0 = "max_storage_buffers_per_shader_stage";
                less[2].1.max_storage_buffers = shader.storage_buffers - 1;
                less[3].0 = "max_compute_workgroup_storage_size";
                less[3].1.max_workgroup_bytes = shader.workgroup_bytes.saturating_sub(1);
                less[4].0 = "max_uniform_buffer_binding_size";
                less[4].1.max_uniform_binding = shader.table_bytes.saturating_sub(1);
                for (limit, caps) in &less {
                    match plans(caps).swap_remove(n) {
                        Ok(shaders) => {
                            let fits = |s: &Shader| caps.admit(s).is_ok();
                            assert!(shaders.iter().all(fits), "{}: {limit}", shader.label);
                        }
                        Err(Error::Limit { limit: named, .. }) => assert_eq!(named, *limit),
                        Err(error) => panic!("{}: {limit}: {error}", shader.label),
                    }
                }
            }
        }
    }

    /// With WebGPU's 8 storage buffers, what lies over caches fits with all that there is, but for
    /// fused attention: of a rotation (two buffers), log-sum-exps, split outputs, a bias and states
    /// between parts it takes as many as are three buffers.
    #[test]
    fn eight_storage_buffers_leave_out_what_the_readme_says() {
        let caps = Capabilities::webgpu_default();
        let heads = || HeadMap::ropepp(4).unwrap();
        let (bias, sinks) = (Some(Bias::Additive), vec![0.0; 8]);
        let cache = CacheFormat { paged: true, ..CacheFormat::new(4, 64) };
        KvAppendProblem { rotate: true, ..KvAppendProblem::new(cache) }.plan(&caps).unwrap();
        KvMoveProblem { rotate: true, ..KvMoveProblem::new(cache) }.plan(&caps).unwrap();
        for max_kv in [64, 4096] {
            let sinks = sinks.clone();
            let plain = DecodeProblem::new(heads(), cache, 4, max_kv);
            let all = DecodeProblem { rotate_q: true, lse: true, bias, sinks, ..plain };
            all.plan(&caps).unwrap();
        }
        for all in 0..1 << 5 {
            let [rotate_q, lse, split, biased, resumable] = [1, 2, 4, 8, 16].map(|n| all & n != 0);
            let problem = AttentionProblem {
                rotate_q,
                lse,
                outputs: if split { Outputs::Split } else { Outputs::Merged },
                bias: bias.filter(|_| biased),
                resumable,
                queries: Queries::Ragged,
                prefix: true,
                block_list: true,
                sinks: sinks.clone(),
                ..AttentionProblem::over(heads(), cache)
            };
            let more = u32::from(rotate_q) + (all as u32).count_ones();
            match problem.plan(&caps) {
                Ok(plan) => assert!(more <= 3 && plan.one_buffer_of_lists(), "{plan}"),
                Err(error) => {
                    let limit = "max_storage_buffers_per_shader_stage";
                    let (what, needed) = ("attention", u64::from(5 + more));
                    assert!(more > 3);
                    assert_eq!(error, Error::Limit { limit, what, needed, available: 8 });
                }
            }
        }
    }

    #[test]
    fn folded_groups_cover_all_with_little_surplus() {
        let mut caps = Capabilities::webgpu_default();
        for max in [7, 100, 65535] {
            caps.max_workgroups = max;
            for groups in [1, 6, 7, 8, 48, 49, 50, 1000, 65535, 65536, 1 << 20] {
                let limit = u64::from(max);
                match caps.fold_groups(groups) {
                    Ok([x, y]) => {
                        let covered = u64::from(x) * u64::from(y);
                        assert!(x <= max && y <= max && covered >= groups);
                        assert!(covered - groups < u64::from(y));
                    }
                    Err(_) => assert!(groups > limit * limit),
                }
            }
        }
    }
}
