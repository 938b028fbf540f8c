//! Double-double arithmetic: an unevaluated sum of two f64, about 106 bits of mantissa.
//!
//! A frequency rounded to f64 is off by 2^-53 of itself; at position 2^20 that is 1e-10 of angle,
//! more than one f32 ulp wherever sine or cosine come near zero. Frequencies are therefore formed
//! here and rounded only after the angle has been reduced. Algorithms: Dekker (1971), Knuth's
//! two-sum, and the exponential of Hida, Li and Bailey's QD library (2001).

use core::{
    cmp::Ordering,
    ops::{Add, Div, Mul, Neg, Sub},
};

/// `hi + lo` with `|lo| <= ulp(hi) / 2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dd {
    pub hi: f64,
    pub lo: f64,
}

/// 2π to 107 bits.
pub(super) const TAU: Dd = Dd { hi: core::f64::consts::TAU, lo: 2.449_293_598_294_706_4e-16 };
/// ln 2 to 107 bits.
const LN_2: Dd = Dd { hi: core::f64::consts::LN_2, lo: 2.319_046_813_846_299_6e-17 };

/// The sum of any two f64, exactly.
fn two_sum(a: f64, b: f64) -> Dd {
    let hi = a + b;
    let part = hi - a;
    Dd { hi, lo: (a - (hi - part)) + (b - part) }
}

/// The same for `|a| >= |b|`.
fn quick_two_sum(a: f64, b: f64) -> Dd {
    let hi = a + b;
    Dd { hi, lo: b - (hi - a) }
}

/// The product of two f64, exactly.
fn two_prod(a: f64, b: f64) -> Dd {
    let hi = a * b;
    Dd { hi, lo: a.mul_add(b, -hi) }
}

impl Dd {
    pub(super) const ZERO: Dd = Dd { hi: 0.0, lo: 0.0 };
    pub(super) const ONE: Dd = Dd { hi: 1.0, lo: 0.0 };

    /// `a / b`, to the full width.
    pub(super) fn ratio(a: f64, b: f64) -> Self {
        Dd::from(a) / Dd::from(b)
    }

    pub(super) fn is_finite(self) -> bool {
        self.hi.is_finite() && self.lo.is_finite()
    }

    /// Multiplication by a power of two, which is exact.
    fn scale(self, power_of_two: f64) -> Self {
        Dd { hi: self.hi * power_of_two, lo: self.lo * power_of_two }
    }

    /// e^self, to about 1e-30 of itself while the low part of the result stays a normal number
    /// (exponents from about -670).
    pub(super) fn exp(self) -> Self {
        const HALVINGS: i32 = 9;
        if self.hi.abs() > 709.0 || self.hi.is_nan() {
            return Dd::from(self.hi.exp());
        }
        let k = (self.hi / LN_2.hi).round();
        let r = (self - LN_2 * Dd::from(k)).scale(0.5f64.powi(HALVINGS));
        // e^r - 1 by its Taylor series: |r| < 0.0007, so that the tenth term is below 1e-38.
        let mut term = r;
        let mut sum = r;
        for n in 2..=10 {
            term = term * r / Dd::from(f64::from(n));
            sum = sum + term;
        }
        // (1 + s)^2 - 1 = 2s + s^2 keeps the small number apart from the one.
        for _ in 0..HALVINGS {
            sum = sum.scale(2.0) + sum * sum;
        }
        let y = sum + Dd::ONE;
        // In two steps, since 2^k itself may leave the range of f64 where the product does not.
        let half = (k as i32) / 2;
        y.scale(2f64.powi(half)).scale(2f64.powi(k as i32 - half))
    }

    /// ln self for a positive number up to about 1e290: one Newton step from the f64 logarithm.
    pub(super) fn ln(self) -> Self {
        let y = Dd::from(self.hi.ln());
        if !y.is_finite() {
            return y;
        }
        y + (self * (-y).exp() - Dd::ONE)
    }

    /// self^exponent for a positive base.
    pub(super) fn powf(self, exponent: Dd) -> Self {
        (self.ln() * exponent).exp()
    }

    /// The larger of the two; `other` when one is no number.
    pub(super) fn max(self, other: Dd) -> Self {
        if self > other { self } else { other }
    }

    /// The smaller of the two; `other` when one is no number.
    pub(super) fn min(self, other: Dd) -> Self {
        if self < other { self } else { other }
    }

    /// Largest integer not above.
    pub(super) fn floor(self) -> Self {
        let hi = self.hi.floor();
        if hi == self.hi { quick_two_sum(hi, self.lo.floor()) } else { Dd::from(hi) }
    }

    /// Smallest integer not below.
    pub(super) fn ceil(self) -> Self {
        -(-self).floor()
    }

    /// The value modulo one, as an unsigned 128-bit binary fraction: the integer returned stands
    /// for `n / 2^128`. Wrapping arithmetic on it is arithmetic modulo one.
    pub(super) fn fraction(self) -> u128 {
        fraction(self.hi).wrapping_add(fraction(self.lo))
    }
}

/// `x` modulo one in units of 2^-128, rounded to nearest.
fn fraction(x: f64) -> u128 {
    const MANTISSA: u32 = 52;
    let bits = x.abs().to_bits();
    let exponent = (bits >> MANTISSA) as i32;
    if exponent == 0 || !x.is_finite() {
        return 0; // below 2^-1022, or no number: the caller has refused the latter
    }
    let mantissa = u128::from((bits & ((1 << MANTISSA) - 1)) | (1 << MANTISSA));
    // x = mantissa * 2^(exponent - 1023 - 52); in units of 2^-128 that is a shift by:
    let shift = exponent - 1023 - MANTISSA as i32 + 128;
    let magnitude = match shift {
        128.. => 0, // a whole number
        0..128 => mantissa << shift,
        -54..0 => ((mantissa >> (-shift - 1)) + 1) >> 1,
        _ => 0,
    };
    if x < 0.0 { magnitude.wrapping_neg() } else { magnitude }
}

impl From<f64> for Dd {
    fn from(hi: f64) -> Self {
        Dd { hi, lo: 0.0 }
    }
}

impl Add for Dd {
    type Output = Dd;
    fn add(self, other: Dd) -> Dd {
        let high = two_sum(self.hi, other.hi);
        let low = two_sum(self.lo, other.lo);
        let high = quick_two_sum(high.hi, high.lo + low.hi);
        quick_two_sum(high.hi, high.lo + low.lo)
    }
}

impl Neg for Dd {
    type Output = Dd;
    fn neg(self) -> Dd {
        Dd { hi: -self.hi, lo: -self.lo }
    }
}

impl Sub for Dd {
    type Output = Dd;
    fn sub(self, other: Dd) -> Dd {
        self + -other
    }
}

impl Mul for Dd {
    type Output = Dd;
    fn mul(self, other: Dd) -> Dd {
        let product = two_prod(self.hi, other.hi);
        quick_two_sum(product.hi, product.lo + (self.hi * other.lo + self.lo * other.hi))
    }
}

impl Div for Dd {
    type Output = Dd;
    fn div(self, other: Dd) -> Dd {
        // Long division: three quotient digits of 53 bits each, the third for the rounding.
        let q1 = self.hi / other.hi;
        let rest = self - other * Dd::from(q1);
        let q2 = rest.hi / other.hi;
        let rest = rest - other * Dd::from(q2);
        let q3 = rest.hi / other.hi;
        quick_two_sum(q1, q2) + Dd::from(q3)
    }
}

impl PartialOrd for Dd {
    fn partial_cmp(&self, other: &Dd) -> Option<Ordering> {
        match self.hi.partial_cmp(&other.hi) {
            Some(Ordering::Equal) => self.lo.partial_cmp(&other.lo),
            order => order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance relative to the expected value, which mpmath gave as two f64.
    fn error(x: Dd, hi: f64, lo: f64) -> f64 {
        ((x - Dd { hi, lo }).hi / hi).abs()
    }

    #[test]
    fn functions_are_good_to_30_digits() {
        for (x, hi, lo) in EXP {
            let error = error(Dd::from(x).exp(), hi, lo);
            assert!(error < 1e-29, "exp {x}: {error:e}");
        }
        for (x, hi, lo) in LN {
            let error = error(Dd::from(x).ln(), hi, lo);
            assert!(error < 1e-29, "ln {x}: {error:e}");
        }
        assert_eq!(Dd::ZERO.exp(), Dd::ONE);
        assert_eq!(Dd::ONE.ln(), Dd::ZERO);
    }

    #[test]
    fn division_undoes_multiplication() {
        for (a, b) in [(1.0, 3.0), (2e-7, 7.1), (1e6, -9.3), (0.1, 1e-20)] {
            let back = Dd::ratio(a, b) * Dd::from(b) - Dd::from(a);
            assert!((back.hi / a).abs() < 1e-31, "{a} / {b}: {back:?}");
        }
    }

    #[test]
    fn rounding_looks_at_the_low_part() {
        let below = Dd { hi: 3.0, lo: -1e-20 };
        let above = Dd { hi: 3.0, lo: 1e-20 };
        assert_eq!((below.floor().hi, below.ceil().hi), (2.0, 3.0));
        assert_eq!((above.floor().hi, above.ceil().hi), (3.0, 4.0));
        assert_eq!((Dd::from(-2.5).floor().hi, Dd::from(-2.5).ceil().hi), (-3.0, -2.0));
    }

    #[test]
    fn fractions_of_a_turn() {
        let half = 1u128 << 127;
        assert_eq!(Dd::from(0.5).fraction(), half);
        assert_eq!(Dd::from(-0.25).fraction(), half + (half >> 1));
        assert_eq!(Dd::from(7.5).fraction(), half);
        assert_eq!(Dd::from(1e300).fraction(), 0);
        assert_eq!(Dd { hi: 1.0, lo: -2f64.powi(-120) }.fraction(), 0u128.wrapping_sub(1 << 8));
        assert_eq!(Dd::from(2f64.powi(-128)).fraction(), 1);
        assert_eq!(Dd::from(2f64.powi(-129)).fraction(), 1); // half a unit, rounded up
        assert_eq!(Dd::from(2f64.powi(-131)).fraction(), 0);
        assert_eq!(Dd::from(f64::MIN_POSITIVE / 4.0).fraction(), 0);
    }

    const EXP: [(f64, f64, f64); 7] = [
        (1.25, 3.4903429574618414, -4.604261945372796e-17),
        (-0.5, 0.6065306597126334, -6.593178415491414e-19),
        (-9.210340371976184, 9.999999999999991e-05, 3.245267554805768e-21),
        (1e-09, 1.000000001, -8.224037093664211e-17),
        (13.1, 488942.41461545986, 2.8855838860080244e-11),
        (-300.25, 4.009422364622857e-131, -9.421845746665655e-148),
        (650.0, 1.956199921370272e+282, -3.231454913676498e+265),
    ];
    const LN: [(f64, f64, f64); 7] = [
        (3.0, 1.0986122886681098, -9.07129723500153e-17),
        (10000.0, 9.210340371976184, -8.683024893528997e-16),
        (500000.0, 13.122363377404328, 5.617349396949535e-16),
        (1.5, 0.4054651081081644, -2.8811380259626426e-18),
        (0.001, -6.907755278982137, -2.1613487097372872e-16),
        (1e-300, -690.7755278982137, -2.3670096176709832e-14),
        (1e280, 644.7238260383328, -5.364296465111912e-14),
    ];
}
