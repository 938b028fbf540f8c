//! The two precisions that the oracle computes in.

use core::{
    fmt::Debug,
    ops::{Add, AddAssign, Div, Mul, Neg, Sub},
};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A real number: `f64` for the truth, `f32` for the naive run that a kernel is measured against.
///
/// Sealed: a third precision would need bounds of its own.
pub trait Real:
    sealed::Sealed
    + Copy
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// 0.
    const ZERO: Self;
    /// −∞, the score of a masked key and the log-sum-exp of a fully masked row.
    const NEG_INFINITY: Self;

    /// Rounds to this precision.
    fn from_f64(x: f64) -> Self;
    /// Widens to double precision, which is exact.
    fn to_f64(self) -> f64;
    /// e^x.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// The larger of two numbers. A NaN on either side stays: it must not vanish in a maximum.
    fn max(self, other: Self) -> Self;
}

macro_rules! real {
    ($($float:ident)*) => {$(
        impl Real for $float {
            const ZERO: Self = 0.0;
            const NEG_INFINITY: Self = $float::NEG_INFINITY;

            fn from_f64(x: f64) -> Self {
                x as $float
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                $float::exp(self)
            }
            fn ln(self) -> Self {
                $float::ln(self)
            }
            fn max(self, other: Self) -> Self {
                if other > self || other.is_nan() { other } else { self }
            }
        }
    )*};
}

real!(f32 f64);
