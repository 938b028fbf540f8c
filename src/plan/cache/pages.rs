//! What the host can check of lengths and block tables before anything runs.

use crate::{Error, Result};

/// A block table as the host knows it, to be checked before it is uploaded. The device clamps what
/// it reads, but cannot report it.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// `[B, max_pages]`, page numbers.
    pub table: &'a [u32],
    /// Entries a sequence.
    pub max_pages: u32,
    /// Pages of the pool.
    pub pages: u32,
    /// Rows of a page.
    pub page_size: u32,
}

impl Pages<'_> {
    /// Checks an append of `new[b]` rows to sequences of `lens[b]`: there is room, the pages exist,
    /// and no page that is written belongs to another sequence or to another place of its own.
    /// Pages that are only read may be shared (a common prefix).
    ///
    /// # Errors
    /// [`Error::Invalid`] where the lists do not fit each other, [`Error::CacheFull`],
    /// [`Error::UnknownPage`], [`Error::SharedPage`].
    pub fn check_append(&self, lens: &[u32], new: &[u32]) -> Result<()> {
        let entries = self.max_pages as usize;
        let fits =
            lens.len() == new.len() && Some(self.table.len()) == lens.len().checked_mul(entries);
        if !fits || self.page_size == 0 || !self.page_size.is_multiple_of(8) {
            return Err(Error::Invalid {
                what: "block table",
                needed: "max_pages entries and two lengths a sequence, pages of a multiple of 8 rows",
                got: format!(
                    "{} entries of {entries}, {} and {} lengths, pages of {}",
                    self.table.len(),
                    lens.len(),
                    new.len(),
                    self.page_size,
                ),
            });
        }
        let capacity = u64::from(self.max_pages) * u64::from(self.page_size);
        check_room(u32::try_from(capacity).unwrap_or(u32::MAX), lens, new)?;
        // How often each page is used, and by whom it is written.
        let mut uses = vec![0u32; self.pages as usize];
        let used = |b: usize| {
            let end = lens[b] + new[b];
            &self.table[b * entries..][..end.div_ceil(self.page_size) as usize]
        };
        for sequence in 0..lens.len() {
            for (entry, &page) in used(sequence).iter().enumerate() {
                match uses.get_mut(page as usize) {
                    Some(n) => *n += 1,
                    None => {
                        let (sequence, entry) = (sequence as u32, entry as u32);
                        return Err(Error::UnknownPage {
                            sequence,
                            entry,
                            page,
                            pages: self.pages,
                        });
                    }
                }
            }
        }
        for sequence in 0..lens.len() {
            let first = (lens[sequence] / self.page_size) as usize;
            let written = used(sequence).iter().enumerate().skip(first);
            for (entry, &page) in written.filter(|_| new[sequence] > 0) {
                if uses[page as usize] > 1 {
                    let (sequence, entry) = (sequence as u32, entry as u32);
                    return Err(Error::SharedPage { sequence, entry, page });
                }
            }
        }
        Ok(())
    }
}

/// Checks that sequences of `lens[b]` rows have room for `new[b]` more. Not for rolling caches,
/// which always have.
///
/// # Errors
/// [`Error::CacheFull`] for the first sequence that has not.
pub fn check_room(capacity: u32, lens: &[u32], new: &[u32]) -> Result<()> {
    for (sequence, (&len, &new)) in (0u32..).zip(lens.iter().zip(new)) {
        let needed = u64::from(len) + u64::from(new);
        if needed > u64::from(capacity) {
            return Err(Error::CacheFull { sequence, needed, capacity: capacity.into() });
        }
    }
    Ok(())
}
