//! All kernels of the crate.

use phasor::attention::{Attention, AttentionProblem};
use phasor::attention_backward::{AttentionBackward, AttentionBackwardProblem};
use phasor::cache::CacheFormat;
use phasor::decode::{Decode, DecodeProblem};
use phasor::kv_append::{KvAppend, KvAppendProblem};
use phasor::kv_move::{KvMove, KvMoveProblem};
use phasor::linear_attention::{LinearAttention, LinearAttentionProblem};
use phasor::linear_attention_backward::{LinearAttentionBackward, LinearAttentionBackwardProblem};
use phasor::merge::{Merge, MergeProblem};
use phasor::rope::{Rope, RopeProblem};
use phasor::scores::{Scores, ScoresProblem};
use phasor::{Capabilities, Compiler, HeadMap, KernelKind};

/// Compiles a kernel and drops it.
type Compile<'a> = Box<dyn Fn() -> phasor::Result<()> + 'a>;

/// Every kernel with a small plan of its own, to be compiled.
pub fn every_kernel<'a>(
    compiler: Compiler<'a>,
    caps: &'a Capabilities,
) -> [(KernelKind, Compile<'a>); KernelKind::ALL.len()] {
    let plain = || HeadMap::plain(1);
    let cache = CacheFormat::new(1, 8);
    macro_rules! compile {
        ($kernel:ty, $problem:expr) => {
            Box::new(move || {
                let plan = $problem.plan(caps)?;
                let kernel = <$kernel>::new(compiler, &plan)?;
                assert_eq!(kernel.plan().to_string(), plan.to_string(), "another plan runs");
                Ok(())
            })
        };
    }
    let kernels: [(KernelKind, Compile<'a>); KernelKind::ALL.len()] = [
        (KernelKind::Attention, compile!(Attention, AttentionProblem::new(plain()?, 1, 8))),
        (
            KernelKind::AttentionBackward,
            compile!(
                AttentionBackward,
                AttentionBackwardProblem::new(AttentionProblem::new(plain()?, 1, 8))
            ),
        ),
        (KernelKind::Decode, compile!(Decode, DecodeProblem::new(plain()?, cache, 1, 8))),
        (KernelKind::KvAppend, compile!(KvAppend, KvAppendProblem::new(cache))),
        (KernelKind::KvMove, compile!(KvMove, KvMoveProblem::new(cache))),
        (
            KernelKind::LinearAttention,
            compile!(LinearAttention, LinearAttentionProblem::new(plain()?, 1, 8)),
        ),
        (
            KernelKind::LinearAttentionBackward,
            compile!(
                LinearAttentionBackward,
                LinearAttentionBackwardProblem::new(LinearAttentionProblem::new(plain()?, 1, 8))
            ),
        ),
        (KernelKind::Merge, compile!(Merge, MergeProblem::new(8))),
        (KernelKind::Rope, compile!(Rope, RopeProblem::new(1, 1, 8))),
        (KernelKind::Scores, compile!(Scores, ScoresProblem::new(1, 1, 8))),
    ];
    let named = kernels.iter().map(|(kernel, _)| *kernel);
    assert_eq!(KernelKind::not_once(named), [], "kernels without a row, or with two");
    kernels
}
