//! Configurations of the table with keys that are gone, wrong or elsewhere: a wrong one is not
//! mended by leaving something out, and none makes a reader panic.

use phasor::rotary::{ModelRope, RopeConfig};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::file;

/// Configurations of the table's models that load.
fn accepted() -> Vec<(String, Value)> {
    let models = file("models.json").expect("the reference configurations");
    let entries = models["entries"].as_array().expect("entries").clone();
    let mut seen = Vec::new();
    for entry in entries {
        let name = entry["model_type"].as_str().unwrap_or_default().to_owned();
        let loads = ModelRope::from_json(&entry["config"].to_string()).is_ok();
        if loads && seen.iter().all(|(known, _)| *known != name) {
            seen.push((name, entry["config"].clone()));
        }
    }
    seen
}

/// Every object within, as a path, the outermost first.
fn objects(config: &Value) -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut next = 0;
    while next < paths.len() {
        let path = paths[next].clone();
        let within = config.pointer(&path).and_then(Value::as_object).into_iter().flatten();
        paths.extend(within.filter(|(_, v)| v.is_object()).map(|(k, _)| format!("{path}/{k}")));
        next += 1;
    }
    paths
}

fn object<'a>(config: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    config.pointer_mut(path).and_then(Value::as_object_mut).expect("an object")
}

/// Tries the configuration without each of its keys in turn.
fn without_each_key(config: &Value, mut check: impl FnMut(&str, &str, &Value)) {
    for path in objects(config) {
        let keys: Vec<String> = match config.pointer(&path).and_then(Value::as_object) {
            Some(object) => object.keys().cloned().collect(),
            None => continue,
        };
        for key in keys {
            let mut less = config.clone();
            object(&mut less, &path).remove(&key);
            check(&path, &key, &less);
        }
    }
}

#[test]
fn dropping_a_key_never_mends_a_refused_configuration() {
    let accepted = accepted();
    assert!(accepted.len() > 200);
    for (name, config) in accepted {
        let inner = language_model(&config);
        let wrongs: [(&str, &str, Value); 3] = [
            ("", "model_type", json!("brand_new")),
            (&inner, "rope_spiral", json!(2.0)),
            (
                &inner,
                "rope_scaling",
                json!({"rope_type": "spiral", "factor": 2.0, "rope_theta": 1e4}),
            ),
        ];
        for (place, key, value) in wrongs {
            let mut wrong = config.clone();
            object(&mut wrong, place).insert(key.to_owned(), value);
            let refused = |json: &Value| ModelRope::from_json(&json.to_string()).is_err();
            assert!(refused(&wrong), "{name} with {key} is accepted");
            without_each_key(&wrong, |path, dropped, less| {
                // Without the wrong key itself, or the object that it stands in, all is well again;
                // but a model type mends nothing by its absence.
                let wrong_gone = dropped == key && path == place && key != "model_type";
                let place_gone = place.starts_with(&format!("{path}/{dropped}"));
                let other_model = dropped == "model_type" && path == place;
                if !wrong_gone && !place_gone && !other_model {
                    assert!(
                        refused(less),
                        "{name} with {key} is accepted without {path}/{dropped}"
                    );
                }
            });
        }
        // Kinds of layers that differ do so whatever the file leaves out.
        if RopeConfig::from_model_json(&config.to_string()).is_err() {
            without_each_key(&config, |path, dropped, less| {
                let one = RopeConfig::from_model_json(&less.to_string());
                assert!(one.is_err(), "{name} has one rope without {path}/{dropped}");
            });
        }
    }
}

/// The object that describes the language model.
fn language_model(config: &Value) -> String {
    const PLACES: [&str; 5] =
        ["text_config", "thinker_config", "vlm_config", "decoder", "decoder_config"];
    let mut path = String::new();
    while let Some(place) =
        PLACES.iter().find(|p| config.pointer(&format!("{path}/{p}")).is_some_and(Value::is_object))
    {
        path = format!("{path}/{place}");
    }
    path
}

#[test]
fn a_model_type_that_is_dropped_is_missed() {
    for (name, mut config) in accepted() {
        object(&mut config, "").remove("model_type");
        assert!(ModelRope::from_json(&config.to_string()).is_err(), "{name}");
    }
}

/// A change to a configuration.
#[derive(Debug, Clone)]
enum Change {
    Drop,
    Rename(String),
    Move,
    Nest(&'static str),
    Set(Value),
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(json!(0)),
        Just(json!(-1)),
        Just(json!(1e300)),
        Just(json!("full_attention")),
        Just(json!([])),
        Just(json!([0, 1e9, "x"])),
        Just(json!({})),
        Just(json!({"full_attention": null})),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
    ];
    prop_oneof![
        Just(Change::Drop),
        "[a-z_]{0,12}".prop_map(Change::Rename),
        Just(Change::Move),
        prop::sample::select(vec!["text_config", "rope_parameters", "rope_scaling", "attn_config"])
            .prop_map(Change::Nest),
        value.prop_map(Change::Set),
    ]
}

fn apply(config: &mut Value, change: &Change, at: &prop::sample::Index, to: &prop::sample::Index) {
    let paths = objects(config);
    let (from, to) = (at.get(&paths).clone(), to.get(&paths).clone());
    let keys: Vec<String> = object(config, &from).keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let key = at.get(&keys).clone();
    let Some(value) = object(config, &from).remove(&key) else { return };
    match change {
        Change::Drop => {}
        Change::Rename(name) => {
            object(config, &from).insert(name.clone(), value);
        }
        Change::Move => match config.pointer_mut(&to).and_then(Value::as_object_mut) {
            Some(target) => drop(target.insert(key, value)),
            None => drop(object(config, &from).insert(key, value)),
        },
        Change::Nest(name) => {
            object(config, &from).insert((*name).to_owned(), json!({key: value}));
        }
        Change::Set(new) => {
            object(config, &from).insert(key, new.clone());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn changed_configurations_never_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec(
            (change(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
        twice in any::<bool>(),
    ) {
        static ALL: std::sync::OnceLock<Vec<(String, Value)>> = std::sync::OnceLock::new();
        let (_, config) = which.get(ALL.get_or_init(accepted));
        let mut config = config.clone();
        for (change, at, to) in &changes {
            apply(&mut config, change, at, to);
        }
        let mut text = config.to_string();
        if twice {
            // Every key of the outermost object a second time: the last one counts.
            text = format!("{},{}", &text[..text.len() - 1], &text[1..]);
        }
        if let Ok(model) = ModelRope::from_json(&text) {
            for layer in &model.layers {
                for len in [0, 4096, u64::MAX] {
                    if let Ok(frequencies) = layer.rope.frequencies(len) {
                        prop_assert!(frequencies.inv_freq().iter().all(|f| f.is_finite()));
                    }
                }
                prop_assert!(layer.softmax_scale.is_none_or(|s| s.is_finite() && s > 0.0));
            }
        }
    }
}
