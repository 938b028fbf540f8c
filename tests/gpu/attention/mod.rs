//! Attention on the device against the oracle: what a case is, and how it runs. The tables of
//! cases are in the files beside this one, a theme each; every case differs from its table's
//! control in one thing.

mod caches;
mod dims;
mod features;
mod heads;
mod parts;
mod rotary;
mod sequences;
mod sizes;
mod storage;
pub mod tiles;
pub mod variants;

use phasor::attention::{
    AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape, BlockList, BlockedTile,
    MatrixTile, Outputs, ShuffledTile, Tile,
};
use phasor::oracle::{self, AttentionInputs};
use phasor::{Budget, Capabilities, DType, HeadMap, Layout, Matrices, Precision, Tensor};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{Lab, Place, Placed, Result, Rotation, execute, lab, random, widened};

/// One call. Keys are given as they are, as if they had been rotated before.
#[derive(Debug, Clone)]
pub struct Case {
    pub plan: AttentionPlan,
    pub shape: AttentionShape,
    pub kv_lens: Option<Vec<u32>>,
    /// Needed where the problem has a prefix.
    pub prefix_lens: Option<Vec<u32>>,
    /// Needed where the problem has a bias: its extent along batch, output heads and queries, 1
    /// where it is broadcast. The numbers are random.
    pub bias_extent: [u32; 3],
    /// A number in the place of many of them, see [`variants::Scores::with`].
    pub bias_filler: Option<f32>,
    /// Needed where the problem rotates q.
    pub rotation: Option<Rotation>,
    pub places: Places,
    pub cut: Option<Parts>,
    /// Largest absolute value of the inputs.
    pub size: f32,
    pub seed: u64,
}

/// How a call is cut into dispatches.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub budget: Budget,
    /// Each is submitted and waited for before the next is recorded; otherwise all are in one pass.
    pub apart: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub q: Place,
    pub k: Place,
    pub v: Place,
    /// Of both outputs.
    pub out: Place,
}

/// The tensors of a call, as `[B, H, S, D]` without gaps.
#[derive(Debug, Clone)]
pub struct Inputs {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// What a call gives, output heads in the order of the head map.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub out: Vec<f32>,
    pub lse: Option<Vec<f32>>,
}

/// What a call should give, and how far off it may be.
pub struct Reference {
    pub truth: oracle::Attended<f64>,
    pub out: Bound,
    pub lse: Bound,
    /// The log-sum-exps of the run in f32, for bounds of some of them.
    pub naive_lse: Vec<f32>,
}

/// The control: RoPE++ of two query heads over one kv head, causal, with log-sum-exp. D = 16 keeps
/// it quick where D does not matter.
pub fn control() -> AttentionProblem {
    let heads = HeadMap::ropepp(2).expect("two heads");
    AttentionProblem { lse: true, precision: precision(), ..AttentionProblem::new(heads, 1, 16) }
}

/// A tile of 8 queries and 16 keys, and all channels of D at once. A software adapter takes many
/// seconds to compile a large tile or one with many steps, so the tables use this one wherever the
/// tile is not what they are about.
pub fn small_tile(head_dim: u32) -> Tile {
    if precision().on_matrices() {
        return matrix_tile().into();
    }
    small_blocks(head_dim).into()
}

/// The sizes of the [small tile](small_tile).
pub fn small_blocks(head_dim: u32) -> BlockedTile {
    BlockedTile {
        tx: 4,
        ty: 4,
        row_pairs: 1,
        key_quads: 1,
        chunk_units: (head_dim / 8 + 1).min(16),
        q_resident: true,
        v_quads: 1,
        pv_apart: true,
    }
}

/// A tile of the kernel that compiles in the least time: the shuffled one where all subgroups of
/// the device are of one size, and small, so that tests of cuts have something to cut. Tables about
/// what both kernels share take it: rotations, sequences, masks, hooks, storage.
pub fn quick_tile(head_dim: u32) -> Tile {
    match lab().gpu.capabilities().subgroup {
        Some((lanes, most)) if lanes == most && lanes <= 8 && precision() == Precision::F32 => {
            ShuffledTile { lanes, row_pairs: 1, key_quads: (lanes / 4).max(4) }.into()
        }
        _ => small_tile(head_dim),
    }
}

/// How products are computed in these tables: on matrix units where `PRECISION` says so. What the
/// kernel does not do there is not in the tables that `scripts/adapter-matrix.sh` runs so.
pub fn precision() -> Precision {
    match std::env::var("PRECISION") {
        Err(_) => Precision::F32,
        Ok(name) => phasor_kit::gpu::precision(&name).expect("PRECISION"),
    }
}

/// What the device offers; these tests are what says whether its matrix units may be trusted.
pub fn capabilities() -> Capabilities {
    lab().gpu.capabilities().insist_on_matrices()
}

/// A tile of two subgroups on matrix units, with the fewest keys that it can have.
pub fn matrix_tile() -> MatrixTile {
    let Matrices::Listed { side, lanes, .. } = lab().gpu.capabilities().matrices else {
        panic!("{}: {:?}", lab().gpu.info.name, lab().gpu.capabilities().matrices);
    };
    let block_k = side.rows().max(4 * lanes / side.rows());
    MatrixTile { side, lanes, subgroups: 2, block_k, value_turned: false, precision: precision() }
}

impl Case {
    /// A case with the plan that the device gets. Sizes that neither tiles nor vectors divide.
    pub fn new(problem: &AttentionProblem) -> phasor::Result<Self> {
        Ok(Self::planned(problem.plan(&capabilities())?))
    }

    /// The same in [small tiles](small_tile).
    pub fn small(problem: &AttentionProblem) -> phasor::Result<Self> {
        Self::tiled(problem, small_tile(problem.head_dim))
    }

    /// The same in [quick tiles](quick_tile).
    pub fn quick(problem: &AttentionProblem) -> phasor::Result<Self> {
        Self::tiled(problem, quick_tile(problem.head_dim))
    }

    pub fn tiled(problem: &AttentionProblem, tile: impl Into<Tile>) -> phasor::Result<Self> {
        AttentionPlan::with_tile(problem, &capabilities(), tile).map(Self::planned)
    }

    pub fn planned(plan: AttentionPlan) -> Self {
        let gaps = Place::Gaps;
        Case {
            plan,
            shape: AttentionShape::new(2, 37, 43),
            kv_lens: None,
            prefix_lens: None,
            bias_extent: [2, 1, 37],
            bias_filler: None,
            rotation: None,
            places: Places { q: gaps, k: gaps, v: gaps, out: gaps },
            cut: None,
            size: 2.0,
            seed: 1,
        }
    }

    fn shapes(&self) -> [[u32; 4]; 3] {
        let p = self.plan.problem();
        let AttentionShape { batch, seq_q, seq_k, .. } = self.shape;
        [
            [batch, p.heads.q_heads(), seq_q, p.head_dim],
            [batch, p.kv_heads, seq_k, p.head_dim],
            [batch, p.kv_heads, seq_k, p.value_dim],
        ]
    }

    pub fn out_shape(&self) -> [u32; 4] {
        let p = self.plan.problem();
        [self.shape.batch, p.heads.heads().len() as u32, self.shape.seq_q, p.value_dim]
    }

    /// Random inputs; NaN in the keys and values behind `kv_lens`, where no other batch has them.
    pub fn inputs(&self) -> Inputs {
        let p = self.plan.problem();
        let [q, k, v] = self.shapes();
        let mut inputs = Inputs {
            q: random(q, self.size, p.q_dtype, self.seed),
            k: random(k, self.size, p.kv_dtype, self.seed + 1000),
            v: random(v, self.size, p.kv_dtype, self.seed + 2000),
        };
        for (data, shape, place) in [
            (&mut inputs.q, q, self.places.q),
            (&mut inputs.k, k, self.places.k),
            (&mut inputs.v, v, self.places.v),
        ] {
            if place == Place::Broadcast && !data.is_empty() {
                let plane = (shape[2] * shape[3]) as usize;
                let first = data[..plane].to_vec();
                data.chunks_exact_mut(plane).for_each(|head| head.copy_from_slice(&first));
            }
        }
        let lens = || self.kv_lens.iter().flatten().map(|&len| len.min(self.shape.seq_k));
        // Rows that all batches share are behind the longest one.
        let longest = lens().max().unwrap_or(0);
        for (b, len) in lens().enumerate() {
            for (data, [_, heads, rows, channels], place) in
                [(&mut inputs.k, k, self.places.k), (&mut inputs.v, v, self.places.v)]
            {
                let len = if place == Place::Broadcast { longest } else { len };
                let row = |n: u32| (n * channels) as usize;
                let batch = &mut data[b * row(heads * rows)..][..row(heads * rows)];
                for head in batch.chunks_exact_mut(row(rows).max(1)) {
                    head[row(len)..].fill(f32::NAN);
                }
            }
        }
        inputs
    }

    /// Random inputs through the kernel, held to the oracle.
    pub fn check(&self) -> Result {
        let inputs = self.inputs();
        self.hold(&self.run(lab(), &inputs)?, &self.reference(&inputs)?)
    }

    pub fn hold(&self, got: &Outcome, reference: &Reference) -> Result {
        let shape = self.out_shape();
        compare("out", &got.out, &reference.truth.out, &reference.out, shape)?;
        if let Some(lse) = &got.lse {
            let shape = [shape[0], shape[1], shape[2], 1];
            compare("lse", lse, &reference.truth.lse, &reference.lse, shape)?;
        }
        Ok(())
    }

    /// The oracle in double precision, and the bound from its run in f32.
    pub fn reference(&self, inputs: &Inputs) -> Result<Reference> {
        let p = self.plan.problem();
        let [shape, ..] = self.shapes();
        let mut exact = [widened(&inputs.q), widened(&inputs.k), widened(&inputs.v)];
        let mut naive = inputs.clone();
        if let Some(rotation) = &self.rotation {
            let (dim, pairing) = (p.rotary_dim, p.pairing);
            exact[0] = oracle::rope(&exact[0], shape, dim, pairing, rotation.exact(false)?)?;
            naive.q = oracle::rope(&naive.q, shape, dim, pairing, rotation.rounded(false)?)?;
        }
        self.judge(&exact, &naive)
    }

    /// The same of rotated queries, keys and values: in double precision, and as a naive f32
    /// program has them.
    pub fn judge(&self, [q, k, v]: &[Vec<f64>; 3], naive: &Inputs) -> Result<Reference> {
        let storage = self.plan.problem().out_dtype;
        let truth = variants::attend(self, &self.oracle_inputs(q, k, v))?;
        let naive = self.oracle_inputs(&naive.q, &naive.k, &naive.v);
        let naive = variants::attend_rounded(self, &naive)?;
        Ok(Reference {
            out: Bound::computed(&stored(&naive.out, storage), &truth.out, storage),
            lse: Bound::computed(&naive.lse, &truth.lse, DType::F32),
            naive_lse: naive.lse,
            truth,
        })
    }

    fn oracle_inputs<'a, R>(
        &'a self,
        q: &'a [R],
        k: &'a [R],
        v: &'a [R],
    ) -> AttentionInputs<'a, R> {
        let p = self.plan.problem();
        let [q_shape, k_shape, v_shape] = self.shapes();
        AttentionInputs {
            q,
            q_shape,
            k,
            k_shape,
            v,
            v_shape,
            rotary_dim: p.rotary_dim,
            pairing: p.pairing,
            heads: p.heads.heads(),
            softmax_scale: f64::from(p.softmax_scale),
            causal: p.causal,
            q_offset: self.shape.query_offset.map(i64::from),
            kv_lens: self.kv_lens.as_deref(),
        }
    }

    /// The kernel on guarded tensors.
    pub fn run(&self, lab: &Lab, inputs: &Inputs) -> Result<Outcome> {
        let p = self.plan.problem();
        let gpu = &lab.gpu;
        let places = [self.places.q, self.places.k, self.places.v];
        let dtypes = [p.q_dtype, p.kv_dtype, p.kv_dtype];
        let data = [&inputs.q, &inputs.k, &inputs.v];
        let mut placed = Vec::new();
        for (n, shape) in self.shapes().into_iter().enumerate() {
            placed.push(Placed::input(gpu, dtypes[n], places[n].layout(shape)?, data[n]));
        }
        self.run_on(lab, [placed[0].tensor(), placed[1].tensor(), placed[2].tensor()])
    }

    /// The kernel on tensors that lie somewhere, into guarded outputs.
    pub fn run_on(&self, lab: &Lab, [q, k, v]: [Tensor<'_>; 3]) -> Result<Outcome> {
        let p = self.plan.problem();
        let gpu = &lab.gpu;
        let AttentionShape { batch, seq_q, .. } = self.shape;
        let heads = p.heads.heads();
        let [_, heads_out, _, value_dim] = self.out_shape();
        let split = p.outputs == Outputs::Split;
        let stored_heads = if split { p.heads.q_heads() } else { heads_out };
        let layout = self.places.out.layout([batch, stored_heads, seq_q, value_dim])?;
        let out = Placed::output(gpu, p.out_dtype, layout);
        let out_im = split.then(|| Placed::output(gpu, p.out_dtype, layout));
        let lse_layout = Place::Bhsd.layout([batch, heads_out, seq_q, 1])?;
        let lse = p.lse.then(|| Placed::output(gpu, DType::F32, lse_layout));
        // A length too many: the kernel must not take it for a batch of its own.
        let lens = self.kv_lens.iter().flatten().copied().chain([u32::MAX]).collect::<Vec<_>>();
        let kv_lens = self.kv_lens.is_some().then(|| gpu.upload_u32(&lens));
        let rotation = self.rotation.as_ref().map(|r| r.upload(gpu, batch, seq_q)).transpose()?;

        let mut bindings = AttentionBindings::new(q, k, v, out.tensor());
        bindings.out_im = out_im.as_ref().map(Placed::tensor);
        bindings.lse = lse.as_ref().map(Placed::binding);
        bindings.kv_lens = kv_lens.as_ref().map(|lens| lens.as_entire_buffer_binding());
        let prefix_lens = self.prefix_lens.as_ref().map(|lens| gpu.upload_u32(lens));
        bindings.prefix_lens = prefix_lens.as_ref().map(|lens| lens.as_entire_buffer_binding());
        let blocks = self.blocks().map(|list| gpu.upload_u32(&list));
        bindings.block_list = blocks
            .as_ref()
            .map(|list| BlockList { binding: list.as_entire_buffer_binding(), per_batch: true });
        let bias = p.bias.map(|kind| variants::Scores::of(self, kind));
        let bias_buffer = bias.as_ref().map(|bias| gpu.upload_bytes(&bias.bytes()));
        bindings.bias = bias
            .iter()
            .zip(&bias_buffer)
            .map(|(bias, buffer)| (bias.layout, buffer.as_entire_buffer_binding()))
            .next();
        bindings.rotation = rotation.as_ref().map(|r| r.rotation());
        let kernel = lab.attention(&self.plan)?;
        let budget = self.cut.map_or(Budget::UNLIMITED, |cut| cut.budget);
        let bytes = self.plan.cut(&self.shape, budget)?.workspace_bytes() as u32;
        let workspace = match bytes {
            0 => None,
            _ => Some(Placed::output(gpu, DType::F32, Layout::bhsd([1, 1, 1, bytes / 4])?)),
        };
        bindings.workspace = workspace.as_ref().map(Placed::binding);
        let dispatch = kernel.bind_within(&gpu.device, &self.shape, &bindings, budget)?;
        if dispatch.is_empty() != (self.out_shape().contains(&0)) {
            return Err("empty, but its output is not, or the other way round".into());
        }
        match self.cut {
            Some(Parts { apart: true, .. }) => {
                dispatch.parts().for_each(|part| gpu.run(|encoder| part.encode(encoder)));
            }
            _ => execute(gpu, &dispatch),
        }
        if let Some(workspace) = workspace {
            workspace.read(gpu)?;
        }

        let mut streams = vec![out.read(gpu)?];
        if let Some(out_im) = &out_im {
            streams.push(out_im.read(gpu)?);
        }
        let lse = lse.map(|lse| lse.read(gpu)).transpose()?;
        if !split {
            return Ok(Outcome { out: streams.swap_remove(0), lse });
        }
        // Into the order of the head map: which output head of its query head is it?
        let plane = (seq_q * value_dim) as usize;
        let mut merged = Vec::new();
        for b in 0..batch {
            for (o, head) in heads.iter().enumerate() {
                let stream = heads[..o].iter().filter(|h| h.source == head.source).count();
                let at = (b * stored_heads + head.source) as usize * plane;
                merged.extend_from_slice(&streams[stream][at..at + plane]);
            }
        }
        Ok(Outcome { out: merged, lse })
    }
}
