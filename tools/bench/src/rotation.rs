//! RoPE: bytes moved against a copy of as many.

use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{self, CosSin, Pairing, Positions, RopeConfig};
use phasor::{DType, Layout, Tensor, oracle};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::Result;
use crate::roof::Copy;
use crate::timing::{Clock, Time, print};

pub struct Rotation {
    pub seq: u32,
    pub dim: u32,
    pub heads: [u32; 2],
    pub time: Time,
    pub bytes: u64,
    pub over_copy: f64,
}

impl Rotation {
    pub fn gbs(&self) -> f64 {
        self.bytes as f64 / self.time.ms() * 1e-6
    }
}

pub fn measure(clock: &Clock<'_>, quick: bool) -> Result<Vec<Rotation>> {
    // On a GPU more than its caches hold.
    let lengths: &[u32] = match (clock.gpu.capabilities().software, quick) {
        (true, true) => &[2048],
        (true, false) => &[1024, 4096, 8192],
        (false, _) => &[8192, 32768],
    };
    let mut rotations = Vec::new();
    for &seq in lengths {
        for dim in [64, 128] {
            rotations.push(one(clock, seq, dim)?);
        }
    }
    println!();
    Ok(rotations)
}

fn one(clock: &Clock<'_>, seq: u32, dim: u32) -> Result<Rotation> {
    let heads = [8, 2];
    let device = &clock.gpu.device;
    let plan = RopeProblem::new(heads[0], heads[1], dim).plan(&clock.gpu.capabilities())?;
    let mut rng = SmallRng::seed_from_u64(2);
    let layouts = [Layout::bhsd([1, heads[0], seq, dim])?, Layout::bhsd([1, heads[1], seq, dim])?];
    let data = heads.map(|heads| -> Vec<f32> {
        (0..heads * seq * dim).map(|_| rng.random_range(-1.0..1.0)).collect()
    });
    let config = RopeConfig::new(dim, 1e4);
    let table = config.table(seq, seq.into())?;
    let table_bytes = clock.gpu.upload_bytes(table.as_bytes());
    let inputs = [0, 1].map(|i| clock.gpu.upload(&data[i], DType::F32));
    let outputs = [0, 1].map(|i| clock.gpu.output(data[i].len(), DType::F32));
    let tensor = |buffer, i: usize| Tensor::new(buffer, DType::F32, layouts[i]);
    let bindings = RopeBindings {
        q: tensor(&inputs[0], 0),
        k: Some(tensor(&inputs[1], 1)),
        q_out: Some(tensor(&outputs[0], 0)),
        k_out: Some(tensor(&outputs[1], 1)),
        rotation: rotary::Rotation::new(
            CosSin { binding: table_bytes.as_entire_buffer_binding(), shape: table.shape()? },
            Positions::From(0),
        ),
    };
    let shape = RopeShape { batch: 1, seq };
    let call = Rope::new(device, &plan)?.bind(device, &shape, &bindings)?;
    clock.gpu.run(|encoder| call.encode(encoder));

    let frequencies = config.frequencies(seq.into())?;
    for (i, heads) in heads.into_iter().enumerate() {
        let wide: Vec<f64> = data[i].iter().copied().map(f64::from).collect();
        let truth = oracle::rope(&wide, [1, heads, seq, dim], dim, Pairing::Half, |_, s, pair| {
            frequencies.cos_sin(s, pair as usize)
        })?;
        let got = clock.gpu.download(&outputs[i], DType::F32);
        let wrong = got.iter().zip(&truth).find(|(got, truth)| {
            let error = (f64::from(**got) - **truth).abs();
            error.is_nan() || error > 1e-6
        });
        if let Some((got, truth)) = wrong {
            return Err(format!("wrong rotation: {got} instead of {truth}").into());
        }
    }

    let bytes = plan.cost(&shape).bytes;
    let copy = Copy::new(clock, bytes);
    let race = clock.race(&[&|pass| call.record(pass), &|pass| copy.record(pass)]);
    let (time, over_copy) = (race.best[0], copy.share(bytes, &race, 0, 1));
    let rotation = Rotation { seq, dim, heads, time, bytes, over_copy };
    let figures = format!("{:6.1} GB/s, {:4.0} % of a copy", rotation.gbs(), 100.0 * over_copy);
    print(&format!("RoPE, S {seq}, D {dim}, 8 + 2 heads, f32"), &time, &figures);
    Ok(rotation)
}
