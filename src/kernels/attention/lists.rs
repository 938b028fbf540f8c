//! Lengths and tables of a call as ranges of one buffer.

use super::AttentionBindings;
use super::params::Lists;
use crate::plan::Capabilities;
use crate::{Error, Result};

/// No such list.
const NONE: u32 = u32::MAX;

/// The range that spans all lists of a call, and where each starts in it, in words; `None` where there
/// is no list. The lists have passed their own checks.
pub(super) fn pack<'a>(
    bindings: &AttentionBindings<'a>,
    caps: &Capabilities,
) -> Result<Option<(wgpu::BufferBinding<'a>, Lists)>> {
    let table = bindings.cache.block_table.as_ref().map(|table| &table.binding);
    let blocks = bindings.block_list.as_ref().map(|list| &list.binding);
    let all = [
        ("kv_lens", bindings.kv_lens.as_ref()),
        ("cu_seqlens_q", bindings.cu_seqlens_q.as_ref()),
        ("cu_seqlens_k", bindings.cu_seqlens_k.as_ref()),
        ("block_table", table),
        ("prefix_lens", bindings.prefix_lens.as_ref()),
        ("block_list", blocks),
    ];
    let given = || all.iter().filter_map(|&(name, list)| Some((name, list?)));
    let Some((_, first)) = given().next() else { return Ok(None) };
    let buffer = first.buffer;
    if let Some((tensor, _)) = given().find(|(_, list)| list.buffer != buffer) {
        let why =
            "not in the buffer of the other lengths and tables, which this device binds as one";
        return Err(Error::Binding { tensor, why });
    }
    // Each list begins where the device can bind, and so does the first of them.
    let start = given().map(|(_, list)| list.offset).min().unwrap_or(0);
    let end_of = |list: &wgpu::BufferBinding<'_>| match list.size {
        Some(size) => list.offset + size.get(),
        None => buffer.size(),
    };
    let size = given().map(|(_, list)| end_of(list)).max().unwrap_or(start) - start;
    let limit = "max_storage_buffer_binding_size";
    Capabilities::need(limit, "lengths and tables", size, caps.max_storage_binding)?;
    let at = |n: usize| match all[n].1 {
        None => Ok(NONE),
        Some(list) => {
            let index = (list.offset - start) / 4;
            u32::try_from(index).map_err(|_| Error::IndexOverflow { tensor: all[n].0, index })
        }
    };
    let lists = Lists {
        kv_lens: at(0)?,
        cu_seqlens_q: at(1)?,
        cu_seqlens_k: at(2)?,
        block_table: at(3)?,
        prefix_lens: at(4)?,
        blocks: at(5)?,
        ..Lists::default()
    };
    let binding = wgpu::BufferBinding { buffer, offset: start, size: wgpu::BufferSize::new(size) };
    Ok(Some((binding, lists)))
}
