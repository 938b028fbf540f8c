//! The probe of the rotation.

use super::inputs::{Turn, numbers, wide};
use super::memory::Contents;
use super::probes::{Expected, Ready};
use crate::gpu::{Positions, Rotation};
use crate::plan::rope::{RopeProblem, RopeShape};
use crate::rope::{Rope, RopeBindings};
use crate::{Capabilities, DType, Layout, Result};

pub(super) fn rope(device: &wgpu::Device, caps: &Capabilities, dtype: DType) -> Result<Ready> {
    let shape = [1, 2, 9, 64];
    let x = numbers(2 * 9 * 64, 1);
    let turn = Turn::new()?;
    let kernel =
        Rope::new(device, &RopeProblem { dtype, ..RopeProblem::new(2, 0, 64) }.plan(caps)?)?;
    let mut contents = Contents::new(caps);
    let (q, out) = (contents.numbers(&x, dtype), contents.output(x.len(), dtype));
    let table = turn.write(&mut contents);
    let memory = contents.upload(device);
    let layout = Layout::bhsd(shape)?;
    let bindings = RopeBindings {
        q: memory.tensor(q, dtype, layout),
        k: None,
        q_out: Some(memory.tensor(out, dtype, layout)),
        k_out: None,
        rotation: Rotation::new(turn.bind(&memory, table)?, Positions::From(5)),
    };
    let dispatch = kernel.bind(device, &RopeShape { batch: 1, seq: 9 }, &bindings)?;
    let truth = turn.apply(&wide::<f64>(&x), shape, 5)?;
    let naive = turn.apply(&x, shape, 5)?;
    Ok(Ready { dispatch, memory, outputs: vec![(out, Expected::new("out", dtype, truth, &naive))] })
}
