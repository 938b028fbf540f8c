//! The checks that a call's bindings have to pass.

use super::{Binding, Extent, Strides, Tensor};
use crate::plan::rules::Bias;
use crate::plan::{Capabilities, Sharing};
use crate::{DType, Error, Layout, Result};

/// How a call uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// Written by one dispatch of the call and read by another: in a buffer of its own, but where
    /// all ranges share.
    Scratch,
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

struct Seen<B> {
    binding: B,
    name: &'static str,
    access: Access,
    bytes: core::ops::Range<u64>,
}

/// Collects a call's bindings and refuses what cannot be bound. Nothing reaches a device before all
/// of them have passed.
pub(crate) struct Checker<'a, B> {
    caps: &'a Capabilities,
    seen: Vec<Seen<B>>,
}

impl<'a, B: Binding> Checker<'a, B> {
    pub(crate) fn new(caps: &'a Capabilities) -> Self {
        Self { caps, seen: Vec::with_capacity(16) }
    }

    /// Checks dtype, shape and strides of a tensor against what the plan computes; `unit` is the
    /// number of elements that the kernel moves at once (strides and offset are multiples of it).
    pub(crate) fn tensor(
        &mut self,
        name: &'static str,
        tensor: &Tensor<B>,
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
        binding: &B,
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
        if access != Access::Read {
            layout.check_distinct(name)?;
        }
        let reach = layout.last_index(name)?.map_or(0, |i| u64::from(i) + 1) * element_bytes;
        self.binding(name, binding, access, reach)
    }

    /// Checks a binding of which the call touches the first `reach` bytes.
    pub(crate) fn binding(
        &mut self,
        name: &'static str,
        binding: &B,
        access: Access,
        reach: u64,
    ) -> Result<()> {
        let Some(extent) = binding.extent() else { return Ok(()) };
        self.range(name, &extent, reach)?;
        let bytes = extent.offset..extent.offset + extent.available();
        self.beside_others(Seen { binding: binding.clone(), name, access, bytes })
    }

    /// Checks that a range can be bound, and is long enough.
    fn range(&self, name: &'static str, extent: &Extent, reach: u64) -> Result<()> {
        if !extent.storage {
            return Err(Error::Usage { tensor: name, needed: "STORAGE" });
        }
        let (rest, available) = (extent.rest(), extent.available());
        if available > rest || reach > available {
            return Err(Error::BindingTooSmall {
                tensor: name,
                needed: reach.max(available),
                available: rest.min(available),
            });
        }
        let alignment = u64::from(self.caps.storage_alignment);
        if !extent.offset.is_multiple_of(alignment) {
            let (what, got) = ("binding offset", extent.offset);
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
        )
    }

    /// Checks that a range goes with the others of the call, and keeps it.
    fn beside_others(&mut self, seen: Seen<B>) -> Result<()> {
        let Seen { binding, name, access, bytes } = seen;
        let sharing = self.caps.sharing;
        let access = match access {
            Access::Read if !sharing.stays_read_only(name) => Access::Write,
            // Written in one dispatch and read in the next, and read-only there unless all is
            // shared.
            Access::Scratch if sharing == Sharing::Ranges => Access::Write,
            access => access,
        };
        for other in self.seen.iter().filter(|other| other.binding.same_buffer(&binding)) {
            // One table that two dispatches of the call read.
            if name == other.name && bytes == other.bytes && access == other.access {
                continue;
            }
            let disjoint = bytes.end <= other.bytes.start || other.bytes.end <= bytes.start;
            match (access, other.access) {
                (Access::Read, Access::Read) => {}
                (Access::Write, Access::Write) if disjoint => {}
                (Access::Write, Access::Write) if sharing != Sharing::Apart => {
                    return Err(Error::RangesOverlap { a: other.name, b: name });
                }
                (Access::Read, _) => return Err(Error::Overlap { a: name, b: other.name }),
                _ => return Err(Error::Overlap { a: other.name, b: name }),
            }
        }
        self.seen.push(Seen { binding, name, access, bytes });
        Ok(())
    }

    /// Checks a binding that a call must have where the problem needs it, and nowhere else.
    pub(crate) fn optional(
        &mut self,
        name: &'static str,
        needed: bool,
        binding: Option<&B>,
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
        bias: Option<&(Layout, B)>,
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
