//! All kernels of the crate.

use phasor::{
    Capabilities, HeadMap,
    gpu::Compiler,
    kernels::{
        attention::Attention, decode::Decode, kv_append::KvAppend, kv_move::KvMove,
        linear_attention::LinearAttention, merge::Merge, rope::Rope, scores::Scores,
    },
    plan::{
        attention::AttentionProblem, cache::CacheFormat, decode::DecodeProblem,
        kv_append::KvAppendProblem, kv_move::KvMoveProblem,
        linear_attention::LinearAttentionProblem, merge::MergeProblem, rope::RopeProblem,
        scores::ScoresProblem,
    },
};

/// Compiles a kernel and drops it.
type Compile<'a> = Box<dyn Fn() -> phasor::Result<()> + 'a>;

/// Every kernel with a small plan of its own, to be compiled.
pub fn every_kernel<'a>(
    compiler: Compiler<'a>,
    caps: &'a Capabilities,
) -> [(&'static str, Compile<'a>); 8] {
    let plain = || HeadMap::plain(1);
    let cache = CacheFormat::new(1, 8);
    macro_rules! compile {
        ($kernel:ty, $problem:expr) => {
            Box::new(move || <$kernel>::new(compiler, &$problem.plan(caps)?).map(drop))
        };
    }
    [
        ("attention", compile!(Attention, AttentionProblem::new(plain()?, 1, 8))),
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
