//! Model types that have no rotary embedding that could be read, and why.

/// Why there is nothing to read for this model type, if it is one of those.
pub(super) fn reason(model_type: &str) -> Option<&'static str> {
    REASONS.iter().find(|(_, types)| types.contains(&model_type)).map(|(reason, _)| *reason)
}

const REASONS: [(&str, &[&str]); 8] = [
    ("its attention adds biases by distance (ALiBi) and rotates nothing", ALIBI),
    ("it has no attention", STATE),
    ("its attention layers have no positions", UNPOSITIONED),
    (
        "it rotates by rows and columns of an image (or points of it), each class in its own order; \
      state it with PositionAxes",
        PATCHES,
    ),
    (
        "it is several models, each with a configuration of its own in the file: read that object",
        PARTS,
    ),
    ("it rotates by relative positions or values too, in a way that this crate does not have", OWN),
    ("it rotates the last channels of its heads, and turns its attention's output back", TRAILING),
    ("it has no rotary embedding: its positions are learned, sinusoidal, relative or none", NONE),
];

/// Biases instead.
#[rustfmt::skip]
const ALIBI: &[&str] = &[
    "bloom", "jais", "refact", "step1",
];

/// State spaces and recurrences.
#[rustfmt::skip]
const STATE: &[&str] = &[
    "falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm",
];

/// Hybrid models that leave order to their other layers.
#[rustfmt::skip]
const UNPOSITIONED: &[&str] = &[
    "glm5_next", "glm5_next_text", "inkling2", "inkling2_loop", "inkling2_loop_text",
    "inkling2_text", "inkling_mm_model", "inkling_text", "jamba", "kimi_linear",
    "nemo_speechlm", "nemotron_h", "nemotron_h_omni", "zamba",
];

/// Vision towers.
#[rustfmt::skip]
const PATCHES: &[&str] = &[
    "cohere_compass_vision", "deepseek_ocr2_vision", "dinov3_vit",
    "dots3_note_vision_encoder", "edgetam_video", "efficientloftr", "eomt_dinov3",
    "ernie4_5_vl_moe_vision", "exaone4_5_vision", "gemma4_vision", "glm4v_moe_vision",
    "glm4v_vision", "glm5_next_vision", "glm_ocr_vision", "inkling2_vision",
    "kimi_k25_vision", "lfm3_vl_vision", "lightglue", "llama4_vision_model",
    "minimax_m3_vl_vision", "mlcd_vision_model", "muse_glimmer_vision", "muse_spark_vision",
    "paddleocr_vl_vision", "pixtral", "qwen2_5_omni_vision_encoder", "qwen2_5_vl_vision",
    "qwen2_vl_vision", "qwen3_5_moe_vision", "qwen3_5_vision",
    "qwen3_omni_moe_vision_encoder", "qwen3_vl_moe_vision", "qwen3_vl_vision",
    "qwen4_exp_vision", "sam2_video", "sam3", "sam3_tracker", "sam3_tracker_video",
    "sam3_video", "sam3_vision_model", "sam3_vit_model", "sapiens2", "step3p5_vision",
    "video_llama_3_vision", "vjepa2",
];

/// Several models in one file.
#[rustfmt::skip]
const PARTS: &[&str] = &[
    "blt", "esmfold2", "lasr_ctc", "nemotron3_5_transcribe_audio", "nemotron3_diarization",
    "qwen2_5_omni_token2wav",
];

/// Rotations that are not those of a query and a key.
#[rustfmt::skip]
const OWN: &[&str] = &[
    "clvp", "clvp_decoder", "clvp_encoder", "seamless_m4t", "seamless_m4t_v2",
    "wav2vec2-bert", "wav2vec2-conformer",
];

const TRAILING: &[&str] = &["deepseek_v4"];

/// The rest of transformers 5.24.
#[rustfmt::skip]
const NONE: &[&str] = &[
    "aimv2", "aimv2_text_model", "aimv2_vision_model", "albert", "align", "align_text_model",
    "align_vision_model", "altclip", "altclip_text_model", "altclip_vision_model",
    "apertus1p5_vision_tokenizer", "audio-spectrogram-transformer", "audioflamingo3_encoder",
    "autoformer", "bark", "bart", "beit", "bert", "bert-generation", "big_bird",
    "bigbird_pegasus", "biogpt", "bit", "blenderbot", "blenderbot-small", "blip", "blip-2",
    "blip_2_qformer", "blip_2_vision_model", "blip_text_model", "blip_vision_model",
    "bridgetower", "bridgetower_text_model", "bridgetower_vision_model", "bros", "camembert",
    "canary", "canary_decoder", "canine", "chameleon_vqgan", "chinese_clip",
    "chinese_clip_text_model", "chinese_clip_vision_model", "chmv2", "clap",
    "clap_audio_model", "clap_text_model", "clip", "clip_text_model", "clip_vision_model",
    "clipseg", "clipseg_text_model", "clipseg_vision_model", "coarse_acoustics", "cohere_asr",
    "conditional_detr", "convbert", "convnext", "convnextv2", "cosmos3_edge_vision", "cpmant",
    "ctrl", "cvt", "d_fine", "dab-detr", "dac", "data2vec-audio", "data2vec-text",
    "data2vec-vision", "deberta", "deberta-v2", "decision_transformer",
    "deepseek_ocr2_sam_vision_model", "deformable_detr", "deimv2", "deit", "depth_anything",
    "depth_pro", "detr", "dinat", "dinov2", "dinov2_with_registers", "dinov3_convnext",
    "distilbert", "donut-swin", "dpr", "dpt", "edgetam", "edgetam_mask_decoder",
    "edgetam_prompt_encoder", "edgetam_video_mask_decoder", "edgetam_video_prompt_encoder",
    "edgetam_vision_model", "efficientnet", "electra", "emu3_vqgan", "encodec",
    "encoder-decoder", "eomt", "ernie", "fastspeech2_conformer",
    "fastspeech2_conformer_hifigan", "fastspeech2_conformer_with_hifigan", "fine_acoustics",
    "flaubert", "flava", "flava_image_codebook", "flava_image_model",
    "flava_multimodal_model", "flava_text_model", "florence2", "florence_vision", "fnet",
    "focalnet", "fsmt", "fun_asr_nano_encoder", "funnel", "gemma3n_audio", "gemma3n_vision",
    "gemma4_audio", "gemma4_unified_audio", "gemma4_unified_vision", "git",
    "git_vision_model", "glm_image_vision", "glm_image_vqmodel", "glpn", "got_ocr2_vision",
    "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "granite_docling_vision",
    "granite_speech5_ctc", "granite_speech5_encoder", "granite_speech_encoder",
    "granite_speech_plus_encoder", "grounding-dino", "groupvit", "groupvit_text_model",
    "groupvit_vision_model", "hgnet_v2", "hiera", "higgs_audio_v2_tokenizer", "hubert",
    "hunyuan_vl_vision", "hy_v4_vl_vision", "ibert", "idefics2_perceiver", "idefics2_vision",
    "idefics3_vision", "idefics_perciever", "idefics_vision", "ijepa", "imagegpt", "informer",
    "inkling_audio", "inkling_vision", "instructblip", "instructblip_qformer",
    "instructblip_vision_model", "instructblipvideo", "instructblipvideo_qformer",
    "instructblipvideo_vision_model", "internvl_vision", "janus_vision_model", "janus_vqgan",
    "kosmos-2", "kosmos-2.5", "kosmos_2_5_text_model", "kosmos_2_5_vision_model",
    "kosmos_2_text_model", "kosmos_2_vision_model", "layoutlm", "layoutlmv2", "layoutlmv3",
    "layoutxlm", "led", "levit", "lilt", "longformer", "longt5", "luke", "lw_detr",
    "lw_detr_vit", "lxmert", "m2m_100", "marian", "markuplm", "mask2former", "maskformer",
    "maskformer-swin", "mbart", "megatron-bert", "metaclip_2", "metaclip_2_text_model",
    "metaclip_2_vision_model", "mgp-str", "minicpm_ocr_vision", "minicpmv4_6_vision",
    "minicpmv4_7_vision", "mllama_vision_model", "mm-grounding-dino", "mobilebert",
    "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "molmo2_adapter",
    "molmo2_vision", "moonshine_streaming_encoder", "moshi_depth",
    "moss_transcribe_diarize_audio", "mpnet", "mra", "mt5", "muse_spark_audio", "musicgen",
    "musicgen_decoder", "musicgen_melody", "musicgen_melody_decoder", "mvp",
    "nemotron3_5_asr", "nemotron_asr_streaming", "nemotron_asr_streaming_encoder", "nllb-moe",
    "nougat", "nystromformer", "omdet-turbo", "omniasr_audio", "omniasr_ctc", "oneformer",
    "openai-gpt", "opt", "ovis2_vision", "owlv2", "owlv2_text_model", "owlv2_vision_model",
    "owlvit", "owlvit_text_model", "owlvit_vision_model", "parakeet_ctc", "parakeet_encoder",
    "parakeet_rnnt", "parakeet_tdt", "patchtsmixer", "patchtst", "pegasus", "pegasus_x",
    "perceiver", "phi4_multimodal_audio", "phi4_multimodal_vision", "pix2struct",
    "pix2struct_text_model", "pix2struct_vision_model", "pixio", "plbart", "poolformer",
    "pop2piano", "pp_chart2table_vision", "pp_doclayout_v2", "pp_doclayout_v3",
    "pp_doclayout_v4", "pp_formulanet", "pp_formulanet_text", "pp_formulanet_vision",
    "pp_lcnet", "pp_lcnet_v3", "pp_lcnet_v4", "pp_ocrv5_mobile_det", "pp_ocrv5_mobile_rec",
    "pp_ocrv5_server_det", "pp_ocrv5_server_rec", "pp_ocrv6_medium_det", "pp_ocrv6_small_det",
    "pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec", "prompt_depth_anything", "prophetnet", "pvt",
    "pvt_v2", "qianfan_ocr_vision", "qwen2_5_omni_audio_encoder", "qwen2_5_omni_bigvgan",
    "qwen2_audio_encoder", "qwen3_asr_encoder", "qwen3_omni_moe_audio_encoder", "radio",
    "rag", "reformer", "regnet", "rembert", "resnet", "rf_detr", "rf_detr_dinov2", "roberta",
    "roberta-prelayernorm", "roc_bert", "rt_detr", "rt_detr_resnet", "rt_detr_v2", "sam",
    "sam2", "sam2_hiera_det_model", "sam2_mask_decoder", "sam2_prompt_encoder",
    "sam2_video_mask_decoder", "sam2_video_prompt_encoder", "sam2_vision_model",
    "sam3_detr_decoder", "sam3_detr_encoder", "sam3_geometry_encoder", "sam3_lite_text",
    "sam3_lite_text_detr_decoder", "sam3_lite_text_detr_encoder",
    "sam3_lite_text_geometry_encoder", "sam3_lite_text_mask_decoder",
    "sam3_lite_text_text_model", "sam3_mask_decoder", "sam3_tracker_mask_decoder",
    "sam3_tracker_prompt_encoder", "sam3_tracker_video_mask_decoder",
    "sam3_tracker_video_prompt_encoder", "sam_hq", "sam_hq_mask_decoder",
    "sam_hq_prompt_encoder", "sam_hq_vision_model", "sam_mask_decoder", "sam_prompt_encoder",
    "sam_vision_model", "sapiens2_head", "segformer", "seggpt", "semantic", "sew", "sew-d",
    "siglip", "siglip2", "siglip2_text_model", "siglip2_vision_model", "siglip_text_model",
    "siglip_vision_model", "slanet", "slanext", "slanext_vision", "smolvlm_vision",
    "speech-encoder-decoder", "speech_to_text", "speecht5", "speecht5_hifigan", "splinter",
    "squeezebert", "superglue", "superpoint", "swiftformer", "swin", "swin2sr", "swinv2",
    "switch_transformers", "t5", "table-transformer", "tapas", "textnet",
    "time_series_transformer", "timesfm", "timesformer", "timm_backbone", "timm_wrapper",
    "tipsv2", "tipsv2_dpt", "tipsv2_text_model", "tipsv2_vision_model", "trocr", "tvp",
    "udop", "umt5", "unispeech", "unispeech-sat", "univnet", "unlimited_ocr_sam_vision_model",
    "unlimited_ocr_vision", "unlimited_ocr_vision_encoder", "upernet", "uvdoc",
    "uvdoc_backbone", "vibevoice_acoustic_tokenizer", "vibevoice_acoustic_tokenizer_decoder",
    "vibevoice_acoustic_tokenizer_encoder", "vibevoice_diffusion", "videomae", "videomt",
    "videoprism", "videoprism_text_model", "videoprism_vision_model", "vilt",
    "vision-encoder-decoder", "vision-text-dual-encoder", "visual_bert", "vit", "vit_mae",
    "vit_msn", "vitdet", "vitmatte", "vitpose", "vitpose_backbone", "vits", "vivit",
    "voxtral_encoder", "wav2vec2", "wavlm", "wavtokenizer", "wavtokenizer_encoder", "whisper",
    "xclip", "xclip_text_model", "xclip_vision_model", "xcodec", "xglm", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet", "xmod", "yolos", "yoso", "zoedepth",
];
