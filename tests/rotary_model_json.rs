//! `RopeConfig::from_model_json`: published configurations (their rotary keys), and what is
//! refused.

use phasor::{
    Error, Result,
    rotary::{Like, ModelRope, Pairing, PositionAxes, RopeConfig, RopeRule, YarnParams},
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A configuration without a model type does not say what its pairs are; here it is like Llama's.
fn read(config: Value) -> Result<RopeConfig> {
    let json = config.to_string();
    match config.get("model_type") {
        Some(_) => RopeConfig::from_model_json(&json),
        None => {
            assert!(RopeConfig::from_model_json(&json).is_err());
            Ok(ModelRope::from_json_like(&json, &Like::model("llama"))?.only()?.rope.clone())
        }
    }
}

#[test]
fn old_keys() {
    let llama3 = json!({
        "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
        "max_position_embeddings": 131072, "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        }
    });
    let rule = RopeRule::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(read(llama3), Ok(RopeConfig { rule, ..RopeConfig::new(128, 500_000.0) }));

    let llama2 = json!({
        "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "rope_scaling": null
    });
    assert_eq!(read(llama2), Ok(RopeConfig::new(128, 10_000.0)));

    let linear = json!({
        "head_dim": 64, "rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 2}
    });
    let rule = RopeRule::Linear { factor: 2.0 };
    assert_eq!(read(linear), Ok(RopeConfig { rule, ..RopeConfig::new(64, 10_000.0) }));
}

#[test]
fn new_keys() {
    let gpt_oss = json!({
        "model_type": "gpt_oss", "head_dim": 64, "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 150000, "factor": 32.0, "beta_fast": 32.0,
            "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 4096
        }
    });
    let yarn = YarnParams { truncate: false, ..YarnParams::new(32.0, 4096) };
    let rule = RopeRule::Yarn(yarn);
    assert_eq!(read(gpt_oss), Ok(RopeConfig { rule, ..RopeConfig::new(64, 150_000.0) }));

    let gemma4 = json!({
        "model_type": "gemma4",
        "text_config": {
            "model_type": "gemma4_text", "head_dim": 256, "global_head_dim": 512,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {
                    "rope_type": "proportional", "rope_theta": 1000000.0,
                    "partial_rotary_factor": 0.25
                }
            }
        }
    })
    .to_string();
    assert!(matches!(RopeConfig::from_model_json(&gemma4), Err(Error::RopeValue { .. })));
    let sliding = RopeConfig::from_model_json_for_layer(&gemma4, "sliding_attention");
    assert_eq!(sliding, Ok(RopeConfig::new(256, 10_000.0)));
    let full = RopeConfig::from_model_json_for_layer(&gemma4, "full_attention");
    let rule = RopeRule::Proportional { partial_rotary_factor: 0.25, factor: 1.0 };
    assert_eq!(full, Ok(RopeConfig { rule, ..RopeConfig::new(512, 1e6) }));
    let neither = RopeConfig::from_model_json_for_layer(&gemma4, "linear_attention");
    assert!(matches!(neither, Err(Error::UnknownRope { .. })));
}

#[test]
fn a_second_base_for_sliding_layers() {
    let gemma3 = json!({
        "model_type": "gemma3_text", "head_dim": 256, "rope_theta": 1e6,
        "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}
    })
    .to_string();
    assert!(matches!(RopeConfig::from_model_json(&gemma3), Err(Error::RopeValue { .. })));
    let sliding = RopeConfig::from_model_json_for_layer(&gemma3, "sliding_attention");
    assert_eq!(sliding, Ok(RopeConfig::new(256, 1e4)));
    let full = RopeConfig::from_model_json_for_layer(&gemma3, "full_attention");
    let rule = RopeRule::Linear { factor: 8.0 };
    assert_eq!(full, Ok(RopeConfig { rule, ..RopeConfig::new(256, 1e6) }));
}

#[test]
fn partial_and_interleaved_models() {
    let plain = |head_dim, rotary_dim, pairing| {
        Ok(RopeConfig { rotary_dim, pairing, ..RopeConfig::new(head_dim, 10_000.0) })
    };
    let gptj = json!({"model_type": "gptj", "n_embd": 4096, "n_head": 16, "rotary_dim": 64});
    assert_eq!(read(gptj), plain(256, 64, Pairing::Interleaved));
    let pythia = json!({
        "model_type": "gpt_neox", "hidden_size": 512, "num_attention_heads": 8,
        "rotary_pct": 0.25, "rotary_emb_base": 10000
    });
    assert_eq!(read(pythia), plain(64, 16, Pairing::Half));
    let phi = json!({
        "model_type": "phi", "hidden_size": 2560, "num_attention_heads": 32,
        "partial_rotary_factor": 0.4, "rope_theta": 10000.0
    });
    assert_eq!(read(phi), plain(80, 32, Pairing::Half));
    let glm = json!({
        "model_type": "glm", "head_dim": 128, "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}
    });
    assert_eq!(read(glm), plain(128, 64, Pairing::Interleaved));
}

#[test]
fn latent_attention_rotates_its_own_slice() {
    let deepseek = json!({
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128,
        "qk_rope_head_dim": 64, "rope_theta": 10000, "max_position_embeddings": 163840,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "type": "yarn"
        }
    });
    let yarn =
        YarnParams { mscale: Some(1.0), mscale_all_dim: Some(1.0), ..YarnParams::new(40.0, 4096) };
    let expected = RopeConfig {
        pairing: Pairing::InterleavedToHalf,
        rule: RopeRule::Yarn(yarn),
        ..RopeConfig::new(64, 10_000.0)
    };
    assert_eq!(read(deepseek), Ok(expected));
}

#[test]
fn longrope_takes_its_lengths_from_the_model() {
    let phi3 = json!({
        "model_type": "phi3", "hidden_size": 96, "num_attention_heads": 12, "rope_theta": 10000.0,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 4, 8.5]
        }
    });
    let rule = RopeRule::LongRope {
        short_factor: vec![1.0; 4],
        long_factor: vec![1.0, 2.0, 4.0, 8.5],
        factor: 32.0,
        original_max_position_embeddings: 4096,
        attention_factor: None,
        mscale: None,
    };
    assert_eq!(read(phi3), Ok(RopeConfig { rule, ..RopeConfig::new(8, 10_000.0) }));
}

#[test]
fn an_explicit_factor_wins_over_the_ratio_of_lengths() {
    let config = json!({
        "head_dim": 64, "rope_theta": 1e4, "max_position_embeddings": 40960,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    });
    let rule = RopeRule::Yarn(YarnParams::new(4.0, 32768));
    assert_eq!(read(config), Ok(RopeConfig { rule, ..RopeConfig::new(64, 1e4) }));
}

#[test]
fn mrope_order_follows_the_model() {
    let config = |model_type: &str, section: Value| {
        read(json!({
            "model_type": model_type, "head_dim": 128, "rope_theta": 1e6, "rope_scaling": section
        }))
        .map(|config| config.axes)
    };
    let runs = json!({"type": "mrope", "mrope_section": [16, 24, 24]});
    let sectioned = PositionAxes::MropeSectioned([16, 24, 24]);
    assert_eq!(config("qwen2_vl", runs.clone()), Ok(sectioned));
    let alternating =
        json!({"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": true});
    let interleaved = PositionAxes::MropeInterleaved([24, 20, 20]);
    assert_eq!(config("qwen3_vl_text", alternating), Ok(interleaved));
    // ERNIE 4.5 VL assigns its streams in yet another way.
    assert!(matches!(config("ernie4_5_vl_moe_text", runs), Err(Error::UnknownRope { .. })));
    // The class has sections of its own.
    assert_eq!(config("qwen2_vl", json!({"type": "default"})), Ok(sectioned));
    for wrong in [json!([16, 24, 25]), json!([1, 2])] {
        assert!(matches!(
            config("qwen2_vl", json!({"mrope_section": wrong})),
            Err(Error::RopeValue { key, .. }) if key == "mrope_section"
        ));
    }
}

#[test]
fn the_authors_rope_config() {
    let config = |own: Value| {
        read(json!({"head_dim": 64, "rope_theta": 10000.0, "rope_config": own}))
            .map(|config| (config.rule, config.theta))
    };
    let imag = json!({"imag": true, "imag_mode": "imag2"});
    assert_eq!(config(imag), Ok((RopeRule::Default, 10_000.0)));
    let pi = json!({"imag": true, "imag_mode": "imag2", "factor": 8});
    assert_eq!(config(pi), Ok((RopeRule::Linear { factor: 8.0 }, 10_000.0)));
    let yarn = json!({"yarn": true, "factor": 32, "scaling_factor": 2});
    assert_eq!(config(yarn), Ok((RopeRule::yarn_rotations(32.0), 20_000.0)));
    let missing = config(json!({"yarn": true}));
    assert!(matches!(missing, Err(Error::MissingRopeKey { key: "factor", .. })));
    let unknown = config(json!({"imagine": true}));
    assert!(matches!(unknown, Err(Error::UnknownRope { key, .. }) if key == "imagine"));
}

#[test]
fn refusals_name_the_key() {
    let with = |section: Value| {
        read(json!({"head_dim": 64, "rope_theta": 1e4, "rope_scaling": section})).unwrap_err()
    };
    let unknown =
        |key: &str, value: &str| Error::UnknownRope { key: key.into(), value: value.into() };
    assert_eq!(with(json!({"type": "spiral"})), unknown("rope_type", "spiral"));
    // HunYuan's `alpha` changes the base: to ignore it would be wrong in silence.
    let hunyuan = json!({"type": "dynamic", "factor": 1.0, "alpha": 1000.0});
    assert_eq!(with(hunyuan), unknown("alpha", "1000.0"));
    let missing = |rope_type: &str, key| Error::MissingRopeKey { rope_type: rope_type.into(), key };
    assert_eq!(with(json!({"type": "linear"})), missing("linear", "factor"));
    assert_eq!(
        with(json!({"type": "dynamic", "factor": 2.0})),
        missing("dynamic", "max_position_embeddings")
    );
    assert_eq!(
        with(json!({"type": "yarn", "factor": 2.0})),
        missing("yarn", "original_max_position_embeddings")
    );
    assert_eq!(read(json!({"head_dim": 64})), Err(missing("default", "rope_theta")));
    assert_eq!(read(json!({"rope_theta": 1e4})), Err(missing("default", "head_dim")));
    let alibi = read(json!({"head_dim": 64, "rope_theta": 1e4, "alibi": true}));
    assert_eq!(alibi, Err(unknown("alibi", "true")));

    let value_of = |result: Result<RopeConfig>| match result {
        Err(Error::RopeValue { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    for (section, key) in [
        (json!({"type": "linear", "factor": "4"}), "factor"),
        (json!({"type": "linear", "factor": 0}), "factor"),
        (json!({"type": 5}), "type"),
        (json!([1]), "rope_scaling"),
        (
            json!({"type": "yarn", "factor": 2, "original_max_position_embeddings": 0.5}),
            "original_max_position_embeddings",
        ),
        (json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor"),
    ] {
        let config = json!({"head_dim": 64, "rope_theta": 1e4, "rope_scaling": section});
        assert_eq!(value_of(read(config)), key);
    }
    assert_eq!(value_of(RopeConfig::from_model_json("{")), "config.json");
    assert_eq!(value_of(RopeConfig::from_model_json("[]")), "config.json");
    let uneven = json!({"hidden_size": 100, "num_attention_heads": 3, "rope_theta": 1e4});
    assert_eq!(value_of(read(uneven)), "hidden_size");
    let odd = json!({"head_dim": 63, "rope_theta": 1e4});
    assert_eq!(value_of(read(odd)), "rotary_dim");
    let huge = json!({"head_dim": 4_000_000_000u32, "rope_theta": 1e4});
    assert_eq!(value_of(read(huge)), "rotary_dim");
}

/// Values as a careless or hostile file may hold them.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u64..300).prop_map(Value::from),
        Just(json!(0.25)),
        Just(json!([16, 8, 8])),
        Just(json!(vec![2.5; 32])),
        Just(json!({"factor": 3})),
        "[a-z0-9]{0,8}".prop_map(Value::from),
        prop::sample::select(vec![
            "default",
            "linear",
            "dynamic",
            "yarn",
            "longrope",
            "llama3",
            "proportional",
            "mrope",
            "glm",
            "qwen2_vl",
        ])
        .prop_map(Value::from),
    ]
}

fn any_object(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::collection::hash_map(prop::sample::select(keys), any_value(), 0..8)
        .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

const MODEL: [&str; 14] = [
    "model_type",
    "head_dim",
    "hidden_size",
    "num_attention_heads",
    "rope_theta",
    "rotary_dim",
    "partial_rotary_factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "qk_rope_head_dim",
    "rope_local_base_freq",
    "rope_config",
    "text_config",
    "alibi",
];
const SECTION: [&str; 16] = [
    "rope_type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "partial_rotary_factor",
    "mrope_section",
];

proptest! {
    #[test]
    fn no_json_makes_it_panic(
        mut config in any_object(&MODEL),
        section in any_object(&SECTION),
        rope_type in prop::sample::select(vec![
            "default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional",
        ]),
        sane in any::<bool>(),
    ) {
        config["rope_parameters"] = section;
        if sane {
            // Gets past the geometry, so that the rules see the odd values.
            config["rope_parameters"]["rope_type"] = rope_type.into();
            config["rope_parameters"]["rope_theta"] = 10_000.into();
            config["head_dim"] = 64.into();
        }
        if let Ok(config) = read(config) {
            // What is accepted can be used at any length.
            for len in [0, 1, 1 << 20, u64::MAX] {
                if let Ok(frequencies) = config.frequencies(len) {
                    prop_assert!(frequencies.inv_freq().iter().all(|f| f.is_finite()));
                }
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,64}") {
        let _ = RopeConfig::from_model_json(&text);
    }
}
