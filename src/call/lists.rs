//! Lengths and tables of a call as ranges of one buffer.

use super::Binding;
use crate::plan::Capabilities;
use crate::{Error, Result};

/// Where a list starts that a call does not have.
const NONE: u32 = u32::MAX;

/// The range that spans all lists of a call, and where each starts in it, in words; `None` where
/// there is no list. The lists have passed their own checks.
pub(crate) fn pack<B: Binding, const N: usize>(
    all: [(&'static str, Option<&B>); N],
    caps: &Capabilities,
) -> Result<Option<(B, [u32; N])>> {
    let given = || all.iter().filter_map(|&(name, list)| Some((name, list?)));
    let Some((_, first)) = given().next() else { return Ok(None) };
    let Some(whole) = first.extent() else {
        // Where there are no buffers yet, nothing lies anywhere.
        return Ok(Some((first.clone(), [0; N])));
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
    let mut places = [NONE; N];
    for (place, (tensor, list)) in places.iter_mut().zip(all) {
        let Some(list) = list else { continue };
        let index = list.extent().map_or(0, |extent| (extent.offset - start) / 4);
        *place = u32::try_from(index).map_err(|_| Error::IndexOverflow { tensor, index })?;
    }
    Ok(Some((first.elsewhere(start, size), places)))
}
