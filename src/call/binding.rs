//! A range of a host's buffer, whatever the host is.

use core::fmt::Debug;

/// What a host binds: a range of one of its buffers. Checks and recipes need no more of it than
/// this.
///
/// | | |
/// |---|---|
/// | `wgpu::BufferBinding` | this crate's own host, with the feature `wgpu` |
/// | [`Range`] | any other: buffers are numbers |
/// | `()` | no buffers: shapes, types and strides are checked, sizes and overlaps are not |
pub trait Binding: Clone + Debug + sealed::Sealed {
    /// Where it lies, or `None` where there is no buffer yet.
    fn extent(&self) -> Option<Extent>;

    /// Whether two ranges are of one buffer.
    fn same_buffer(&self, other: &Self) -> bool;

    /// `size` bytes of it, from byte `offset` of it on.
    #[must_use]
    fn part(&self, offset: u64, size: u64) -> Self;

    /// `size` bytes of its buffer, from byte `offset` of the buffer on.
    #[must_use]
    fn elsewhere(&self, offset: u64, size: u64) -> Self;
}

/// A range within its buffer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Size of the buffer.
    pub buffer_size: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes; `None` for all to the end of the buffer.
    pub size: Option<u64>,
    /// Whether the buffer may be bound as storage.
    pub storage: bool,
}

impl Extent {
    /// Bytes from the start of the range to the end of the buffer.
    pub(crate) fn rest(&self) -> u64 {
        self.buffer_size.saturating_sub(self.offset)
    }

    /// Bytes that are bound.
    pub(crate) fn available(&self) -> u64 {
        self.size.unwrap_or_else(|| self.rest())
    }
}

/// A range of a buffer that the host knows by a number of its choice.
///
/// ```
/// use phasor::recipe::{Range, Tensor};
/// use phasor::{DType, Layout};
///
/// let q = Tensor::at(Range::new(0, 4096, 1 << 16), DType::F32, Layout::bhsd([1, 4, 64, 64])?)?;
/// # Ok::<(), phasor::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// Which buffer.
    pub buffer: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// `size` bytes from byte `offset` of `buffer` on.
    pub fn new(buffer: u64, offset: u64, size: u64) -> Self {
        Self { buffer, offset, size }
    }
}

impl Binding for Range {
    fn extent(&self) -> Option<Extent> {
        // How large the buffer is, its host knows.
        let (buffer_size, size) = (self.offset.saturating_add(self.size), Some(self.size));
        Some(Extent { buffer_size, offset: self.offset, size, storage: true })
    }

    fn same_buffer(&self, other: &Self) -> bool {
        self.buffer == other.buffer
    }

    fn part(&self, offset: u64, size: u64) -> Self {
        Self { offset: self.offset.saturating_add(offset), size, ..*self }
    }

    fn elsewhere(&self, offset: u64, size: u64) -> Self {
        Self { offset, size, ..*self }
    }
}

impl Binding for () {
    fn extent(&self) -> Option<Extent> {
        None
    }

    fn same_buffer(&self, (): &Self) -> bool {
        false
    }

    fn part(&self, _: u64, _: u64) {}

    fn elsewhere(&self, _: u64, _: u64) {}
}

mod sealed {
    /// Ranges have to be what they say, so that no call reaches a device unchecked.
    pub trait Sealed {}

    impl Sealed for super::Range {}
    impl Sealed for () {}
    #[cfg(feature = "wgpu")]
    impl Sealed for wgpu::BufferBinding<'_> {}
}
