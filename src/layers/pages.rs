//! The pages of a pool: which are free, and how many sequences use each of the others.

/// A pool. Pages are handed out in any order: neighbours in a sequence need not be any in the pool.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) page_size: u32,
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl Pool {
    pub(super) fn new(page_size: u32, pages: u32) -> Self {
        // The first page first, so that a small program reads easily.
        Self { page_size, uses: vec![0; pages as usize], free: (0..pages).rev().collect() }
    }

    /// Pages that nobody uses.
    pub(super) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Pages that `rows` rows lie on.
    pub(super) fn pages(&self, rows: u32) -> usize {
        rows.div_ceil(self.page_size) as usize
    }

    /// Sequences that use a page.
    pub(super) fn uses(&self, page: u32) -> u32 {
        self.uses.get(page as usize).copied().unwrap_or(0)
    }

    /// A free page, for one sequence.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.share(page);
        Some(page)
    }

    /// One sequence more uses the page.
    pub(super) fn share(&mut self, page: u32) {
        if let Some(uses) = self.uses.get_mut(page as usize) {
            *uses += 1;
        }
    }

    /// One sequence less uses the page.
    pub(super) fn release(&mut self, page: u32) {
        if let Some(uses) = self.uses.get_mut(page as usize) {
            *uses = uses.saturating_sub(1);
            if *uses == 0 {
                self.free.push(page);
            }
        }
    }
}
