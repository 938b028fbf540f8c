//! How far off a result may be, and where it is not.
//!
//! The tolerance of a kernel is computed, not guessed: twice what the honest naive f32 run of the
//! same inputs is off by from the f64 truth, plus a rounding floor of a few ulps of the storage
//! type at the size of the output.

use std::fmt;

use half::f16;
use phasor::DType;

/// Ulps of the largest output that are granted whatever the naive run shows: it may be exact by
/// luck, and a kernel that adds in another order is then not.
const FLOOR_ULPS: f64 = 4.0;

/// Largest error allowed, in absolute terms.
#[derive(Debug, Clone, PartialEq)]
pub enum Bound {
    /// The same everywhere.
    Uniform(f64),
    /// One a position (axis S), for references whose error grows with the position.
    PerPosition(Vec<f64>),
}

impl Bound {
    /// `2 · max|naive − truth|` plus a few ulps of the largest |truth| as `storage` holds it.
    ///
    /// For f16 storage, pass a naive run whose every store was rounded, see [`stored`].
    /// Entries that are infinite in both (the log-sum-exp of an empty row) carry no error.
    pub fn computed(naive: &[f32], truth: &[f64], storage: DType) -> Self {
        let finite = || naive.iter().zip(truth).filter(|(_, t)| t.is_finite());
        let error = finite().map(|(&n, t)| (f64::from(n) - t).abs()).fold(0.0, f64::max);
        let size = finite().map(|(_, t)| t.abs()).fold(0.0, f64::max);
        Bound::Uniform(2.0 * error + FLOOR_ULPS * epsilon(storage) * size)
    }

    fn at(&self, position: usize) -> f64 {
        match self {
            Bound::Uniform(bound) => *bound,
            Bound::PerPosition(bounds) => bounds[position],
        }
    }
}

impl From<f64> for Bound {
    fn from(bound: f64) -> Self {
        Bound::Uniform(bound)
    }
}

/// Distance from 1 to the next number that `storage` holds.
pub fn epsilon(storage: DType) -> f64 {
    match storage {
        DType::F32 => f64::from(f32::EPSILON),
        DType::F16 => f64::from(f16::EPSILON.to_f32()),
    }
}

/// The numbers as they come back from a tensor of this type.
pub fn stored(x: &[f32], storage: DType) -> Vec<f32> {
    match storage {
        DType::F32 => x.to_vec(),
        DType::F16 => x.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
    }
}

/// The element that comes closest to its bound, of a comparison that passed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// |got − truth| of that element.
    pub error: f64,
    /// Its bound.
    pub bound: f64,
    /// Distance between the two in f32 ulps.
    pub ulps: u64,
    /// `[b, h, s, d]`.
    pub at: [usize; 4],
}

/// A comparison that failed, and the element that failed worst.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// What was compared.
    pub name: String,
    /// Elements beyond their bound, and all elements.
    pub failed: (usize, usize),
    /// Where the worst of them is, and by how much.
    pub worst: Stats,
    /// The value computed there.
    pub got: f64,
    /// The value it should have.
    pub truth: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { name, failed: (failed, all), worst, got, truth } = self;
        let Stats { error, bound, ulps, at: [b, h, s, d] } = worst;
        write!(
            f,
            "{name}: {failed} of {all} elements are off, worst at [b {b}, h {h}, s {s}, d {d}]: \
             got {got:e}, truth {truth:e}, error {error:.3e} > bound {bound:.3e} ({ulps} ulp)"
        )
    }
}

impl std::error::Error for Mismatch {}

/// Holds every element of a dense `[B, H, S, D]` result to its bound.
///
/// A NaN fails, and an infinity fails unless the truth is the same infinity.
///
/// # Panics
/// When the lengths do not match the shape: the test itself is wrong then.
pub fn compare<G, T>(
    name: &str,
    got: &[G],
    truth: &[T],
    bound: &Bound,
    shape: [u32; 4],
) -> Result<Stats, Mismatch>
where
    G: Copy + Into<f64>,
    T: Copy + Into<f64>,
{
    let [_, heads, seq, dim] = shape.map(|n| n as usize);
    let elements: usize = shape.iter().map(|&n| n as usize).product();
    assert_eq!((got.len(), truth.len()), (elements, elements), "{name}: lengths for {shape:?}");

    let mut worst: Option<(f64, Stats, f64, f64)> = None;
    let mut failed = 0;
    for (n, (&got, &truth)) in got.iter().zip(truth).enumerate() {
        let (got, truth): (f64, f64) = (got.into(), truth.into());
        let at = [n / (dim * seq * heads), n / (dim * seq) % heads, n / dim % seq, n % dim];
        let bound = bound.at(at[2]);
        let error = match (got - truth).abs() {
            _ if got == truth => 0.0,
            // NaN on either side, or one infinity.
            error if !error.is_finite() => f64::INFINITY,
            error => error,
        };
        failed += usize::from(error > bound);
        // How near the bound; a bound of 0 still ranks a wrong element above a right one.
        let nearness = if error == 0.0 { 0.0 } else { error / bound };
        if worst.as_ref().is_none_or(|(most, ..)| nearness > *most) {
            let ulps = ulps(got as f32, truth as f32);
            worst = Some((nearness, Stats { error, bound, ulps, at }, got, truth));
        }
    }
    match worst {
        None => Ok(Stats { error: 0.0, bound: 0.0, ulps: 0, at: [0; 4] }),
        Some((_, stats, ..)) if failed == 0 => Ok(stats),
        Some((_, worst, got, truth)) => {
            Err(Mismatch { name: name.to_owned(), failed: (failed, elements), worst, got, truth })
        }
    }
}

/// How many f32 numbers lie between two; `u64::MAX` when one is NaN.
fn ulps(a: f32, b: f32) -> u64 {
    if a.is_nan() || b.is_nan() {
        return u64::MAX;
    }
    // Sign and magnitude to one line of integers, on which neighbours differ by 1.
    let line = |x: f32| {
        let magnitude = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -magnitude } else { magnitude }
    };
    line(a).abs_diff(line(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [u32; 4] = [1, 2, 2, 1];

    #[test]
    fn the_worst_element_is_named() {
        let truth = [1.0, 2.0, 3.0, 4.0];
        let got = [1.0f32, 2.0, 3.5, 4.25];
        let wrong = compare("x", &got, &truth, &Bound::Uniform(0.1), SHAPE).unwrap_err();
        assert_eq!((wrong.failed, wrong.worst.at), ((2, 4), [0, 1, 0, 0]));
        assert_eq!((wrong.got, wrong.truth), (3.5, 3.0));
        let bounds = Bound::PerPosition(vec![1.0, 0.25]);
        let right = compare("x", &got, &truth, &bounds, SHAPE).unwrap();
        assert_eq!((right.at, right.error, right.bound), ([0, 1, 1, 0], 0.25, 0.25));
    }

    #[test]
    fn nan_and_stray_infinities_fail_under_any_bound() {
        let loose = Bound::Uniform(f64::MAX);
        let ninf = f64::NEG_INFINITY;
        for (got, truth) in [(f64::NAN, 0.0), (0.0, f64::NAN), (ninf, 0.0), (0.0, ninf)] {
            assert!(compare("x", &[got], &[truth], &loose, [1; 4]).is_err(), "{got} {truth}");
        }
        assert!(compare("x", &[ninf], &[ninf], &Bound::Uniform(0.0), [1; 4]).is_ok());
        assert!(compare::<f64, f64>("x", &[], &[], &loose, [1, 0, 1, 1]).is_ok());
    }

    #[test]
    fn the_computed_bound_is_twice_the_naive_error_and_a_floor() {
        let truth = [1.0, -2.0, f64::NEG_INFINITY];
        let naive = [1.0, -2.5, f32::NEG_INFINITY];
        let floor = 4.0 * 2.0 * f64::from(f32::EPSILON);
        assert_eq!(Bound::computed(&naive, &truth, DType::F32), Bound::Uniform(1.0 + floor));
    }

    #[test]
    fn ulps_count_across_zero() {
        assert_eq!(ulps(1.0, 1.0 + f32::EPSILON), 1);
        assert_eq!(ulps(-0.0, 0.0), 0);
        assert_eq!(ulps(f32::from_bits(1), -f32::from_bits(1)), 2);
    }
}
