//! Calls that are cut into dispatches: every budget gives the bits of the uncut call, and those of
//! the kernel that cannot be cut between keys.

use phasor::attention::{
    AttentionBindings, AttentionProblem, AttentionShape, BlockedTile, Outputs, Tile,
};
use phasor::rotary::RopeConfig;
use phasor::{Budget, DType, Dispatch, Error, HeadMap, Layout, OutputHead, Phase, Tensor, wgpu};

use super::{Case, Outcome, Parts, control, quick_tile, small_blocks};
use crate::harness::{Ids, Result, Rotation, lab, run_table};

/// What is computed, and the call it is computed in.
type Twist = fn(Case) -> Case;

/// Few kernels, since each takes a software adapter seconds to compile.
fn problems() -> Result<Vec<(String, (AttentionProblem, Twist))>> {
    let plain = AttentionProblem { heads: HeadMap::plain(2)?, ..control() };
    let all = AttentionProblem {
        window: Some(11),
        softcap: Some(5.0),
        alibi_slopes: vec![0.3, -0.2, 0.1, 0.0],
        sinks: vec![0.5, -1.0, 2.0, f32::NEG_INFINITY],
        q_dtype: DType::F16,
        kv_dtype: DType::F16,
        out_dtype: DType::F16,
        outputs: Outputs::Split,
        ..control()
    };
    let rows: [(&str, AttentionProblem, Twist); 4] = [
        ("two streams", control(), |case| case),
        ("more rows than keys", control(), |case| Case {
            shape: AttentionShape::new(2, 43, 19),
            ..case
        }),
        ("one stream, full, with lengths", AttentionProblem { causal: false, ..plain }, |case| {
            Case { kv_lens: Some(vec![43, 5]), ..case }
        }),
        ("f16, split outputs, window, softcap, ALiBi, sinks", all, |case| case),
    ];
    Ok(rows.map(|(name, problem, twist)| (name.to_owned(), (problem, twist))).into())
}

fn same(what: &str, got: &Outcome, wanted: &Outcome) -> Result {
    let bits = |outcome: &Outcome| {
        let lse = outcome.lse.iter().flatten();
        outcome.out.iter().chain(lse).map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    if wanted.out.iter().any(|x| x.is_nan()) {
        return Err("the reference is not complete".into());
    }
    match bits(got) == bits(wanted) {
        true => Ok(()),
        false => Err(format!("{what}: other bits").into()),
    }
}

/// From the smallest budget up to that of the whole call; the smaller ones in one pass, since a
/// wait for each of hundreds of parts takes its time.
fn check(problem: &AttentionProblem, tile: impl Into<Tile>, twist: Twist) -> Result {
    let tile = tile.into();
    let plain = twist(Case::tiled(problem, tile)?);
    let resumable = AttentionProblem { resumable: true, ..problem.clone() };
    let resumable = twist(Case::tiled(&resumable, tile)?);
    let inputs = plain.inputs();
    let wanted = plain.run(lab(), &inputs)?;
    same("resumable, whole", &resumable.run(lab(), &inputs)?, &wanted)?;
    for case in [&plain, &resumable] {
        let least = case.plan.least_budget(&case.shape).limit();
        let all = case.plan.cut(&case.shape, Budget::UNLIMITED)?.largest();
        let mut most_parts = 0;
        for budget in [least, 3 * least, 7 * least, all / 7, all / 2, all - 1] {
            let budget = Budget::flops(budget.max(least));
            let cut = case.plan.cut(&case.shape, budget)?;
            most_parts = most_parts.max(cut.parts().len());
            let apart = cut.parts().len() < 20;
            let parts = Case { cut: Some(Parts { budget, apart }), ..case.clone() };
            same(&format!("{cut}, apart: {apart}"), &parts.run(lab(), &inputs)?, &wanted)?;
        }
        if most_parts < 5 || (most_parts < 10 && case.plan.problem().resumable) {
            return Err(format!("{most_parts} parts at most: hardly cut").into());
        }
    }
    Ok(())
}

#[test]
fn every_budget_gives_the_same_bits() {
    let problems = problems().unwrap();
    run_table(&problems, |(problem, twist)| check(problem, quick_tile(problem.head_dim), *twist));
}

/// Queries staged in chunks, p and v over k.
#[test]
fn streamed_tiles_can_be_cut() {
    let streamed =
        BlockedTile { q_resident: false, chunk_units: 2, pv_apart: false, ..small_blocks(24) };
    check(&super::tiles::problem(control().heads), streamed, |case| case).unwrap();
}

/// `cargo test --test gpu -- --ignored tiles_of_this_device`
#[test]
#[ignore = "a software adapter compiles these for minutes"]
fn tiles_of_this_device_can_be_cut() {
    let head = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let mixed = HeadMap::new(2, vec![head(0, 0.3), head(0, 2.0), head(1, 0.5)]).unwrap();
    for heads in [HeadMap::plain(2).unwrap(), HeadMap::ropepp(2).unwrap(), mixed] {
        for dim in [64, 128, 256] {
            for dtype in [DType::F32, DType::F16] {
                let problem = AttentionProblem {
                    rotate_q: true,
                    q_dtype: dtype,
                    kv_dtype: dtype,
                    lse: true,
                    ..AttentionProblem::new(heads.clone(), 1, dim)
                };
                let tile = *problem.plan(&lab().gpu.capabilities()).unwrap().tile();
                let result = check(&problem, tile, |case| Case {
                    shape: AttentionShape::new(1, 140, 170),
                    rotation: Some(Rotation::new(
                        RopeConfig::new(case.plan.problem().head_dim, 10_000.0),
                        Ids::From(3),
                    )),
                    ..case
                });
                result.unwrap_or_else(|error| panic!("D {dim}, {dtype}, {tile}: {error}"));
            }
        }
    }
}

/// A call and its buffers, without gaps.
struct Call {
    case: Case,
    inputs: [wgpu::Buffer; 3],
    out: wgpu::Buffer,
    lse: wgpu::Buffer,
    workspace: wgpu::Buffer,
}

impl Call {
    fn new(case: &Case, workspace_bytes: u64) -> Self {
        let gpu = &lab().gpu;
        let inputs = case.inputs();
        let outputs = case.out_shape().iter().product::<u32>() as usize;
        Self {
            case: case.clone(),
            inputs: [&inputs.q, &inputs.k, &inputs.v].map(|data| gpu.upload(data, DType::F32)),
            out: gpu.output(outputs, DType::F32),
            lse: gpu.output(outputs / case.out_shape()[3] as usize, DType::F32),
            workspace: gpu.output(workspace_bytes as usize / 4, DType::F32),
        }
    }

    fn bindings(&self) -> phasor::Result<AttentionBindings<'_>> {
        let p = self.case.plan.problem();
        let shape = self.case.shape;
        let tensor = |buffer, heads, rows| {
            let layout = Layout::bhsd([shape.batch, heads, rows, p.head_dim])?;
            phasor::Result::Ok(Tensor::new(buffer, DType::F32, layout))
        };
        let [q, k, v] = &self.inputs;
        let (q, out) = (tensor(q, p.heads.q_heads(), shape.seq_q)?, &self.out);
        let [k, v] = [tensor(k, p.kv_heads, shape.seq_k)?, tensor(v, p.kv_heads, shape.seq_k)?];
        let out = tensor(out, p.heads.heads().len() as u32, shape.seq_q)?;
        Ok(AttentionBindings {
            lse: Some(self.lse.as_entire_buffer_binding()),
            workspace: Some(self.workspace.as_entire_buffer_binding()),
            ..AttentionBindings::new(q, k, v, out)
        })
    }

    fn bind(&self, budget: Budget, bindings: &AttentionBindings<'_>) -> Result<Dispatch> {
        let kernel = lab().attention(&self.case.plan)?;
        Ok(kernel.bind_within(&lab().gpu.device, &self.case.shape, bindings, budget)?)
    }

    fn read(&self, like: &Outcome) -> Outcome {
        let read = |buffer, n: usize| {
            let mut data = lab().gpu.download(buffer, DType::F32);
            data.truncate(n);
            data
        };
        Outcome {
            out: read(&self.out, like.out.len()),
            lse: like.lse.as_ref().map(|lse| read(&self.lse, lse.len())),
        }
    }
}

/// Parts of one call between those of another, each with a workspace of its own.
#[test]
fn calls_can_take_turns() {
    let case = Case::quick(&AttentionProblem { resumable: true, ..control() }).unwrap();
    let budget = Budget::flops(5 * case.plan.least_budget(&case.shape).limit());
    let cut = case.plan.cut(&case.shape, budget).unwrap();
    assert!(cut.workspace_bytes() > 0 && cut.parts().len() > 5, "{cut}");
    let cases = [1, 2].map(|seed| Case { seed, ..case.clone() });
    let calls = cases.map(|case| Call::new(&case, cut.workspace_bytes()));
    let [a, b] = calls.each_ref().map(|call| call.bind(budget, &call.bindings().unwrap()).unwrap());
    assert_eq!(a.parts().len(), cut.parts().len());
    for (a, b) in a.parts().zip(b.parts()) {
        lab().gpu.run(|encoder| {
            a.encode(encoder);
            b.encode(encoder);
        });
    }
    for call in calls {
        let wanted = call.case.run(lab(), &call.case.inputs()).unwrap();
        same("in turns", &call.read(&wanted), &wanted).unwrap();
    }
}

#[test]
fn the_workspace_is_checked() {
    let resumable = Case::quick(&AttentionProblem { resumable: true, ..control() }).unwrap();
    let budget = resumable.plan.least_budget(&resumable.shape);
    let bytes = resumable.plan.cut(&resumable.shape, budget).unwrap().workspace_bytes();
    let call = Call::new(&resumable, bytes);
    let right = call.bindings().unwrap();
    call.bind(budget, &right).unwrap();
    // Where nothing is cut it may stay bound.
    call.bind(Budget::UNLIMITED, &right).unwrap();
    let refused = |call: &Call, budget, bindings: &AttentionBindings<'_>| {
        let error = call.bind(budget, bindings).unwrap_err();
        *error.downcast::<Error>().unwrap()
    };
    let missing = AttentionBindings { workspace: None, ..right.clone() };
    let error = refused(&call, budget, &missing);
    assert!(matches!(error, Error::Binding { tensor: "workspace", .. }), "{error}");
    let overlapping = AttentionBindings { workspace: Some(right.out.binding.clone()), ..right };
    let error = refused(&call, budget, &overlapping);
    assert!(matches!(error, Error::Overlap { b: "workspace", .. }), "{error}");
    let small = Call::new(&resumable, bytes - 16);
    let error = refused(&small, budget, &small.bindings().unwrap());
    let needed = bytes;
    assert!(matches!(error, Error::BindingTooSmall { needed: n, .. } if n == needed), "{error}");
    let plain = Call::new(&Case::quick(&control()).unwrap(), bytes);
    let error = refused(&plain, Budget::UNLIMITED, &plain.bindings().unwrap());
    assert!(matches!(error, Error::Binding { tensor: "workspace", .. }), "{error}");
}

#[test]
fn budgets_that_cannot_be_kept_are_refused() {
    for resumable in [false, true] {
        let case = Case::quick(&AttentionProblem { resumable, ..control() }).unwrap();
        let least = case.plan.least_budget(&case.shape).limit();
        let budget = Budget::flops(least - 1);
        let parts = Case { cut: Some(Parts { budget, apart: false }), ..case };
        let error = parts.run(lab(), &parts.inputs()).unwrap_err();
        let error = error.downcast_ref::<Error>();
        assert!(matches!(error, Some(Error::Invalid { what: "budget", .. })), "{error:?}");
    }
}
