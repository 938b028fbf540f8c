//! The rope sections that some configuration classes fill in where a file has none.

pub(super) const APERTUS: &str = r#"{
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"
}"#;

pub(super) const CWM: &str = r#"{
    "factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"
}"#;

pub(super) const GPT_OSS: &str = r#"{
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
    "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false
}"#;

pub(super) const HIGGS: &str = r#"{
    "factor": 32.0, "high_freq_factor": 0.5, "low_freq_factor": 0.125,
    "original_max_position_embeddings": 1024, "rope_type": "llama3"
}"#;

pub(super) const MINISTRAL3: &str = r#"{
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1,
    "max_position_embeddings": 262144, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384, "rope_type": "yarn"
}"#;

pub(super) const MISTRAL4: &str = r#"{
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 128.0, "llama_4_scaling_beta": 0.1,
    "max_position_embeddings": 1048576, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "yarn"
}"#;

pub(super) const MISTRAL_LARGE4: &str = r#"{
    "attention_factor": 1.0, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 2048.0,
    "original_max_position_embeddings": 512, "rope_type": "yarn"
}"#;
