//! How long one dispatch may take.

use crate::{Error, Result};

/// The most that one dispatch of a call may compute, so that a watchdog does not kill it and a user
/// interface that shares the GPU stays alive.
///
/// A budget is a number of floating-point operations, since a device cannot be asked how long a
/// dispatch will take: [`Budget::time`] makes it from a time and a rate that the caller measured,
/// with the very kernel, by timing a call and dividing its [`Part::flops`](crate::Part::flops),
/// added up over its parts, by the milliseconds that it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Budget {
    flops: u64,
}

impl Budget {
    /// No limit: one dispatch.
    pub const UNLIMITED: Self = Self { flops: u64::MAX };

    /// At most `flops` floating-point operations a dispatch; a fused multiply-add is two.
    pub const fn flops(flops: u64) -> Self {
        Self { flops }
    }

    /// At most about `milliseconds` a dispatch, on a device that does `flops_per_millisecond` with
    /// this kernel.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number that is not finite and above 0.
    pub fn time(milliseconds: f64, flops_per_millisecond: f64) -> Result<Self> {
        for (what, x) in
            [("milliseconds", milliseconds), ("flops_per_millisecond", flops_per_millisecond)]
        {
            if !(x.is_finite() && x > 0.0) {
                return Err(Error::Invalid {
                    what,
                    needed: "finite and above 0",
                    got: x.to_string(),
                });
            }
        }
        // Saturates: a budget past 64 bits is no limit.
        Ok(Self { flops: (milliseconds * flops_per_millisecond) as u64 })
    }

    /// Floating-point operations a dispatch.
    pub const fn limit(self) -> u64 {
        self.flops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_of_operations() {
        assert_eq!(Budget::time(5.0, 2e9), Ok(Budget::flops(10_000_000_000)));
        assert_eq!(Budget::time(1e300, 1e300).unwrap_or(Budget::UNLIMITED), Budget::UNLIMITED);
        for (time, rate) in
            [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)]
        {
            assert!(
                matches!(Budget::time(time, rate), Err(Error::Invalid { .. })),
                "{time} {rate}"
            );
        }
    }
}
