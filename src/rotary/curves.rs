//! Characteristic curves: how far apart rotation lets two equal vectors be, on average.
//!
//! For queries and keys whose channels are independent with mean μ and whose distance is Δ, the
//! mean scores are `d μ² c_Re(Δ)` and `d μ² c_Im(Δ)` (RoPE++, arXiv 2512.07525, §3.3), with
//!
//! ```text
//! c_Re(Δ) = (2/d) Σ cos(θ_n Δ)  →  [Ci(Δ) − Ci(Δ/b)] / ln b
//! c_Im(Δ) = (2/d) Σ sin(θ_n Δ)  →  [Si(Δ) − Si(Δ/b)] / ln b        as d → ∞, θ_n = b^(−2n/d)
//! ```

use core::f64::consts::{FRAC_PI_2, PI};

use super::Frequencies;
use crate::{Error, Result};

/// The two components of a curve at one distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Characteristic {
    /// c_Re: 1 at distance 0 under plain RoPE.
    pub real: f64,
    /// c_Im: 0 at distance 0.
    pub imaginary: f64,
}

/// The mean of cos and sin over the pairs of any RoPE type, times m²: both the query and the key
/// carry the attention scaling. xPos scales are not in it.
pub fn characteristic(frequencies: &Frequencies, distance: u32) -> Characteristic {
    let (mut real, mut imaginary) = (0.0, 0.0);
    for (cos, sin) in unit_vectors(frequencies, distance) {
        real += cos;
        imaginary += sin;
    }
    let gain = gain(frequencies) / pairs(frequencies);
    Characteristic { real: gain * real, imaginary: gain * imaginary }
}

/// The limit of [`characteristic`] for plain RoPE of base b as the head grows.
///
/// # Errors
/// [`Error::Invalid`] for a base that is not above 1 or a distance below 0.
pub fn characteristic_integral(base: f64, distance: f64) -> Result<Characteristic> {
    let invalid = |what, needed, got: f64| Error::Invalid { what, needed, got: got.to_string() };
    if !(base.is_finite() && base > 1.0) {
        return Err(invalid("base", "above 1", base));
    }
    if !(distance.is_finite() && distance >= 0.0) {
        return Err(invalid("distance", "at least 0", distance));
    }
    if distance == 0.0 {
        return Ok(Characteristic { real: 1.0, imaginary: 0.0 });
    }
    let (near, far) = (integrals(distance), integrals(distance / base));
    Ok(Characteristic {
        real: (near.cosine - far.cosine) / base.ln(),
        imaginary: (near.sine - far.sine) / base.ln(),
    })
}

/// RoFormer's bound of the long-term decay (arXiv 2104.09864, §3.4.3), `(2/d) Σ_j |S_j|` with
/// `S_j = Σ_{i<j} e^{iΔθ_i}`, times m². With h_i the product of the i-th pairs as complex numbers,
/// |A_re + i A_im| is at most `d/2 · max |h_{i+1} − h_i|` of it. It need not fall with the distance.
pub fn decay_bound(frequencies: &Frequencies, distance: u32) -> f64 {
    let (mut re, mut im, mut sum) = (0.0f64, 0.0f64, 0.0);
    for (cos, sin) in unit_vectors(frequencies, distance) {
        re += cos;
        im += sin;
        sum += re.hypot(im);
    }
    gain(frequencies) * sum / pairs(frequencies)
}

fn pairs(frequencies: &Frequencies) -> f64 {
    frequencies.inv_freq().len().max(1) as f64
}

fn gain(frequencies: &Frequencies) -> f64 {
    frequencies.attention_scaling().powi(2)
}

/// cos and sin of every pair, without the attention scaling.
fn unit_vectors(frequencies: &Frequencies, distance: u32) -> impl Iterator<Item = (f64, f64)> {
    let m = match frequencies.attention_scaling() {
        0.0 => 1.0,
        m => m,
    };
    (0..frequencies.inv_freq().len()).map(move |pair| {
        let (cos, sin) = frequencies.cos_sin(distance, pair);
        (cos / m, sin / m)
    })
}

/// Ci and Si of a positive number.
struct Integrals {
    cosine: f64,
    sine: f64,
}

const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;

/// `Ci(x) = γ + ln x + ∫₀ˣ (cos t − 1)/t dt` and `Si(x) = ∫₀ˣ sin t/t dt` for x > 0, to about 1e-15
/// absolute (DLMF 6.6 and 6.9).
fn integrals(x: f64) -> Integrals {
    if x <= 4.0 { series(x) } else { continued_fraction(x) }
}

/// The power series, DLMF 6.6.5 and 6.6.6. Up to 4 its terms stay below 11, which costs a digit.
fn series(x: f64) -> Integrals {
    let (mut cosine, mut sine) = (EULER_GAMMA + x.ln(), 0.0);
    // x^n / n!, with the signs of cos and sin.
    let mut term = 1.0;
    for n in 1..60u32 {
        let order = f64::from(n);
        term *= x / order;
        let signed = if n % 4 < 2 { term } else { -term };
        match n % 2 {
            1 => sine += signed / order,
            _ => cosine += signed / order,
        }
    }
    Integrals { cosine, sine }
}

/// `E₁(ix) = −Ci(x) + i (Si(x) − π/2)` by its continued fraction (DLMF 6.9.1, contracted),
/// evaluated from behind:
///
/// ```text
/// E₁(z) = e^(−z) / (z + 1 − 1²/(z + 3 − 2²/(z + 5 − …)))
/// ```
fn continued_fraction(x: f64) -> Integrals {
    // Convergence is slowest at the smallest x: at 4, 60 levels leave less than 1e-16.
    const LEVELS: u32 = 100;
    let (mut re, mut im) = (f64::from(2 * LEVELS + 1), x);
    for level in (1..=LEVELS).rev() {
        let n = f64::from(level);
        let scale = n * n / (re * re + im * im);
        (re, im) = (2.0 * n - 1.0 - scale * re, x + scale * im);
    }
    // e^(−ix) / (re + i im)
    let (sin, cos) = x.rem_euclid(2.0 * PI).sin_cos();
    let size = re * re + im * im;
    let (e1_re, e1_im) = ((cos * re - sin * im) / size, (-sin * re - cos * im) / size);
    Integrals { cosine: -e1_re, sine: e1_im + FRAC_PI_2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotary::{RopeConfig, RopeRule};

    fn near(got: f64, wanted: f64, allowed: f64) {
        assert!((got - wanted).abs() <= allowed, "{got}, not {wanted}");
    }

    /// Abramowitz and Stegun, table 5.1, and values of Si and Ci at large arguments.
    #[test]
    fn integrals_have_their_tabulated_values() {
        for (x, sine, cosine) in [
            (0.5, 0.493_107_418_043_066_7, -0.177_784_078_806_612_9),
            (1.0, 0.946_083_070_367_183, 0.337_403_922_900_968_1),
            (2.0, 1.605_412_976_802_694_8, 0.422_980_828_774_865),
            (5.0, 1.549_931_244_944_674, -0.190_029_749_656_643_9),
            (10.0, 1.658_347_594_218_874, -0.045_456_433_004_455_4),
        ] {
            near(integrals(x).sine, sine, 1e-14);
            near(integrals(x).cosine, cosine, 1e-14);
        }
    }

    #[test]
    fn series_and_fraction_agree_where_they_meet() {
        for x in [3.5, 4.0, 4.5, 6.0] {
            let (a, b) = (series(x), continued_fraction(x));
            near(a.sine, b.sine, 1e-13);
            near(a.cosine, b.cosine, 1e-13);
        }
    }

    #[test]
    fn sums_of_large_heads_come_near_the_integral() {
        let frequencies = RopeConfig::new(1 << 14, 1e4).frequencies(1).unwrap();
        for distance in [0, 1, 10, 100, 1000] {
            let sum = characteristic(&frequencies, distance);
            let integral = characteristic_integral(1e4, f64::from(distance)).unwrap();
            near(sum.real, integral.real, 1e-3);
            near(sum.imaginary, integral.imaginary, 1e-3);
        }
        assert!(characteristic_integral(1.0, 2.0).is_err());
        assert!(characteristic_integral(1e4, f64::NAN).is_err());
    }

    #[test]
    fn the_attention_scaling_counts_twice() {
        let plain = RopeConfig::new(64, 1e4);
        let rule = RopeRule::Custom {
            inv_freq: plain.frequencies(1).unwrap().inv_freq().to_vec(),
            attention_scaling: 1.5,
        };
        let scaled = RopeConfig { rule, ..plain.clone() }.frequencies(1).unwrap();
        let plain = plain.frequencies(1).unwrap();
        near(characteristic(&scaled, 9).real, 2.25 * characteristic(&plain, 9).real, 1e-12);
        near(decay_bound(&scaled, 9), 2.25 * decay_bound(&plain, 9), 1e-12);
        near(decay_bound(&plain, 0), 16.5, 1e-12);
    }
}
