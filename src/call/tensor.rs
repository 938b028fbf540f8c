//! A tensor over a range of a host's buffer.

use super::Binding;
use crate::{DType, Error, Layout, Result};

/// A `[B, H, S, D]` tensor in a range of a buffer. The range starts at a byte offset that the
/// device can bind (`min_storage_buffer_offset_alignment`) and has a multiple of 4 bytes; anything
/// finer goes into [`Layout::offset`].
#[derive(Debug, Clone)]
pub struct Tensor<B> {
    /// The range: buffer, byte offset and byte size.
    pub binding: B,
    /// Element type.
    pub dtype: DType,
    /// Shape, strides and element offset within the binding.
    pub layout: Layout,
}

impl<B: Binding> Tensor<B> {
    /// A tensor in a range of a buffer, with any strides.
    ///
    /// # Errors
    /// [`Error::BindingTooSmall`] where the layout reaches past the range, [`Error::IndexOverflow`]
    /// where an index needs more than 32 bits, [`Error::Alignment`] where the range has no multiple
    /// of 4 bytes. Alignment and limits of the device are checked when a call is bound.
    pub fn at(binding: B, dtype: DType, layout: Layout) -> Result<Self> {
        let last = layout.last_index("tensor")?.map_or(0, |last| u64::from(last) + 1);
        if let Some(extent) = binding.extent() {
            let (needed, available) = (last * dtype.size(), extent.available());
            if needed > available {
                return Err(Error::BindingTooSmall { tensor: "tensor", needed, available });
            }
            if !available.is_multiple_of(4) {
                let what = "binding size";
                return Err(Error::Alignment { tensor: "tensor", what, needed: 4, got: available });
            }
        }
        Ok(Self { binding, dtype, layout })
    }
}

#[cfg(feature = "wgpu")]
impl<'a> Tensor<wgpu::BufferBinding<'a>> {
    /// A tensor that fills a whole buffer (or its beginning).
    pub fn new(buffer: &'a wgpu::Buffer, dtype: DType, layout: Layout) -> Self {
        Self { binding: buffer.as_entire_buffer_binding(), dtype, layout }
    }
}
