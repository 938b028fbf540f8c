//! K and V caches as kernels bind them.

use bytemuck::{Pod, Zeroable};

use super::{Access, Checker, Tensor};
use crate::plan::cache::{CacheFormat, CacheType};
use crate::{Error, Layout, Result};

/// K or V of a cache, in a range of a buffer. As [`Tensor`](super::Tensor), but quantised rows are
/// counted in 32-bit words: the last axis of the layout has [`CacheType::row`] elements.
#[derive(Debug, Clone)]
pub struct CacheTensor<'a> {
    /// Buffer, byte offset and byte size (`None`: to the end of the buffer).
    pub binding: wgpu::BufferBinding<'a>,
    /// How rows are stored.
    pub stored: CacheType,
    /// `[B, H_kv, capacity, row]`, or `[pages, H_kv, page_size, row]`.
    pub layout: Layout,
}

impl<'a> From<Tensor<'a>> for CacheTensor<'a> {
    fn from(tensor: Tensor<'a>) -> Self {
        let Tensor { binding, dtype, layout } = tensor;
        Self { binding, stored: dtype.into(), layout }
    }
}

/// Which page each part of each sequence lies on.
#[derive(Debug, Clone)]
pub struct BlockTable<'a> {
    /// u32 `[B, max_pages]`. It may change from call to call without a new bind. A page number past
    /// the pool is never written to, and reads as the pool's last page;
    /// [`Pages`](crate::cache::Pages) checks a table that the host knows.
    pub binding: wgpu::BufferBinding<'a>,
    /// Entries a sequence.
    pub max_pages: u32,
}

/// The cache of one layer.
#[derive(Debug, Clone)]
pub struct CacheBindings<'a> {
    /// Rotated keys.
    pub k: CacheTensor<'a>,
    /// Values.
    pub v: CacheTensor<'a>,
    /// Where the cache is paged.
    pub block_table: Option<BlockTable<'a>>,
}

/// Binding of `block_table` in `shaders/cache/paged.wgsl`.
pub(crate) const BLOCK_TABLE: u32 = 11;

/// `Cache` of `shaders/cache/rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(crate) struct CacheParams {
    pub(crate) capacity: u32,
    pub(crate) rolling: u32,
    pub(crate) planes: u32,
    pub(crate) page_size: u32,
    pub(crate) max_pages: u32,
    pub(crate) pad0: u32,
    pub(crate) pad1: u32,
    pub(crate) pad2: u32,
    pub(crate) k: CacheRows,
    pub(crate) v: CacheRows,
}

/// `Rows` of `shaders/cache/rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(crate) struct CacheRows {
    pub(crate) offset: u32,
    pub(crate) plane: u32,
    pub(crate) head: u32,
    pub(crate) row: u32,
}

impl CacheRows {
    /// Offset and strides in the unit that the shader counts in.
    pub(crate) fn new(layout: &Layout, unit: u32) -> Self {
        let [plane, head, row] = layout.strides.map(|stride| stride / unit);
        Self { offset: layout.offset / unit, plane, head, row }
    }
}

impl CacheParams {
    /// Checks the cache of a call with `batch` sequences.
    pub(crate) fn new(
        checker: &mut Checker<'_>,
        format: &CacheFormat,
        cache: &CacheBindings<'_>,
        access: Access,
        batch: u32,
    ) -> Result<Self> {
        Self::named(["k_cache", "v_cache"], checker, format, cache, access, batch)
    }

    /// The same for tensors that have other names.
    pub(crate) fn named(
        names: [&'static str; 2],
        checker: &mut Checker<'_>,
        format: &CacheFormat,
        cache: &CacheBindings<'_>,
        access: Access,
        batch: u32,
    ) -> Result<Self> {
        let [planes, _, rows, _] = cache.k.layout.shape;
        let mut params = Self {
            capacity: rows,
            rolling: u32::from(format.rolling),
            planes,
            page_size: rows,
            max_pages: 1,
            pad0: 0,
            pad1: 0,
            pad2: 0,
            k: CacheRows::new(&cache.k.layout, format.k.unit()),
            v: CacheRows::new(&cache.v.layout, format.v.unit()),
        };
        match (&cache.block_table, format.paged) {
            (None, true) => {
                let why = "missing, though the cache is paged";
                return Err(Error::Binding { tensor: "block_table", why });
            }
            (Some(_), false) => {
                let why = "given, but the cache is not paged";
                return Err(Error::Binding { tensor: "block_table", why });
            }
            (Some(table), true) => {
                if rows == 0 || !rows.is_multiple_of(8) {
                    let (what, needed) = ("page_size", "a multiple of 8 rows");
                    return Err(Error::Invalid { what, needed, got: rows.to_string() });
                }
                let entries = u64::from(batch) * u64::from(table.max_pages);
                let capacity = u64::from(table.max_pages) * u64::from(rows);
                params.capacity = match u32::try_from(entries.max(capacity)) {
                    Ok(_) => table.max_pages * rows,
                    Err(_) => {
                        let index = entries.max(capacity);
                        return Err(Error::IndexOverflow { tensor: "block_table", index });
                    }
                };
                params.max_pages = table.max_pages;
                checker.binding("block_table", &table.binding, Access::Read, 4 * entries)?;
            }
            (None, false) => {}
        }
        let planes = if format.paged { planes } else { batch };
        let sides = [
            (names[0], &cache.k, format.k, format.head_dim),
            (names[1], &cache.v, format.v, format.value_dim),
        ];
        // An append leaves values alone that are part of the keys.
        let sides = &sides[..if format.v_in_k && access == Access::Write { 1 } else { 2 }];
        for &(name, tensor, stored, dim) in sides {
            if tensor.stored != stored {
                return Err(Error::CacheType { tensor: name, needed: stored, got: tensor.stored });
            }
            let shape = [planes, format.kv_heads, rows, stored.row(dim)];
            let bytes = stored.element_bytes();
            let unit = stored.unit();
            checker.rows(name, &tensor.binding, &tensor.layout, access, bytes, shape, unit)?;
        }
        Ok(params)
    }
}

#[cfg(test)]
crate::reflect::host_struct!(CacheRows { offset, plane, head, row });
#[cfg(test)]
crate::reflect::host_struct!(CacheParams {
    capacity,
    rolling,
    planes,
    page_size,
    max_pages,
    pad0,
    pad1,
    pad2,
    k,
    v,
});
