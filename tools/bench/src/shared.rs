//! What it costs that every storage binding is writable, as for hosts that keep all tensors in one
//! buffer.

use phasor::{HeadMap, Sharing};

use crate::Result;
use crate::prefill::{Sizes, Tensors};
use crate::timing::Clock;

/// Prints the time of prefill calls with shared buffers over that of the same calls without, from
/// rounds in which they ran in turns.
pub fn measure(clock: &Clock<'_>) -> Result<()> {
    let (seq, heads) = if clock.gpu.capabilities().software { (1024, 4) } else { (4096, 16) };
    for dim in [64, 128] {
        let sizes = Sizes { seq, dim, heads, kv_heads: heads };
        let apart = Tensors::new(clock, sizes);
        let shared = Tensors { sharing: Sharing::Ranges, ..Tensors::new(clock, sizes) };
        for (name, map) in [("plain", HeadMap::plain(heads)?), ("fused", HeadMap::ropepp(heads)?)] {
            let [apart, shared] =
                [&apart, &shared].map(|tensors| tensors.pass(clock, map.clone(), None));
            let (apart, shared) = (apart?, shared?);
            let race = clock
                .race(&[&|pass| apart.dispatch.record(pass), &|pass| shared.dispatch.record(pass)]);
            println!(
                "causal prefill, S {seq}, D {dim}, {heads} heads, f32, {name}: shared / apart {:.3} \
                 ({:.2} and {:.2} ms)",
                race.ratio(1, 0),
                race.best[1].ms(),
                race.best[0].ms(),
            );
        }
    }
    Ok(())
}
