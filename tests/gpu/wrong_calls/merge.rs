//! Wrong calls and problems of a merge.

use phasor::merge::{Merge, MergeBindings, MergePlan, MergeProblem, MergeShape};
use phasor::{DType, Layout, Tensor, wgpu};

use super::{Call, World as _, Wrongs, calls, error, problems, range, whole};
use crate::harness::{lab, random, run_table};

/// Three parts of two heads of five rows.
const PARTS: [u32; 4] = [3, 2, 5, 8];
const OUT: [u32; 4] = [1, 2, 5, 8];

struct World {
    wrong: Wrongs,
    parts: wgpu::Buffer,
    lses: wgpu::Buffer,
    out: wgpu::Buffer,
    lse: wgpu::Buffer,
}

impl super::World for World {
    fn outputs(&self) -> Vec<&wgpu::Buffer> {
        vec![&self.out, &self.lse]
    }
}

impl World {
    fn new() -> &'static Self {
        let gpu = &lab().gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        Box::leak(Box::new(Self {
            wrong: Wrongs::new(gpu),
            parts: data(PARTS, 1),
            lses: data([3, 1, 2, 5], 2),
            out: gpu.output(2 * 5 * 8, DType::F32),
            lse: gpu.output(2 * 5, DType::F32),
        }))
    }

    fn plain(&'static self) -> phasor::Result<Call<MergePlan>> {
        let tensor = |buffer, layout| Tensor::new(buffer, DType::F32, layout);
        let bindings = MergeBindings {
            parts: tensor(&self.parts, Layout::bhsd(PARTS)?),
            lse_parts: whole(&self.lses),
            out: tensor(&self.out, Layout::bhsd(OUT)?),
            lse: None,
        };
        Ok((MergeShape { parts: 3, batch: 1, heads: 2, seq: 5 }, bindings))
    }
}

#[test]
pub fn calls() {
    let table = calls! { World, MergePlan, |w, s, b|
        "two parts for three": b.parts.layout.shape[0] = 2 => Shape { tensor: "parts", .. };
        "more rows than out has": s.seq = 6 => Shape { .. };
        "out of another value_dim": b.out.layout.shape[3] = 4 => Shape { tensor: "out", .. };
        "f16 parts": b.parts.dtype = DType::F16 => DType { tensor: "parts", .. };
        "an offset between quads": b.parts.layout.offset = 2
            => Stride { tensor: "parts", what: "offset", .. };
        "log-sum-exps of two parts": b.lse_parts = range(&w.lses, 0, 80)
            => BindingTooSmall { tensor: "lse_parts", needed: 120, available: 80 };
        "a short out": b.out.binding = range(&w.out, 0, 256)
            => BindingTooSmall { tensor: "out", needed: 320, available: 256 };
        "a log-sum-exp that was not planned": b.lse = Some(whole(&w.lse))
            => Binding { tensor: "lse", .. };
        "one row of out for all": b.out.layout.strides[2] = 0 => SelfOverlap { tensor: "out", .. };
        "out over the parts": b.out.binding.buffer = &w.parts
            => Overlap { a: "parts", b: "out" };
        "out without STORAGE": b.out.binding.buffer = &w.wrong.no_storage
            => Usage { tensor: "out", .. };
        "parts past 32 bits": b.parts.layout.strides[0] = u32::MAX - 3
            => IndexOverflow { tensor: "parts", .. };
    };
    let plan = MergeProblem::new(8).plan(&lab().gpu.capabilities()).unwrap();
    let kernel = Merge::new(&lab().gpu.device, &plan).unwrap();
    World::new().refuse(lab(), &kernel, World::plain, &table);
}

#[test]
pub fn problems() {
    let table = problems! { MergeProblem::new(8), |p|
        "value_dim 6": p.value_dim = 6 => Invalid { what: "value_dim", .. };
        "sinks that are no numbers": p.sinks = vec![f32::NAN] => Invalid { what: "sinks", .. };
    };
    let caps = lab().gpu.capabilities();
    run_table(&table, |(problem, expected)| expected.check(problem.plan(&caps)));
    let mut small = caps;
    small.max_storage_buffers = 2;
    let few = error!(Limit { limit: "max_storage_buffers_per_shader_stage", available: 2, .. });
    few.check(MergeProblem::new(8).plan(&small)).unwrap();
}
