//! The tuner on this adapter, with no time to spend: the default tiles alone are timed and kept.

use std::time::Duration;

use phasor::attention::AttentionShape;
use phasor::decode::{DecodeProblem, DecodeShape};
use phasor::tuner;

use crate::harness::lab;
use crate::{attention, attention_backward, decode};

#[test]
fn the_default_is_timed_first_and_kept() {
    let gpu = &lab().gpu;
    let (caps, shape) = (gpu.capabilities(), AttentionShape::new(1, 40, 40));
    let problem = attention::control();
    let tuning =
        tuner::attention(&gpu.device, &gpu.queue, &problem, &shape, Duration::ZERO).unwrap();
    assert!(tuning.trials.len() == 1 && tuning.wrong.is_empty() && tuning.candidates > 1);
    let line = tuning.choice.to_string();
    let choice: tuner::Choice = line.parse().unwrap();
    assert_eq!(choice.plan(&problem, &caps).unwrap(), problem.plan(&caps).unwrap());

    let problem = attention_backward::control();
    let (device, queue) = (&gpu.device, &gpu.queue);
    let tuning =
        tuner::attention_backward(device, queue, &problem, &shape, Duration::ZERO).unwrap();
    assert!(tuning.trials.len() == 1 && tuning.wrong.is_empty() && tuning.candidates > 1);
    let line = tuning.choice.to_string();
    let choice: tuner::Choice<[phasor::attention_backward::Tile; 2]> = line.parse().unwrap();
    assert_eq!(choice, tuning.choice);
    assert_eq!(choice.plan(&problem, &caps).unwrap(), problem.plan(&caps).unwrap());

    let case = decode::small(phasor::HeadMap::ropepp(4).unwrap(), 2, 32, &[120]);
    let (problem, shape) = (DecodeProblem { lse: false, ..case.problem }, DecodeShape::new(1, 1));
    let tuning = tuner::decode(device, queue, &problem, &shape, Duration::ZERO).unwrap();
    assert!(tuning.trials.len() == 1 && tuning.wrong.is_empty() && tuning.candidates > 1);
    let line = tuning.choice.to_string();
    let choice: tuner::Choice<(phasor::decode::Tile, u32)> = line.parse().unwrap();
    assert_eq!(choice, tuning.choice);
    assert_eq!(choice.plan(&problem, &caps).unwrap(), problem.plan(&caps).unwrap());
}
