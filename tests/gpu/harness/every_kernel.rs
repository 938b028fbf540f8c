//! All kernels of the crate.

use phasor::attention::{Attention, AttentionProblem};
use phasor::attention_backward::{AttentionBackward, AttentionBackwardProblem};
use phasor::cache::CacheFormat;
use phasor::decode::{Decode, DecodeProblem};
use phasor::kv_append::{KvAppend, KvAppendProblem};
use phasor::kv_move::{KvMove, KvMoveProblem};
use phasor::linear_attention::{LinearAttention, LinearAttentionProblem};
use phasor::merge::{Merge, MergeProblem};
use phasor::rope::{Rope, RopeProblem};
use phasor::scores::{Scores, ScoresProblem};
use phasor::{Capabilities, Compiler, HeadMap};

/// Compiles a kernel and drops it.
type Compile<'a> = Box<dyn Fn() -> phasor::Result<()> + 'a>;

/// Every kernel with a small plan of its own, to be compiled.
pub fn every_kernel<'a>(
    compiler: Compiler<'a>,
    caps: &'a Capabilities,
) -> [(&'static str, Compile<'a>); 9] {
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
    [
        ("attention", compile!(Attention, AttentionProblem::new(plain()?, 1, 8))),
        (
            "attention backward",
            compile!(
                AttentionBackward,
                AttentionBackwardProblem::new(AttentionProblem::new(plain()?, 1, 8))
            ),
        ),
        ("decode", compile!(Decode, DecodeProblem::new(plain()?, cache, 1, 8))),
        ("kv_append", compile!(KvAppend, KvAppendProblem::new(cache))),
        ("kv_move", compile!(KvMove, KvMoveProblem::new(cache))),
        (
            "linear attention",
            compile!(LinearAttention, LinearAttentionProblem::new(plain()?, 1, 8)),
        ),
        ("merge", compile!(Merge, MergeProblem::new(8))),
        ("rope", compile!(Rope, RopeProblem::new(1, 1, 8))),
        ("scores", compile!(Scores, ScoresProblem::new(1, 1, 8))),
    ]
}
