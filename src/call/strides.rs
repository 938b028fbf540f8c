//! Where the rows of a tensor lie, as shaders are told.

use crate::Layout;
use crate::uniform::uniform;

uniform! {
    /// `Strides` of `shaders/strides.wgsl`: offset and strides in entries of the bound array.
    pub(crate) struct Strides {
        pub(crate) offset: u32,
        pub(crate) batch: u32,
        pub(crate) head: u32,
        pub(crate) row: u32,
    }
}

impl Strides {
    /// Those of a layout, whose elements lie `unit` to an entry.
    pub(crate) fn new(layout: &Layout, unit: u32) -> Self {
        let [batch, head, row] = layout.strides.map(|stride| stride / unit);
        Self { offset: layout.offset / unit, batch, head, row }
    }

    /// Rows of all sequences lie in one batch.
    pub(crate) fn ragged(self) -> Self {
        Self { batch: 0, ..self }
    }
}
