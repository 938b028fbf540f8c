//! One file (or folder) a kernel, each the same way: problem → plan → kernel → bind → record.
//! Kernels never import each other, but for decode, which ends in merge where it splits the keys.

use crate::call::{Problem, sealed};
use crate::plan::{self, Capabilities};

pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod decode;
pub(crate) mod kv_append;
pub(crate) mod kv_move;
pub(crate) mod linear_attention;
pub(crate) mod linear_attention_backward;
pub(crate) mod merge;
pub(crate) mod rope;
pub(crate) mod scores;

/// Problems and their plans.
macro_rules! problems {
    ($($kernel:ident: $problem:ident, $plan:ident;)*) => {$(
        impl sealed::Sealed for plan::$kernel::$problem {}
        impl sealed::Sealed for plan::$kernel::$plan {}

        impl sealed::Planned for plan::$kernel::$plan {
            fn planned_for(&self) -> &Capabilities {
                &self.capabilities
            }

            fn planned_for_mut(&mut self) -> &mut Capabilities {
                &mut self.capabilities
            }
        }

        impl Problem for plan::$kernel::$problem {
            type Plan = plan::$kernel::$plan;

            fn plan(&self, capabilities: &Capabilities) -> crate::Result<Self::Plan> {
                self.plan(capabilities)
            }
        }
    )*};
}
problems! {
    attention: AttentionProblem, AttentionPlan;
    attention_backward: AttentionBackwardProblem, AttentionBackwardPlan;
    decode: DecodeProblem, DecodePlan;
    kv_append: KvAppendProblem, KvAppendPlan;
    kv_move: KvMoveProblem, KvMovePlan;
    linear_attention: LinearAttentionProblem, LinearAttentionPlan;
    linear_attention_backward: LinearAttentionBackwardProblem, LinearAttentionBackwardPlan;
    merge: MergeProblem, MergePlan;
    rope: RopeProblem, RopePlan;
    scores: ScoresProblem, ScoresPlan;
}
