//! A tensor over a range of the caller's buffer, and the checks it has to pass.

use super::Strides;
use crate::plan::Capabilities;
use crate::plan::attention::Bias;
use crate::{DType, Error, Layout, Result};

/// A `[B, H, S, D]` tensor in a range of a buffer. The range starts at a byte offset that the
/// device can bind (`min_storage_buffer_offset_alignment`); anything finer goes into
/// [`Layout::offset`].
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// Buffer, byte offset and byte size (`None`: to the end of the buffer).
    pub binding: wgpu::BufferBinding<'a>,
    /// Element type.
    pub dtype: DType,
    /// Shape, strides and element offset within the binding.
    pub layout: Layout,
}

impl<'a> Tensor<'a> {
    /// A tensor that fills a whole buffer (or its beginning).
    pub fn new(buffer: &'a wgpu::Buffer, dtype: DType, layout: Layout) -> Self {
        Self { binding: buffer.as_entire_buffer_binding(), dtype, layout }
    }
}

/// How a call uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Refuses a binding that the problem needs and the call lacks, or the other way round.
pub(crate) fn present(tensor: &'static str, needed: bool, given: bool) -> Result<()> {
    let why = match (needed, given) {
        (true, false) => "missing, though the problem asks for it",
        (false, true) => "given, but the problem does not use it",
        _ => return Ok(()),
    };
    Err(Error::Binding { tensor, why })
}

struct Seen {
    name: &'static str,
    access: Access,
    buffer: wgpu::Buffer,
    bytes: core::ops::Range<u64>,
}

/// Collects a call's bindings and refuses what cannot be bound. Nothing reaches wgpu before all of
/// them have passed.
pub(crate) struct Checker<'a> {
    caps: &'a Capabilities,
    seen: Vec<Seen>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(caps: &'a Capabilities) -> Self {
        Self { caps, seen: Vec::new() }
    }

    /// Checks dtype, shape and strides of a tensor against what the plan computes; `unit` is the
    /// number of elements that the kernel moves at once (strides and offset are multiples of it).
    pub(crate) fn tensor(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'_>,
        access: Access,
        dtype: DType,
        shape: [u32; 4],
        unit: u32,
    ) -> Result<()> {
        if tensor.dtype != dtype {
            return Err(Error::DType { tensor: name, needed: dtype, got: tensor.dtype });
        }
        self.rows(name, &tensor.binding, &tensor.layout, access, dtype.size(), shape, unit)
    }

    /// [`Checker::tensor`] for elements of any size.
    #[expect(clippy::too_many_arguments, reason = "what a tensor is, and what it should be")]
    pub(crate) fn rows(
        &mut self,
        name: &'static str,
        binding: &wgpu::BufferBinding<'_>,
        layout: &Layout,
        access: Access,
        element_bytes: u64,
        shape: [u32; 4],
        unit: u32,
    ) -> Result<()> {
        if layout.shape != shape {
            return Err(Error::Shape { tensor: name, needed: shape, got: layout.shape });
        }
        let [sb, sh, ss] = layout.strides;
        let needed = match unit {
            1 => "any",
            2 => "a multiple of 2 elements",
            _ => "a multiple of 4 elements",
        };
        let values = [
            ("batch stride", sb, layout.shape[0]),
            ("head stride", sh, layout.shape[1]),
            ("position stride", ss, layout.shape[2]),
            ("offset", layout.offset, 2),
        ];
        for (what, got, extent) in values {
            if extent > 1 && !got.is_multiple_of(unit) {
                return Err(Error::Stride { tensor: name, what, needed, got });
            }
        }
        if access == Access::Write {
            layout.check_distinct(name)?;
        }
        let reach = layout.last_index(name)?.map_or(0, |i| u64::from(i) + 1) * element_bytes;
        self.binding(name, binding, access, reach)
    }

    /// Checks a binding of which the call touches the first `reach` bytes.
    pub(crate) fn binding(
        &mut self,
        name: &'static str,
        binding: &wgpu::BufferBinding<'_>,
        access: Access,
        reach: u64,
    ) -> Result<()> {
        if !binding.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::Usage { tensor: name, needed: "STORAGE" });
        }
        let rest = binding.buffer.size().saturating_sub(binding.offset);
        let available = binding.size.map_or(rest, |size| size.get());
        if available > rest || reach > available {
            return Err(Error::BindingTooSmall {
                tensor: name,
                needed: reach.max(available),
                available: rest.min(available),
            });
        }
        let alignment = u64::from(self.caps.storage_alignment);
        if !binding.offset.is_multiple_of(alignment) {
            let (what, got) = ("binding offset", binding.offset);
            return Err(Error::Alignment { tensor: name, what, needed: alignment, got });
        }
        if !available.is_multiple_of(4) {
            let (what, got) = ("binding size", available);
            return Err(Error::Alignment { tensor: name, what, needed: 4, got });
        }
        Capabilities::need(
            "max_storage_buffer_binding_size",
            name,
            available,
            self.caps.max_storage_binding,
        )?;
        let bytes = binding.offset..binding.offset + available;
        for other in self.seen.iter().filter(|other| other.buffer == *binding.buffer) {
            let disjoint = bytes.end <= other.bytes.start || other.bytes.end <= bytes.start;
            match (access, other.access) {
                (Access::Read, Access::Read) => {}
                (Access::Write, Access::Write) if disjoint => {}
                (Access::Write, _) => return Err(Error::Overlap { a: other.name, b: name }),
                (Access::Read, Access::Write) => {
                    return Err(Error::Overlap { a: name, b: other.name });
                }
            }
        }
        self.seen.push(Seen { name, access, buffer: binding.buffer.clone(), bytes });
        Ok(())
    }

    /// Checks a binding that a call must have where the problem needs it, and nowhere else.
    pub(crate) fn optional(
        &mut self,
        name: &'static str,
        needed: bool,
        binding: Option<&wgpu::BufferBinding<'_>>,
        access: Access,
        reach: u64,
    ) -> Result<()> {
        present(name, needed, binding.is_some())?;
        binding.map_or(Ok(()), |binding| self.binding(name, binding, access, reach))
    }

    /// Checks a bias or mask, whose layout counts its own entries, and tells where they lie.
    pub(crate) fn bias(
        &mut self,
        kind: Option<Bias>,
        bias: Option<&(Layout, wgpu::BufferBinding<'_>)>,
        needed: [u32; 4],
    ) -> Result<Strides> {
        present("bias", kind.is_some(), bias.is_some())?;
        let (Some(kind), Some((layout, binding))) = (kind, bias) else {
            return Ok(Strides::default());
        };
        if layout.shape != needed {
            return Err(Error::Shape { tensor: "bias", needed, got: layout.shape });
        }
        let elements = layout.last_index("bias")?.map_or(0, |last| u64::from(last) + 1);
        let size = if kind == Bias::Additive { 4 } else { 1 };
        // Masks are read by words.
        self.binding("bias", binding, Access::Read, (elements * size).next_multiple_of(4))?;
        Ok(Strides::new(layout, 1))
    }
}
