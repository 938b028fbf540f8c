//! Sequences and steps.

use crate::gpu::{Dispatch, Part};
use crate::layers::sequences::Sequence;
use crate::layers::state::{Layers, Set};
use crate::layers::step::{groups, lengths, places, tables};
use crate::{Error, Result};

/// Shapes of steps whose calls are kept. Decode has one for each set of sequences that go on
/// together, prefill one for each length of a chunk.
const SETS: usize = 16;

impl Layers {
    /// A new sequence, without rows.
    ///
    /// # Errors
    /// [`Error::NoSequence`] where all are in use.
    pub fn start(&mut self) -> Result<Sequence> {
        self.sequences.start()
    }

    /// Ends a sequence; its rows and pages are free. The handle is of no use any more.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`] for one that has ended, or is another [`Layers`]'; here and
    /// below.
    pub fn end(&mut self, sequence: Sequence) -> Result<()> {
        self.sequences.end(sequence)
    }

    /// Rows of a sequence, those of the current step included.
    ///
    /// # Errors
    /// As [`Layers::end`].
    pub fn rows(&self, sequence: Sequence) -> Result<u32> {
        self.sequences.slot(sequence).map(|slot| self.sequences.rows(slot))
    }

    /// Pages that are free; `None` where the cache is contiguous.
    pub fn free_pages(&self) -> Option<u32> {
        self.sequences.free_pages()
    }

    /// The pages of a sequence in order; none where the cache is contiguous.
    ///
    /// # Errors
    /// As [`Layers::end`].
    pub fn pages(&self, sequence: Sequence) -> Result<&[u32]> {
        self.sequences.slot(sequence).map(|slot| self.sequences.pages(slot))
    }

    /// A new sequence with the first `rows` rows of another one, both of which then go on by
    /// themselves. Paged, they share the pages: the first to write to a page that is not full
    /// copies it. Contiguous, the rows are copied. Copies are the first thing that the next step
    /// records.
    ///
    /// # Errors
    /// As [`Layers::end`]; [`Error::NoSequence`]; [`Error::Invalid`] for more rows than there are,
    /// or for a copy where the model does not have [`moves`](crate::layers::Model::moves);
    /// [`Error::Order`] in the middle of a step.
    pub fn fork(&mut self, sequence: Sequence, rows: u32) -> Result<Sequence> {
        self.between_steps()?;
        self.sequences.fork(sequence, rows)
    }

    /// Forgets the rows of a sequence from `rows` on.
    ///
    /// # Errors
    /// As [`Layers::fork`].
    pub fn truncate(&mut self, sequence: Sequence, rows: u32) -> Result<()> {
        self.between_steps()?;
        self.sequences.truncate(sequence, rows)
    }

    /// A context shift: rows `keep .. keep + dropped` are lost, and those behind them move forward,
    /// as if they had been there all the time (their keys turn back by `dropped` positions). They
    /// move first thing in the next step. Quantised keys lose up to half a step of their scale.
    ///
    /// Keys that were rotated by frequencies of another length (dynamic NTK, LongRoPE with
    /// [`rope_len`](crate::layers::Model::rope_len)) cannot be moved right.
    ///
    /// # Errors
    /// As [`Layers::fork`]; [`Error::OutOfPages`] where pages that others share have to be copied.
    pub fn shift(&mut self, sequence: Sequence, keep: u32, dropped: u32) -> Result<()> {
        self.between_steps()?;
        self.sequences.shift(sequence, keep, dropped)
    }

    /// Begins a step: so many new rows of each of these sequences. In q, k, v and out the rows lie
    /// one behind the other in this order. Then [`encode`](Layers::encode) every layer.
    ///
    /// Lengths and block tables go through the queue: submit what the step before has recorded
    /// first.
    ///
    /// # Errors
    /// [`Error::Order`] where a layer of the step before is not encoded; [`Error::Unbound`];
    /// [`Error::UnknownSequence`]; [`Error::Invalid`] for a sequence named twice;
    /// [`Error::TooManyRows`]; [`Error::CacheFull`]; [`Error::OutOfPages`]; what the kernels'
    /// `bind` refuses. Nothing has been written then, and the sequences are as long as before.
    pub fn advance(&mut self, queue: &wgpu::Queue, rows: &[(Sequence, u32)]) -> Result<()> {
        self.between_steps()?;
        if let Some(layer) = self.bound.iter().position(Option::is_none) {
            return Err(Error::Unbound { layer });
        }
        let paged = self.plan.paged();
        let needed = self.sequences.check_step(rows, &mut self.scratch.active)?;
        let available = self.plan.model().max_rows;
        if needed > available.into() {
            return Err(Error::TooManyRows { needed, available });
        }
        groups(&self.scratch.active, paged, &mut self.scratch.groups);
        let set = self.set()?;
        // From here on pages may have changed hands, which shows in what is pending and nowhere
        // else.
        self.sequences.take_pages(&self.scratch.active);
        self.bind_moves()?;

        let step = &mut self.step;
        (step.set, step.number) = (set, step.number + 1);
        self.sets[set].used = step.number;
        core::mem::swap(&mut step.moving, &mut self.sequences.pending);
        self.sequences.pending.clear();
        step.before.clear();
        for &(sequence, _) in rows {
            step.before.push((sequence, self.sequences.rows(self.sequences.slot(sequence)?)));
        }
        step.encoded.fill(false);
        step.open = step.encoded.len();
        self.write(queue);
        self.sequences.grow(&self.scratch.active);
        Ok(())
    }

    /// Lengths and block tables of the step, to where its calls look for them.
    fn write(&mut self, queue: &wgpu::Queue) {
        let (plan, scratch) = (&self.plan, &mut self.scratch);
        let places = || places(plan, &scratch.groups);
        let (active, sequences) = (&scratch.active, &self.sequences);
        let used = lengths(places(), active, sequences, &mut scratch.lengths);
        let lists = &self.memory.lists;
        queue.write_buffer(lists, 0, bytemuck::cast_slice(&scratch.lengths[..used]));
        let Some(tables_at) = plan.tables_at() else { return };
        let (version, written) = &mut scratch.written;
        if *version == sequences.version && written == active {
            return;
        }
        let max_pages = plan.max_pages() as usize;
        let used = tables(places(), active, sequences, max_pages, &mut scratch.tables);
        queue.write_buffer(lists, tables_at, bytemuck::cast_slice(&scratch.tables[..used]));
        *version = sequences.version;
        written.clone_from(active);
    }

    /// Place of the calls for the groups of a step, bound now where no step before had such.
    fn set(&mut self) -> Result<usize> {
        let groups = &self.scratch.groups;
        if let Some(set) = self.sets.iter().position(|set| &set.groups == groups) {
            return Ok(set);
        }
        let calls = self.bound.iter().enumerate().map(|(layer, bound)| {
            let bound = bound.as_ref().ok_or(Error::Unbound { layer })?;
            self.site(layer)?.step(bound, groups)
        });
        let calls = calls.collect::<Result<Vec<_>>>()?;
        let set = Set { groups: groups.clone(), calls, used: 0 };
        if self.sets.len() < SETS {
            self.sets.push(set);
            return Ok(self.sets.len() - 1);
        }
        let oldest = (0..SETS).min_by_key(|&n| self.sets[n].used).unwrap_or(0);
        self.sets[oldest] = set;
        Ok(oldest)
    }

    /// Binds what is pending, in every layer.
    fn bind_moves(&mut self) -> Result<()> {
        if self.sequences.pending.is_empty() {
            self.step.moves.clear();
            return Ok(());
        }
        let moves = (0..self.bound.len())
            .map(|layer| self.site(layer)?.moves(&self.sequences.pending))
            .collect::<Result<_>>()?;
        self.step.moves = moves;
        Ok(())
    }

    /// Takes the step back: its sequences are as long as before. For a host that fails between
    /// `advance` and the last layer; nothing of the step may have been submitted.
    pub fn abandon(&mut self) {
        if self.step.open > 0 {
            self.sequences.shrink(&self.step.before);
            self.step.moving.append(&mut self.sequences.pending);
            core::mem::swap(&mut self.step.moving, &mut self.sequences.pending);
        }
        self.step.encoded.fill(true);
        self.step.open = 0;
    }

    /// The calls of a layer in this step, which counts as encoded: moves, then append and
    /// attention.
    fn take(&mut self, layer: usize) -> Result<impl Iterator<Item = &Dispatch>> {
        let Some(encoded) = self.step.encoded.get_mut(layer) else {
            return Err(Error::UnknownLayer { layer, layers: self.bound.len() });
        };
        if *encoded {
            let why = match self.step.open {
                0 => "has no step to be encoded in: advance first",
                _ => "is encoded in this step already",
            };
            return Err(Error::Order { layer, why });
        }
        *encoded = true;
        self.step.open -= 1;
        let calls = self.sets.get(self.step.set).and_then(|set| set.calls.get(layer));
        let calls = calls.ok_or(Error::Unbound { layer })?;
        Ok(self.step.moves.get(layer).into_iter().chain([calls]))
    }

    /// Records the step's calls of a layer into a compute pass of its own: appends the new keys and
    /// values, attends with the new queries. q, k and v are read and out is written when it runs.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`]; [`Error::Order`] for a layer that is encoded already, or no step.
    /// The encoder is as it was then.
    pub fn encode(&mut self, layer: usize, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let mut calls = self.take(layer)?.filter(|call| !call.is_empty()).peekable();
        if calls.peek().is_some() {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            calls.for_each(|call| call.record(&mut pass));
        }
        Ok(())
    }

    /// [`Layers::encode`] into the caller's compute pass, whose pipeline and group 0 are set and
    /// not restored.
    ///
    /// # Errors
    /// As [`Layers::encode`].
    pub fn record(&mut self, layer: usize, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        self.take(layer)?.for_each(|call| call.record(pass));
        Ok(())
    }

    /// [`Layers::encode`] one dispatch at a time, to be recorded in this order, in as many
    /// submissions as the host likes.
    ///
    /// # Errors
    /// As [`Layers::encode`].
    pub fn parts(&mut self, layer: usize) -> Result<impl Iterator<Item = Part<'_>>> {
        Ok(self.take(layer)?.flat_map(Dispatch::parts))
    }
}
