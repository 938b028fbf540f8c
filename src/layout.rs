//! Where the elements of a `[B, H, S, D]` tensor lie: shape, strides and offset, in elements.

use crate::{Error, Result};

/// Shape and strides of a four-dimensional tensor `[B, H, S, D]` (batch, head, position,
/// channel). The last axis is contiguous; the other three have any stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// `[B, H, S, D]`, in elements.
    pub shape: [u32; 4],
    /// Distance between neighbours along batch, head and position, in elements.
    pub strides: [u32; 3],
    /// Element at which the tensor starts, counted from the start of the binding.
    pub offset: u32,
}

/// Saturates: what does not fit 64 bits is refused for not fitting 32.
fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

impl Layout {
    /// Contiguous `[B, H, S, D]`: each head's rows lie together.
    ///
    /// # Errors
    /// [`Error::IndexOverflow`] when the tensor has 2^32 elements or more.
    pub fn bhsd(shape: [u32; 4]) -> Result<Self> {
        let [_, h, s, d] = shape.map(u64::from);
        Self::with_strides(shape, [product([h, s, d]), product([s, d]), d], 0)
    }

    /// Contiguous `[B, S, H, D]` (as projections write it), described with the axes `[B, H, S, D]`.
    ///
    /// # Errors
    /// [`Error::IndexOverflow`] when the tensor has 2^32 elements or more.
    pub fn bshd(shape: [u32; 4]) -> Result<Self> {
        let [_, h, s, d] = shape.map(u64::from);
        Self::with_strides(shape, [product([s, h, d]), d, product([h, d])], 0)
    }

    /// Heads `first_head .. first_head + shape[1]` of a packed `[B, S, all_heads, D]` tensor, such
    /// as the K part of a fused QKV projection with `all_heads = heads + 2 * kv_heads`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the heads do not lie within `all_heads`,
    /// [`Error::IndexOverflow`] when an index needs more than 32 bits.
    pub fn packed(shape: [u32; 4], all_heads: u32, first_head: u32) -> Result<Self> {
        let [_, h, s, d] = shape.map(u64::from);
        if u64::from(first_head) + h > u64::from(all_heads) {
            return Err(Error::Invalid {
                what: "packed heads",
                needed: "first_head + heads <= all_heads",
                got: format!("{first_head} + {h} of {all_heads}"),
            });
        }
        let row = u64::from(all_heads) * d;
        Self::with_strides(shape, [product([s, row]), d, row], u64::from(first_head) * d)
    }

    /// Shape, strides of all four axes and offset as host programs have them, in elements: any
    /// `[B, H, S, D]` view whose channels lie side by side.
    ///
    /// ```
    /// // Heads of a projection [B, S, H, D], as [B, H, S, D]: a transposed view.
    /// let [b, s, h, d] = [2, 100, 4, 64];
    /// let view = phasor::Layout::strided([b, h, s, d], [s * h * d, d, h * d, 1], 0)?;
    /// assert_eq!(view, phasor::Layout::bshd([2, 4, 100, 64])?);
    /// # Ok::<(), phasor::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::IndexOverflow`] where a number or an index needs more than 32 bits,
    /// [`Error::Stride`] where the last axis has more than one element, and they do not follow each
    /// other.
    pub fn strided(shape: [usize; 4], strides: [usize; 4], offset: usize) -> Result<Self> {
        let [sb, sh, ss, sd] = strides.map(|stride| stride as u64);
        let mut narrow = [0; 4];
        for (to, from) in narrow.iter_mut().zip(shape) {
            *to = u32::try_from(from)
                .map_err(|_| Error::IndexOverflow { tensor: "layout", index: from as u64 })?;
        }
        let shape = narrow;
        if shape[3] > 1 && sd != 1 {
            let got = u32::try_from(sd).unwrap_or(u32::MAX);
            let (what, needed) = ("stride of the last axis", "1 element");
            return Err(Error::Stride { tensor: "layout", what, needed, got });
        }
        Self::with_strides(shape, [sb, sh, ss], offset as u64)
    }

    fn with_strides(shape: [u32; 4], strides: [u64; 3], offset: u64) -> Result<Self> {
        let narrow = |x: u64| {
            u32::try_from(x).map_err(|_| Error::IndexOverflow { tensor: "layout", index: x })
        };
        let layout = Self {
            shape,
            strides: [narrow(strides[0])?, narrow(strides[1])?, narrow(strides[2])?],
            offset: narrow(offset)?,
        };
        layout.last_index("layout")?;
        Ok(layout)
    }

    /// Number of elements, `B * H * S * D`.
    pub fn elements(&self) -> u64 {
        // Four u32 factors can pass 2^64 only for shapes that no binding can hold.
        self.shape.iter().fold(1u64, |n, &x| n.saturating_mul(u64::from(x)))
    }

    /// Whether any axis has no entries.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Index of the last element, or `None` for an empty tensor.
    ///
    /// # Errors
    /// [`Error::IndexOverflow`] when it does not fit 32 bits; `tensor` names the binding.
    pub fn last_index(&self, tensor: &'static str) -> Result<Option<u32>> {
        if self.is_empty() {
            return Ok(None);
        }
        let [b, h, s, d] = self.shape.map(|x| u128::from(x - 1));
        let [sb, sh, ss] = self.strides.map(u128::from);
        let last = u128::from(self.offset) + b * sb + h * sh + s * ss + d;
        match u32::try_from(last) {
            // The element count (last + 1) has to fit as well.
            Ok(i) if i < u32::MAX => Ok(Some(i)),
            _ => {
                Err(Error::IndexOverflow { tensor, index: u64::try_from(last).unwrap_or(u64::MAX) })
            }
        }
    }

    /// Index of one element, in elements from the start of the binding. For tests and host code;
    /// the indices must lie within the shape.
    pub fn index(&self, b: u32, h: u32, s: u32, d: u32) -> usize {
        let [sb, sh, ss] = self.strides.map(|x| x as usize);
        self.offset as usize + b as usize * sb + h as usize * sh + s as usize * ss + d as usize
    }

    /// Refuses strides that give two elements the same address (allowed for inputs, as a
    /// broadcast; never for outputs). Sufficient and simple: sorted by stride, each axis must step
    /// over all that the smaller ones reach.
    pub(crate) fn check_distinct(&self, tensor: &'static str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let axis = |i: usize| (u64::from(self.strides[i]), u64::from(self.shape[i]));
        let mut axes = [axis(0), axis(1), axis(2)];
        axes.sort_unstable();
        let mut reach = u64::from(self.shape[3]);
        for (stride, n) in axes.into_iter().filter(|&(_, n)| n > 1) {
            if stride < reach {
                return Err(Error::SelfOverlap {
                    tensor,
                    shape: self.shape,
                    strides: self.strides,
                });
            }
            reach += stride * (n - 1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_layouts_address_as_named() {
        let shape = [2, 3, 5, 8];
        assert_eq!(Layout::bhsd(shape).unwrap().index(1, 2, 4, 7), 2 * 3 * 5 * 8 - 1);
        assert_eq!(Layout::bshd(shape).unwrap().index(0, 1, 2, 3), (2 * 3 + 1) * 8 + 3);
        let k = Layout::packed([2, 1, 5, 8], 5, 3).unwrap();
        assert_eq!(k.index(1, 0, 2, 0), ((5 + 2) * 5 + 3) * 8);
        assert!(Layout::packed([2, 3, 5, 8], 5, 3).is_err());
        assert_eq!(Layout::strided([2, 1, 5, 8], [200, 8, 40, 1], 24).unwrap(), k);
        // Of one channel, or none, there is no next one.
        assert!(Layout::strided([2, 1, 5, 1], [5, 5, 1, 7], 0).is_ok());
        let refused = Layout::strided([2, 1, 5, 8], [40, 40, 1, 5], 0);
        assert!(matches!(refused, Err(Error::Stride { got: 5, .. })));
        let wide = 1usize << 32;
        for (shape, strides, offset) in [
            ([1, 1, wide, 1], [1; 4], 0),
            ([1; 4], [wide, 1, 1, 1], 0),
            ([1; 4], [1; 4], wide),
            ([2, 1, 1, 8], [wide - 8, 8, 8, 1], 0),
        ] {
            let refused = Layout::strided(shape, strides, offset);
            assert!(matches!(refused, Err(Error::IndexOverflow { .. })), "{refused:?}");
        }
    }

    #[test]
    fn indices_past_32_bits_are_refused() {
        assert!(matches!(Layout::bhsd([1, 64, 1 << 20, 64]), Err(Error::IndexOverflow { .. })));
        assert!(Layout::bhsd([1, 1, 1 << 25, 127]).is_ok());
        assert_eq!(Layout::bhsd([0, 1, 1, 1]).unwrap().last_index("x").unwrap(), None);
    }

    #[test]
    fn broadcast_is_not_an_output() {
        let mut layout = Layout::bhsd([2, 3, 5, 8]).unwrap();
        layout.check_distinct("out").unwrap();
        Layout::bshd([2, 3, 5, 8]).unwrap().check_distinct("out").unwrap();
        layout.strides[1] = 0;
        assert!(matches!(layout.check_distinct("out"), Err(Error::SelfOverlap { .. })));
    }
}
