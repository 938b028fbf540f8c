//! A model's attention from its `config.json`.

use crate::layers::{Layer, Model};
use crate::plan::cache::CacheType;
use crate::rotary::{LayerAttention, attention};
use crate::{HeadMap, Result};

impl Model {
    /// The attention of the layers that a model's `config.json` describes, over caches in f32:
    /// heads, dimensions, rotary embedding of each kind of layer (none where the model has none),
    /// softmax scale, windows and softcap. All else is as in [`Model::new`].
    ///
    /// ```
    /// use phasor::layers::Model;
    ///
    /// # fn main() -> phasor::Result<()> {
    /// let json = r#"{"model_type": "gemma3_text", "hidden_size": 1152, "head_dim": 256,
    ///     "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 26,
    ///     "sliding_window": 512, "rope_theta": 1e6, "rope_local_base_freq": 1e4}"#;
    /// let model = Model::from_json(json, 1, 4096)?;
    /// assert_eq!((model.layers[4].window, model.layers[5].window), (Some(512), None));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Sinks are weights, which no configuration has: those of gpt-oss are NaN, and
    /// [`plan`](Model::plan) refuses the model until [`Layer::sinks`] have been filled in. For
    /// RoPE++, plan the plain model's layers with [`HeadMap::ropepp`]. A file for text and images
    /// gives the attention among text alone.
    ///
    /// # Errors
    /// Those of [`ModelRope::from_json`](crate::rotary::ModelRope::from_json);
    /// [`Error::UnknownModel`](crate::Error::UnknownModel) for a model type whose attention is not
    /// known here, [`Error::UnknownRope`](crate::Error::UnknownRope) for what the layers do not
    /// have (factors of the query by its position, other kinds of layers or masks),
    /// [`Error::MissingRopeKey`](crate::Error::MissingRopeKey) without `num_hidden_layers`, and
    /// [`Error::RopeValue`](crate::Error::RopeValue) for values that contradict each other.
    pub fn from_json(json: &str, sequences: u32, capacity: u32) -> Result<Self> {
        let model = attention(json)?;
        let heads = HeadMap::plain(model.heads)?;
        let layer = |of: &LayerAttention| Layer {
            heads: heads.clone(),
            kv_heads: model.kv_heads,
            head_dim: of.head_dim,
            value_dim: of.head_dim,
            rope: of.rope.as_ref().map(|it| it.rope.clone()),
            softmax_scale: of.softmax_scale as f32,
            window: of.window,
            softcap: model.softcap.map(|cap| cap as f32),
            alibi_slopes: Vec::new(),
            sinks: if model.sinks { vec![f32::NAN; model.heads as usize] } else { Vec::new() },
            k: CacheType::F32,
            v: CacheType::F32,
        };
        Ok(Self::new(model.layers.iter().map(layer).collect(), sequences, capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capabilities, Error};

    /// The layers of a configuration, a letter each: `g`lobal or `l`ocal, capital where rotated.
    fn kinds(json: &str) -> String {
        let model = Model::from_json(json, 1, 64).unwrap_or_else(|e| panic!("{json}: {e}"));
        let letter = |layer: &Layer| match (layer.window, &layer.rope) {
            (None, None) => 'g',
            (Some(_), None) => 'l',
            (None, Some(_)) => 'G',
            (Some(_), Some(_)) => 'L',
        };
        model.layers.iter().map(letter).collect()
    }

    /// Kinds of the first eight layers by the configuration classes of transformers 5.24.
    #[test]
    fn which_layers_have_windows() {
        for (keys, expected) in [
            (r#""model_type": "llama""#, "GGGGGGGG"),
            (r#""model_type": "mistral""#, "LLLLLLLL"),
            (r#""model_type": "mistral", "sliding_window": null"#, "GGGGGGGG"),
            (r#""model_type": "mixtral""#, "GGGGGGGG"),
            (r#""model_type": "phi3", "sliding_window": 262144, "rope_scaling": null"#, "LLLLLLLL"),
            (r#""model_type": "qwen2", "sliding_window": 32768"#, "GGGGGGGG"),
            (
                r#""model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 5"#,
                "GGGGGLLL",
            ),
            (r#""model_type": "qwen3_moe", "use_sliding_window": true"#, "LLLLLLLL"),
            (r#""model_type": "gemma2""#, "LGLGLGLG"),
            (r#""model_type": "gemma3_text""#, "LLLLLGLL"),
            (r#""model_type": "gemma3_text", "sliding_window_pattern": 3"#, "LLGLLGLL"),
            (r#""model_type": "olmo3""#, "LLLGLLLG"),
            (r#""model_type": "cohere2""#, "LLLgLLLg"),
            (r#""model_type": "exaone4""#, "LLLgLLLg"),
            (r#""model_type": "exaone4", "sliding_window": null"#, "GGGGGGGG"),
            (r#""model_type": "smollm3""#, "GGGgGGGg"),
            (
                r#""model_type": "smollm3", "use_sliding_window": true, "sliding_window": 64"#,
                "GGGlGGGl",
            ),
        ] {
            let json = format!(
                r#"{{{keys}, "num_hidden_layers": 8, "hidden_size": 1024,
                    "num_attention_heads": 16, "head_dim": 64}}"#
            );
            assert_eq!(kinds(&json), expected, "{keys}");
        }
        let listed = r#"{"model_type": "gpt_oss", "num_hidden_layers": 3, "layer_types":
            ["full_attention", "sliding_attention", "full_attention"]}"#;
        assert_eq!(kinds(listed), "GLG");
    }

    #[test]
    fn numbers_of_the_layers() -> Result<()> {
        // Gemma 3 with images: the text model's keys are within, and its class has the rest.
        let json = r#"{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text",
            "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}"#;
        let model = Model::from_json(json, 2, 4096)?;
        let [local, global] = [&model.layers[0], &model.layers[5]];
        assert_eq!((model.layers.len(), model.sequences, model.capacity), (34, 2, 4096));
        assert_eq!((local.heads.q_heads(), local.kv_heads, local.head_dim), (8, 4, 256));
        assert_eq!((local.window, global.window), (Some(1024), None));
        let theta = |layer: &Layer| layer.rope.as_ref().map(|rope| rope.theta);
        assert_eq!((theta(local), theta(global)), (Some(1e4), Some(1e6)));
        assert_eq!(local.softmax_scale, 0.0625);

        let gemma2 = r#"{"model_type": "gemma2", "num_hidden_layers": 2}"#;
        let layer = &Model::from_json(gemma2, 1, 64)?.layers[0];
        assert_eq!((layer.softcap, layer.window, layer.kv_heads), (Some(50.0), Some(4096), 4));
        Ok(())
    }

    /// Sinks are weights: a plan without them is refused.
    #[test]
    fn sinks_have_to_be_filled_in() -> Result<()> {
        let json = r#"{"model_type": "gpt_oss", "num_hidden_layers": 2}"#;
        let mut model = Model::from_json(json, 1, 64)?;
        let caps = Capabilities { max_storage_buffers: 16, ..Capabilities::webgpu_default() };
        let refused = model.plan(&caps);
        assert!(matches!(refused, Err(Error::Invalid { what: "sinks", .. })), "{refused:?}");
        for layer in &mut model.layers {
            layer.sinks.fill(0.5);
        }
        model.plan(&caps)?;
        Ok(())
    }

    #[test]
    fn what_is_refused() {
        let with = |keys: &str| {
            let json = format!(r#"{{{keys}, "hidden_size": 1024, "num_attention_heads": 16}}"#);
            Model::from_json(&json, 1, 64).map(|model| model.layers.len())
        };
        let llama = r#""model_type": "llama", "num_hidden_layers": 2"#;
        assert_eq!(with(llama), Ok(2));
        macro_rules! refused {
            ($keys:expr, $error:pat) => {
                let error = with(&$keys).unwrap_err();
                assert!(matches!(error, $error), "{}: {error:?}", $keys);
            };
        }
        refused!(r#""model_type": "llama""#, Error::MissingRopeKey { .. });
        // A rotation is known, but not who attends to whom.
        refused!(r#""model_type": "falcon", "num_hidden_layers": 2"#, Error::UnknownModel { .. });
        refused!(
            r#""model_type": "brand_new", "num_hidden_layers": 2"#,
            Error::UnknownModel { .. }
        );
        for keys in [
            r#""sliding_window": 512"#,
            r#""attn_logit_softcapping": 30.0"#,
            r#""attention_chunk_size": 8192"#,
            r#""use_bidirectional_attention": true"#,
            r#""is_causal": false"#,
        ] {
            refused!(format!("{llama}, {keys}"), Error::UnknownRope { .. });
        }
        let imaginary = r#""rope_config": {"imag": true, "imag_mode": "imag2"}"#;
        refused!(format!("{llama}, {imaginary}"), Error::RopeValue { .. });
        let listed = r#""layer_types": ["full_attention", "sliding_attention"]"#;
        refused!(format!("{llama}, {listed}"), Error::RopeValue { .. });
        let gemma = r#""model_type": "gemma2", "num_hidden_layers": 3"#;
        refused!(format!("{gemma}, {listed}"), Error::RopeValue { .. });
        let other = r#""layer_types": ["full_attention", "full_attention", "chunked_attention"]"#;
        refused!(format!("{gemma}, {other}"), Error::UnknownRope { .. });
        let none = r#""sliding_window": null, "layer_types": ["full_attention",
            "full_attention", "sliding_attention"]"#;
        refused!(format!("{gemma}, {none}"), Error::RopeValue { .. });
    }
}
