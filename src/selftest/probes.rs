//! The probes: small calls of every kernel, and what the oracle says of them.

use super::attention::attention;
use super::backward::backward;
use super::caches::{append, chunk, decode, shift};
use super::inputs::stored;
use super::linear::linear;
use super::linear_backward::linear_backward;
use super::memory::{Memory, Slot};
use super::rope::rope;
use super::scores::scores;
use crate::plan::attention::AttentionProblem;
use crate::plan::cache::CacheType;
use crate::plan::{KernelKind, Matrices, Precision, Suspect, Trust};
use crate::{Capabilities, DType, Dispatch, HeadMap, Result};

/// Compiles and binds a call, on any thread.
type Prepare = Box<dyn FnOnce(&wgpu::Device) -> Result<Ready> + Send>;

/// A call, before it is compiled.
pub(super) struct Probe {
    pub(super) name: String,
    pub(super) suspects: Vec<Suspect>,
    pub(super) ready: Prepare,
}

/// A call that can be recorded, and what each of its outputs should hold.
pub(super) struct Ready {
    pub(super) dispatch: Dispatch,
    pub(super) memory: Memory,
    pub(super) outputs: Vec<(Slot, Expected)>,
}

/// What an output should hold.
pub(super) struct Expected {
    pub(super) what: &'static str,
    pub(super) dtype: DType,
    pub(super) truth: Vec<f64>,
    pub(super) bound: f64,
}

impl Expected {
    /// The rule of the crate's tests: twice the error of the naive run in f32, rounded as it is
    /// stored, and a floor of eight ulp of the largest number.
    pub(super) fn new(what: &'static str, dtype: DType, truth: Vec<f64>, naive: &[f32]) -> Self {
        let ulp = match dtype {
            DType::F32 => f64::from(f32::EPSILON),
            DType::F16 => f64::from(half::f16::EPSILON.to_f32()),
        };
        let stored = stored(naive, dtype);
        let off = truth.iter().zip(&stored).map(|(t, &n)| (t - f64::from(n)).abs());
        let largest = truth.iter().copied().map(f64::abs).fold(0.0, f64::max);
        let bound = 2.0 * off.fold(0.0, f64::max) + 8.0 * ulp * largest;
        Self { what, dtype, truth, bound }
    }
}

/// One probe for each kernel, storage and attention tile that plans for `caps` may use. How many
/// tiles there are depends on the device: a software adapter takes seconds to compile one.
pub(super) fn all(caps: &Capabilities) -> Vec<Probe> {
    let mut probes = vec![
        probe(caps, "rope, f32", vec![Suspect::Kernel(KernelKind::Rope)], |device, caps| {
            rope(device, caps, DType::F32)
        }),
        probe(caps, "rope, f16", vec![Suspect::Storage(CacheType::F16)], |device, caps| {
            rope(device, caps, DType::F16)
        }),
        probe(caps, "kv_append", vec![Suspect::Kernel(KernelKind::KvAppend)], append),
        probe(caps, "kv_move", vec![Suspect::Kernel(KernelKind::KvMove)], shift),
        probe(
            caps,
            "decode, split and merged",
            vec![Suspect::Kernel(KernelKind::Decode), Suspect::Kernel(KernelKind::Merge)],
            |device, caps| decode(device, caps, [CacheType::F32; 2]),
        ),
        probe(
            caps,
            "decode, int8 and q4",
            vec![Suspect::Storage(CacheType::Int8), Suspect::Storage(CacheType::Q4)],
            |device, caps| decode(device, caps, [CacheType::Int8, CacheType::Q4]),
        ),
        probe(
            caps,
            "attention, int8 and q4",
            vec![Suspect::Storage(CacheType::Int8), Suspect::Storage(CacheType::Q4)],
            |device, caps| chunk(device, caps, [CacheType::Int8, CacheType::Q4]),
        ),
        probe(caps, "scores", vec![Suspect::Kernel(KernelKind::Scores)], scores),
        probe(caps, "linear attention", vec![Suspect::Kernel(KernelKind::LinearAttention)], linear),
        probe(
            caps,
            "attention backward",
            vec![Suspect::Kernel(KernelKind::AttentionBackward)],
            backward,
        ),
        probe(
            caps,
            "linear attention backward",
            vec![Suspect::Kernel(KernelKind::LinearAttentionBackward)],
            linear_backward,
        ),
    ];
    probes.extend(tiles(caps, Precision::F32));
    if matches!(caps.matrices, Matrices::Listed { trust: Trust::Known | Trust::Insisted, .. }) {
        // These probes are what plans wait for.
        let caps = caps.clone().insist_on_matrices();
        probes.extend(tiles(&caps, Precision::F16Products));
        probes.extend(tiles(&caps, Precision::F16x3Products));
    }
    probes.retain(|probe| probe.suspects.iter().any(|&suspect| caps.quarantine(suspect).is_none()));
    probes
}

/// The tiles of attention that plans choose.
fn tiles(caps: &Capabilities, precision: Precision) -> Vec<Probe> {
    let (mut tiles, mut probes) = (Vec::new(), Vec::new());
    let dims: &[u32] = if caps.software { &[64] } else { &[64, 128, 256] };
    for &dim in dims {
        for heads in [HeadMap::ropepp(1), HeadMap::plain(1)] {
            let Ok(heads) = heads else { continue };
            let problem = AttentionProblem::new(heads, 1, dim);
            let problem = AttentionProblem { lse: true, precision, ..problem };
            let Ok(plan) = problem.plan(caps) else { continue };
            let (tile, streams) = (*plan.tile(), plan.streams());
            if tiles.contains(&tile) {
                continue;
            }
            tiles.push(tile);
            let name = match precision {
                Precision::F32 => format!("attention, streams {streams}, D {dim}"),
                _ => {
                    format!("attention on matrix units, {precision}, streams {streams}, D {dim}")
                }
            };
            let ready = Box::new(move |device: &wgpu::Device| attention(device, &plan));
            probes.push(Probe { name, suspects: vec![Suspect::Tile(tile)], ready });
        }
    }
    probes
}

fn probe(
    caps: &Capabilities,
    name: &str,
    suspects: Vec<Suspect>,
    run: impl FnOnce(&wgpu::Device, &Capabilities) -> Result<Ready> + Send + 'static,
) -> Probe {
    let caps = caps.clone();
    Probe { name: name.to_owned(), suspects, ready: Box::new(move |device| run(device, &caps)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kernel has a probe, and so has each storage that a quarantine can name.
    #[test]
    fn every_kernel_is_probed() {
        let probes = all(&Capabilities::webgpu_default());
        let probed: Vec<Suspect> = probes.into_iter().flat_map(|probe| probe.suspects).collect();
        for &kernel in KernelKind::ALL {
            let of = |suspect: &Suspect| suspect.kernel() == Some(kernel);
            assert!(probed.iter().any(of), "no probe of {kernel}");
        }
        for stored in [CacheType::F16, CacheType::Int8, CacheType::Q4] {
            assert!(probed.contains(&Suspect::Storage(stored)), "no probe of {stored}");
        }
    }

    /// What is left out is not probed.
    #[test]
    fn a_kernel_in_quarantine_is_not_probed() {
        let caps = Capabilities::webgpu_default();
        for &kernel in KernelKind::ALL {
            let caps = caps.clone().without(Suspect::Kernel(kernel), "zeros");
            for probe in all(&caps) {
                let of = |suspect: &Suspect| suspect.kernel() == Some(kernel);
                assert!(!probe.suspects.iter().all(of), "{} of {kernel}", probe.name);
            }
        }
    }
}
