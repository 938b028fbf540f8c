//! Which output heads share a row of queries.

use super::DecodeProblem;
use crate::plan::softmax::{in_base_2, sink_in_base_2};
use crate::uniform::uniform;
use crate::{OutputHead, Phase};

uniform! {
    /// One row of the shader's table of head rows: a query head and its one or two output heads.
    pub(crate) struct HeadRow {
        source: u32,
        head0: u32,
        head1: u32,
        pub(super) streams: u32,
        phases: [f32; 4],
        sink0: f32,
        sink1: f32,
        slope0: f32,
        slope1: f32,
    }
}

/// The table of head rows, as many rows for each kv head, and what its rows have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeadRows {
    pub(crate) rows: Vec<HeadRow>,
    /// Rows a kv head; where one has fewer, rows without a stream fill up.
    pub(crate) each: u32,
    /// Streams that the shader carries: the most of any row.
    pub(crate) streams: u32,
    /// Some pair of streams is not real and imaginary, but a mixture.
    pub(crate) mix: bool,
    /// With one stream: some query is turned by its phase.
    pub(crate) turn: bool,
}

impl HeadRows {
    pub(crate) fn new(problem: &DecodeProblem) -> Self {
        let group = problem.heads.q_heads() / problem.cache.kv_heads;
        let per_kv_head: Vec<Vec<HeadRow>> = (0..problem.cache.kv_heads)
            .map(|kv| (kv * group..(kv + 1) * group).flat_map(|q| Self::of(problem, q)).collect())
            .collect();
        let each = per_kv_head.iter().map(Vec::len).max().unwrap_or(0);
        let all = || per_kv_head.iter().flatten();
        let streams = all().map(|row| row.streams).max().unwrap_or(1);
        let is = |row: &HeadRow, first: Phase, second: Phase| {
            row.phases == [first.cos(), first.sin(), second.cos(), second.sin()].map(|x| x as f32)
        };
        // In a table of pairs, a row of its own with a turned query is a mixture as well.
        let plain = |row: &HeadRow| match row.streams {
            2 => is(row, Phase::REAL, Phase::IMAGINARY),
            _ => is(row, Phase::REAL, Phase::REAL),
        };
        let all_plain = all().all(plain);
        let rows = per_kv_head.iter().flat_map(|rows| {
            rows.iter().copied().chain(core::iter::repeat(HeadRow::default())).take(each)
        });
        Self {
            rows: rows.collect(),
            each: each as u32,
            streams,
            mix: streams == 2 && !all_plain,
            turn: streams == 1 && !all_plain,
        }
    }

    /// The rows of one query head.
    fn of(problem: &DecodeProblem, source: u32) -> Vec<HeadRow> {
        let outputs: Vec<(u32, &OutputHead)> =
            (0u32..).zip(problem.heads.heads()).filter(|(_, head)| head.source == source).collect();
        let sink = |o: u32| sink_in_base_2(problem.sinks.get(o as usize));
        let slope = |o: u32| problem.alibi_slopes.get(o as usize).map_or(0.0, |&x| in_base_2(x));
        let row = |pair: &[(u32, &OutputHead)]| {
            let (head0, first) = pair[0];
            let (head1, second) = *pair.get(1).unwrap_or(&pair[0]);
            let phases =
                [first.phase.cos(), first.phase.sin(), second.phase.cos(), second.phase.sin()];
            HeadRow {
                source,
                head0,
                head1,
                streams: pair.len() as u32,
                phases: phases.map(|x| x as f32),
                sink0: sink(head0),
                sink1: sink(head1),
                slope0: slope(head0),
                slope1: slope(head1),
            }
        };
        outputs.chunks(2).map(row).collect()
    }

    /// Rows that the shader declares: few sizes, so that models with similar head counts share a
    /// shader.
    pub(crate) fn slots(&self) -> usize {
        self.rows.len().next_power_of_two().max(16)
    }

    /// The table as the shader reads it, unused rows zero.
    pub(crate) fn table(&self) -> Vec<HeadRow> {
        let mut table = self.rows.clone();
        table.resize(self.slots(), HeadRow::default());
        table
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.slots() * size_of::<HeadRow>()) as u64
    }
}
