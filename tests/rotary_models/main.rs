//! The table of models against what transformers 5.24 computes for them, inputs from the field, and
//! what must be refused.

mod changed;

use std::{error::Error, fs, path::Path};

use phasor::{
    Error as Phasor, Result,
    rotary::{LayerRope, ModelRope, Pairing, QueryScaling, RopeConfig, Turn},
};
use serde_json::{Value, json};

type Test = std::result::Result<(), Box<dyn Error>>;

/// Relative error of frequencies, which the classes form in f32.
const FREQUENCY: f64 = 3e-6;
const SCALING: f64 = 1e-6;
const ROTATED: f64 = 1e-5;

/// Default configurations that describe nothing that could run, or nothing that this crate has.
const REFUSED: [&str; 26] = [
    // Heads that do not divide the hidden size, sections that do not add up.
    "glm46v",
    "glm4_moe",
    "glm4v",
    "glm4v_moe",
    "glm4v_moe_text",
    "glm4v_text",
    "glm_image",
    "glm_image_text",
    "glmga",
    "qwen3_omni_moe",
    "qwen3_omni_moe_text",
    "qwen3_omni_moe_thinker",
    // Needs sections that the class does not have.
    "hunyuan_vl",
    "hunyuan_vl_text",
    // Not rotated by default.
    "esm",
    "granitemoehybrid",
    "zamba2",
    // Frequencies in another order.
    "ernie4_5_vl_moe",
    "ernie4_5_vl_moe_text",
    // Trailing channels.
    "deepseek_v4",
    // Two axes of an image.
    "efficientloftr",
    "mlcd_vision_model",
    "sam3_vit_model",
    "sam2_video",
    "sam3_tracker_video",
    "edgetam_video",
];

fn file(name: &str) -> std::result::Result<Value, Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rope").join(name);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()).into())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn layer<'a>(model: &'a ModelRope, kind: &Value) -> Result<&'a LayerRope> {
    match kind.as_str() {
        None | Some("") => model.only(),
        Some(kind) => model.layer(kind),
    }
}

fn rotated(rope: &RopeConfig, position: u32) -> Result<Vec<f64>> {
    let frequencies = rope.frequencies(u64::from(position) + 1)?;
    let probe = |j: u32| f64::from((37 * j + 11) % 64) / 32.0 - 1.0;
    let mut out: Vec<f64> = (0..rope.head_dim).map(probe).collect();
    for j in 0..rope.rotary_dim / 2 {
        let (cos, sin) = frequencies.cos_sin(position, j as usize);
        let (a, b) = rope.pairing.input(j, rope.rotary_dim);
        let (to_a, to_b) = rope.pairing.output(j, rope.rotary_dim);
        out[to_a as usize] = probe(a) * cos - probe(b) * sin;
        out[to_b as usize] = probe(b) * cos + probe(a) * sin;
    }
    Ok(out)
}

#[test]
fn models_of_transformers() -> Test {
    let models = file("models.json")?;
    let entries = models["entries"].as_array().ok_or("entries")?;
    let mut matched = 0;
    for entry in entries {
        let name = entry["model_type"].as_str().ok_or("model_type")?;
        let model = ModelRope::from_json(&entry["config"].to_string());
        if REFUSED.contains(&name) {
            assert!(model.is_err(), "{name} is expected to be refused");
            continue;
        }
        let model = model.map_err(|e| format!("{name}: {e}"))?;
        let rope = &layer(&model, &entry["layer"]).map_err(|e| format!("{name}: {e}"))?.rope;
        let frequencies = rope.frequencies(8)?;
        let expected = numbers(&entry["inv_freq"]);
        assert_eq!(frequencies.inv_freq().len(), expected.len(), "{name}: pairs");
        for (got, expected) in frequencies.inv_freq().iter().zip(&expected) {
            let close = (got - expected).abs() <= FREQUENCY * expected.abs();
            assert!(close, "{name}: frequency {got} for {expected}");
        }
        let scaling = entry["attention_scaling"].as_f64().ok_or("attention_scaling")?;
        assert!((frequencies.attention_scaling() - scaling).abs() <= SCALING, "{name}: scaling");
        if !entry["rotated"].is_null() {
            let (got, expected) = (rotated(rope, 7)?, numbers(&entry["rotated"]));
            assert_eq!(got.len(), expected.len(), "{name}: channels");
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() <= ROTATED, "{name}: {got} for {expected}");
            }
        }
        matched += 1;
    }
    assert!(matched >= 300, "only {matched} of {} matched", entries.len());
    Ok(())
}

#[test]
fn inputs_from_the_field() -> Test {
    for input in file("field.json")?.as_array().ok_or("a list")? {
        let name = input["name"].as_str().ok_or("name")?;
        let text = input["text"].as_str().ok_or("text")?;
        let right = input["right"].as_array().ok_or("right")?;
        if right.is_empty() {
            let refused = ModelRope::from_json(text);
            assert!(matches!(refused, Err(Phasor::UnknownModel { .. })), "{name}: {refused:?}");
        }
        for right in right {
            let kind = right["layer"].as_str();
            let rope = match kind {
                None => RopeConfig::from_model_json(text),
                Some(kind) => RopeConfig::from_model_json_for_layer(text, kind),
            };
            let rope = rope.map_err(|e| format!("{name}: {e}"))?;
            let dims = [&right["head_dim"], &right["rotary_dim"]].map(Value::as_u64);
            let got = [rope.head_dim, rope.rotary_dim].map(|d| Some(u64::from(d)));
            assert_eq!(got, dims, "{name}");
            assert_eq!(Some(rope.theta), right["theta"].as_f64(), "{name}");
            assert_eq!(Some(format!("{:?}", rope.pairing).as_str()), right["pairing"].as_str());
            if let Some(axes) = right["axes"].as_str() {
                assert_eq!(format!("{:?}", rope.axes), axes, "{name}");
            }
            let frequencies = rope.frequencies(right["len"].as_u64().unwrap_or(8))?;
            let scaling = right["scaling"].as_f64().ok_or("scaling")?;
            assert!((frequencies.attention_scaling() - scaling).abs() < 1e-5, "{name}");
            for (pair, expected) in right["inv"].as_object().ok_or("inv")? {
                let (got, expected) =
                    (frequencies.inv_freq()[pair.parse::<usize>()?], expected.as_f64());
                let expected = expected.ok_or("a number")?;
                assert!((got - expected).abs() <= 1e-6 * expected, "{name}: pair {pair} {got}");
            }
            // Where kinds of layers differ, the call without a kind does not choose one.
            assert_eq!(RopeConfig::from_model_json(text).is_ok(), kind.is_none(), "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_model_type_is_needed_and_known() {
    let rope = json!({"head_dim": 64, "rope_theta": 1e4});
    let with = |key: &str, value: Value| {
        let mut config = rope.clone();
        config[key] = value;
        ModelRope::from_json(&config.to_string())
    };
    assert!(matches!(
        ModelRope::from_json(&rope.to_string()),
        Err(Phasor::MissingRopeKey { key: "model_type", .. })
    ));
    let unknown = with("model_type", json!("brand_new"));
    assert_eq!(unknown, Err(Phasor::UnknownModel { model_type: "brand_new".to_owned() }));
    for name in ["bert", "mamba", "jais", "nemotron_h", "qwen2_vl_vision", "gpt2"] {
        let none = with("model_type", json!(name));
        assert!(matches!(none, Err(Phasor::NotRotary { .. })), "{name}: {none:?}");
    }
}

#[test]
fn directions_and_layers_without_rotation() -> Result<()> {
    let nanochat = json!({"model_type": "nanochat", "hidden_size": 768, "num_attention_heads": 6});
    let rope = RopeConfig::from_model_json(&nanochat.to_string())?;
    assert_eq!((rope.direction, rope.pairing), (Turn::Backward, Pairing::Half));

    let command = json!({
        "model_type": "cohere2", "hidden_size": 4096, "num_attention_heads": 32,
        "rope_theta": 50000, "sliding_window": 4096, "position_embedding_type": "rope_gptj",
        "rotary_pct": 1.0
    });
    let model = ModelRope::from_json(&command.to_string())?;
    assert_eq!(model.only()?.rope.pairing, Pairing::Interleaved);
    assert!(model.layer("sliding_attention").is_ok());
    assert!(matches!(model.layer("full_attention"), Err(Phasor::UnknownRope { .. })));

    let smollm3 = json!({
        "model_type": "smollm3", "hidden_size": 2048, "num_attention_heads": 16,
        "num_hidden_layers": 8, "rope_theta": 5e6
    });
    let unrotated = |config: &Value| {
        ModelRope::from_json(&config.to_string()).map(|m| m.unrotated.map(|u| u.layers))
    };
    assert_eq!(unrotated(&smollm3)?, Some(vec![3, 7]));
    let mut listed = smollm3.clone();
    listed["no_rope_layers"] = json!([1, 0, 1, 1, 1, 1, 0, 1]);
    assert_eq!(unrotated(&listed)?, Some(vec![1, 6]));

    // A base for each layer, 0 for none.
    let granite = json!({
        "model_type": "granite_swa", "hidden_size": 512, "num_attention_heads": 4,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "layer_rope_theta": [0, 10000, 10000, 5000000]
    });
    let model = ModelRope::from_json(&granite.to_string())?;
    assert_eq!(model.layer("sliding_attention")?.rope.theta, 1e4);
    assert_eq!(model.layer("full_attention")?.rope.theta, 5e6);
    assert_eq!(model.unrotated.as_ref().map(|u| u.layers.clone()), Some(vec![0]));
    assert!(model.only().is_err());
    Ok(())
}

#[test]
fn rules_of_single_families() -> Result<()> {
    let read = |config: Value| RopeConfig::from_model_json(&config.to_string());
    // Phi-3.5-MoE: m of its own for short and long contexts.
    let phimoe = read(json!({
        "model_type": "phimoe", "hidden_size": 32, "num_attention_heads": 4, "rope_theta": 1e4,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "rope_scaling": {
            "type": "longrope", "short_mscale": 1.243163121016122, "long_mscale": 1.25,
            "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 3, 4],
            "original_max_position_embeddings": 4096
        }
    }))?;
    assert_eq!(phimoe.frequencies(4096)?.attention_scaling(), 1.243163121016122);
    assert_eq!(phimoe.frequencies(4097)?.attention_scaling(), 1.25);
    // HunYuan: a fixed NTK stretch called dynamic, and position streams.
    let hunyuan = |section: Value| {
        read(json!({
            "model_type": "hunyuan_vl_text", "head_dim": 128, "hidden_size": 4096,
            "num_attention_heads": 32, "rope_theta": 1e4, "rope_scaling": section
        }))
    };
    let ntk = hunyuan(json!({
        "type": "xdrope", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1,
        "mscale": 1.0, "mscale_all_dim": 1.0, "xdrope_section": [16, 16, 16, 16]
    }))?;
    let frequencies = ntk.frequencies(1)?;
    let theta = 1e4 * 1000f64.powf(128.0 / 126.0);
    assert!((frequencies.inv_freq()[1] - theta.powf(-1.0 / 64.0)).abs() < 1e-12);
    let streams: Vec<u8> = (0..64).map(|j| j / 16).collect();
    assert_eq!(frequencies.axes(), Some(streams.as_slice()));
    // A section that has lost its type is not the default one.
    assert!(hunyuan(json!({"alpha": 1000.0, "xdrope_section": [16, 16, 16, 16]})).is_err());
    // Step-3.5: a base a layer, the rule on the full layers alone.
    let step = json!({
        "model_type": "step3p5", "head_dim": 128, "hidden_size": 4096, "num_attention_heads": 64,
        "layer_types": ["full_attention", "sliding_attention"], "rope_theta": [5000000.0, 10000.0],
        "partial_rotary_factors": [0.5, 1.0], "yarn_only_types": ["full_attention"],
        "rope_scaling": {
            "rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 131072,
            "low_freq_factor": 1.0, "high_freq_factor": 32.0
        }
    });
    let step = ModelRope::from_json(&step.to_string())?;
    let of = |kind| step.layer(kind).map(|l| (l.rope.theta, l.rope.rotary_dim));
    assert_eq!((of("full_attention")?, of("sliding_attention")?), ((5e6, 64), (1e4, 128)));
    // MPT and Baichuan have ALiBi unless they say otherwise.
    let mpt = json!({"model_type": "mpt", "d_model": 128, "n_heads": 2, "attn_config": {}});
    assert!(matches!(read(mpt), Err(Phasor::NotRotary { .. })));
    let mpt = json!({
        "model_type": "mpt", "d_model": 128, "n_heads": 2,
        "attn_config": {"rope": true, "rope_theta": 5e5, "alibi": false}
    });
    assert_eq!(read(mpt)?, RopeConfig::new(64, 5e5));
    let baichuan =
        json!({"model_type": "baichuan", "hidden_size": 5120, "num_attention_heads": 40});
    assert!(matches!(read(baichuan), Err(Phasor::NotRotary { .. })));
    // Nomic: dynamic NTK over the trained length; position condensing elsewhere.
    let nomic = read(json!({
        "model_type": "nomic_bert", "n_embd": 768, "n_head": 12, "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false, "rotary_emb_scale_base": null,
        "rotary_scaling_factor": 2, "max_trained_positions": 2048
    }))?;
    assert!(nomic.frequencies(8192)?.inv_freq()[31] < nomic.frequencies(2048)?.inv_freq()[31]);
    Ok(())
}

#[test]
fn factors_on_scores_and_queries() -> Result<()> {
    let read = |config: Value| ModelRope::from_json(&config.to_string());
    let deepseek = json!({
        "model_type": "deepseek_v3", "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
        "rope_theta": 10000, "max_position_embeddings": 163840,
        "rope_scaling": {
            "type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32,
            "beta_slow": 1, "original_max_position_embeddings": 4096
        }
    });
    let scale = read(deepseek)?.only()?.softmax_scale.unwrap_or_default();
    assert!((scale * 192f64.sqrt() - 1.8738).abs() < 1e-3, "{scale}");
    let gemma = read(json!({
        "model_type": "gemma2", "head_dim": 128, "query_pre_attn_scalar": 144, "rope_theta": 1e4
    }))?;
    assert_eq!(gemma.only()?.softmax_scale, Some(1.0 / 12.0));
    let granite = read(json!({
        "model_type": "granite", "hidden_size": 4096, "num_attention_heads": 32,
        "attention_multiplier": 0.0078125
    }))?;
    assert_eq!(granite.only()?.softmax_scale, Some(0.0078125));
    let ministral = read(json!({"model_type": "ministral3"}))?;
    let expected = QueryScaling::LogOfWhole { beta: 0.1, length: 16384, first: 0 };
    assert_eq!(ministral.only()?.query_scaling, Some(expected));
    let llama4 = read(json!({
        "model_type": "llama4_text", "num_hidden_layers": 48, "no_rope_layers": [],
        "attn_temperature_tuning": 4, "floor_scale": 8192, "attn_scale": 0.1
    }))?;
    assert_eq!(llama4.only()?.query_scaling, None);
    let nope = llama4.unrotated.ok_or(Phasor::UnknownModel { model_type: String::new() })?;
    assert_eq!(nope.layers.len(), 12);
    let expected = QueryScaling::LogOfWhole { beta: 0.1, length: 8192, first: 1 };
    assert_eq!(nope.query_scaling, Some(expected));
    let qwen = read(json!({
        "model_type": "qwen", "hidden_size": 4096, "num_attention_heads": 32, "kv_channels": 128,
        "seq_length": 8192, "use_logn_attn": true, "use_dynamic_ntk": true, "rotary_emb_base": 10000
    }))?;
    assert_eq!(qwen.only()?.query_scaling, Some(QueryScaling::LogRatio { length: 8192 }));
    Ok(())
}
