//! Which wgpu device stands behind a device of Burn's, and the kernels that are compiled on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuOptions, WgpuSetup, wgpu};
use phasor::attention::AttentionProblem;
use phasor::attention_backward::AttentionBackwardProblem;
use phasor::recipe::Problem;
use phasor::rope::RopeProblem;
use phasor::{Capabilities, Kernel, Kernels, Sharing};

use crate::{Error, Result};

/// Starts Burn's wgpu runtime and attaches it; what it returns beside the device is for a host that
/// wants to use the same wgpu device.
///
/// ```no_run
/// use burn::tensor::Device;
///
/// let (device, setup) = phasor_burn::init(Device::wgpu_options())?;
/// println!("{:?}", setup.adapter.get_info());
/// # Ok::<(), phasor_burn::Error>(())
/// ```
///
/// # Errors
/// [`Error::Init`] where Burn finds no adapter, or has started on it before.
pub fn init(options: WgpuOptions) -> Result<(Device, WgpuSetup)> {
    let (device, setup) = options.init_with_setup()?;
    attach(&device, &setup);
    Ok((device, setup))
}

/// Lets Burn use a wgpu device that the host has made, and attaches it. Burn asks the adapter, not
/// the device, what it may use: make the device with all of the adapter's features and limits.
///
/// # Errors
/// [`Error::Init`] where Burn refuses the handles.
pub fn share(setup: &WgpuSetup, options: WgpuOptions) -> Result<Device> {
    let device = options.setup(setup.clone()).init()?;
    attach(&device, setup);
    Ok(device)
}

/// Says which wgpu device stands behind a device of Burn's that was started elsewhere: the setup
/// that Burn's own `init_with_setup` returned with it, or that it was given.
pub fn attach(device: &Device, setup: &WgpuSetup) {
    let host = Arc::new(Host::new(setup));
    let mut hosts = lock(&HOSTS);
    hosts.retain(|(known, _)| known != device);
    hosts.push((device.clone(), host));
}

static HOSTS: Mutex<Vec<(Device, Arc<Host>)>> = Mutex::new(Vec::new());

/// What was attached for a device; autodiff makes no difference.
pub(crate) fn host(device: &Device) -> Result<Arc<Host>> {
    let hosts = lock(&HOSTS);
    let found = hosts.iter().find(|(known, _)| known == device);
    found
        .map(|(_, host)| host.clone())
        .ok_or_else(|| Error::NotAttached { device: format!("{device:?}") })
}

/// A panic elsewhere leaves lists of kernels whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An attached device.
pub(crate) struct Host {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    adapter: String,
    pub(crate) attention: Compiled<AttentionProblem>,
    pub(crate) backward: Compiled<AttentionBackwardProblem>,
    pub(crate) rope: Compiled<RopeProblem>,
}

impl Host {
    fn new(setup: &WgpuSetup) -> Self {
        let (device, caps) = (&setup.device, Capabilities::of(&setup.device));
        Self {
            device: device.clone(),
            queue: setup.queue.clone(),
            attention: Compiled::new(device, &caps),
            backward: Compiled::new(device, &caps),
            rope: Compiled::new(device, &caps),
            adapter: caps.adapter,
        }
    }
}

impl core::fmt::Debug for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Host").field("adapter", &self.adapter).finish_non_exhaustive()
    }
}

/// Compiled kernels for both ways in which tensors lie.
pub(crate) struct Compiled<P: Problem> {
    pooled: Kernels<P>,
    apart: Kernels<P>,
}

impl<P: Problem> Compiled<P> {
    fn new(device: &wgpu::Device, caps: &Capabilities) -> Self {
        let kernels = |sharing| Kernels::new(device, caps.clone().sharing(sharing));
        Self { pooled: kernels(Sharing::Ranges), apart: kernels(Sharing::Apart) }
    }

    /// In one buffer, or with outputs in buffers of their own.
    pub(crate) fn get(&self, problem: &P, pooled: bool) -> phasor::Result<Kernel<P::Plan>> {
        if pooled { self.pooled.get(problem) } else { self.apart.get(problem) }
    }
}
