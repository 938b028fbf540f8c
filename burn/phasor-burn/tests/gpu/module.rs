//! The module beside the RoPE++ authors' attention layer, and its records.

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use phasor_burn::phasor::rotary::{RopeConfig, RopeRule};
use phasor_burn::{Implementation, Mode, RotaryAttention, RotaryAttentionConfig};
use serde_json::Value;

use crate::golden::File;
use crate::support::{Numbers, close, close_to, cpu, memories, pooled, tensor, values};

/// The layer that a file's metadata describe, without its weights.
fn layer(about: &Value, device: &Device) -> RotaryAttention {
    let count = |key: &str| about[key].as_u64().expect(key) as usize;
    let rope = &about["rope_config"];
    let mode = match (rope["imag"].as_bool(), rope["imag_mode"].as_str()) {
        (Some(true), Some("imag1")) => Mode::Eh,
        (Some(true), Some("imag2")) => Mode::Ec,
        _ => Mode::Rope,
    };
    let config = RotaryAttentionConfig::new(count("hidden_size"), count("num_attention_heads"))
        .with_kv_heads(Some(count("num_key_value_heads")))
        .with_head_dim(Some(count("head_dim")))
        .with_positions(count("T"))
        .with_mode(mode);
    let rule = match rope["yarn"].as_bool() {
        Some(true) => RopeRule::YarnRotations {
            factor: rope["factor"].as_f64().expect("a factor"),
            original_max_position_embeddings: 4096,
            alpha: 1.0,
            beta: 32.0,
        },
        _ => RopeRule::Default,
    };
    let theta = about["rope_theta"].as_f64().expect("theta");
    let rope = RopeConfig { rule, ..RopeConfig::new(count("head_dim") as u32, theta) };
    config.init_with(&rope, device).unwrap()
}

/// Linear weights lie `[outputs, inputs]` in the files, and the other way round in Burn.
fn load(mut layer: RotaryAttention, file: &File, prefix: &str, device: &Device) -> RotaryAttention {
    let RotaryAttention { query, key, value, output, .. } = &mut layer;
    for (part, linear) in [("q", query), ("k", key), ("v", value), ("o", output)] {
        let weight = file.tensor::<2>(&format!("{prefix}w.{part}_proj.weight"), device).transpose();
        assert_eq!(linear.weight.dims(), weight.dims(), "{part}");
        linear.weight = Param::from_tensor(weight);
    }
    layer
}

#[test]
fn the_authors_layers() {
    for name in ["ec_mha", "ec_gqa", "ec_yarn32", "eh_mha", "eh_gqa", "rope_gqa"] {
        let file = File::read(&format!("ropepp_layer_{name}"));
        for (memory, device) in memories() {
            let layer = load(layer(&file.about("config"), &device), &file, "", &device);
            let x = file.tensor::<3>("hidden_states", &device);
            let out = values(layer.forward(x).unwrap());
            close_to(&format!("{name}, {memory}"), &out, &file.floats("output"), 5e-5);
        }
    }
}

#[test]
fn gradients_of_the_authors_layers() {
    let (file, device) = (File::read("ropepp_layer_backward"), pooled().autodiff());
    let cases = file.cases(".d_hidden_states");
    assert!(cases.len() >= 5, "{cases:?}");
    for case in cases {
        let layer = load(layer(&file.about(&case), &device), &file, &format!("{case}."), &device);
        let name = |tensor: &str| format!("{case}.{tensor}");
        let x = file.tensor::<3>(&name("hidden_states"), &device).require_grad();
        let out = layer.forward(x.clone()).unwrap();
        let d_out = file.tensor::<3>(&name("d_output"), &device);
        let mut grads = (out.clone() * d_out).sum().backward();
        close_to(&name("output"), &values(out), &file.floats(&name("output")), 5e-5);
        let d_x = values(x.grad(&grads).expect("a gradient"));
        close_to(&name("d_x"), &d_x, &file.floats(&name("d_hidden_states")), 5e-6);
        let grads = GradientsParams::from_module(&mut grads, &layer);
        for (part, linear) in
            [("q", &layer.query), ("k", &layer.key), ("v", &layer.value), ("o", &layer.output)]
        {
            let gradient = grads.get::<2>(linear.weight.id).expect("a gradient");
            let want = file.floats(&name(&format!("d_w.{part}_proj.weight")));
            close_to(&name(part), &values(gradient.transpose()), &want, 5e-6);
        }
    }
}

/// All that a configuration offers, by kernels and by formula, with the weights of one record.
#[test]
fn records_and_both_implementations() {
    let x = Numbers::new(9).take([2, 19, 48]);
    for (mode, sinks) in [(Mode::Rope, true), (Mode::Ec, false), (Mode::Eh, true)] {
        let config = RotaryAttentionConfig::new(48, 4)
            .with_kv_heads(Some(2))
            .with_head_dim(Some(16))
            .with_mode(mode)
            .with_window(Some(6))
            .with_softcap(Some(20.0))
            .with_alibi(mode == Mode::Rope)
            .with_sinks(sinks)
            .with_bias(true)
            .with_positions(32);
        // A configuration is a file of Burn's, too.
        let config = burn::config::Config::load_binary(config.to_string().as_bytes()).unwrap();
        let config: RotaryAttentionConfig = config;
        let formula = config.clone().with_implementation(Implementation::Formula);
        let (there, here) = (cpu().autodiff(), pooled().autodiff());
        let first = formula.init(&there).unwrap();
        let record = || first.clone().into_record();
        let second = config.init(&here).unwrap().load_record(record());
        let run = |layer: &RotaryAttention, device: &Device| {
            let x = tensor::<3>(&x, device).require_grad();
            let out = layer.forward(x.clone()).unwrap();
            let mut grads = out.clone().powi_scalar(2).sum().backward();
            let d_x = x.grad(&grads).expect("a gradient");
            let grads = GradientsParams::from_module(&mut grads, layer);
            let d_sinks = layer.sinks.as_ref().map(|s| grads.get::<1>(s.id).expect("a gradient"));
            (out.inner(), d_x, d_sinks)
        };
        let (want, got) = (run(&first, &there), run(&second, &here));
        let name = format!("{mode:?}");
        close(&name, tensor(&got.0.into_data(), &cpu()), want.0, 2e-5);
        close(&name, tensor::<3>(&got.1.into_data(), &cpu()), want.1, 2e-5);
        assert_eq!(got.2.is_some(), sinks);
        if let (Some(got), Some(want)) = (got.2, want.2) {
            close(&name, tensor::<1>(&got.into_data(), &cpu()), want, 2e-5);
        }
        let once_more: Tensor<3> = second.forward(tensor::<3>(&x, &here)).unwrap();
        let file = second.into_record().into_bytes().unwrap();
        let record = burn::store::ModuleRecord::from_bytes(file).unwrap();
        let third = config.init(&here).unwrap().load_record(record);
        let again = third.forward(tensor::<3>(&x, &here)).unwrap();
        close(&name, again, once_more, 0.0);
    }
}
