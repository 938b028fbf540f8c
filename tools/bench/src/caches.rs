//! What it costs that keys and values are dequantised while prefill reads them.

use phasor::HeadMap;
use phasor::cache::CacheType;

use crate::Result;
use crate::prefill::{Sizes, Tensors};
use crate::timing::Clock;

/// The first is what the others are compared with.
const STORED: [CacheType; 4] = [CacheType::F16, CacheType::F32, CacheType::Int8, CacheType::Q4];

/// Prints the time of prefill over caches of every format over that of the same call over f16, from
/// rounds in which they ran in turns.
pub fn measure(clock: &Clock<'_>) -> Result<()> {
    let (seq, heads) = if clock.gpu.capabilities().software { (1024, 4) } else { (4096, 16) };
    for dim in [64, 128] {
        let tensors = Tensors::new(clock, Sizes { seq, dim, heads, kv_heads: heads });
        for (name, map) in [("plain", HeadMap::plain(heads)?), ("fused", HeadMap::ropepp(heads)?)] {
            let passes = STORED.map(|stored| tensors.over_cache(clock, map.clone(), stored));
            let passes = passes.into_iter().collect::<Result<Vec<_>>>()?;
            let [a, b, c, d] = &passes[..] else { return Err("four caches".into()) };
            let race = clock.race(&[
                &|pass| a.dispatch.record(pass),
                &|pass| b.dispatch.record(pass),
                &|pass| c.dispatch.record(pass),
                &|pass| d.dispatch.record(pass),
            ]);
            print!("causal prefill over caches, S {seq}, D {dim}, {heads} heads, {name}: ");
            print!("f16 {:.2} ms", race.best[0].ms());
            for (n, stored) in STORED.iter().enumerate().skip(1) {
                print!(", {stored} / f16 {:.3}", race.ratio(n, 0));
            }
            println!();
        }
    }
    Ok(())
}
