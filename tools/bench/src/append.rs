//! KV append with the rotation fused in: bytes moved against a copy of as many.

use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rotary::{CosSin, Pairing, Positions, RopeConfig, Rotation};
use phasor::{DType, Layout, Tensor, oracle};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::Result;
use crate::roof::Copy;
use crate::timing::{Clock, Time, print};

pub struct Append {
    pub rows: u32,
    pub dim: u32,
    pub kv_heads: u32,
    pub time: Time,
    pub bytes: u64,
    pub over_copy: f64,
}

impl Append {
    pub fn gbs(&self) -> f64 {
        self.bytes as f64 / self.time.ms() * 1e-6
    }
}

pub fn measure(clock: &Clock<'_>, quick: bool) -> Result<Vec<Append>> {
    let lengths: &[u32] = if quick { &[2048] } else { &[1024, 4096] };
    let mut appends = Vec::new();
    for &rows in lengths {
        for dim in [64, 128] {
            appends.push(one(clock, rows, dim)?);
        }
    }
    println!();
    Ok(appends)
}

/// Appends the rows of a prompt to an empty cache, K rotated on its way.
fn one(clock: &Clock<'_>, rows: u32, dim: u32) -> Result<Append> {
    let kv_heads = 8;
    let device = &clock.gpu.device;
    let format = CacheFormat::new(kv_heads, dim);
    let plan = KvAppendProblem::new(format).plan(&clock.gpu.capabilities())?;
    let mut rng = SmallRng::seed_from_u64(4);
    let [k, v] = [(); 2].map(|()| -> Vec<f32> {
        (0..kv_heads * rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect()
    });
    let config = RopeConfig::new(dim, 1e4);
    let table = config.table(rows, rows.into())?;
    let table_bytes = clock.gpu.upload_bytes(table.as_bytes());
    let inputs = [&k, &v].map(|data| clock.gpu.upload(data, DType::F32));
    let caches = [(); 2].map(|()| clock.gpu.output(k.len(), DType::F32));
    let lens = clock.gpu.upload_u32(&[0]);
    let layout = Layout::bhsd([1, kv_heads, rows, dim])?;
    let [k_cache, v_cache] = caches.each_ref().map(|buffer| {
        let binding = buffer.as_entire_buffer_binding();
        CacheTensor { binding, stored: CacheType::F32, layout }
    });
    let bindings = KvAppendBindings {
        k: Tensor::new(&inputs[0], DType::F32, layout),
        v: Tensor::new(&inputs[1], DType::F32, layout),
        cache: CacheBindings { k: k_cache, v: v_cache, block_table: None },
        lens: lens.as_entire_buffer_binding(),
        rotation: Some(Rotation::new(
            CosSin { binding: table_bytes.as_entire_buffer_binding(), shape: table.shape()? },
            Positions::AmongKeys,
        )),
    };
    let shape = KvAppendShape::new(1, rows);
    let call = KvAppend::new(device, &plan)?.bind(device, &shape, &bindings)?;
    clock.gpu.run(|encoder| call.encode(encoder));

    let [got_k, got_v] = caches.each_ref().map(|cache| clock.gpu.download(cache, DType::F32));
    let frequencies = config.frequencies(rows.into())?;
    let wide: Vec<f64> = k.iter().copied().map(f64::from).collect();
    let truth = oracle::rope(&wide, [1, kv_heads, rows, dim], dim, Pairing::Half, |_, s, pair| {
        frequencies.cos_sin(s, pair as usize)
    })?;
    let wrong = got_k.iter().zip(&truth).find(|(got, truth)| {
        let error = (f64::from(**got) - **truth).abs();
        error.is_nan() || error > 1e-6
    });
    if let Some((got, truth)) = wrong {
        return Err(format!("wrong key in the cache: {got} instead of {truth}").into());
    }
    if got_v != v {
        return Err("the values in the cache are not those appended".into());
    }

    let bytes = plan.cost(&shape).bytes;
    let copy = Copy::new(clock, bytes);
    let race = clock.race(&[&|pass| call.record(pass), &|pass| copy.record(pass)]);
    let (time, over_copy) = (race.best[0], copy.share(bytes, &race, 0, 1));
    let append = Append { rows, dim, kv_heads, time, bytes, over_copy };
    let share = 100.0 * over_copy;
    let figures = format!("{:6.1} GB/s, {share:4.0} % of a copy", append.gbs());
    print(&format!("KV append, {rows} rows, D {dim}, {kv_heads} kv heads, f32"), &time, &figures);
    Ok(append)
}
