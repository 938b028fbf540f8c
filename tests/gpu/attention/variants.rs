//! The oracle with all that models add to plain attention; biases, masks and prefixes.

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::oracle::{self, Attended, AttentionInputs, Place, Real};
use phasor::{Bias, DType, Layout, MaskHook, ScoreHook};

use super::{Case, control};
use crate::harness::{lab, random, run_table};

/// The numbers of a bias or mask.
pub struct Scores {
    kind: Bias,
    pub layout: Layout,
    numbers: Vec<f32>,
}

impl Scores {
    pub fn of(case: &Case, kind: Bias) -> Self {
        let AttentionShape { batch, seq_q, seq_k, .. } = case.shape;
        let heads_out = case.plan.problem().heads.heads().len() as u32;
        let shape = [batch, heads_out, seq_q, seq_k];
        Self::new(kind, shape, case.bias_extent, case.seed + 3000).with(case.bias_filler)
    }

    /// Random numbers, some of them hiding their key. Where an extent is 1, they are broadcast.
    pub fn new(kind: Bias, shape: [u32; 4], extent: [u32; 3], seed: u64) -> Self {
        let [batch, heads, rows] = extent;
        let seq_k = shape[3];
        let stride = |extent: u32, step: u32| if extent == 1 { 0 } else { step };
        let layout = Layout {
            shape,
            strides: [
                stride(batch, heads * rows * seq_k),
                stride(heads, rows * seq_k),
                stride(rows, seq_k),
            ],
            offset: 3,
        };
        let mut numbers = vec![f32::NAN; 3];
        let random = random([batch, heads, rows, seq_k], 2.0, DType::F32, seed);
        numbers.extend(random.into_iter().map(|x| if x < -1.5 { f32::NEG_INFINITY } else { x }));
        Scores { kind, layout, numbers }
    }

    /// With this number in the place of many: all of row 0, all of row 1 but every fifth key, all
    /// of row 2 that is not hidden, and so on.
    pub fn with(mut self, filler: Option<f32>) -> Self {
        let Some(filler) = filler else { return self };
        let [.., seq_k] = self.layout.shape.map(|n| n as usize);
        for (n, x) in self.numbers.iter_mut().skip(3).enumerate() {
            let (row, key) = (n / seq_k, n % seq_k);
            *x = match row % 4 {
                0 => filler,
                1 if key % 5 != 0 => filler,
                2 => {
                    if key % 3 == 0 {
                        f32::NEG_INFINITY
                    } else {
                        filler
                    }
                }
                _ => *x,
            };
        }
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self.kind {
            Bias::Additive => bytemuck::cast_slice(&self.numbers).to_vec(),
            Bias::Mask => self.numbers.iter().map(|x| u8::from(x.is_finite()) * 0x40).collect(),
        }
    }

    /// What is added to the score of a key; `None` where it is hidden.
    pub fn at(&self, place: Place) -> Option<f32> {
        let [b, h, i, j] = [place.batch, place.head, place.query, place.key].map(|n| n as u32);
        let number = self.numbers[self.layout.index(b, h, i, j)];
        number.is_finite().then_some(if self.kind == Bias::Additive { number } else { 0.0 })
    }
}

/// The oracle with what the problem adds, in the order that its docs state.
pub fn attend<R: Real>(
    case: &Case,
    inputs: &AttentionInputs<'_, R>,
) -> phasor::Result<Attended<R>> {
    attend_by(case, inputs, |inputs, modify, sinks| oracle::attention_with(inputs, modify, sinks))
}

/// The same in f32, rounded where the case's kernel rounds.
pub fn attend_rounded(
    case: &Case,
    inputs: &AttentionInputs<'_, f32>,
) -> phasor::Result<Attended<f32>> {
    let (precision, keys) = (case.plan.problem().precision, case.plan.tile().block_k());
    attend_by(case, inputs, |inputs, modify, sinks| {
        oracle::attention_rounded(inputs, modify, sinks, precision, keys)
    })
}

type Modify<'a, R> = &'a dyn Fn(Place, R) -> Option<R>;

fn attend_by<R: Real>(
    case: &Case,
    inputs: &AttentionInputs<'_, R>,
    attention: impl Fn(
        &AttentionInputs<'_, R>,
        Modify<'_, R>,
        Option<&[f64]>,
    ) -> phasor::Result<Attended<R>>,
) -> phasor::Result<Attended<R>> {
    let problem = case.plan.problem();
    let sinks: Vec<f64> = problem.sinks.iter().map(|&sink| f64::from(sink)).collect();
    let bias = problem.bias.map(|kind| Scores::of(case, kind));
    let modify = |place: Place, score: R| {
        let mut score = score;
        if let Some(cap) = problem.softcap {
            let cap = R::from_f64(cap.into());
            score = cap * tanh(score / cap);
        }
        if let Some(&slope) = problem.alibi_slopes.get(place.head) {
            let distance = (place.key as i64 - place.position).abs();
            score += R::from_f64(-f64::from(slope)) * R::from_f64(distance as f64);
        }
        if let Some(bias) = &bias {
            score += R::from_f64(bias.at(place)?.into());
        }
        let key = place.key as i64;
        // A query's place among the keys; without a causal mask, its row.
        let query = if problem.causal { place.position } else { place.query as i64 };
        if let Some(hook) = &problem.score_mod {
            score = hooked(hook, score, [place.batch, place.head], query, key);
        }
        if problem.mask_mod.is_some() && !in_stripes(place.batch, query, key) {
            return None;
        }
        // Causal or not: the oracle hides the keys after a causal query.
        let in_window = problem.window.is_none_or(|w| (key - place.position).abs() < i64::from(w));
        let in_prefix = case.prefix_lens.as_ref().is_some_and(|lens| {
            let len = i64::from(lens[place.batch].min(case.shape.seq_k));
            key < len && place.position < len
        });
        // Where there is a prefix the causal mask is this function's.
        let causal = !problem.prefix || key <= place.position;
        (in_window && causal || in_prefix).then_some(score)
    };
    let inputs = AttentionInputs { causal: problem.causal && !problem.prefix, ..*inputs };
    attention(&inputs, &modify, (!sinks.is_empty()).then_some(&sinks))
}

/// 1 − 2 / (e^2x + 1), which does not overflow.
fn tanh<R: Real>(x: R) -> R {
    let one = R::from_f64(1.0);
    one - (one + one) / ((x + x).exp() + one)
}

/// A function of this file's on the host.
pub fn hooked<R: Real>(
    hook: &ScoreHook,
    score: R,
    [batch, head]: [usize; 2],
    query: i64,
    key: i64,
) -> R {
    let edge = |x: f64| R::from_f64(x);
    match hook.wgsl() {
        EDGY => match key {
            5 if query % 4 == 0 => edge(f64::NAN),
            7 => edge(f64::NEG_INFINITY),
            8 => edge(-3e38),
            9 => edge(f32::MIN.into()),
            10 if query % 4 == 1 && head == 1 => edge(3e38),
            _ => score,
        },
        _ => slanted(score, batch, head, query - key),
    }
}

/// Gives all that may go wrong: NaN, −∞, and finite numbers of any size.
pub const EDGY: &str = "
fn score_mod(score: f32, batch: u32, head: u32, query: i32, key: i32) -> f32 {
    // No constant is NaN or infinite.
    let none = batch >> 31u;
    if (key == 5 && query % 4 == 0) {
        return bitcast<f32>(0x7fc00000u + none);
    }
    if (key == 7) {
        return bitcast<f32>(0xff800000u + none);
    }
    if (key == 8) {
        return -3e38;
    }
    if (key == 9) {
        return bitcast<f32>(0xff7fffffu + none);
    }
    return select(score, 3e38, key == 10 && query % 4 == 1 && head == 1u);
}";

/// [`SLANTED`] on the host.
pub fn slanted<R: Real>(score: R, batch: usize, head: usize, distance: i64) -> R {
    let slope = 0.125 * head as f64 - 0.25 * batch as f64;
    R::from_f64(0.5) * score + R::from_f64(slope * distance as f64)
}

pub const SLANTED: &str = "
fn score_mod_slope(batch: u32, head: u32) -> f32 {
    return 0.125 * f32(head) - 0.25 * f32(batch);
}
fn score_mod(score: f32, batch: u32, head: u32, query: i32, key: i32) -> f32 {
    return 0.5 * score + score_mod_slope(batch, head) * f32(query - key);
}";

/// [`STRIPES`] on the host: batch 0 sees the run of 16 that the query stands in, batch 1 every
/// third key.
pub fn in_stripes(batch: usize, query: i64, key: i64) -> bool {
    if batch == 0 { query.div_euclid(16) == key / 16 } else { key % 3 == 0 }
}

pub const STRIPES: &str = "
fn mask_mod(batch: u32, head: u32, query: i32, key: i32) -> bool {
    if (batch == 0u) {
        return query >= 0 && query / 16 == key / 16;
    }
    return key % 3 == 0;
}";

#[test]
fn hooks_modify_and_hide() {
    let score_mod = Some(ScoreHook::new(SLANTED).unwrap());
    let mask_mod = Some(MaskHook::new(STRIPES).unwrap());
    let both = AttentionProblem { score_mod, mask_mod, ..control() };
    let scores = AttentionProblem { mask_mod: None, ..both.clone() };
    let masks = AttentionProblem { score_mod: None, ..both.clone() };
    let full = AttentionProblem { causal: false, ..both.clone() };
    let all = [("scores", scores), ("masks", masks), ("both", both), ("both, full", full)];
    let cases = all.map(|(name, problem)| (name.to_owned(), Case::quick(&problem).unwrap()));
    run_table(&cases, Case::check);
}

#[test]
fn tiles_that_a_mask_hides_may_be_left_out() {
    let mask_mod = Some(MaskHook::new(STRIPES).unwrap());
    let visiting = AttentionProblem { mask_mod, ..control() };
    let listed = AttentionProblem { block_list: true, ..visiting.clone() };
    let [visiting, listed] = [&visiting, &listed].map(|problem| Case::quick(problem).unwrap());
    let inputs = visiting.inputs();
    let wanted = visiting.run(lab(), &inputs).unwrap();
    assert!(listed.blocks().unwrap().contains(&0), "a list that leaves nothing out proves nothing");
    assert_eq!(listed.run(lab(), &inputs).unwrap(), wanted);
    listed.check().unwrap();
}

impl Case {
    /// The tiles in which [`in_stripes`] leaves something, as a block list of each batch.
    pub fn blocks(&self) -> Option<Vec<u32>> {
        let tile = self.plan.tile();
        let AttentionShape { batch, seq_q, seq_k, .. } = self.shape;
        let (block_q, block_k) = (tile.block_q(), tile.block_k());
        let visible = |b: u32, tile_q: u32, tile_k: u32| {
            let query = |row: u32| i64::from(row) + self.shape.offset();
            (tile_q * block_q..(tile_q + 1) * block_q).any(|row| {
                (tile_k * block_k..(tile_k + 1) * block_k)
                    .any(|key| in_stripes(b as usize, query(row), i64::from(key)))
            })
        };
        let mut list = Vec::new();
        for b in 0..batch {
            for tile_q in 0..seq_q.div_ceil(block_q) {
                let row = (0..seq_k.div_ceil(block_k)).map(|tile_k| visible(b, tile_q, tile_k));
                list.extend(row.map(u32::from));
            }
        }
        self.plan.problem().block_list.then_some(list)
    }
}

#[test]
fn biases_and_masks_broadcast() {
    let mut cases = Vec::new();
    for kind in [Bias::Additive, Bias::Mask] {
        let case = Case::quick(&AttentionProblem { bias: Some(kind), ..control() }).unwrap();
        for bias_extent in [[2, 4, 37], [1, 4, 37], [2, 1, 1], [1, 1, 1], [2, 1, 37]] {
            cases.push((format!("{kind:?} {bias_extent:?}"), Case { bias_extent, ..case.clone() }));
        }
        let padded = Case { kv_lens: Some(vec![5, 40]), ..case };
        cases.push((format!("{kind:?}, padded"), padded));
    }
    let full = AttentionProblem { bias: Some(Bias::Mask), causal: false, ..control() };
    cases.push(("mask alone".to_owned(), Case::quick(&full).unwrap()));
    run_table(&cases, Case::check);
}

#[test]
fn prefixes_are_visible_to_all() {
    let case = Case::quick(&AttentionProblem { prefix: true, ..control() }).unwrap();
    let with = |lens: [u32; 2]| Case { prefix_lens: Some(lens.to_vec()), ..case.clone() };
    let mut cases: Vec<_> = [[0, 0], [1, 20], [16, 17], [43, 1000]]
        .map(|lens| (format!("{lens:?}"), with(lens)))
        .to_vec();
    cases.push(("padded".to_owned(), Case { kv_lens: Some(vec![9, 30]), ..with([12, 20]) }));
    let window = AttentionProblem { prefix: true, window: Some(7), ..control() };
    let case = Case::quick(&window).unwrap();
    for lens in [[0, 3], [20, 43], [12, 1000]] {
        let prefix_lens = Some(lens.to_vec());
        cases.push((format!("{lens:?}, window 7"), Case { prefix_lens, ..case.clone() }));
    }
    run_table(&cases, Case::check);
}
