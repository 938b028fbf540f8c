//! The sequences of a cache as the host knows them: lengths, pages, and what has to be moved before
//! the next step. Nothing here touches a device.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::layers::pages::Pool;
use crate::layers::{ModelPlan, Rows};
use crate::plan::kv_move::Move;
use crate::{Error, Result};

/// A sequence of a [`Layers`](crate::layers::Layers), from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sequence {
    slot: u32,
    /// Never given twice in a program, so that a handle which outlived its sequence is found out.
    id: u64,
}

/// What a slot holds; `id` 0 is nobody's.
#[derive(Debug, Clone, Default)]
struct Slot {
    id: u64,
    rows: u32,
    pages: Vec<u32>,
}

/// Rows that move in the caches of all layers, before anything else of the next step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    /// The pages of `batch` sequences, as many of each; empty where the cache is contiguous.
    pub(super) table: Vec<u32>,
    pub(super) batch: u32,
    pub(super) rows: Move,
}

/// A sequence of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) slot: u32,
    pub(super) rows: u32,
}

/// All sequences.
#[derive(Debug, Clone)]
pub(super) struct Sequences {
    slots: Vec<Slot>,
    pool: Option<Pool>,
    capacity: u32,
    /// Whether there is a kernel for moves.
    moves: bool,
    /// What the next step has to move first, in this order.
    pub(super) pending: Vec<Pending>,
    /// Counts what changes a block table.
    pub(super) version: u64,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn invalid<T>(what: &'static str, needed: &'static str, got: String) -> Result<T> {
    Err(Error::Invalid { what, needed, got })
}

impl Sequences {
    pub(super) fn new(plan: &ModelPlan) -> Self {
        let model = plan.model();
        let pool = match model.rows {
            Rows::Contiguous => None,
            Rows::Paged { page_size, pages } => Some(Pool::new(page_size, pages)),
        };
        Self {
            slots: vec![Slot::default(); model.sequences as usize],
            pool,
            capacity: plan.capacity(),
            moves: model.moves,
            pending: Vec::new(),
            version: 1,
        }
    }

    /// Free pages; `None` where there are none at all.
    pub(super) fn free_pages(&self) -> Option<u32> {
        self.pool.as_ref().map(Pool::free)
    }

    /// The slot of a sequence.
    pub(super) fn slot(&self, sequence: Sequence) -> Result<u32> {
        match self.slots.get(sequence.slot as usize) {
            Some(slot) if slot.id == sequence.id => Ok(sequence.slot),
            _ => Err(Error::UnknownSequence),
        }
    }

    pub(super) fn rows(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |slot| slot.rows)
    }

    pub(super) fn pages(&self, slot: u32) -> &[u32] {
        self.slots.get(slot as usize).map_or(&[], |slot| &slot.pages)
    }

    pub(super) fn start(&mut self) -> Result<Sequence> {
        let sequences = self.slots.len() as u32;
        let free = (0..).zip(&mut self.slots).find(|(_, slot)| slot.id == 0);
        let (n, slot) = free.ok_or(Error::NoSequence { sequences })?;
        let id = next_id();
        *slot = Slot { id, rows: 0, pages: core::mem::take(&mut slot.pages) };
        if let Some(pool) = &self.pool {
            slot.pages.reserve(pool.pages(self.capacity));
        }
        Ok(Sequence { slot: n, id })
    }

    pub(super) fn end(&mut self, sequence: Sequence) -> Result<()> {
        let slot = self.slot(sequence)?;
        self.cut(slot, 0);
        self.slots[slot as usize].id = 0;
        Ok(())
    }

    /// Forgets the rows from `rows` on, and the pages that no other row lies on.
    fn cut(&mut self, slot: u32, rows: u32) {
        let slot = &mut self.slots[slot as usize];
        slot.rows = rows;
        if let Some(pool) = &mut self.pool {
            let kept = pool.pages(rows).min(slot.pages.len());
            slot.pages.drain(kept..).for_each(|page| pool.release(page));
            self.version += 1;
        }
    }

    fn check_rows(&self, slot: u32, rows: u32) -> Result<()> {
        match self.rows(slot) {
            all if rows <= all => Ok(()),
            all => invalid("rows", "at most those of the sequence", format!("{rows} of {all}")),
        }
    }

    fn need_moves(&self) -> Result<()> {
        let needed = "true in the model, for a call that moves rows of the cache";
        if self.moves { Ok(()) } else { invalid("moves", needed, "false".into()) }
    }

    /// Whether a later append at `rows` would write to a page that others use.
    fn shares_last(&self, slot: u32, rows: u32) -> bool {
        self.pool.as_ref().is_some_and(|pool| {
            let page = self.pages(slot).get((rows / pool.page_size) as usize);
            !rows.is_multiple_of(pool.page_size) && page.is_some_and(|&page| pool.uses(page) > 1)
        })
    }

    pub(super) fn truncate(&mut self, sequence: Sequence, rows: u32) -> Result<()> {
        let slot = self.slot(sequence)?;
        self.check_rows(slot, rows)?;
        if self.shares_last(slot, rows) {
            self.need_moves()?;
        }
        self.cut(slot, rows);
        Ok(())
    }

    pub(super) fn fork(&mut self, sequence: Sequence, rows: u32) -> Result<Sequence> {
        let from = self.slot(sequence)?;
        self.check_rows(from, rows)?;
        match &self.pool {
            Some(pool) if rows.is_multiple_of(pool.page_size) => {}
            None if rows == 0 => {}
            _ => self.need_moves()?,
        }
        let fork = self.start()?;
        let to = fork.slot as usize;
        match &mut self.pool {
            Some(pool) => {
                let shared = self.slots[from as usize].pages[..pool.pages(rows)].to_vec();
                shared.iter().for_each(|&page| pool.share(page));
                self.slots[to].pages.extend(shared);
                self.version += 1;
            }
            None if rows > 0 => {
                let batch = self.slots.len() as u32;
                let rows = Move::prefix(from, fork.slot, rows);
                self.pending.push(Pending { table: Vec::new(), batch, rows });
            }
            None => {}
        }
        self.slots[to].rows = rows;
        Ok(fork)
    }

    pub(super) fn shift(&mut self, sequence: Sequence, keep: u32, dropped: u32) -> Result<()> {
        let slot = self.slot(sequence)?;
        self.check_rows(slot, keep.saturating_add(dropped))?;
        self.need_moves()?;
        let rows = self.rows(slot);
        let shift = Move::shift(slot, keep, dropped, rows);
        if dropped == 0 {
            return Ok(());
        }
        if self.pool.is_none() && shift.rows > 0 {
            let batch = self.slots.len() as u32;
            self.pending.push(Pending { table: Vec::new(), batch, rows: shift });
        } else if let Some(pool) = self.pool.as_ref().filter(|_| shift.rows > 0) {
            // Pages that are written must be this sequence's own.
            let written = (keep / pool.page_size) as usize..pool.pages(rows - dropped);
            let shared = |&n: &usize| pool.uses(self.pages(slot)[n]) > 1;
            let shared: Vec<usize> = written.filter(shared).collect();
            self.need_pages(shared.len() as u64)?;
            for n in shared {
                self.own(slot, n, rows);
            }
            let table = self.pages(slot).to_vec();
            let rows = Move { from: 0, to: 0, ..shift };
            self.pending.push(Pending { table, batch: 1, rows });
        }
        self.cut(slot, rows - dropped);
        Ok(())
    }

    fn need_pages(&self, needed: u64) -> Result<()> {
        let free = self.free_pages().unwrap_or(0);
        if needed > u64::from(free) { Err(Error::OutOfPages { needed, free }) } else { Ok(()) }
    }

    /// Gives a sequence a page of its own in the place of its page `n`, with the same rows. There
    /// is a free page: the caller has looked.
    fn own(&mut self, slot: u32, n: usize, rows: u32) {
        let Some(pool) = &mut self.pool else { return };
        let Some(new) = pool.take() else { return };
        let old = core::mem::replace(&mut self.slots[slot as usize].pages[n], new);
        pool.release(old);
        let first = n as u32 * pool.page_size;
        let rows = Move::prefix(0, 1, rows.saturating_sub(first).min(pool.page_size));
        self.pending.push(Pending { table: vec![old, new], batch: 2, rows });
        self.version += 1;
    }

    /// Looks up the sequences of a step, leaves out those without new rows, and checks that there
    /// is room for the others.
    pub(super) fn check_step(
        &self,
        step: &[(Sequence, u32)],
        active: &mut Vec<Active>,
    ) -> Result<u64> {
        active.clear();
        let mut all = 0;
        for &(sequence, rows) in step {
            let slot = self.slot(sequence)?;
            if active.iter().any(|other| other.slot == slot) {
                return invalid("sequences of a step", "each once", format!("{sequence:?} twice"));
            }
            let needed = u64::from(self.rows(slot)) + u64::from(rows);
            if needed > self.capacity.into() {
                let capacity = self.capacity.into();
                return Err(Error::CacheFull { sequence: slot, needed, capacity });
            }
            all += u64::from(rows);
            if rows > 0 {
                active.push(Active { slot, rows });
            }
        }
        let Some(pool) = &self.pool else { return Ok(all) };
        let mut needed = 0;
        for (n, &Active { slot, rows }) in active.iter().enumerate() {
            let (pages, len) = (self.pages(slot), self.rows(slot));
            needed += pool.pages(len + rows).saturating_sub(pages.len()) as u64;
            if self.shares_last(slot, len) {
                // Whoever comes last among those that write to a page keeps it.
                let page = pages[(len / pool.page_size) as usize];
                let leaves = |other: &&Active| {
                    let len = self.rows(other.slot);
                    let theirs = self.pages(other.slot).get((len / pool.page_size) as usize);
                    theirs == Some(&page) && !len.is_multiple_of(pool.page_size)
                };
                let left = active[..n].iter().filter(leaves).count() as u32;
                needed += u64::from(pool.uses(page) > left + 1);
            }
        }
        self.need_pages(needed)?;
        Ok(all)
    }

    /// Takes the pages that a step needs, which [`Sequences::check_step`] has seen to be there.
    pub(super) fn take_pages(&mut self, active: &[Active]) {
        for &Active { slot, rows } in active {
            let len = self.rows(slot);
            let Some(page_size) = self.pool.as_ref().map(|pool| pool.page_size) else { return };
            if self.shares_last(slot, len) {
                self.own(slot, (len / page_size) as usize, len);
            }
            let Some(pool) = &mut self.pool else { return };
            let pages = &mut self.slots[slot as usize].pages;
            while pages.len() < pool.pages(len + rows) {
                let Some(page) = pool.take() else { return };
                pages.push(page);
                self.version += 1;
            }
        }
    }

    /// The rows of a step are part of their sequences.
    pub(super) fn grow(&mut self, active: &[Active]) {
        active.iter().for_each(|&Active { slot, rows }| self.slots[slot as usize].rows += rows);
    }

    /// They are not, after all. Sequences that were ended since then stay so.
    pub(super) fn shrink(&mut self, before: &[(Sequence, u32)]) {
        for &(sequence, rows) in before {
            if let Ok(slot) = self.slot(sequence) {
                self.slots[slot as usize].rows = rows;
            }
        }
    }
}
