//! Why a call was refused.

use burn::tensor::DType;
use burn::tensor::wgpu::WgpuInitError;

/// Result of everything in this crate that can be refused.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why a call was refused: on the caller's thread, before anything was queued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes, numbers or limits that no kernel fits.
    #[error(transparent)]
    Phasor(#[from] phasor::Error),
    /// Burn's wgpu runtime could not be started.
    #[error(transparent)]
    Init(#[from] WgpuInitError),
    /// Burn does not say which wgpu device stands behind a device of its own.
    #[error(
        "{device} has not been attached: make it with phasor_burn::init or phasor_burn::share, or hand \
         its WgpuSetup to phasor_burn::attach once; on devices that are not wgpu's, use phasor_burn::formula"
    )]
    NotAttached {
        /// The device, as Burn prints it.
        device: String,
    },
    /// Tensors of one call on different devices.
    #[error("{tensor} is on {got}, but q is on {needed}")]
    Device {
        /// Which tensor.
        tensor: &'static str,
        /// Where it has to be.
        needed: String,
        /// Where it is.
        got: String,
    },
    /// An element type that the kernels do not take.
    #[error("{tensor} holds {got:?}, but must hold {needed}")]
    DType {
        /// Which tensor.
        tensor: &'static str,
        /// What it may hold.
        needed: &'static str,
        /// What it holds.
        got: DType,
    },
    /// A tensor without elements.
    #[error("{tensor} has no elements: its shape is {shape:?}")]
    Empty {
        /// Which tensor.
        tensor: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A shape that does not fit the call.
    #[error("{tensor} must be {needed}, but its shape is {got:?}")]
    Shape {
        /// Which tensor.
        tensor: &'static str,
        /// What fits.
        needed: String,
        /// Its shape.
        got: Vec<usize>,
    },
    /// A number in a configuration that no module fits.
    #[error("{what} must be {needed}, but is {got}")]
    Config {
        /// Which number, by its field name.
        what: &'static str,
        /// The rule.
        needed: &'static str,
        /// The offending value.
        got: String,
    },
}

/// A size as kernels count it.
pub(crate) fn narrow(tensor: &'static str, size: usize) -> phasor::Result<u32> {
    u32::try_from(size).map_err(|_| phasor::Error::IndexOverflow { tensor, index: size as u64 })
}
