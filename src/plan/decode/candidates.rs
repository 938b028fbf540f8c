//! Tiles worth trying on a device.

use super::{DecodeProblem, Tile};
use crate::Result;
use crate::plan::Capabilities;

impl Tile {
    /// Legal tiles for this problem on this device, the plan's own first: what a tuner tries.
    ///
    /// # Errors
    /// As [`DecodeProblem::plan`].
    pub fn candidates(problem: &DecodeProblem, caps: &Capabilities) -> Result<Vec<Self>> {
        let head_rows = problem.head_rows();
        let own = *problem.plan(caps)?.tile();
        let mut tiles = vec![own];
        let runs = [4, 2, 8, own.run];
        for (key_lanes, run, prefetch) in [4, 2, 1, 8]
            .into_iter()
            .flat_map(|lanes| runs.map(|run| (lanes, run)))
            .flat_map(|(lanes, run)| [false, true].map(|prefetch| (lanes, run, prefetch)))
        {
            let subgroup = own.subgroup.filter(|&size| key_lanes == 1 && run == size);
            for threads in [own.threads, 64, 128, 256] {
                let tile = Self { threads, run, prefetch, subgroup, key_lanes, ..own };
                let Ok(tile) = tile.fitted(problem, &head_rows, caps) else { continue };
                let legal = tile.check(problem.cache.value_dim, caps).is_ok()
                    && threads <= caps.max_invocations.min(caps.max_workgroup_size);
                if legal && !tiles.contains(&tile) {
                    tiles.push(tile);
                }
            }
        }
        Ok(tiles)
    }
}
