//! Compiles the kernels of all layers, each shader once, several at a time.

use crate::attention::Attention;
use crate::decode::Decode;
use crate::gpu::Compiler;
use crate::kv_append::KvAppend;
use crate::kv_move::KvMove;
use crate::layers::{LayerPlan, Many};
use crate::plan::Shader;
use crate::plan::attention::AttentionPlan;
use crate::plan::decode::DecodePlan;
use crate::plan::kv_append::KvAppendPlan;
use crate::plan::kv_move::KvMovePlan;
use crate::{Error, Result};

/// The compiled kernels of a layer, as its [`LayerPlan`] has them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LayerKernels {
    /// Writes the new rows into the cache.
    pub append: KvAppend,
    /// Attends with few rows.
    pub decode: Decode,
    /// Attends with more rows.
    pub many: Option<ManyKernel>,
    /// Moves rows within the cache.
    pub moves: Option<KvMove>,
}

/// What attends with more rows than decode is planned for.
#[derive(Debug, Clone)]
pub enum ManyKernel {
    /// One call for all rows.
    Prefill(Box<Attention>),
    /// 16 rows a call.
    Decode(Box<Decode>),
}

#[derive(Clone, Copy)]
enum Plan<'a> {
    Append(&'a KvAppendPlan),
    Decode(&'a DecodePlan),
    Prefill(&'a AttentionPlan),
    Move(&'a KvMovePlan),
}

#[derive(Clone)]
enum Kernel {
    Append(KvAppend),
    Decode(Box<Decode>),
    Prefill(Box<Attention>),
    Move(KvMove),
}

impl<'a> Plan<'a> {
    fn all(kind: &'a LayerPlan) -> impl Iterator<Item = Self> {
        let many = kind.many.as_ref().map(|many| match many {
            Many::Prefill(plan) => Plan::Prefill(plan),
            Many::Decode(plan) => Plan::Decode(plan),
        });
        let always = [Plan::Append(&kind.append), Plan::Decode(&kind.decode)];
        always.into_iter().chain(many).chain(kind.moves.as_ref().map(Plan::Move))
    }

    fn shader(&self) -> &'a Shader {
        match self {
            Plan::Append(plan) => plan.shader(),
            Plan::Decode(plan) => plan.shader(),
            Plan::Prefill(plan) => plan.shader(),
            Plan::Move(plan) => plan.shader(),
        }
    }

    fn compile(&self, compiler: Compiler<'_>) -> Result<Kernel> {
        Ok(match self {
            Plan::Append(plan) => Kernel::Append(KvAppend::new(compiler, plan)?),
            Plan::Decode(plan) => Kernel::Decode(Decode::new(compiler, plan)?.into()),
            Plan::Prefill(plan) => Kernel::Prefill(Attention::new(compiler, plan)?.into()),
            Plan::Move(plan) => Kernel::Move(KvMove::new(compiler, plan)?),
        })
    }
}

/// The kernels of every kind of layer.
pub(super) fn kernels(compiler: Compiler<'_>, kinds: &[LayerPlan]) -> Result<Vec<LayerKernels>> {
    let mut plans: Vec<Plan<'_>> = Vec::new();
    for plan in kinds.iter().flat_map(Plan::all) {
        if !plans.iter().any(|known| known.shader() == plan.shader()) {
            plans.push(plan);
        }
    }
    let compiled = compile_all(compiler, &plans)?;
    let find = |plan: Plan<'_>| {
        let known = plans.iter().zip(&compiled).find(|(it, _)| it.shader() == plan.shader());
        known.map(|(_, kernel)| kernel.clone())
    };
    let missing = || Error::Device { what: "a kernel" };
    let append = |plan| match find(Plan::Append(plan)) {
        // The shader says all but how many kv heads there are.
        Some(Kernel::Append(kernel)) if kernel.plan().problem() == plan.problem() => Ok(kernel),
        _ => KvAppend::new(compiler, plan),
    };
    let decode = |plan| match find(Plan::Decode(plan)) {
        Some(Kernel::Decode(kernel)) if kernel.plan() == plan => Ok(*kernel),
        Some(Kernel::Decode(kernel)) => kernel.reuse(compiler, plan)?.ok_or_else(missing),
        _ => Err(missing()),
    };
    let prefill = |plan| match find(Plan::Prefill(plan)) {
        Some(Kernel::Prefill(kernel)) if kernel.plan() == plan => Ok(*kernel),
        Some(Kernel::Prefill(kernel)) => kernel.reuse(compiler, plan)?.ok_or_else(missing),
        _ => Err(missing()),
    };
    let moves = |plan| match find(Plan::Move(plan)) {
        Some(Kernel::Move(kernel)) if kernel.plan().problem() == plan.problem() => Ok(kernel),
        _ => KvMove::new(compiler, plan),
    };
    let kinds = kinds.iter().map(|kind| {
        Ok(LayerKernels {
            append: append(&kind.append)?,
            decode: decode(&kind.decode)?,
            many: match &kind.many {
                Some(Many::Prefill(plan)) => Some(ManyKernel::Prefill(prefill(plan)?.into())),
                Some(Many::Decode(plan)) => Some(ManyKernel::Decode(decode(plan)?.into())),
                None => None,
            },
            moves: kind.moves.as_ref().map(moves).transpose()?,
        })
    });
    kinds.collect()
}

/// Compiles one after the other: a browser's device belongs to one thread.
#[cfg(target_arch = "wasm32")]
fn compile_all(compiler: Compiler<'_>, plans: &[Plan<'_>]) -> Result<Vec<Kernel>> {
    plans.iter().map(|plan| plan.compile(compiler)).collect()
}

/// Compiles on as many threads as there are cores; one after the other on OpenGL, whose context
/// belongs to one thread at a time.
#[cfg(not(target_arch = "wasm32"))]
fn compile_all(compiler: Compiler<'_>, plans: &[Plan<'_>]) -> Result<Vec<Kernel>> {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let threads = match compiler.device().adapter_info().backend {
        wgpu::Backend::Gl => 1,
        _ => std::thread::available_parallelism().map_or(1, usize::from).min(plans.len()),
    };
    if threads == 1 {
        return plans.iter().map(|plan| plan.compile(compiler)).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<Kernel>>>> = plans.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((plan, done)) = {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    plans.get(n).zip(done.get(n))
                } {
                    let kernel = plan.compile(compiler);
                    *done.lock().unwrap_or_else(|it| it.into_inner()) = Some(kernel);
                }
            });
        }
    });
    let lost = Err(Error::Device { what: "a kernel" });
    let kernels = done.into_iter().map(|it| {
        it.into_inner().unwrap_or_else(|it| it.into_inner()).unwrap_or_else(|| lost.clone())
    });
    kernels.collect()
}
