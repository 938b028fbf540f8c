//! Kinds of files that are known but not computed yet. Each of their cases is listed by name.

use super::{Cases, NotCovered, Result, read::*};
use crate::golden::File;

/// Cases of a file that a feature stands behind, and why they are not run.
type Feature = (fn(&File) -> Vec<String>, &'static str);

const FEATURES: &[Feature] = &[(backward, "gradients of attention are not computed yet")];

pub fn recognises(file: &File) -> bool {
    FEATURES.iter().any(|(cases, _)| !cases(file).is_empty())
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut all = Cases::default();
    for (cases, reason) in FEATURES {
        all.not_covered.extend(
            cases(file).into_iter().map(|case| NotCovered {
                name: case_name(file, &case),
                reason: (*reason).to_owned(),
            }),
        );
    }
    Ok(all)
}

fn backward(file: &File) -> Vec<String> {
    prefixes(file, ".dq").into_iter().collect()
}
