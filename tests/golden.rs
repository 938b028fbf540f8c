//! Holds the oracle, in both precisions, to reference values that other projects' code computed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use phasor::{
    HeadMap, OutputHead, Phase,
    oracle::{self, Attended, AttentionInputs},
    rotary::Pairing,
};
use phasor_kit::{
    cases::{
        self, AttentionCase, BackwardCase, CacheCase, Case, LinearBackwardCase, LinearCase,
        MergeCase, Result, RopeBackwardCase, RopeCase, ScoresCase,
    },
    golden::File,
    replay,
    runner::{Attend, Gradients, Linear, ModelAttention, Oracle, Runner, Ways},
    tolerance::{Bound, compare},
};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["golden", "real"] {
        for entry in fs::read_dir(data().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn run_all(runner: &dyn Runner) {
    let mut wrong = Vec::new();
    for path in files() {
        for case in cases::load(&path).unwrap().cases {
            if let Err(error) = replay::run(&case, runner) {
                wrong.push(format!("{}: {error}", case.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", runner.name(), wrong.join("\n"));
}

#[test]
fn the_oracle_agrees_with_every_reference() {
    run_all(&Oracle::<f64>::new());
}

/// What an honest f32 program reaches, so that the bounds ask nothing impossible of a kernel.
#[test]
fn a_naive_f32_run_stays_within_the_same_bounds() {
    run_all(&Oracle::<f32>::new());
}

#[test]
fn every_case_is_run_or_listed_as_not_covered() {
    let mut run = BTreeSet::new();
    for path in files() {
        let cases = cases::load(&path).unwrap();
        let names = cases.cases.iter().map(Case::name);
        let names: Vec<_> =
            names.chain(cases.not_covered.iter().map(|c| c.name.as_str())).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{}: a name stands twice", path.display());
        // Every described case of a file appears among the names.
        let file = File::read(&path).unwrap();
        for (key, text) in &file.metadata {
            let of_the_file = ["config", "stats", "optimizer", "deviation", "loss64"];
            let described = text.starts_with('{') && !of_the_file.contains(&key.as_str());
            let prefix = format!("{}/{key}", file.name);
            assert!(!described || names.iter().any(|n| n.starts_with(&prefix)), "{prefix} is lost");
        }
        if !cases.cases.is_empty() {
            run.insert(file.name);
        }
    }
    let kinds = ["rope_axial", "rope_inter", "rope_mrope", "rope_partial", "rope_variants"];
    let kinds = kinds.iter().chain(&["ropepp_apply", "ropepp_scores", "ropepp_layer_ec"]);
    let kinds = kinds.chain(&["linear_attention", "characteristic_curves", "ropepp_model"]);
    let kinds = kinds.chain(&["attention_backward", "rope_backward", "linear_attention_backward"]);
    let kinds = kinds.chain(&["ropepp_backward_", "ropepp_layer_backward", "ropepp_train_ec"]);
    let kinds = kinds.chain(&["ropepp_train_eh", "ropepp_train_rope", "ropepp_backward"]);
    for kind in kinds.chain(&["ropepp_layer_eh", "ropepp_layer_rope", "attention_sdpa", "real_"]) {
        assert!(run.iter().any(|name| name.starts_with(kind)), "no case of {kind} was run");
    }
}

/// Softmax weights of whole layers, where the reference has them.
#[test]
fn probabilities_agree_with_the_authors_layers() {
    let mut compared = 0;
    for path in files() {
        let file = File::read(&path).unwrap();
        let Ok(probs) = file.tensor("probs") else { continue };
        let of = |name: &str| {
            let tensor = file.tensor(name).unwrap();
            (tensor.f64(), tensor.shape4().unwrap())
        };
        // The stored queries are the output heads' own; each attends as a plain head.
        let ((q, q_shape), (k, k_shape), (v, v_shape)) = (of("q_rot"), of("k_rot"), of("v"));
        let map = HeadMap::plain(q_shape[1]).unwrap();
        let got = oracle::probabilities(&AttentionInputs {
            q: &q,
            q_shape,
            k: &k,
            k_shape,
            v: &v,
            v_shape,
            rotary_dim: q_shape[3],
            pairing: Pairing::Half,
            heads: map.heads(),
            softmax_scale: file.json("config").unwrap()["scale"].as_f64().unwrap(),
            causal: true,
            q_offset: None,
            kv_lens: None,
        })
        .unwrap();
        let shape = probs.shape4().unwrap();
        compare(&file.name, &got, &probs.data, &Bound::Uniform(5e-6), shape).unwrap();
        compared += 1;
    }
    assert!(compared > 0);
}

/// What goes wrong, and how.
type Mistake<'a> = (&'a str, &'a dyn Fn(&mut AttentionCase));

/// The oracle with one thing wrong, to see that the references would show it.
struct Wrong<F>(F);

impl<F: Fn(&mut AttentionCase)> Runner for Wrong<F> {
    fn name(&self) -> &'static str {
        "wrong"
    }
    fn rope(&self, case: &RopeCase) -> Result<Vec<f64>> {
        Oracle::<f64>::new().rope(case)
    }
    fn scores(&self, case: &ScoresCase) -> Result<(Vec<f64>, Vec<f64>)> {
        Oracle::<f64>::new().scores(case)
    }
    fn attention(&self, case: &AttentionCase) -> Result<Ways<Attended<f64>>> {
        let mut case = case.clone();
        (self.0)(&mut case);
        Oracle::<f64>::new().attention(&case)
    }
    fn cache(&self, case: &CacheCase) -> Result<Ways<[Vec<f64>; 2]>> {
        Oracle::<f64>::new().cache(case)
    }
    fn model(&self, _: &ModelAttention) -> Result<Ways<Box<dyn Attend + '_>>> {
        Err("only attention goes wrong here".into())
    }
    fn merge(&self, case: &MergeCase) -> Result<Attended<f64>> {
        Oracle::<f64>::new().merge(case)
    }
    fn linear(&self, case: &LinearCase) -> Result<Linear> {
        Oracle::<f64>::new().linear(case)
    }
    fn backward(&self, case: &BackwardCase) -> Result<Ways<Gradients>> {
        let mut case = case.clone();
        (self.0)(&mut case.attention);
        Oracle::<f64>::new().backward(&case)
    }
    fn rope_backward(&self, case: &RopeBackwardCase) -> Result<Vec<f64>> {
        Oracle::<f64>::new().rope_backward(case)
    }
    fn linear_backward(&self, case: &LinearBackwardCase) -> Result<[Vec<f64>; 3]> {
        Oracle::<f64>::new().linear_backward(case)
    }
}

/// Gradients that are wrong, with the right results of the forward pass.
struct WrongBack(fn(&mut BackwardCase), fn(&BackwardCase, &mut Gradients));

impl Runner for WrongBack {
    fn name(&self) -> &'static str {
        "wrong"
    }
    fn rope(&self, case: &RopeCase) -> Result<Vec<f64>> {
        Oracle::<f64>::new().rope(case)
    }
    fn scores(&self, case: &ScoresCase) -> Result<(Vec<f64>, Vec<f64>)> {
        Oracle::<f64>::new().scores(case)
    }
    fn attention(&self, case: &AttentionCase) -> Result<Ways<Attended<f64>>> {
        Oracle::<f64>::new().attention(case)
    }
    fn cache(&self, case: &CacheCase) -> Result<Ways<[Vec<f64>; 2]>> {
        Oracle::<f64>::new().cache(case)
    }
    fn model(&self, _: &ModelAttention) -> Result<Ways<Box<dyn Attend + '_>>> {
        Err("only gradients go wrong here".into())
    }
    fn merge(&self, case: &MergeCase) -> Result<Attended<f64>> {
        Oracle::<f64>::new().merge(case)
    }
    fn linear(&self, case: &LinearCase) -> Result<Linear> {
        Oracle::<f64>::new().linear(case)
    }
    fn backward(&self, case: &BackwardCase) -> Result<Ways<Gradients>> {
        let mut changed = case.clone();
        (self.0)(&mut changed);
        let mut ways = Oracle::<f64>::new().backward(&changed)?;
        let right = Oracle::<f64>::new().backward(case)?;
        for ((_, gradients), (_, right)) in ways.iter_mut().zip(right) {
            gradients.attention = right.attention;
            (self.1)(case, gradients);
        }
        Ok(ways)
    }
    fn rope_backward(&self, case: &RopeBackwardCase) -> Result<Vec<f64>> {
        Oracle::<f64>::new().rope_backward(case)
    }
    fn linear_backward(&self, case: &LinearBackwardCase) -> Result<[Vec<f64>; 3]> {
        Oracle::<f64>::new().linear_backward(case)
    }
}

/// Mistakes that are easy to make on the way back, and at least how many cases show each. A loss
/// still falls with most of them, which is why training runs are held to their curves.
#[test]
fn references_show_mistakes_on_the_way_back() {
    let none: fn(&mut BackwardCase) = |_| ();
    let nothing: fn(&BackwardCase, &mut Gradients) = |_, _| ();
    let opposite: fn(&mut BackwardCase) = |case| {
        remap(&mut case.attention, |heads| {
            for head in heads.iter_mut().filter(|head| head.phase == Phase::IMAGINARY) {
                head.phase = Phase::radians(-std::f64::consts::FRAC_PI_2);
            }
        });
    };
    let d_lse: fn(&mut BackwardCase) = |case| {
        case.d_lse.iter_mut().flatten().for_each(|x| *x = -*x);
    };
    // m times in the table is m times on the way back: divided, it is off by m².
    let divided: fn(&BackwardCase, &mut Gradients) = |case, gradients| {
        if let Some([rotation, _]) = &case.attention.rotations {
            let m = rotation.frequencies().unwrap().attention_scaling();
            gradients.dq.iter_mut().for_each(|x| *x /= m * m);
        }
    };
    let not_turned: fn(&BackwardCase, &mut Gradients) = |_, gradients| {
        gradients.dk = gradients.dk_rotated.clone();
    };
    let no_sinks: fn(&mut BackwardCase) = |case| case.attention.variant.sinks.clear();
    let one_head: fn(&BackwardCase, &mut Gradients) = |case, gradients| {
        let plane = case.attention.k_shape[2..].iter().product::<u32>() as usize;
        if case.attention.k_shape[1] > 1 {
            gradients.dk.rotate_left(plane);
        }
    };
    let mistakes = [
        ("+π/2 on the way back", WrongBack(opposite, nothing), 25),
        ("the sign of the gradient of lse", WrongBack(d_lse, nothing), 5),
        ("m divided", WrongBack(none, divided), 2),
        ("dk as of the rotated keys", WrongBack(none, not_turned), 25),
        ("sinks left out", WrongBack(no_sinks, nothing), 3),
        ("dk of another kv head", WrongBack(none, one_head), 3),
    ];
    let mut all = Vec::new();
    for path in files() {
        let cases = cases::load(&path).unwrap().cases;
        all.extend(cases.into_iter().filter(|case| matches!(case, Case::Backward(_))));
    }
    for (mistake, wrong, least) in mistakes {
        let shown = all.iter().filter(|case| replay::run(case, &wrong).is_err()).count();
        assert!(shown >= least, "{mistake}: {shown} cases show it, not {least}");
    }
}

fn remap(case: &mut AttentionCase, f: impl Fn(&mut Vec<OutputHead>)) {
    let mut heads = case.heads.heads().to_vec();
    f(&mut heads);
    case.heads = HeadMap::new(case.heads.q_heads(), heads).unwrap();
}

#[test]
fn layers_show_the_mistakes_that_are_easy_to_make() {
    let opposite_sign = |case: &mut AttentionCase| {
        remap(case, |heads| {
            for head in heads.iter_mut().filter(|head| head.phase == Phase::IMAGINARY) {
                head.phase = Phase::radians(-std::f64::consts::FRAC_PI_2);
            }
        });
    };
    let imaginary_first = |case: &mut AttentionCase| {
        remap(case, |heads| heads.chunks_mut(2).for_each(|pair| pair.reverse()));
    };
    let halves = |case: &mut AttentionCase| {
        remap(case, |heads| heads.sort_by_key(|head| head.phase == Phase::IMAGINARY));
    };
    let interleaved = |case: &mut AttentionCase| {
        for rotation in case.rotations.iter_mut().flatten() {
            rotation.config.pairing = Pairing::Interleaved;
        }
    };
    let a_step_ahead = |case: &mut AttentionCase| {
        for rotation in case.rotations.iter_mut().flatten().take(1) {
            rotation.positions[0].iter_mut().for_each(|position| *position += 1);
        }
    };
    let not_causal = |case: &mut AttentionCase| case.causal = false;
    let unscaled = |case: &mut AttentionCase| case.softmax_scale *= 1.01;
    let mistakes: [Mistake<'_>; 7] = [
        ("opposite sign", &opposite_sign),
        ("imaginary first", &imaginary_first),
        ("halves", &halves),
        ("interleaved", &interleaved),
        ("a step ahead", &a_step_ahead),
        ("not causal", &not_causal),
        ("unscaled", &unscaled),
    ];
    let layers = files().into_iter().filter(|path| {
        let name = path.file_stem().unwrap().to_string_lossy();
        name.starts_with("ropepp_layer_e")
    });
    let mut prefills = 0;
    for path in layers {
        let cases = cases::load(&path).unwrap().cases;
        for case in cases.iter().filter(|case| case.name().ends_with("/prefill")) {
            prefills += 1;
            for (mistake, wrong) in mistakes {
                assert!(replay::run(case, &Wrong(wrong)).is_err(), "{}: {mistake}", case.name());
            }
        }
    }
    assert!(prefills > 0);
}

#[test]
fn files_that_are_broken_or_unknown_are_errors() {
    let folder = std::env::temp_dir().join(format!("phasor-golden-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let load = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        cases::load(&path)
    };
    let whole = fs::read(data().join("golden/attention_sdpa.safetensors")).unwrap();
    assert!(load("attention_sdpa.safetensors", &whole[..whole.len() - 4]).is_err());
    assert!(load("attention_sdpa.safetensors", &whole[..100]).is_err());
    assert!(load("attention_sdpa.safetensors", b"").is_err());
    // A kind that is known by its tensors, without one that it needs.
    let header = String::from_utf8_lossy(&whole[8..]).replacen(".lse\"", ".esl\"", 1);
    let header = &header[..u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize];
    let renamed = [&whole[..8], header.as_bytes(), &whole[8 + header.len()..]].concat();
    let missing = load("renamed.safetensors", &renamed).unwrap_err().to_string();
    assert!(missing.contains(".lse"), "{missing}");
    // A file of the right form that nothing here knows.
    let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut other = (header.len() as u64).to_le_bytes().to_vec();
    other.extend_from_slice(header);
    other.extend_from_slice(&1f32.to_le_bytes());
    let unknown = load("x.safetensors", &other).unwrap_err().to_string();
    assert!(unknown.contains("0 known kinds"), "{unknown}");
    fs::remove_dir_all(&folder).unwrap();
}
