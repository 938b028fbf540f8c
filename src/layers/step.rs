//! The rows of a step: which sequences go together, and where their lengths lie.

use crate::layers::ModelPlan;
use crate::layers::plan::DECODE_ROWS;
use crate::layers::sequences::{Active, Sequences};

/// Sequences with equally many new rows that one call serves. They follow each other in the step,
/// and in a contiguous cache too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// Slot of the first one; 0 where the cache is paged, whose tables say it all.
    pub(super) slot: u32,
    /// Sequences.
    pub(super) batch: u32,
    /// New rows of each.
    pub(super) rows: u32,
}

/// The groups of a step, in order.
pub(super) fn groups(active: &[Active], paged: bool, groups: &mut Vec<Group>) {
    groups.clear();
    for &Active { slot, rows } in active {
        match groups.last_mut() {
            Some(last) if last.rows == rows && (paged || last.slot + last.batch == slot) => {
                last.batch += 1;
            }
            _ => groups.push(Group { slot: if paged { 0 } else { slot }, batch: 1, rows }),
        }
    }
}

/// Where what a group reads lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: Group,
    /// The first of its rows among those of the step.
    pub(super) first_row: u32,
    /// The first of its sequences among those of the step.
    pub(super) first: u32,
    /// Byte of the lengths before the step, u32 `[batch]`.
    pub(super) before: u64,
    /// Byte of the lengths after the first of its pieces.
    pub(super) after: u64,
    /// Bytes from one piece to the next.
    pub(super) pitch: u64,
    /// Calls of up to [`DECODE_ROWS`] rows that it may be cut into; 1 where it never is.
    pub(super) pieces: u32,
    /// Byte of its block table, u32 `[batch, max_pages]`.
    pub(super) table: u64,
}

impl Place {
    /// Byte of the lengths after all pieces, or after piece `n`.
    pub(super) fn after(&self, n: u32) -> u64 {
        self.after + u64::from(n) * self.pitch
    }

    /// Rows of each sequence up to the end of piece `n`.
    pub(super) fn end(&self, n: u32) -> u32 {
        if n + 1 == self.pieces { self.group.rows } else { (n + 1) * DECODE_ROWS }
    }
}

/// The places of all groups, behind each other, each part where it can be bound.
pub(super) fn places(plan: &ModelPlan, groups: &[Group]) -> impl Iterator<Item = Place> {
    let (alignment, max_pages) = (plan.alignment(), u64::from(plan.max_pages()));
    let (decode_rows, piecewise) = (plan.model().decode_rows, plan.piecewise());
    let (mut first_row, mut first, mut at, mut table_at) = (0, 0, 0, 0);
    groups.iter().map(move |&group| {
        let cut = piecewise && group.rows > decode_rows;
        let pieces = if cut { group.rows.div_ceil(DECODE_ROWS) } else { 1 };
        let pitch = (4 * u64::from(group.batch)).next_multiple_of(alignment);
        let place = Place {
            group,
            first_row,
            first,
            before: at,
            after: at + pitch,
            pitch,
            pieces,
            table: table_at,
        };
        first_row += group.batch * group.rows;
        first += group.batch;
        at += pitch * (1 + u64::from(pieces));
        table_at += (4 * u64::from(group.batch) * max_pages).next_multiple_of(alignment);
        place
    })
}

/// Writes the lengths of a step where its groups look for them; gives the words that are in use.
pub(super) fn lengths(
    places: impl Iterator<Item = Place>,
    active: &[Active],
    sequences: &Sequences,
    words: &mut [u32],
) -> usize {
    let mut used = 0;
    for place in places {
        let members = active.iter().skip(place.first as usize).take(place.group.batch as usize);
        for (n, member) in members.enumerate() {
            let len = sequences.rows(member.slot);
            let mut put = |byte: u64, len| {
                let word = (byte / 4) as usize + n;
                if let Some(to) = words.get_mut(word) {
                    *to = len;
                }
                used = used.max(word + 1);
            };
            put(place.before, len);
            (0..place.pieces).for_each(|piece| put(place.after(piece), len + place.end(piece)));
        }
    }
    used.min(words.len())
}

/// Writes the block tables of a step likewise.
pub(super) fn tables(
    places: impl Iterator<Item = Place>,
    active: &[Active],
    sequences: &Sequences,
    max_pages: usize,
    words: &mut [u32],
) -> usize {
    let mut used = 0;
    for place in places {
        let members = active.iter().skip(place.first as usize).take(place.group.batch as usize);
        for (n, member) in members.enumerate() {
            let first = (place.table / 4) as usize + n * max_pages;
            let pages = sequences.pages(member.slot);
            if let Some(to) = words.get_mut(first..first + pages.len()) {
                to.copy_from_slice(pages);
            }
            used = used.max(first + max_pages);
        }
    }
    used.min(words.len())
}
