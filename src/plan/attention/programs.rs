//! Which output heads one workgroup computes.

use super::{AttentionProblem, Outputs};
use crate::plan::softmax::{in_base_2, sink_in_base_2};
use crate::uniform::uniform;
use crate::{Error, Phase, Result};

uniform! {
    /// One row of the shader's table of head rows: a query head and its one or two output heads.
    pub(crate) struct HeadRow {
        source: u32,
        slot0: u32,
        slot1: u32,
        streams: u32,
        lse0: u32,
        lse1: u32,
        pad0: u32,
        pad1: u32,
        phases: [f32; 4],
        sinks: [f32; 2],
        slopes: [f32; 2],
    }
}

/// The table of head rows, and what its rows have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeadRows {
    pub(crate) rows: Vec<HeadRow>,
    /// Streams that the shader carries: the most of any row.
    pub(crate) streams: u32,
    /// Some pair of streams is not real and imaginary, but a mixture.
    pub(crate) mix: bool,
    /// With one stream: some query is turned by its phase.
    pub(crate) turn: bool,
}

impl HeadRows {
    pub(crate) fn new(problem: &AttentionProblem) -> Result<Self> {
        let mut rows = Vec::new();
        let mut mix = false;
        let mut turn = false;
        let mut streams = 1;
        for source in 0..problem.heads.q_heads() {
            let outputs: Vec<(u32, Phase)> = (0u32..)
                .zip(problem.heads.heads())
                .filter(|(_, head)| head.source == source)
                .map(|(slot, head)| (slot, head.phase))
                .collect();
            if problem.outputs == Outputs::Split && outputs.len() != 2 {
                return Err(Error::Invalid {
                    what: "output heads of a query head, for split outputs",
                    needed: "two",
                    got: format!("{} of query head {source}", outputs.len()),
                });
            }
            for pair in outputs.chunks(2) {
                let (lse0, first) = pair[0];
                let (lse1, second) = *pair.get(1).unwrap_or(&pair[0]);
                let slots = match problem.outputs {
                    Outputs::Merged => (lse0, lse1),
                    Outputs::Split => (source, source),
                };
                streams = streams.max(pair.len() as u32);
                turn |= first != Phase::REAL;
                mix |= pair.len() == 2 && (first != Phase::REAL || second != Phase::IMAGINARY);
                rows.push(HeadRow {
                    source,
                    slot0: slots.0,
                    slot1: slots.1,
                    streams: pair.len() as u32,
                    lse0,
                    lse1,
                    pad0: 0,
                    pad1: 0,
                    phases: [first.cos(), first.sin(), second.cos(), second.sin()]
                        .map(|x| x as f32),
                    sinks: [lse0, lse1]
                        .map(|head| sink_in_base_2(problem.sinks.get(head as usize))),
                    slopes: [lse0, lse1].map(|head| {
                        problem.alibi_slopes.get(head as usize).map_or(0.0, |&x| in_base_2(x))
                    }),
                });
            }
        }
        // In a table of pairs, a row of its own with a turned query is a mixture as well.
        mix |= streams == 2 && rows.iter().any(|r| r.streams == 1 && r.phases[1] != 0.0);
        Ok(Self { rows, streams, mix, turn: turn && streams == 1 })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::assert_uniform;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn programs_are_the_shaders() {
        let problem = AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        assert_uniform::<HeadRow>(&plan.shader().source, "HeadRow");
    }
}
