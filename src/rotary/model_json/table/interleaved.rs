//! Models of transformers whose pairs are interleaved, by name.

use super::{
    row::{Extra, Pairs, Row, Streams, Unrotated, interleaved, latent},
    sections::{GPT_OSS, MISTRAL_LARGE4, MISTRAL4},
};

/// Model type, hidden size, heads, `max_position_embeddings`, base.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    interleaved("blt_global_transformer", 2048, 16, 4096, 500_000.0).divided(),
    interleaved("blt_local_decoder", 1024, 16, 24576, 500_000.0).divided(),
    interleaved("blt_local_encoder", 1024, 16, 24576, 500_000.0),
    interleaved("blt_patcher", 768, 12, 8192, 10_000.0).divided(),
    interleaved("cohere", 8192, 64, 8192, 500_000.0),
    interleaved("cohere2", 8192, 64, 8192, 10_000.0).divided().unrotated(Unrotated::Kind("full_attention")),
    interleaved("cohere2_moe", 8192, 64, 8192, 10_000.0).head(128).unrotated(Unrotated::Kind("full_attention")),
    interleaved("ernie4_5", 1024, 16, 131072, 500_000.0).head(128),
    interleaved("ernie4_5_moe", 2560, 20, 131072, 500_000.0),
    interleaved("glm", 4096, 32, 131072, 10_000.0).head(128).share(0.5),
    interleaved("glm4", 4096, 32, 131072, 10_000.0).head(128).share(0.5),
    interleaved("glm_ocr_text", 1024, 16, 131072, 10_000.0).share(1.0).streams(Streams::Sectioned([8, 12, 12])),
    interleaved("helium", 2560, 20, 4096, 100_000.0).head(128),
    interleaved("llama4_text", 5120, 40, 131072, 500_000.0).head(128).unrotated(Unrotated::Listed).extra(Extra::Llama4),
    interleaved("moonshine", 288, 8, 512, 10_000.0).share(0.9),
    interleaved("moonshine_streaming", 320, 8, 4096, 10_000.0).share(0.8),
    interleaved("openai_privacy_filter", 640, 14, 131072, 150_000.0).head(64).section(GPT_OSS),
    interleaved("pe_audio_encoder", 1792, 14, 10000, 20_000.0).head(128),
    interleaved("pe_audio_video_encoder", 1792, 14, 10000, 20_000.0).head(128),
    interleaved("pe_video_encoder", 1792, 14, 10000, 20_000.0).head(128),
    interleaved("gptj", 4096, 16, 2048, 10_000.0).channels(64),
    interleaved("codegen", 4096, 16, 2048, 10_000.0).channels(64),
    interleaved("roformer", 768, 12, 1536, 10_000.0),
    interleaved("glm4v_text", 4096, 32, 32768, 10_000.0).share(1.0).streams(Streams::Sectioned([8, 12, 12])),
    interleaved("ernie4_5_vl_moe_text", 2560, 20, 131_072, 500_000.0).streams(Streams::Other),
];

/// Latent attention: model type, pairs, rotated and other channels of a head, positions, base.
#[rustfmt::skip]
pub(super) const LATENT: &[Row] = &[
    latent("axk1", Pairs::ToHalfUnless, [64, 128], 32768, 10_000.0),
    latent("axk2", Pairs::ToHalf, [32, 64], 131_072, 10_000.0).half_indexer(),
    latent("bailing_hybrid", Pairs::ToHalf, [64, 128], 262_144, 6_000_000.0),
    latent("deepseek_v2", Pairs::Interleaved, [64, 128], 2048, 10_000.0).extra(Extra::DeepseekV2),
    latent("deepseek_v3", Pairs::ToHalfUnless, [64, 128], 4096, 10_000.0),
    latent("deepseek_v32", Pairs::ToHalf, [64, 128], 163_840, 10_000.0).half_indexer(),
    latent("glm4_moe_lite", Pairs::ToHalfUnless, [64, 192], 202_752, 10_000.0),
    latent("glm_moe_dsa", Pairs::ToHalf, [64, 192], 202_752, 10_000.0).half_indexer(),
    latent("hy_v4", Pairs::Half, [64, 192], 262_144, 10_000.0),
    latent("hy_v4_vl_text", Pairs::Interleaved, [64, 192], 262_144, 10_000.0).streams(Streams::Alternating([12, 10, 10])),
    latent("longcat_flash", Pairs::ToHalf, [64, 128], 131_072, 10_000_000.0),
    latent("minicpm3", Pairs::Half, [32, 64], 32768, 10_000.0),
    latent("mistral4", Pairs::ToHalfUnless, [64, 64], 1_048_576, 10_000.0).section(MISTRAL4).extra(Extra::ScaledQuery),
    latent("mistral_large4_text", Pairs::ToHalf, [64, 64], 1_048_576, 10_000.0).section(MISTRAL_LARGE4).unrotated(Unrotated::Listed),
    latent("sarvam_mla", Pairs::ToHalfUnless, [64, 128], 4096, 10_000.0),
    latent("youtu", Pairs::ToHalfUnless, [64, 128], 131_072, 10_000.0),
    // Code that comes with the model: DeepSeek-V3 under another name.
    latent("kimi_k2", Pairs::ToHalfUnless, [64, 128], 131_072, 50_000.0),
];
