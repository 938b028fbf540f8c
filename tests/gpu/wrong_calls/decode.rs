//! Wrong problems of decode, and a window that its cache has no room for.

use phasor::cache::CacheType;
use phasor::{Capabilities, Error, HeadMap};

use super::problems;
use crate::{
    decode::small,
    harness::{lab, run_table},
};

#[test]
pub fn problems() {
    let right = small(HeadMap::ropepp(4).unwrap(), 2, 16, &[9]).problem;
    let table = problems! { right.clone(), |p|
        "head_dim 12": p.cache.head_dim = 12 => Invalid { what: "head_dim", .. };
        "head_dim 584": p.cache.head_dim = 584 => Invalid { what: "head_dim", .. };
        "value_dim 0": p.cache.value_dim = 0 => Invalid { what: "value_dim", .. };
        "three kv heads for four": p.cache.kv_heads = 3 => Invalid { what: "kv_heads", .. };
        "no kv heads": p.cache.kv_heads = 0 => Invalid { what: "kv_heads", .. };
        "half a q4 block": p.cache.k = CacheType::Q4 => Invalid { what: "head_dim", .. };
        "17 rows": p.max_seq_q = 17 => Invalid { what: "max_seq_q", .. };
        "no rows": p.max_seq_q = 0 => Invalid { what: "max_seq_q", .. };
        "a scale that is no number": p.softmax_scale = f32::NAN
            => Invalid { what: "softmax_scale", .. };
        "a softcap of 0": p.softcap = Some(0.0) => Invalid { what: "softcap", .. };
        "a window of no keys": p.window = Some(0) => Invalid { what: "window", .. };
        "four sinks for eight heads": p.sinks = vec![0.0; 4] => Invalid { what: "sinks", .. };
        "sinks that are no numbers": p.sinks = vec![f32::NAN; 8] => Invalid { what: "sinks", .. };
        "four slopes for eight heads": p.alibi_slopes = vec![0.0; 4]
            => Invalid { what: "alibi_slopes", .. };
        "slopes that are no numbers": p.alibi_slopes = vec![f32::NAN; 8]
            => Invalid { what: "alibi_slopes", .. };
        "rotary_dim above head_dim": p.rotary_dim = 18 => Invalid { what: "rotary_dim", .. };
    };
    let caps = Capabilities::webgpu_default();
    run_table(&table, |(problem, expected)| expected.check(problem.plan(&caps)));
}

#[test]
fn a_window_wider_than_a_rolling_cache() {
    let mut case = small(HeadMap::ropepp(4).unwrap(), 2, 16, &[9, 20]);
    let inputs = case.inputs().unwrap();
    (case.problem.cache.rolling, case.problem.window) = (true, Some(26));
    let error = case.run_on(lab(), &inputs, &[9, 20]).map(drop).unwrap_err();
    let error = *error.downcast::<Error>().unwrap();
    assert!(matches!(error, Error::Invalid { what: "window", .. }), "{error}");
}
