//! Reference values of the RoPE++ authors' code and of PyTorch, in safetensors files of the
//! kernels' own tests.

use burn::tensor::{Device, Int, Tensor, TensorData};
use phasor_burn::phasor::rotary::{Pairing, RopeConfig, RopeRule};
use phasor_burn::phasor::{HeadMap, OutputHead, Phase};
use phasor_burn::{
    AttentionOptions, Heads, Positions, Rotary, ropepp_attention, ropepp_attention_lse,
};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::{close_to, pooled, values};

/// A file of reference values.
pub struct File(Vec<u8>);

impl File {
    pub fn read(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden");
        Self(std::fs::read(format!("{folder}/{name}.safetensors")).expect(name))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a safetensors file")
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// The JSON of an entry of the metadata.
    pub fn about(&self, name: &str) -> Value {
        let (_, metadata) = SafeTensors::read_metadata(&self.0).expect("a header");
        let all = metadata.metadata().as_ref().expect("metadata");
        serde_json::from_str(&all[name]).expect(name)
    }

    /// The cases that have a tensor of this name.
    pub fn cases(&self, suffix: &str) -> Vec<String> {
        let tensors = self.tensors();
        let mut cases: Vec<String> = tensors
            .names()
            .into_iter()
            .filter_map(|name| name.strip_suffix(suffix).map(str::to_owned))
            .collect();
        cases.sort();
        cases
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).expect(name).shape().to_vec()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let words = tensors.tensor(name).expect(name).data().chunks_exact(4);
        words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
    }

    pub fn integers(&self, name: &str) -> Vec<i32> {
        self.floats(name).into_iter().map(|x| x.to_bits() as i32).collect()
    }

    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.floats(name), self.shape(name)), device)
    }
}

fn number(about: &Value, key: &str) -> f64 {
    about[key].as_f64().unwrap_or_else(|| panic!("no {key} in {about}"))
}

fn rope(about: &Value) -> RopeConfig {
    let factor = number(about, "factor");
    let pairing = match about["layout"].as_str() {
        Some("half") => Pairing::Half,
        Some("pairs") => Pairing::Interleaved,
        Some("pairs in, half out") => Pairing::InterleavedToHalf,
        other => panic!("{other:?}"),
    };
    let rule = match about["table"].as_str() {
        Some("default") => RopeRule::Default,
        Some("pi") => RopeRule::Linear { factor },
        Some("yarn_authors") => RopeRule::YarnRotations {
            factor,
            original_max_position_embeddings: 4096,
            alpha: 1.0,
            beta: 32.0,
        },
        other => panic!("{other:?}"),
    };
    let rotary_dim = number(about, "rotary_dim") as u32;
    let new = RopeConfig::new(number(about, "D") as u32, number(about, "theta"));
    RopeConfig { rotary_dim, pairing, rule, ..new }
}

fn positions(file: &File, name: &str, device: &Device) -> (Positions, u32) {
    let ids = file.integers(name);
    let end = ids.iter().max().map_or(0, |&last| last as u32 + 1);
    let shape = [1, 1, ids.len()];
    let device = device.clone().without_autodiff();
    (Positions::Ids(Tensor::<3, Int>::from_data(TensorData::new(ids, shape), &device)), end)
}

fn head_map(about: &Value) -> HeadMap {
    let heads = about["heads"].as_array().expect("heads").iter().map(|head| {
        let radians = head[1].as_f64().expect("a phase");
        let right = radians == core::f64::consts::FRAC_PI_2;
        let phase = if right { Phase::IMAGINARY } else { Phase::radians(radians) };
        OutputHead { source: head[0].as_u64().expect("a source") as u32, phase }
    });
    HeadMap::new(number(about, "Hq") as u32, heads.collect()).unwrap()
}

/// What this crate has no options for.
fn has_more(about: &Value) -> bool {
    let last = number(about, "Tk") - number(about, "Tq");
    let placed = about["causal"] == true && number(about, "q_offset") != last;
    let given = |key: &str| !matches!(about[key], Value::Null | Value::Bool(false));
    placed || ["kv_len", "prefix_len", "bias"].into_iter().any(given)
}

fn attention_case(file: &File, case: &str, device: &Device) {
    let about = file.about(case);
    let name = |tensor: &str| format!("{case}.{tensor}");
    let (q_at, q_end) = positions(file, &name("q_positions"), device);
    let (k_at, k_end) = positions(file, &name("k_positions"), device);
    let rope = rope(&about);
    let rotary = Rotary::new(&rope, q_end.max(k_end), device).unwrap();
    let data = |tensor: &str| match file.has(&name(tensor)) {
        true => file.floats(&name(tensor)),
        false => Vec::new(),
    };
    let options = AttentionOptions {
        causal: about["causal"] == true,
        window: about["window"].as_u64().map(|window| window as u32),
        softcap: about["softcap"].as_f64().map(|cap| cap as f32),
        sinks: data("sinks"),
        alibi_slopes: data("alibi_slopes"),
        softmax_scale: Some(number(&about, "scale") as f32),
        rotary_dim: Some(rope.rotary_dim),
        pairing: rope.pairing,
        ..AttentionOptions::of(Heads::Map(head_map(&about)))
    };
    let leaf = |tensor: &str| file.tensor::<4>(&name(tensor), device).require_grad();
    let (q, k, v) = (leaf("q"), leaf("k"), leaf("v"));
    let turned = |k: &Tensor<4>| rotary.key(k.clone(), &k_at).unwrap();
    let q_rot = rotary.query(q.clone(), &q_at).unwrap();
    let d_out = file.tensor::<4>(&name("d_out"), device);
    let (out, lse) = ropepp_attention_lse(q_rot.clone(), turned(&k), v.clone(), &options).unwrap();
    let grads = match file.has(&name("d_lse")) {
        true => {
            let d_lse = file.tensor::<3>(&name("d_lse"), device);
            // Rows without a key have no log-sum-exp, and its gradient is 0.
            let lse = lse.clone().mask_fill(lse.clone().is_inf(), 0.0);
            ((out.clone() * d_out).sum() + (lse * d_lse).sum()).backward()
        }
        false => {
            let out = ropepp_attention(q_rot, turned(&k), v.clone(), &options).unwrap();
            (out * d_out).sum().backward()
        }
    };
    let in_f32 = |tensor: &str| about["torch_f32_maxerr"][tensor].as_f64().unwrap_or(0.0) as f32;
    let hold = |tensor: &str, got: Vec<f32>, bound: f32| {
        let bound = bound.max(2.2 * in_f32(tensor));
        close_to(&name(tensor), &got, &file.floats(&name(tensor)), bound);
    };
    hold("out", values(out), 2e-5);
    hold("lse", values(lse), 2e-5);
    for (tensor, leaf) in [("dq", q), ("dk", k), ("dv", v)] {
        hold(tensor, values(leaf.grad(&grads).expect("a gradient")), 1e-5);
    }
}

#[test]
fn gradients_of_attention_with_the_rotation_inside() {
    let (mut held, device) = (0, pooled().autodiff());
    for name in ["ropepp_backward", "ropepp_backward_features"] {
        let file = File::read(name);
        for case in file.cases(".d_out") {
            if !has_more(&file.about(&case)) {
                attention_case(&file, &case, &device);
                held += 1;
            }
        }
    }
    println!("{held} cases");
    assert!(held >= 30, "only {held} cases are left");
}

#[test]
fn gradients_of_the_rotation_alone() {
    let (file, device) = (File::read("rope_backward"), pooled().autodiff());
    let mut held = 0;
    for case in file.cases(".d_y") {
        let (about, name) = (file.about(&case), |tensor: &str| format!("{case}.{tensor}"));
        // A query that is turned as well is a matter of attention.
        if number(&about, "phase") != 0.0 {
            continue;
        }
        let (at, end) = positions(&file, &name("positions"), &device);
        let rotary = Rotary::new(&rope(&about), end, &device).unwrap();
        let x = file.tensor::<4>(&name("x"), &device).require_grad();
        let y = rotary.query(x.clone(), &at).unwrap();
        let grads = (y.clone() * file.tensor::<4>(&name("d_y"), &device)).sum().backward();
        close_to(&name("y"), &values(y), &file.floats(&name("y")), 1e-5);
        let dx = values(x.grad(&grads).expect("a gradient"));
        close_to(&name("dx"), &dx, &file.floats(&name("dx")), 1e-6);
        held += 1;
    }
    assert!(held >= 7, "only {held} cases are left");
}
