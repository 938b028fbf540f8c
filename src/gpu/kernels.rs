//! Compiled kernels by their problems, for hosts that meet problems as they come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kernel::Kernel;
use super::pipeline::Compiler;
use crate::Result;
use crate::call::Problem;
use crate::plan::Capabilities;

/// The compiled kernels of one kind on one device, made when they are first asked for: what an
/// adapter keeps that learns from a framework's tensors what to compute.
///
/// It may be shared between threads. Nothing waits for a kernel to be compiled but who asks for
/// that very problem. It grows by a kernel for every problem that it is asked for, until
/// [`Kernels::clear`]; a program has as many as it has kinds of layers and storage types, since
/// sizes are no part of a problem (of decode, the maxima are). Problems that share a shader share
/// the pipeline.
///
/// ```no_run
/// use phasor::attention::{AttentionBindings, AttentionProblem, AttentionShape};
/// use phasor::{Capabilities, HeadMap, Kernels, Sharing, Tensor, wgpu};
///
/// # fn f(device: &wgpu::Device, [q, k, v, out]: [Tensor<'_>; 4]) -> phasor::Result<()> {
/// let pooled = Capabilities::of(device).sharing(Sharing::Ranges);
/// let kernels = Kernels::new(device, pooled); // once, in the adapter
///
/// let problem = AttentionProblem::new(HeadMap::ropepp(8)?, 2, 64);
/// let shape = AttentionShape::of(&q, &k)?;
/// let bindings = AttentionBindings::new(q, k, v, out);
/// let call = kernels.get(&problem)?.bind(device, &shape, &bindings)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Kernels<P: Problem> {
    device: wgpu::Device,
    cache: Option<wgpu::PipelineCache>,
    capabilities: Capabilities,
    compiled: Mutex<HashMap<P, Place<P>>>,
}

/// Where a kernel is, once it is compiled. Whoever compiles it holds this lock, and not the map's.
type Place<P> = Arc<Mutex<Option<Kernel<<P as Problem>::Plan>>>>;

impl<P: Problem> Kernels<P> {
    /// None yet. Problems are planned for `capabilities`: those of the device, with what the caller
    /// has set in them (shared buffers, what a self-test left out).
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, capabilities: Capabilities) -> Self {
        let compiler = compiler.into();
        Self {
            device: compiler.device().clone(),
            cache: compiler.cache().cloned(),
            capabilities,
            compiled: Mutex::default(),
        }
    }

    /// The kernel of `problem`, compiled now if it is the first time.
    ///
    /// # Errors
    /// As the problem's `plan` and as [`Kernel::new`]. What failed is tried again the next time.
    pub fn get(&self, problem: &P) -> Result<Kernel<P::Plan>> {
        let known = lock(&self.compiled).get(problem).cloned();
        let (place, plan) = match known {
            Some(place) => (place, None),
            None => {
                // Before a place is made: a problem that cannot be planned takes none.
                let plan = problem.plan(&self.capabilities)?;
                let mut compiled = lock(&self.compiled);
                (compiled.entry(problem.clone()).or_default().clone(), Some(plan))
            }
        };
        let mut kernel = lock(&place);
        if let Some(kernel) = &*kernel {
            return Ok(kernel.clone());
        }
        let plan = plan.map_or_else(|| problem.plan(&self.capabilities), Ok)?;
        Ok(kernel.insert(self.compile(&plan)?).clone())
    }

    /// Kernels that are compiled.
    pub fn len(&self) -> usize {
        self.ready().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ready().is_empty()
    }

    /// Lets go of all kernels. Those in use, and calls that are bound, stay as they are.
    pub fn clear(&self) {
        lock(&self.compiled).clear();
    }

    fn compile(&self, plan: &P::Plan) -> Result<Kernel<P::Plan>> {
        let compiler = match &self.cache {
            Some(cache) => Compiler::new(&self.device).with_cache(cache),
            None => Compiler::new(&self.device),
        };
        for kernel in self.ready() {
            if let Some(kernel) = kernel.reuse(compiler, plan)? {
                return Ok(kernel);
            }
        }
        Kernel::new(compiler, plan)
    }

    fn ready(&self) -> Vec<Kernel<P::Plan>> {
        let compiled = lock(&self.compiled);
        // A place that is locked is one that is being compiled.
        compiled.values().filter_map(|place| place.try_lock().ok()?.clone()).collect()
    }
}

/// A thread that panicked has left a kernel, or none: there is nothing halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
