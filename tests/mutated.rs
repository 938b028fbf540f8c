//! Mutations of inputs; those of shaders are in `tests/gpu/mutated.rs`.
//!
//! What files may hold: valid ones, mutated at random, must be read or refused, never panic. (A
//! `cargo-fuzz` target needs a nightly compiler; these walk the same readers on a stable one, and
//! start from inputs that get past the first checks.)
//!
//! ```sh
//! PROPTEST_CASES=100000 cargo test --release --test mutated
//! ```

use std::{fs, path::PathBuf};

use phasor::rotary::RopeConfig;
use phasor_kit::{cases, golden::File};
use proptest::{prelude::*, sample::Index};

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Truncate(Index),
    /// From one place over another.
    Copy(Index, Index, u8),
}

/// Numbers and words that readers trip over.
const WORDS: [&str; 16] = [
    "0",
    "-1",
    "1e999",
    "4294967296",
    "18446744073709551616",
    "null",
    "[]",
    "{}",
    "\"\"",
    "true",
    "NaN",
    "0.0000001",
    "[1,2,3,4]",
    "\\u0000",
    "F64",
    "[0,0]",
];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 1..=255u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        (at(), prop::sample::select(WORDS.to_vec()))
            .prop_map(|(at, word)| Change::Insert(at, word.as_bytes().to_vec())),
        (at(), 1..40u8).prop_map(|(at, n)| Change::Remove(at, n)),
        at().prop_map(Change::Truncate),
        (at(), at(), 1..40u8).prop_map(|(from, to, n)| Change::Copy(from, to, n)),
    ]
}

fn mutated(valid: &[u8], changes: &[Change], reach: usize) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for change in changes {
        let len = bytes.len().min(reach);
        if len == 0 {
            break;
        }
        match change {
            Change::Flip(at, bits) => bytes[at.index(len)] ^= bits,
            Change::Insert(at, word) => {
                let at = at.index(len);
                bytes.splice(at..at, word.iter().copied());
            }
            Change::Remove(at, n) => {
                let at = at.index(len);
                bytes.drain(at..(at + usize::from(*n)).min(len));
            }
            Change::Truncate(at) => bytes.truncate(at.index(len)),
            Change::Copy(from, to, n) => {
                let (from, to) = (from.index(len), to.index(len));
                for k in 0..usize::from(*n) {
                    if from + k < len && to + k < len {
                        bytes[to + k] = bytes[from + k];
                    }
                }
            }
        }
    }
    bytes
}

const CONFIGS: [&str; 5] = [
    r#"{"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"max_position_embeddings":131072,"rope_theta":500000.0,"rope_scaling":{"factor":8.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,"rope_type":"llama3"}}"#,
    r#"{"model_type":"gpt_oss","head_dim":64,"max_position_embeddings":131072,"rope_parameters":{"rope_type":"yarn","rope_theta":150000,"factor":32.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":false,"original_max_position_embeddings":4096}}"#,
    r#"{"model_type":"qwen2_vl","hidden_size":1536,"num_attention_heads":12,"rope_theta":1000000.0,"rope_scaling":{"type":"mrope","mrope_section":[16,24,24]}}"#,
    r#"{"model_type":"phi3","head_dim":8,"max_position_embeddings":131072,"original_max_position_embeddings":4096,"rope_theta":10000.0,"rope_scaling":{"type":"longrope","long_factor":[1.0,2.0,3.0,4.0],"short_factor":[1.0,1.0,1.0,1.0]}}"#,
    r#"{"model_type":"stablelm","head_dim":64,"partial_rotary_factor":0.5,"rope_theta":10000,"rope_scaling":{"type":"dynamic","factor":2},"max_position_embeddings":2048}"#,
];

fn golden() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let names = ["characteristic_curves", "rope_partial", "rope_interleaved_gptj_roformer"];
    let gradients = ["attention_backward", "rope_backward", "ropepp_layer_backward"];
    let names = [names, gradients].concat();
    names
        .iter()
        .map(|name| fs::read(folder.join(format!("{name}.safetensors"))).expect("a golden file"))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn configurations(
        which in 0..CONFIGS.len(),
        changes in prop::collection::vec(change(), 0..6),
    ) {
        let bytes = mutated(CONFIGS[which].as_bytes(), &changes, usize::MAX);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(config) = RopeConfig::from_model_json(&text) {
            for len in [0, 4096, u64::MAX] {
                let Ok(frequencies) = config.frequencies(len) else { continue };
                prop_assert!(frequencies.inv_freq().iter().all(|f| f.is_finite()));
                if config.rotary_dim < 1 << 12 && let Ok(table) = frequencies.table(3) {
                    prop_assert!(table.shape().is_ok());
                }
            }
        } else {
            prop_assert!(!changes.is_empty(), "an unchanged configuration is refused");
        }
    }

    #[test]
    fn reference_files(
        which in 0..6usize,
        // Most of the file is numbers; the header is what can mislead a reader.
        reach in prop::sample::select(vec![8usize, 64, 4096, usize::MAX]),
        changes in prop::collection::vec(change(), 0..5),
    ) {
        static FILES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
        let files = FILES.get_or_init(golden);
        let bytes = mutated(&files[which], &changes, reach);
        let read = File::parse("mutated", &bytes).and_then(|file| cases::of(&file));
        if changes.is_empty() {
            prop_assert!(read.is_ok(), "an unchanged file is refused: {:?}", read.err());
        }
    }
}
