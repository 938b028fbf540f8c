//! Base 2 on the host, as `shaders/softmax.wgsl` has it on the device: scores, sinks and slopes are
//! kept in units of log 2, so that `exp2` serves.

use core::f64::consts::LOG2_E;

/// `MASKED` of the shaders: the score of a key that is hidden.
const MASKED: f32 = -3.4e38;
/// Beyond ±`FAR` the slope halves, so that no finite number overflows.
const FAR: f64 = 1.701_411_834_604_692_3e38;

/// A factor of scores.
pub(crate) fn in_base_2(x: f32) -> f32 {
    (f64::from(x) * LOG2_E) as f32
}

/// The factor on q and the softcap that shaders take: scores come in base 2, or as multiples of the
/// cap, which is in base 2 then. 0 is no cap.
pub(crate) fn scale_and_cap(softmax_scale: f32, softcap: Option<f32>) -> (f32, f32) {
    match softcap {
        Some(cap) => {
            let scale = f64::from(softmax_scale) / f64::from(cap);
            (scale as f32, in_base_2(cap).min(f32::MAX))
        }
        None => (in_base_2(softmax_scale), 0.0),
    }
}

/// A sink as shaders keep it: `in_base_2` of the shaders, or `MASKED` where there is none.
pub(crate) fn sink_in_base_2(sink: Option<&f32>) -> f32 {
    match sink.map(|&x| f64::from(x)) {
        Some(x) if x.is_finite() && x.abs() > FAR => {
            (0.5 * x + (LOG2_E - 0.5) * FAR * x.signum()) as f32
        }
        Some(x) if x.is_finite() => (x * LOG2_E) as f32,
        _ => MASKED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::shader::wgsl;

    #[test]
    fn constants_are_the_shaders() {
        let constant = |name: &str| -> f32 {
            let text = wgsl!("softmax");
            let (_, rest) = text.split_once(&format!("const {name}: f32 = ")).unwrap();
            rest.split_once(';').unwrap().0.parse().unwrap()
        };
        assert_eq!(constant("MASKED"), MASKED);
        assert_eq!(constant("FAR"), FAR as f32);
        assert_eq!(constant("LOG2_E"), LOG2_E as f32);
    }

    #[test]
    fn sinks_of_any_finite_size_stay_finite_and_in_order() {
        let sinks =
            [f32::MIN, -3e38, -1.8e38, -1.7e38, -1e38, -1.0, 0.0, 1.0, 1e38, 3e38, f32::MAX];
        let kept = sinks.map(|x| sink_in_base_2(Some(&x)));
        assert!(kept.is_sorted_by(|a, b| a < b), "{kept:?}");
        assert!(kept.iter().all(|x| x.is_finite() && *x > MASKED), "{kept:?}");
        assert_eq!(sink_in_base_2(Some(&f32::NEG_INFINITY)), MASKED);
    }
}
