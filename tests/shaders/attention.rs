//! Attention's problems and those of its gradients, each of another shader.

use phasor::attention::{Alignment, AttentionProblem, Keys, Outputs, Queries};
use phasor::attention_backward::AttentionBackwardProblem;
use phasor::cache::{CacheFormat, CacheType::*};
use phasor::{Bias, DType, HeadMap, MaskHook, OutputHead, Phase, ScoreHook};

use crate::variants::PAIRINGS;

pub fn attention(heads: &HeadMap, head_dim: u32) -> AttentionProblem {
    AttentionProblem::new(heads.clone(), 1, head_dim)
}

pub fn sizes() -> Vec<AttentionProblem> {
    let plain = HeadMap::plain(3).unwrap();
    let both = HeadMap::ropepp(3).unwrap();
    let turned = HeadMap::imagx(3).unwrap();
    let mut problems = Vec::new();
    for head_dim in [8, 40, 64, 72, 80, 96, 112, 128, 192, 256] {
        for heads in [&plain, &both, &turned] {
            problems.push(attention(heads, head_dim));
        }
        problems.push(AttentionProblem { rotate_q: true, ..attention(&both, head_dim) });
    }
    for (head_dim, value_dim) in [(64, 128), (72, 40), (192, 128), (8, 256), (256, 8)] {
        for heads in [&plain, &both] {
            problems.push(AttentionProblem { value_dim, ..attention(heads, head_dim) });
        }
    }
    problems
}

pub fn choices() -> Vec<AttentionProblem> {
    let plain = HeadMap::plain(3).unwrap();
    let both = HeadMap::ropepp(3).unwrap();
    let turned = HeadMap::imagx(3).unwrap();
    let head = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let mixed = HeadMap::new(1, vec![head(0, 0.3), head(0, 2.0)]).unwrap();
    // Two outputs of one query head and one of the other: a row of the table with a stream unused.
    let uneven = HeadMap::new(2, vec![head(0, 0.0), head(0, 1.0), head(1, 0.5)]).unwrap();

    let mut problems = Vec::new();
    for rotate_q in [false, true] {
        for heads in [&plain, &both, &turned, &mixed, &uneven] {
            problems.push(AttentionProblem { rotate_q, ..attention(heads, 64) });
        }
        for (causal, lse) in [(false, false), (false, true), (true, true)] {
            problems.push(AttentionProblem { rotate_q, causal, lse, ..attention(&both, 64) });
        }
    }
    let dtypes = [DType::F32, DType::F16];
    for q_dtype in dtypes {
        for kv_dtype in dtypes {
            for out_dtype in dtypes {
                for (heads, outputs) in [(&plain, Outputs::Merged), (&both, Outputs::Split)] {
                    let problem = attention(heads, 128);
                    let problem = AttentionProblem { q_dtype, kv_dtype, out_dtype, ..problem };
                    problems.push(AttentionProblem { outputs, ..problem });
                }
            }
        }
    }
    for pairing in PAIRINGS {
        for (head_dim, rotary_dim) in [(96, 96), (80, 32)] {
            for (outputs, rotate_q) in
                [(Outputs::Merged, false), (Outputs::Merged, true), (Outputs::Split, true)]
            {
                let problem = attention(&both, head_dim);
                let problem = AttentionProblem { pairing, rotary_dim, ..problem };
                problems.push(AttentionProblem { outputs, rotate_q, ..problem });
            }
        }
    }
    // More than eight buffers, unless lengths and tables share one.
    let paged = CacheFormat { paged: true, ..CacheFormat::new(1, 64) };
    let crowded = AttentionProblem {
        queries: Queries::Ragged,
        rotate_q: true,
        lse: true,
        prefix: true,
        block_list: true,
        ..AttentionProblem::over(both.clone(), paged)
    };
    let keys = Keys::Ragged;
    problems.push(AttentionProblem { keys, ..crowded.clone() });
    problems.push(AttentionProblem { outputs: Outputs::Split, lse: false, ..crowded.clone() });
    // Nine are nine.
    problems.push(AttentionProblem { outputs: Outputs::Split, ..crowded.clone() });
    problems.push(crowded);
    for queries in [Queries::Batched, Queries::Ragged] {
        let paged = CacheFormat { paged: true, ..CacheFormat::new(1, 64) };
        for keys in [Keys::Batched, Keys::Ragged, Keys::Cache(paged)] {
            for rotate_q in [false, true] {
                let problem = attention(&both, 64);
                let problem = AttentionProblem { queries, keys, rotate_q, ..problem };
                problems.push(AttentionProblem { alignment: Alignment::LastKey, ..problem });
            }
        }
    }
    // Caches of every format: both sides in each storage, slots that are used again, both at once.
    for (k, v) in [(F16, F16), (Int8, Int8), (Q4, Q4), (Int8, Q4), (F32, Int8)] {
        for (paged, rolling) in [(false, false), (true, false), (false, true)] {
            let cache = CacheFormat { k, v, paged, rolling, ..CacheFormat::new(1, 64) };
            let problem = AttentionProblem::over(both.clone(), cache);
            problems.push(AttentionProblem { bias: rolling.then_some(Bias::Mask), ..problem });
        }
    }
    for heads in [&plain, &both] {
        let n = heads.heads().len();
        let softcap = AttentionProblem { softcap: Some(30.0), ..attention(heads, 64) };
        let alibi = AttentionProblem { alibi_slopes: vec![0.5; n], ..attention(heads, 64) };
        let sinks = AttentionProblem { sinks: vec![1.0; n], ..attention(heads, 64) };
        let window = AttentionProblem { window: Some(100), ..attention(heads, 64) };
        let (alibi_slopes, softcap_too) = (alibi.alibi_slopes.clone(), softcap.softcap);
        let all = AttentionProblem { alibi_slopes, softcap: softcap_too, ..sinks.clone() };
        let prefix = AttentionProblem { prefix: true, ..attention(heads, 64) };
        problems.extend([softcap, alibi, sinks, window, all, prefix]);
        let mask =
            "fn mask_mod(b: u32, h: u32, q: i32, k: i32) -> bool { return q / 64 == k / 64; }";
        let score = "fn score_mod(s: f32, b: u32, h: u32, q: i32, k: i32) -> f32 { return s; }";
        let mask_mod = Some(MaskHook::new(mask).unwrap());
        let score_mod = Some(ScoreHook::new(score).unwrap());
        problems.extend([
            AttentionProblem { score_mod, ..attention(heads, 64) },
            AttentionProblem { mask_mod, block_list: true, ..attention(heads, 64) },
            AttentionProblem { resumable: true, ..attention(heads, 64) },
            AttentionProblem { resumable: true, rotate_q: true, ..attention(heads, 128) },
        ]);
        for bias in [Some(Bias::Additive), Some(Bias::Mask)] {
            problems.push(AttentionProblem { bias, ..attention(heads, 64) });
            problems.push(AttentionProblem { bias, rotate_q: true, ..attention(heads, 64) });
        }
    }
    // Pairs that do not fill groups of four, with a tail behind them.
    for rotary_dim in [2, 20, 36, 54] {
        problems.push(AttentionProblem { rotary_dim, rotate_q: true, ..attention(&both, 72) });
    }
    problems
}

pub fn problems_of_gradients() -> Vec<AttentionBackwardProblem> {
    let plain = HeadMap::plain(3).unwrap();
    let both = HeadMap::ropepp(3).unwrap();
    let turned = HeadMap::imagx(3).unwrap();
    let of = |attention| AttentionBackwardProblem::new(attention);
    let mut problems = Vec::new();
    for head_dim in [8, 64, 72, 128, 256] {
        for heads in [&plain, &both] {
            problems.push(of(attention(heads, head_dim)));
        }
    }
    problems.push(of(AttentionProblem { value_dim: 128, ..attention(&turned, 64) }));
    let head = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let mixed = HeadMap::new(2, vec![head(0, 0.3), head(0, 2.0), head(1, 0.5)]).unwrap();
    problems.push(of(attention(&mixed, 64)));
    for pairing in PAIRINGS {
        for rotary_dim in [80, 32] {
            let rotating =
                AttentionProblem { pairing, rotary_dim, rotate_q: true, ..attention(&both, 80) };
            problems.push(of(rotating.clone()));
            problems.push(AttentionBackwardProblem { unrotate: false, ..of(rotating) });
        }
    }
    let f16 = DType::F16;
    let stored =
        AttentionProblem { q_dtype: f16, kv_dtype: f16, out_dtype: f16, ..attention(&both, 64) };
    let ragged = AttentionProblem {
        queries: Queries::Ragged,
        keys: Keys::Ragged,
        alignment: Alignment::LastKey,
        ..attention(&both, 64)
    };
    let mask = "fn mask_mod(b: u32, h: u32, q: i32, k: i32) -> bool { return q / 64 == k / 64; }";
    let hooked =
        AttentionProblem { mask_mod: Some(MaskHook::new(mask).unwrap()), ..attention(&both, 64) };
    let prefix = AttentionProblem { prefix: true, ..attention(&both, 64) };
    let masked = AttentionProblem { bias: Some(Bias::Mask), ..attention(&both, 64) };
    problems.extend([stored, ragged, hooked, prefix, masked].map(of));
    let all = AttentionProblem {
        window: Some(100),
        softcap: Some(30.0),
        alibi_slopes: vec![0.5; 6],
        sinks: vec![1.0; 6],
        bias: Some(Bias::Additive),
        ..attention(&both, 64)
    };
    let (d_lse, d_sinks, d_bias) = (true, true, true);
    problems.push(AttentionBackwardProblem { d_lse, d_sinks, d_bias, ..of(all) });
    problems
}
