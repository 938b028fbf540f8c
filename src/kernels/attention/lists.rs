//! Lengths and tables of a call as ranges of one buffer.

use super::AttentionBindings;
use super::params::Lists;
use crate::call::Binding;
use crate::plan::Capabilities;
use crate::{Error, Result};

/// No such list.
const NONE: u32 = u32::MAX;

/// The range that spans all lists of a call, and where each starts in it, in words; `None` where
/// there is no list. The lists have passed their own checks.
pub(super) fn pack<B: Binding>(
    bindings: &AttentionBindings<B>,
    caps: &Capabilities,
) -> Result<Option<(B, Lists)>> {
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
    let Some(whole) = first.extent() else {
        // Where there are no buffers yet, nothing lies anywhere.
        return Ok(Some((first.clone(), Lists::default())));
    };
    if let Some((tensor, _)) = given().find(|(_, list)| !list.same_buffer(first)) {
        let why =
            "not in the buffer of the other lengths and tables, which this device binds as one";
        return Err(Error::Binding { tensor, why });
    }
    // Each list begins where the device can bind, and so does the first of them.
    let places = given().filter_map(|(_, list)| {
        let extent = list.extent()?;
        Some((extent.offset, extent.offset + extent.available()))
    });
    let (start, end) =
        places.fold((whole.offset, 0), |all, one| (all.0.min(one.0), all.1.max(one.1)));
    let size = end - start;
    let limit = "max_storage_buffer_binding_size";
    Capabilities::need(limit, "lengths and tables", size, caps.max_storage_binding)?;
    let at = |n: usize| match all[n].1 {
        None => Ok(NONE),
        Some(list) => {
            let index = list.extent().map_or(0, |extent| (extent.offset - start) / 4);
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
    Ok(Some((first.elsewhere(start, size), lists)))
}
