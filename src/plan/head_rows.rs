//! Which output heads share a pass over K and V.

use crate::plan::rules::ScoreRules;
use crate::uniform::uniform;
use crate::{HeadMap, OutputHead, Phase};

uniform! {
    /// `HeadRow` of `shaders/head_rows.wgsl`: a query head and its one or two output heads.
    pub(crate) struct HeadRow {
        source: u32,
        head0: u32,
        head1: u32,
        streams: u32,
        phases: [f32; 4],
        sinks: [f32; 2],
        slopes: [f32; 2],
    }
}

/// The table of head rows, and what they have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeadRows {
    rows: Vec<HeadRow>,
    /// Most rows of a kv head, and of a query head.
    pub(crate) each: u32,
    pub(crate) of_a_query_head: u32,
    /// Streams that the shader carries: the most of any row.
    pub(crate) streams: u32,
    /// Some pair of streams is not real and imaginary, but a mixture.
    pub(crate) mix: bool,
    /// With one stream: some query is turned by its phase.
    pub(crate) turn: bool,
}

impl HeadRows {
    /// A row for every two output heads of a query head, query head by query head.
    pub(crate) fn new(heads: &HeadMap, rules: &ScoreRules<'_>) -> Self {
        Self::of_streams(2, heads, rules)
    }

    /// A row for each output head: a pass for one stream at a time.
    pub(crate) fn one_stream(heads: &HeadMap, rules: &ScoreRules<'_>) -> Self {
        Self::of_streams(1, heads, rules)
    }

    fn of_streams(most: usize, heads: &HeadMap, rules: &ScoreRules<'_>) -> Self {
        let of = |source| Self::of(most, heads, rules, source);
        let rows: Vec<HeadRow> = (0..heads.q_heads()).flat_map(of).collect();
        let streams = rows.iter().map(|row| row.streams).max().unwrap_or(1);
        let is = |row: &HeadRow, first: Phase, second: Phase| {
            row.phases == [first.cos(), first.sin(), second.cos(), second.sin()].map(|x| x as f32)
        };
        // In a table of pairs, a row of its own with a turned query is a mixture as well.
        let plain = |row: &HeadRow| match row.streams {
            2 => is(row, Phase::REAL, Phase::IMAGINARY),
            _ => is(row, Phase::REAL, Phase::REAL),
        };
        let all_plain = rows.iter().all(plain);
        Self {
            each: Self::most_of(&rows, rules.q_heads / rules.kv_heads),
            of_a_query_head: Self::most_of(&rows, 1),
            rows,
            streams,
            mix: streams == 2 && !all_plain,
            turn: streams == 1 && !all_plain,
        }
    }

    /// The rows of one query head, of at most so many streams.
    fn of(most: usize, heads: &HeadMap, rules: &ScoreRules<'_>, source: u32) -> Vec<HeadRow> {
        let outputs: Vec<(u32, &OutputHead)> =
            (0u32..).zip(heads.heads()).filter(|(_, head)| head.source == source).collect();
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
                sinks: [head0, head1].map(|head| rules.sink(head)),
                slopes: [head0, head1].map(|head| rules.slope(head)),
            }
        };
        outputs.chunks(most).map(row).collect()
    }

    /// As many rows for each kv head: rows without a stream fill up where one has fewer.
    pub(crate) fn padded(mut self, rules: &ScoreRules<'_>) -> Self {
        let group = rules.q_heads / rules.kv_heads;
        let of = |kv_head| {
            let own = self.rows.iter().copied().filter(move |row| row.source / group == kv_head);
            own.chain(core::iter::repeat(HeadRow::default())).take(self.each as usize)
        };
        self.rows = (0..rules.kv_heads).flat_map(of).collect();
        self
    }

    /// Rows in use.
    pub(crate) fn len(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Rows that the shader declares: few sizes, so that models with similar head counts share a
    /// shader.
    pub(crate) fn slots(&self) -> u32 {
        self.len().next_power_of_two().max(16)
    }

    /// The table as the shader reads it, unused rows zero.
    pub(crate) fn table(&self) -> Vec<u8> {
        let mut table = self.rows.clone();
        table.resize(self.slots() as usize, HeadRow::default());
        bytemuck::cast_slice(&table).to_vec()
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.slots()) * size_of::<HeadRow>() as u64
    }

    /// Most rows that so many neighbouring query heads have.
    fn most_of(rows: &[HeadRow], heads: u32) -> u32 {
        let most = rows.chunk_by(|a, b| a.source / heads == b.source / heads).map(<[_]>::len).max();
        most.unwrap_or(0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::shader::{Source, wgsl};
    use crate::reflect::assert_uniform;

    fn rows(map: &HeadMap, kv_heads: u32) -> HeadRows {
        let heads = [map.q_heads(), kv_heads, map.heads().len() as u32];
        let rules = ScoreRules::new(heads, 1.0, true);
        HeadRows::new(map, &rules).padded(&rules)
    }

    #[test]
    fn rows_are_the_shaders() {
        let rows = rows(&HeadMap::ropepp(2).unwrap(), 1);
        let source = Source::new().numbers([("HEAD_ROWS", rows.slots())]);
        assert_uniform::<HeadRow>(&source.files([wgsl!("head_rows")]), "HeadRow");
        assert_eq!(rows.table().len() as u64, rows.bytes());
    }

    #[test]
    fn both_components_share_a_row() {
        let both = rows(&HeadMap::ropepp(4).unwrap(), 2);
        assert_eq!((both.each, both.streams, both.mix, both.turn), (2, 2, false, false));
        let imaginary = rows(&HeadMap::imago(4).unwrap(), 2);
        assert_eq!((imaginary.each, imaginary.streams, imaginary.turn), (2, 1, true));
    }

    #[test]
    fn streams_part_where_a_pass_has_one() {
        let map = HeadMap::ropepp(4).unwrap();
        let apart = HeadRows::one_stream(&map, &ScoreRules::new([4, 2, 8], 1.0, true));
        assert_eq!((apart.each, apart.of_a_query_head, apart.len()), (4, 2, 8));
        assert_eq!((apart.streams, apart.mix, apart.turn), (1, false, true));
        let heads: Vec<_> = apart.rows.iter().map(|row| (row.source, row.head0)).collect();
        assert_eq!(heads, [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6), (3, 7)]);
    }

    #[test]
    fn a_turned_query_beside_pairs_is_a_mixture() {
        let head = |source, phase| OutputHead { source, phase };
        let beside = |phase| {
            let pair = [head(0, Phase::REAL), head(0, Phase::IMAGINARY), head(1, phase)];
            rows(&HeadMap::new(2, pair.to_vec()).unwrap(), 1).mix
        };
        assert!(!beside(Phase::REAL));
        // Half a turn, whose sine may round to 0, as well.
        let turned = [Phase::IMAGINARY, Phase::radians(0.3), Phase::radians(core::f64::consts::PI)];
        assert!(turned.into_iter().all(beside));
    }

    #[test]
    fn kv_heads_have_as_many_rows() {
        // Query head 0 feeds three output heads, head 3 none: rows of kv head 1 are filled up.
        let real = |source| OutputHead { source, phase: Phase::REAL };
        let heads = [0, 0, 0, 1, 2].map(real).to_vec();
        let uneven = rows(&HeadMap::new(4, heads).unwrap(), 2);
        assert_eq!((uneven.each, uneven.streams, uneven.mix), (3, 2, true));
        let streams: Vec<u32> = uneven.rows.iter().map(|row| row.streams).collect();
        assert_eq!(streams, [2, 1, 1, 1, 0, 0]);
    }
}
