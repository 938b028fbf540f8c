//! What holds whatever the numbers are. Small shapes and few cases, all through the pipelines that
//! the tables use.

mod bitwise;
mod places;
mod rotation;
mod softmax;

use std::fmt::Debug;

use phasor_kit::tolerance::{Bound, compare};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    attention::{Case, Outcome, Reference},
    harness::Result,
};

/// Tries a few values of `inputs`, and fails with the smallest that it finds to be wrong.
fn property<T: Debug>(inputs: impl Strategy<Value = T>, holds: impl Fn(T) -> Result) {
    let config =
        Config { cases: 8, max_shrink_iters: 32, failure_persistence: None, ..Config::default() };
    let test = |x| holds(x).map_err(|error| TestCaseError::fail(error.to_string()));
    if let Err(error) = TestRunner::new(config).run(&inputs, test) {
        panic!("{error}");
    }
}

/// Holds two outcomes together, each of which may be off by its own bound.
fn close(case: &Case, [a, b]: [&Outcome; 2], bounds: [&Reference; 2]) -> Result {
    let sum = |of: fn(&Reference) -> &Bound| {
        let [a, b] = bounds.map(|reference| match of(reference) {
            Bound::Uniform(bound) => *bound,
            Bound::PerPosition(bounds) => bounds.iter().copied().fold(0.0, f64::max),
        });
        Bound::Uniform(a + b)
    };
    let shape = case.out_shape();
    compare("out", &a.out, &b.out, &sum(|reference| &reference.out), shape)?;
    if let (Some(a), Some(b)) = (&a.lse, &b.lse) {
        let rows = [shape[0], shape[1], shape[2], 1];
        compare("lse", a, b, &sum(|reference| &reference.lse), rows)?;
    }
    Ok(())
}
