//! Places of queries among the keys, in the 32 bits that shaders have.

use crate::{Error, Result};

/// Sequences are shorter than this, and offsets no longer, so that sums of them fit an i32.
pub(crate) const FAR: i32 = 1 << 29;
/// Further back than any key, and still no i32 overflows.
pub(crate) const NO_WINDOW: i32 = 3 << 29;

/// The place of query 0 among the keys, of a call with so many queries and keys a sequence.
pub(crate) fn place_of_query(offset: i64, lengths: [u32; 2]) -> Result<i32> {
    // Room for a tile past the last row and the last key.
    let longest = i64::from(lengths[0].max(lengths[1]));
    match i32::try_from(offset) {
        Ok(narrow) if longest <= i64::from(FAR) - (1 << 16) && (-FAR..=FAR).contains(&narrow) => {
            Ok(narrow)
        }
        _ => Err(Error::IndexOverflow {
            tensor: "query_offset, seq_q or seq_k",
            index: offset.unsigned_abs().max(longest.unsigned_abs()),
        }),
    }
}
