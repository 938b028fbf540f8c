//! K and V caches as kernels bind them.

use super::{Access, Binding, Checker, Strides, Tensor, present};
use crate::plan::cache::{CacheFormat, CacheType};
use crate::uniform::uniform;
use crate::{Error, Layout, Result};

/// K or V of a cache, in a range of a buffer. As [`Tensor`](super::Tensor), but quantised rows are
/// counted in 32-bit words: the last axis of the layout has [`CacheType::row`] elements.
#[derive(Debug, Clone)]
pub struct CacheTensor<B> {
    /// Buffer, byte offset and byte size (`None`: to the end of the buffer).
    pub binding: B,
    /// How rows are stored.
    pub stored: CacheType,
    /// `[B, H_kv, capacity, row]`, or `[pages, H_kv, page_size, row]`.
    pub layout: Layout,
}

impl<B> From<Tensor<B>> for CacheTensor<B> {
    fn from(tensor: Tensor<B>) -> Self {
        let Tensor { binding, dtype, layout } = tensor;
        Self { binding, stored: dtype.into(), layout }
    }
}

/// Which page each part of each sequence lies on.
#[derive(Debug, Clone)]
pub struct BlockTable<B> {
    /// u32 `[B, max_pages]`. It may change from call to call without a new bind. A page number past
    /// the pool is never written to, and reads as the pool's last page;
    /// [`Pages`](crate::cache::Pages) checks a table that the host knows.
    pub binding: B,
    /// Entries a sequence.
    pub max_pages: u32,
}

/// The cache of one layer.
#[derive(Debug, Clone)]
pub struct CacheBindings<B> {
    /// Rotated keys.
    pub k: CacheTensor<B>,
    /// Values.
    pub v: CacheTensor<B>,
    /// Where the cache is paged.
    pub block_table: Option<BlockTable<B>>,
}

impl<B> CacheBindings<B> {
    /// A contiguous cache.
    pub fn new(k: CacheTensor<B>, v: CacheTensor<B>) -> Self {
        Self { k, v, block_table: None }
    }
}

uniform! {
    /// `Cache` of `shaders/cache/rows.wgsl`.
    pub(crate) struct CacheParams {
        pub(crate) capacity: u32,
        pub(crate) rolling: u32,
        pub(crate) planes: u32,
        pub(crate) page_size: u32,
        pub(crate) max_pages: u32,
        pub(crate) pad0: u32,
        pub(crate) pad1: u32,
        pub(crate) pad2: u32,
        pub(crate) k: Strides,
        pub(crate) v: Strides,
    }
}

impl CacheParams {
    /// Checks the cache of a call with `batch` sequences.
    pub(crate) fn new<B: Binding>(
        checker: &mut Checker<'_, B>,
        format: &CacheFormat,
        cache: &CacheBindings<B>,
        access: Access,
        batch: u32,
    ) -> Result<Self> {
        Self::named(["k_cache", "v_cache"], checker, format, cache, access, batch)
    }

    /// The same for tensors that have other names.
    pub(crate) fn named<B: Binding>(
        names: [&'static str; 2],
        checker: &mut Checker<'_, B>,
        format: &CacheFormat,
        cache: &CacheBindings<B>,
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
            k: Strides::new(&cache.k.layout, format.k.unit()),
            v: Strides::new(&cache.v.layout, format.v.unit()),
            ..Self::default()
        };
        present("block_table", format.paged, cache.block_table.is_some())?;
        if let Some(table) = &cache.block_table {
            params.paged(checker, table, batch)?;
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
    /// Counts the slots of a sequence by its pages.
    fn paged<B: Binding>(
        &mut self,
        checker: &mut Checker<'_, B>,
        table: &BlockTable<B>,
        batch: u32,
    ) -> Result<()> {
        let rows = self.page_size;
        if rows == 0 || !rows.is_multiple_of(8) {
            let (what, needed) = ("page_size", "a multiple of 8 rows");
            return Err(Error::Invalid { what, needed, got: rows.to_string() });
        }
        let entries = u64::from(batch) * u64::from(table.max_pages);
        let capacity = u64::from(table.max_pages) * u64::from(rows);
        let index = entries.max(capacity);
        if u32::try_from(index).is_err() {
            return Err(Error::IndexOverflow { tensor: "block_table", index });
        }
        self.capacity = table.max_pages * rows;
        self.max_pages = table.max_pages;
        checker.binding("block_table", &table.binding, Access::Read, 4 * entries)
    }
}
