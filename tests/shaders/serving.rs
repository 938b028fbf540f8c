//! Problems of the kernels that serve: appends, decode, merge.

use phasor::cache::{CacheFormat, CacheType};
use phasor::decode::DecodeProblem;
use phasor::kv_append::KvAppendProblem;
use phasor::kv_move::KvMoveProblem;
use phasor::merge::MergeProblem;
use phasor::rotary::Pairing;
use phasor::{Bias, DType, HeadMap, OutputHead, Phase, ScoreHook};

const CACHE_TYPES: [CacheType; 4] =
    [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
const DTYPES: [DType; 2] = [DType::F32, DType::F16];
const PAIRINGS: [Pairing; 4] =
    [Pairing::Half, Pairing::Interleaved, Pairing::InterleavedToHalf, Pairing::HalfBlocks(2)];

pub fn appends() -> Vec<KvAppendProblem> {
    let mut problems = Vec::new();
    for stored in CACHE_TYPES {
        for (paged, rotate) in [(false, false), (false, true), (true, true)] {
            for dtype in DTYPES {
                let cache = CacheFormat { k: stored, v: stored, paged, ..CacheFormat::new(2, 64) };
                problems.push(KvAppendProblem { dtype, rotate, ..KvAppendProblem::new(cache) });
            }
        }
    }
    let cache = CacheFormat { value_dim: 512, v_in_k: true, ..CacheFormat::new(1, 576) };
    problems.push(KvAppendProblem { rotary_dim: 64, ..KvAppendProblem::new(cache) });
    for pairing in PAIRINGS {
        for rotary_dim in [40, 12] {
            let problem = KvAppendProblem::new(CacheFormat::new(2, 40));
            problems.push(KvAppendProblem { pairing, rotary_dim, ..problem });
        }
    }
    problems
}

pub fn moves() -> Vec<KvMoveProblem> {
    let mut problems = Vec::new();
    for stored in CACHE_TYPES {
        for (paged, rotate) in [(false, false), (true, true)] {
            let cache = CacheFormat { k: stored, v: stored, paged, ..CacheFormat::new(2, 64) };
            problems.push(KvMoveProblem { rotate, ..KvMoveProblem::new(cache) });
        }
    }
    for pairing in PAIRINGS {
        let problem = KvMoveProblem::new(CacheFormat::new(2, 40));
        problems.push(KvMoveProblem { pairing, rotary_dim: 12, ..problem });
    }
    let cache = CacheFormat { value_dim: 512, v_in_k: true, ..CacheFormat::new(1, 576) };
    problems.push(KvMoveProblem { rotary_dim: 64, ..KvMoveProblem::new(cache) });
    problems
}

pub fn merges() -> Vec<MergeProblem> {
    let mut problems = vec![MergeProblem { sinks: vec![0.0; 40], ..MergeProblem::new(64) }];
    for part_dtype in DTYPES {
        for out_dtype in DTYPES {
            problems.push(MergeProblem { part_dtype, out_dtype, ..MergeProblem::new(64) });
        }
    }
    problems
}

pub fn decodes() -> Vec<DecodeProblem> {
    let plain = HeadMap::plain(4).unwrap();
    let both = HeadMap::ropepp(4).unwrap();
    let turned = HeadMap::imagx(4).unwrap();
    let third = |phi| OutputHead { source: 0, phase: Phase::radians(phi) };
    let mixed = HeadMap::new(1, vec![third(0.3), third(2.0)]).unwrap();
    let new = |heads: &HeadMap, cache, max_kv| DecodeProblem::new(heads.clone(), cache, 1, max_kv);

    let mut problems = Vec::new();
    // One split, and several.
    for max_kv in [64, 1 << 16] {
        for heads in [&plain, &both, &turned, &mixed] {
            for rotate_q in [false, true] {
                let cache = CacheFormat::new(1, 64);
                problems.push(DecodeProblem { rotate_q, ..new(heads, cache, max_kv) });
            }
        }
        for stored in CACHE_TYPES {
            for (paged, lse) in [(false, true), (true, false), (true, true)] {
                let (k, v) = (stored, stored);
                let cache = CacheFormat { k, v, paged, ..CacheFormat::new(1, 64) };
                let sinks = if lse { vec![0.0; 8] } else { Vec::new() };
                problems.push(DecodeProblem { lse, sinks, ..new(&both, cache, max_kv) });
            }
        }
        let (q_dtype, out_dtype) = (DType::F16, DType::F16);
        let cache = CacheFormat::new(1, 64);
        problems.push(DecodeProblem { q_dtype, out_dtype, ..new(&both, cache, max_kv) });
    }
    for max_kv in [64, 1 << 16] {
        let problem = new(&both, CacheFormat::new(1, 64), max_kv);
        let score = "fn score_mod(s: f32, b: u32, h: u32, q: i32, k: i32) -> f32 { return s; }";
        let score_mod = Some(ScoreHook::new(score).unwrap());
        let alibi_slopes = vec![0.5; 8];
        problems.extend([
            DecodeProblem { alibi_slopes: alibi_slopes.clone(), ..problem.clone() },
            DecodeProblem { bias: Some(Bias::Additive), ..problem.clone() },
            DecodeProblem { bias: Some(Bias::Mask), ..problem.clone() },
            DecodeProblem { alibi_slopes, score_mod, ..problem },
        ]);
    }
    // With eight bindings, merged even where one split would do.
    let cache = CacheFormat { paged: true, ..CacheFormat::new(1, 64) };
    problems.push(DecodeProblem { lse: true, rotate_q: true, ..new(&both, cache, 64) });
    // Their lengths and tables are in one buffer then.
    for (lse, bias) in [(true, Some(Bias::Additive)), (false, Some(Bias::Mask))] {
        problems.push(DecodeProblem { lse, bias, rotate_q: true, ..new(&both, cache, 64) });
    }
    for (head_dim, value_dim) in [(8, 8), (72, 40), (128, 128), (256, 256), (8, 256), (576, 512)] {
        let cache = CacheFormat { value_dim, ..CacheFormat::new(1, head_dim) };
        problems.push(new(&plain, cache, 4096));
        problems.push(DecodeProblem { max_seq_q: 16, ..new(&both, cache, 4096) });
    }
    for pairing in PAIRINGS {
        for rotary_dim in [80u32, 32, 20, 6] {
            if matches!(pairing, Pairing::HalfBlocks(_)) && !rotary_dim.is_multiple_of(16) {
                continue;
            }
            let problem = new(&both, CacheFormat::new(1, 80), 64);
            problems.push(DecodeProblem { pairing, rotary_dim, rotate_q: true, ..problem });
        }
    }
    problems
}

/// Whether a cache holds halves, as elements or as scales.
pub fn halves(cache: &CacheFormat) -> bool {
    [cache.k, cache.v].iter().any(|kind| *kind != CacheType::F32)
}
