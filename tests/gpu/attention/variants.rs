//! What some models add to plain attention: sliding windows, softcaps, ALiBi, sinks.

use phasor::{
    DType, Layout,
    oracle::{self, Attention, AttentionInputs, Place, Real},
    plan::attention::{AttentionProblem, AttentionShape, Bias},
};

use super::{Case, control};
use crate::harness::{random, run_table};

/// The numbers of a bias or mask.
pub struct Scores {
    kind: Bias,
    pub layout: Layout,
    numbers: Vec<f32>,
}

impl Scores {
    /// Random numbers, some of them hiding their key.
    pub fn new(case: &Case, kind: Bias) -> Self {
        let [batch, heads, rows] = case.bias_extent;
        let AttentionShape { batch: all, seq_q, seq_k, .. } = case.shape;
        let stride = |extent: u32, step: u32| if extent == 1 { 0 } else { step };
        let heads_out = case.plan.problem().heads.heads().len() as u32;
        let layout = Layout {
            shape: [all, heads_out, seq_q, seq_k],
            strides: [
                stride(batch, heads * rows * seq_k),
                stride(heads, rows * seq_k),
                stride(rows, seq_k),
            ],
            offset: 3,
        };
        let mut numbers = vec![f32::NAN; 3];
        let random = random([batch, heads, rows, seq_k], 2.0, DType::F32, case.seed + 3000);
        numbers.extend(random.into_iter().map(|x| if x < -1.5 { f32::NEG_INFINITY } else { x }));
        Scores { kind, layout, numbers }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match self.kind {
            Bias::Additive => bytemuck::cast_slice(&self.numbers).to_vec(),
            Bias::Mask => self.numbers.iter().map(|x| u8::from(x.is_finite()) * 0x40).collect(),
        }
    }

    fn at(&self, place: Place) -> Option<f32> {
        let [b, h, i, j] = [place.batch, place.head, place.query, place.key].map(|n| n as u32);
        let number = self.numbers[self.layout.index(b, h, i, j)];
        number.is_finite().then_some(if self.kind == Bias::Additive { number } else { 0.0 })
    }
}

/// The oracle with what the problem adds, in the order that its docs state.
pub fn attend<R: Real>(
    case: &Case,
    inputs: &AttentionInputs<'_, R>,
) -> phasor::Result<Attention<R>> {
    let problem = case.plan.problem();
    let sinks: Vec<f64> = problem.sinks.iter().map(|&sink| f64::from(sink)).collect();
    let bias = problem.bias.map(|kind| Scores::new(case, kind));
    let modify = |place: Place, score: R| {
        let mut score = score;
        if let Some(cap) = problem.softcap {
            let (cap, one) = (R::from_f64(cap.into()), R::from_f64(1.0));
            let e = (R::from_f64(2.0) * score / cap).exp();
            score = cap - R::from_f64(2.0) * cap / (e + one);
        }
        if let Some(&slope) = problem.alibi_slopes.get(place.head) {
            let distance = place.key as i64 - place.position;
            score += R::from_f64(slope.into()) * R::from_f64(distance as f64);
        }
        if let Some(bias) = &bias {
            score += R::from_f64(bias.at(place)?.into());
        }
        let key = place.key as i64;
        let in_window = problem.window.is_none_or(|w| key > place.position - i64::from(w));
        let in_prefix =
            case.prefix_lens.as_ref().is_some_and(|lens| place.key < lens[place.batch] as usize);
        // Where there is a prefix the causal mask is this function's.
        let causal = !problem.prefix || key <= place.position || in_prefix;
        (in_window && causal).then_some(score)
    };
    let inputs = AttentionInputs { causal: problem.causal && !problem.prefix, ..*inputs };
    oracle::attention_with(&inputs, &modify, (!sinks.is_empty()).then_some(&sinks))
}

#[test]
fn windows_trim_and_mask() {
    let mut cases = Vec::new();
    for window in [1, 2, 7, 16, 17, 43, 1000] {
        let case = Case::small(&AttentionProblem { window: Some(window), ..control() }).unwrap();
        for (seq_q, seq_k, query_offset) in
            [(37, 43, None), (43, 43, None), (1, 40, None), (37, 43, Some(20)), (37, 43, Some(-9))]
        {
            let shape = AttentionShape { batch: 2, seq_q, seq_k, query_offset };
            cases.push((format!("window {window}, {shape:?}"), Case { shape, ..case.clone() }));
        }
        let padded = Case { kv_lens: Some(vec![43, 11]), ..case };
        cases.push((format!("window {window}, padded"), padded));
    }
    run_table(&cases, Case::check);
}

#[test]
fn softcaps_alibi_and_sinks() {
    let slopes = vec![0.5, 0.25, 0.125, 0.0];
    let sinks = vec![0.0, 3.0, f32::NEG_INFINITY, -40.0];
    let with = |change: &dyn Fn(&mut AttentionProblem)| {
        let mut problem = control();
        change(&mut problem);
        Case::small(&problem).unwrap()
    };
    let all = with(&|p| {
        (p.softcap, p.window) = (Some(3.0), Some(9));
        (p.alibi_slopes, p.sinks) = (slopes.clone(), sinks.clone());
    });
    let cases = [
        ("softcap 0.5", with(&|p| p.softcap = Some(0.5))),
        ("softcap 50", with(&|p| p.softcap = Some(50.0))),
        ("alibi", with(&|p| p.alibi_slopes = slopes.clone())),
        ("sinks", with(&|p| p.sinks = sinks.clone())),
        ("sinks and rows without keys", {
            let case = with(&|p| p.sinks = sinks.clone());
            Case { kv_lens: Some(vec![0, 43]), ..case }
        }),
        ("sinks far above and below the scores", {
            with(&|p| p.sinks = vec![200.0, -200.0, 90.0, -90.0])
        }),
        ("all at once", all),
    ]
    .map(|(name, case)| (name.to_owned(), case));
    run_table(&cases, Case::check);
}

#[test]
fn biases_and_masks_broadcast() {
    let mut cases = Vec::new();
    for kind in [Bias::Additive, Bias::Mask] {
        let case = Case::small(&AttentionProblem { bias: Some(kind), ..control() }).unwrap();
        for bias_extent in [[2, 4, 37], [1, 4, 37], [2, 1, 1], [1, 1, 1], [2, 1, 37]] {
            cases.push((format!("{kind:?} {bias_extent:?}"), Case { bias_extent, ..case.clone() }));
        }
        let padded = Case { kv_lens: Some(vec![5, 40]), ..case };
        cases.push((format!("{kind:?}, padded"), padded));
    }
    let full = AttentionProblem { bias: Some(Bias::Mask), causal: false, ..control() };
    cases.push(("mask alone".to_owned(), Case::small(&full).unwrap()));
    run_table(&cases, Case::check);
}

#[test]
fn prefixes_are_visible_to_all() {
    let case = Case::small(&AttentionProblem { prefix: true, ..control() }).unwrap();
    let with = |lens: [u32; 2]| Case { prefix_lens: Some(lens.to_vec()), ..case.clone() };
    let mut cases: Vec<_> = [[0, 0], [1, 20], [16, 17], [43, 1000]]
        .map(|lens| (format!("{lens:?}"), with(lens)))
        .to_vec();
    cases.push(("padded".to_owned(), Case { kv_lens: Some(vec![9, 30]), ..with([12, 20]) }));
    run_table(&cases, Case::check);
}
