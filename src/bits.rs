//! `Eq` and `Hash` of what holds floats, so that problems can be keys of a map.

use core::hash::{Hash, Hasher};

/// A float, or several, that are equal where their bits are; a zero has one sign. Unlike `==`, it
/// takes a NaN for equal to itself, as a key has to be.
pub(crate) trait Bits {
    fn same(&self, other: &Self) -> bool;
    fn feed<H: Hasher>(&self, state: &mut H);
}

macro_rules! float {
    ($float:ty) => {
        impl Bits for $float {
            fn same(&self, other: &Self) -> bool {
                (self + 0.0).to_bits() == (other + 0.0).to_bits()
            }

            fn feed<H: Hasher>(&self, state: &mut H) {
                (self + 0.0).to_bits().hash(state);
            }
        }
    };
}
float!(f32);
float!(f64);

impl<T: Bits> Bits for Option<T> {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(a), Some(b)) => a.same(b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }

    fn feed<H: Hasher>(&self, state: &mut H) {
        self.is_some().hash(state);
        self.iter().for_each(|x| x.feed(state));
    }
}

impl<T: Bits> Bits for Vec<T> {
    fn same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(a, b)| a.same(b))
    }

    fn feed<H: Hasher>(&self, state: &mut H) {
        self.len().hash(state);
        self.iter().for_each(|x| x.feed(state));
    }
}

/// `PartialEq`, `Eq` and `Hash` of a struct, its floats behind a semicolon. A field that is missing
/// here does not compile.
macro_rules! eq_by_bits {
    ($name:ty { $($field:ident),* $(,)?; $($float:ident),* $(,)? }) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                $(self.$field == other.$field &&)*
                $($crate::bits::Bits::same(&self.$float, &other.$float) &&)*
                true
            }
        }

        impl Eq for $name {}

        impl core::hash::Hash for $name {
            fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
                let Self { $($field,)* $($float,)* } = self;
                $($field.hash(state);)*
                $($crate::bits::Bits::feed($float, state);)*
            }
        }
    };
}
pub(crate) use eq_by_bits;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::attention::AttentionProblem;
    use crate::{HeadMap, OutputHead, Phase};

    #[test]
    fn problems_are_keys() {
        let base = AttentionProblem::new(HeadMap::ropepp(4).unwrap(), 2, 64);
        let phase = |phi| {
            let head = OutputHead { source: 0, phase: Phase::radians(phi) };
            AttentionProblem::new(HeadMap::new(1, vec![head]).unwrap(), 1, 64)
        };
        let different = [
            base.clone(),
            AttentionProblem { softmax_scale: base.softmax_scale.next_up(), ..base.clone() },
            AttentionProblem { softcap: Some(f32::NAN), ..base.clone() },
            AttentionProblem { softcap: Some(0.0), ..base.clone() },
            AttentionProblem { sinks: vec![0.0; 8], ..base.clone() },
            AttentionProblem { alibi_slopes: vec![0.0; 8], ..base.clone() },
            AttentionProblem { lse: true, ..base.clone() },
            phase(0.5),
            phase(0.5f64.next_up()),
        ];
        let mut seen = HashSet::new();
        assert!(different.iter().all(|problem| seen.insert(problem.clone())));
        assert!(!different.iter().any(|problem| seen.insert(problem.clone())));
        assert!(!seen.insert(AttentionProblem { softcap: Some(-0.0), ..base }));
        assert_eq!(Phase::radians(-0.0), Phase::REAL);
    }
}
