//! A context shift of a cache: bytes moved, keys turned on their way, against a copy of as many.

use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::kv_move::{KvMove, KvMoveBindings, KvMoveProblem, KvMoveShape, Move};
use phasor::rotary::{CosSin, Pairing, RopeConfig};
use phasor::{DType, Layout, oracle};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::Result;
use crate::append::Append;
use crate::roof::Copy;
use crate::timing::{Clock, print};

/// Rows at the front that stay, as attention sinks do.
const KEPT: u32 = 4;

pub fn measure(clock: &Clock<'_>, quick: bool) -> Result<Vec<Append>> {
    let rows = if quick { 2048 } else { 4096 };
    let moves = [64, 128].map(|dim| one(clock, rows, dim));
    println!();
    moves.into_iter().collect()
}

/// Half of the rows behind the first are lost, and the others take their places.
fn one(clock: &Clock<'_>, rows: u32, dim: u32) -> Result<Append> {
    let kv_heads = 8;
    let (device, lost) = (&clock.gpu.device, rows / 2);
    let plan =
        KvMoveProblem::new(CacheFormat::new(kv_heads, dim)).plan(&clock.gpu.capabilities())?;
    let mut rng = SmallRng::seed_from_u64(4);
    let [k, v] = [(); 2].map(|()| -> Vec<f32> {
        (0..kv_heads * rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect()
    });
    let config = RopeConfig::new(dim, 1e4);
    let table = config.table(rows, rows.into())?;
    let table_bytes = clock.gpu.upload_bytes(table.as_bytes());
    let caches = [&k, &v].map(|data| clock.gpu.upload(data, DType::F32));
    let layout = Layout::bhsd([1, kv_heads, rows, dim])?;
    let [k_cache, v_cache] = caches.each_ref().map(|buffer| {
        let binding = buffer.as_entire_buffer_binding();
        CacheTensor { binding, stored: CacheType::F32, layout }
    });
    let bindings = KvMoveBindings {
        cache: CacheBindings { k: k_cache, v: v_cache, block_table: None },
        table: Some(CosSin {
            binding: table_bytes.as_entire_buffer_binding(),
            shape: table.shape()?,
        }),
    };
    let moves = [Move::shift(0, KEPT, lost, rows)];
    let shape = KvMoveShape::new(1, &moves);
    let call = KvMove::new(device, &plan)?.bind(device, &shape, &bindings)?;
    clock.gpu.run(|encoder| call.encode(encoder));

    let moved = rows - KEPT - lost;
    let frequencies = config.frequencies(rows.into())?;
    let [got_k, got_v] = caches.each_ref().map(|cache| clock.gpu.download(cache, DType::F32));
    for head in 0..kv_heads {
        let at = |row: u32| ((head * rows + row) * dim) as usize;
        let (from, to) = (at(KEPT + lost)..at(rows), at(KEPT)..at(KEPT + moved));
        let old: Vec<f64> = k[from.clone()].iter().copied().map(f64::from).collect();
        let truth = oracle::rope(&old, [1, 1, moved, dim], dim, Pairing::Half, |_, _, pair| {
            let (cos, sin) = frequencies.cos_sin(lost, pair as usize);
            (cos, -sin)
        })?;
        let wrong = got_k[to.clone()].iter().zip(&truth).find(|(got, truth)| {
            let error = (f64::from(**got) - **truth).abs();
            error.is_nan() || error > 1e-6
        });
        if let Some((got, truth)) = wrong {
            return Err(format!("wrong key after a shift: {got} instead of {truth}").into());
        }
        if got_v[to] != v[from] {
            return Err("the values after a shift are not those before it".into());
        }
    }

    let bytes = plan.cost(&shape).bytes;
    let copy = Copy::new(clock, bytes);
    let race = clock.race(&[&|pass| call.record(pass), &|pass| copy.record(pass)]);
    let (time, over_copy) = (race.best[0], copy.share(bytes, &race, 0, 1));
    let shift = Append { rows: moved, dim, kv_heads, time, bytes, over_copy };
    let figures = format!("{:6.1} GB/s, {:4.0} % of a copy", shift.gbs(), 100.0 * over_copy);
    print(&format!("KV move, {moved} rows, D {dim}, {kv_heads} kv heads, f32"), &time, &figures);
    Ok(shift)
}
