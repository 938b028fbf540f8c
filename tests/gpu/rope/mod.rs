//! Rotation on the device against the oracle: what a case is, and how it runs.

mod table;

use phasor::oracle;
use phasor::rope::{Direction, RopeBindings, RopeProblem, RopeShape};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{Lab, Place, Placed, Result, Rotation, lab, random, widened};

/// One call.
#[derive(Debug, Clone)]
pub struct Case {
    pub problem: RopeProblem,
    pub rotation: Rotation,
    pub shape: RopeShape,
    /// Of Q and of K, and of where they are written.
    pub inputs: [Place; 2],
    pub outputs: [Place; 2],
    pub seed: u64,
}

impl Case {
    pub fn new(problem: RopeProblem, rotation: Rotation) -> Self {
        let (inputs, outputs) = match problem.aligned {
            true => ([Place::Gaps, Place::BshdGaps], [Place::BshdGaps, Place::Gaps]),
            // Two f16 channels share a word, so their strides are even at least.
            false => ([Place::Odd(4 / problem.dtype.size() as u32); 2], [Place::Bshd; 2]),
        };
        Case { problem, rotation, shape: RopeShape { batch: 2, seq: 21 }, inputs, outputs, seed: 1 }
    }

    pub fn heads(&self) -> [u32; 2] {
        [self.problem.q_heads, self.problem.k_heads]
    }

    fn dims(&self, heads: u32) -> [u32; 4] {
        [self.shape.batch, heads, self.shape.seq, self.problem.head_dim]
    }

    /// Random Q and K, as `[B, H, S, D]` without gaps.
    pub fn random(&self) -> [Vec<f32>; 2] {
        let of = |heads, seed| random(self.dims(heads), 3.0, self.problem.dtype, seed);
        [of(self.problem.q_heads, self.seed), of(self.problem.k_heads, self.seed + 1000)]
    }

    /// Random Q and K through the kernel, held to the oracle.
    pub fn check(&self) -> Result {
        self.check_on(lab())
    }

    pub fn check_on(&self, lab: &Lab) -> Result {
        let inputs = self.random();
        let outputs = self.run(lab, &inputs)?;
        for (key, (name, heads)) in ["q", "k"].into_iter().zip(self.heads()).enumerate() {
            self.hold(name, heads, key == 1, &inputs[key], &outputs[key])?;
        }
        Ok(())
    }

    /// The rotated part within the bound of the naive run, the tail bit for bit.
    fn hold(&self, name: &str, heads: u32, key: bool, x: &[f32], got: &[f32]) -> Result {
        let RopeProblem { rotary_dim, pairing, dtype, head_dim, .. } = self.problem;
        let dims = self.dims(heads);
        let (truth, naive) = match self.problem.direction {
            Direction::Forward => {
                let (exact, rounded) = (self.rotation.exact(key)?, self.rotation.rounded(key)?);
                (
                    oracle::rope(&widened(x), dims, rotary_dim, pairing, exact)?,
                    oracle::rope(x, dims, rotary_dim, pairing, rounded)?,
                )
            }
            Direction::Inverse => {
                // The transpose has the factor m, and m twice over is to be taken out. With xPos,
                // the scale of the other plane is the reciprocal one.
                let (exact, rounded) = (self.rotation.exact(!key)?, self.rotation.rounded(!key)?);
                let gain = self.problem.attention_scaling.powi(-2);
                let exact = |b, s, j| {
                    let (cos, sin) = exact(b, s, j);
                    (cos * gain, sin * gain)
                };
                let rounded = |b, s, j| {
                    let (cos, sin) = rounded(b, s, j);
                    (cos * gain as f32, sin * gain as f32)
                };
                (
                    oracle::unrope(&widened(x), dims, rotary_dim, pairing, exact)?,
                    oracle::unrope(x, dims, rotary_dim, pairing, rounded)?,
                )
            }
        };
        let bound = Bound::computed(&stored(&naive, dtype), &truth, dtype);
        compare(name, got, &truth, &bound, dims)?;
        let d = head_dim as usize;
        for (row, (x, got)) in x.chunks_exact(d).zip(got.chunks_exact(d)).enumerate() {
            let tail = rotary_dim as usize..d;
            if x[tail.clone()] != got[tail] {
                return Err(format!("{name}: the tail of row {row} is not what it was").into());
            }
        }
        Ok(())
    }

    /// The kernel on guarded tensors; K is empty where there is none.
    pub fn run(&self, lab: &Lab, inputs: &[Vec<f32>; 2]) -> Result<[Vec<f32>; 2]> {
        let p = &self.problem;
        let gpu = &lab.gpu;
        let RopeShape { batch, seq } = self.shape;
        let mut placed = Vec::new();
        let mut written = Vec::new();
        for (n, heads) in self.heads().into_iter().enumerate().filter(|&(_, heads)| heads > 0) {
            let input = self.inputs[n].layout(self.dims(heads))?;
            placed.push(Placed::input(gpu, p.dtype, input, &inputs[n]));
            if !p.in_place {
                let output = self.outputs[n].layout(self.dims(heads))?;
                written.push(Placed::output(gpu, p.dtype, output));
            }
        }
        let uploaded = self.rotation.upload(gpu, batch, seq)?;
        let bindings = RopeBindings {
            q: placed[0].tensor(),
            k: placed.get(1).map(Placed::tensor),
            q_out: written.first().map(Placed::tensor),
            k_out: written.get(1).map(Placed::tensor),
            rotation: uploaded.rotation(),
        };
        let dispatch = lab.rope(p)?.bind(&gpu.device, &self.shape, &bindings)?;
        if dispatch.is_empty() != (batch == 0 || seq == 0) {
            return Err("empty, but its output is not, or the other way round".into());
        }
        gpu.run(|encoder| dispatch.encode(encoder));
        let outputs = if p.in_place { placed } else { written };
        let q = outputs[0].read(gpu)?;
        Ok([q, outputs.get(1).map(|k| k.read(gpu)).transpose()?.unwrap_or_default()])
    }
}
