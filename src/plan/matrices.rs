//! Matrix units, as far as plans depend on them.

use super::attention::Tile;
use super::{Capabilities, Suspect};
use crate::{Error, Result};

/// How the products of attention are computed. It changes results, so a plan has what its problem
/// asks for, or there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// In f32 on ordinary units: every device has them.
    #[default]
    F32,
    /// On matrix units (tensor cores, WMMA, simdgroup matrices): q, k, v and weights are rounded to
    /// f16, products are added up in f32, and all that lies between is f32. Numbers past f16's
    /// largest, 65504, are infinite; those below its least normal one, 6·10⁻⁵, may be lost.
    ///
    /// Beside f32 products of the same inputs in f16, an output is off by some 10⁻⁴ of the values'
    /// size.
    F16Products,
    /// On matrix units, with about the accuracy of f32: a number that f16 does not hold is the sum
    /// of two of f16, and a product of such numbers is three of f16, or two where K or V are stored
    /// in f16. Keys and values past 65504 are infinite.
    ///
    /// It takes two to three times the products of [`Precision::F16Products`], and more workgroup
    /// memory.
    F16x3Products,
}

impl Precision {
    /// Whether products run on matrix units.
    pub const fn on_matrices(self) -> bool {
        !matches!(self, Self::F32)
    }
}

impl core::fmt::Display for Precision {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16Products => "f16 products, f32 sums",
            Self::F16x3Products => "three f16 products for one, f32 sums",
        })
    }
}

/// The side of square matrices of f16 with sums in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatrixSide {
    /// 8×8×8: Apple's GPUs, lavapipe.
    M8,
    /// 16×16×16: AMD's, NVIDIA's.
    M16,
}

impl MatrixSide {
    /// The number.
    pub const fn rows(self) -> u32 {
        match self {
            Self::M8 => 8,
            Self::M16 => 16,
        }
    }

    /// The side with so many rows, if there is one.
    pub fn of(rows: u32) -> Option<Self> {
        [Self::M8, Self::M16].into_iter().find(|side| side.rows() == rows)
    }
}

/// What is known of a device's matrix units. A device does not say which shapes it multiplies, its
/// adapter does: hence [`Capabilities::with_adapter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Matrices {
    /// The device was created without them.
    Off,
    /// It has some, and which is not known.
    Unlisted,
    /// The adapter lists none that kernels use.
    Absent,
    /// It multiplies matrices of f16 with sums in f32.
    Listed {
        /// Their side, the largest there is.
        side: MatrixSide,
        /// Invocations of the largest subgroup.
        lanes: u32,
        /// Whether they may be used.
        trust: Trust,
    },
}

/// Whether matrix units may be used. Drivers are reported to crash, and not only to err, over
/// shaders with matrices, so kernels keep away from drivers that have run none of this crate's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trust {
    /// No matrix kernel of this crate has run on the driver.
    Unknown,
    /// Some have: a tile may be used once a self-test has passed on this very device.
    Known,
    /// The caller said so.
    Insisted,
}

/// Why there are no matrix units for a plan that asks for them, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoMatrices {
    /// The device was created without the features.
    #[error(
        "the device was created without them; its descriptor needs required_features: \
         Features::SHADER_F16 | Features::EXPERIMENTAL_COOPERATIVE_MATRIX and, in your unsafe \
         block, experimental_features: ExperimentalFeatures::enabled()"
    )]
    FeatureOff,
    /// Which shapes the adapter lists was not asked.
    #[error(
        "the device does not say which shapes it has: take Capabilities::of(&device) \
         .with_adapter(&adapter)"
    )]
    Unlisted,
    /// No shape that kernels use.
    #[error("the adapter lists no matrices of 8 x 8 x 8 or 16 x 16 x 16, f16 with sums in f32")]
    ShapeAbsent,
    /// Nothing of this crate's has run on the driver's matrix units.
    #[error(
        "no matrix kernel of this crate has run on this driver, and drivers are reported to crash: \
         Capabilities::insist_on_matrices takes the risk"
    )]
    UnknownDriver,
    /// The tile was not probed on this device.
    #[error(
        "the tile was not probed on this device: apply the report of \
         selftest::selftest_with(&device, &queue, caps) first"
    )]
    NotProbed,
}

impl Capabilities {
    /// The same device, with matrix units used although none of this crate's matrix kernels ran on
    /// its driver, or before a self-test has. A driver that cannot take them may crash the process
    /// when a kernel is compiled.
    #[must_use]
    pub fn insist_on_matrices(mut self) -> Self {
        if let Matrices::Listed { trust, .. } = &mut self.matrices {
            *trust = Trust::Insisted;
        }
        self
    }

    /// Side, and invocations of a subgroup, of matrices that may be compiled.
    pub(crate) fn matrix_units(&self) -> Result<(MatrixSide, u32)> {
        Err(Error::NoMatrices(match self.matrices {
            Matrices::Listed { trust: Trust::Unknown, .. } => NoMatrices::UnknownDriver,
            Matrices::Listed { side, lanes, .. } => return Ok((side, lanes)),
            Matrices::Off => NoMatrices::FeatureOff,
            Matrices::Unlisted => NoMatrices::Unlisted,
            Matrices::Absent => NoMatrices::ShapeAbsent,
        }))
    }

    /// These were seen to be right.
    pub(crate) fn add_probed(&mut self, right: &[Suspect]) {
        let new: Vec<_> = right.iter().filter(|one| !self.probed.contains(one)).collect();
        self.probed.extend(new);
    }

    /// Refuses a tile of matrices that no self-test has seen to be right.
    pub(crate) fn allow_matrices(&self, tile: Tile) -> Result<()> {
        let insisted = matches!(self.matrices, Matrices::Listed { trust: Trust::Insisted, .. });
        if insisted || self.probed.contains(&Suspect::Tile(tile)) {
            return Ok(());
        }
        Err(Error::NoMatrices(NoMatrices::NotProbed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;
    use crate::plan::attention::{AttentionPlan, AttentionProblem, MatrixTile};
    use crate::plan::attention_backward::AttentionBackwardProblem;

    fn problem() -> AttentionProblem {
        let problem = AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        AttentionProblem { precision: Precision::F16Products, ..problem }
    }

    fn device(matrices: Matrices) -> Capabilities {
        let max_workgroup_bytes = 48 << 10;
        Capabilities { matrices, max_workgroup_bytes, ..Capabilities::webgpu_default() }
    }

    fn listed(side: MatrixSide, trust: Trust) -> Capabilities {
        device(Matrices::Listed { side, lanes: 32, trust })
    }

    #[test]
    fn a_plan_says_why_it_has_no_matrices() {
        let refused = |caps: Capabilities| match problem().plan(&caps) {
            Err(Error::NoMatrices(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(device(Matrices::Off)), NoMatrices::FeatureOff);
        assert_eq!(refused(device(Matrices::Unlisted)), NoMatrices::Unlisted);
        assert_eq!(refused(device(Matrices::Absent)), NoMatrices::ShapeAbsent);
        let m16 = |trust| listed(MatrixSide::M16, trust);
        assert_eq!(refused(m16(Trust::Unknown)), NoMatrices::UnknownDriver);
        assert_eq!(refused(m16(Trust::Known)), NoMatrices::NotProbed);
        assert!(NoMatrices::FeatureOff.to_string().contains("EXPERIMENTAL_COOPERATIVE_MATRIX"));
        // Nobody who asks for nothing gets them.
        let plain = AttentionProblem { precision: Precision::default(), ..problem() };
        let plan = plain.plan(&m16(Trust::Insisted)).unwrap();
        assert!(plan.tile().matrices().is_none() && plan.shader().matrices.is_none());
    }

    #[test]
    fn a_tile_is_used_once_it_was_seen_to_be_right_and_no_longer_once_it_was_not() {
        let mut caps = listed(MatrixSide::M16, Trust::Known);
        let best = *problem().plan(&caps.clone().insist_on_matrices()).unwrap().tile();
        caps.add_probed(&[Suspect::Tile(best)]);
        let plan = problem().plan(&caps).unwrap();
        assert_eq!((plan.tile(), plan.shader().matrices), (&best, Some(MatrixSide::M16)));
        assert!(plan.to_string().contains("f16 products, f32 sums"), "{plan}");
        let caps = caps.without(Suspect::Tile(best), "zeros");
        let error = problem().plan(&caps).unwrap_err();
        assert!(matches!(error, Error::Quarantined { .. }), "{error}");
        let next = problem().plan(&caps.insist_on_matrices()).unwrap();
        assert!(next.tile().matrices().is_some() && *next.tile() != best);
        // What was planned on such a device runs on no other.
        use crate::call::Plan as _;
        assert!(next.on(device(Matrices::Unlisted)).is_ok());
        let off = next.on(device(Matrices::Off)).unwrap_err();
        assert_eq!(off, Error::NoMatrices(NoMatrices::FeatureOff));
    }

    /// Their shaders differ, and so does what they make of a number.
    #[test]
    fn a_probe_of_one_precision_says_nothing_of_another() {
        let x3 = AttentionProblem { precision: Precision::F16x3Products, ..problem() };
        let mut caps = listed(MatrixSide::M16, Trust::Known);
        let insisted = caps.clone().insist_on_matrices();
        let tiles = [&problem(), &x3].map(|problem| *problem.plan(&insisted).unwrap().tile());
        caps.add_probed(&[Suspect::Tile(tiles[0])]);
        problem().plan(&caps).unwrap();
        assert_eq!(x3.plan(&caps).unwrap_err(), Error::NoMatrices(NoMatrices::NotProbed));
        caps.add_probed(&[Suspect::Tile(tiles[1])]);
        assert!(x3.plan(&caps).unwrap().to_string().contains("three f16 products for one"));
        let error = AttentionPlan::with_tile(&x3, &insisted, tiles[0]).unwrap_err();
        assert!(matches!(error, Error::Invalid { what: "tile", .. }), "{error}");
    }

    #[test]
    fn tiles_that_cannot_be_are_refused() {
        let caps = listed(MatrixSide::M16, Trust::Insisted);
        let tile = problem().plan(&caps).unwrap().tile().matrices().unwrap();
        let with = |problem: &AttentionProblem, tile: MatrixTile| {
            AttentionPlan::with_tile(problem, &caps, tile).map(drop)
        };
        with(&problem(), MatrixTile { lanes: 64, block_k: 16, ..tile }).unwrap();
        for wrong in [
            MatrixTile { lanes: 16, ..tile },
            MatrixTile { side: MatrixSide::M8, ..tile },
            MatrixTile { block_k: 8, ..tile },
            MatrixTile { lanes: 24, ..tile },
            MatrixTile { subgroups: 0, ..tile },
            MatrixTile { lanes: 512, block_k: 16, ..tile },
        ] {
            let error = with(&problem(), wrong).unwrap_err();
            assert!(matches!(error, Error::Invalid { what: "tile", .. }), "{wrong:?}: {error}");
        }
        let plain = AttentionProblem { precision: Precision::F32, ..problem() };
        assert!(matches!(with(&plain, tile), Err(Error::Invalid { what: "tile", .. })));
        let large = MatrixTile { subgroups: 32, ..tile };
        assert!(matches!(with(&problem(), large), Err(Error::Limit { .. })));
    }

    #[test]
    fn wide_values_are_turned_where_subgroups_are_of_64() {
        let turned = |lanes, dim| {
            let trust = Trust::Insisted;
            let caps = device(Matrices::Listed { side: MatrixSide::M16, lanes, trust });
            let problem = AttentionProblem { head_dim: dim, value_dim: dim, ..problem() };
            problem.plan(&caps).unwrap().tile().matrices().unwrap().value_turned
        };
        assert_eq!([64, 128].map(|dim| turned(64, dim)), [false, true]);
        assert_eq!([64, 128].map(|dim| turned(32, dim)), [false, false]);
    }

    #[test]
    fn what_the_kernel_does_not_do_is_refused_by_name() {
        let caps = listed(MatrixSide::M8, Trust::Insisted);
        let refused = |problem: AttentionProblem| match problem.plan(&caps) {
            Err(Error::Invalid { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        let wide = |value_dim| AttentionProblem { value_dim, ..problem() };
        assert_eq!(refused(wide(264)), "head_dim and value_dim");
        // Two streams take a pass each, with room for one in registers.
        let streams = |value_dim| wide(value_dim).plan(&caps).unwrap().streams();
        assert_eq!([128, 136, 256].map(streams), [2, 1, 1]);
        let backward = AttentionBackwardProblem::new(problem()).plan(&caps);
        assert!(matches!(backward, Err(Error::Invalid { what: "precision", .. })));
    }
}
