//! The kernels as a runner: the same cases on a device.

use std::{cell::RefCell, collections::BTreeSet};

use phasor::attention::{Attention, AttentionProblem};
use phasor::attention_backward::AttentionBackward;
use phasor::decode::Decode;
use phasor::kv_append::KvAppend;
use phasor::recipe::Plan;
use phasor::rope::{Direction, Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, TableShape};
use phasor::scores::{ComponentOrder, Output, Scores, ScoresBindings, ScoresProblem, ScoresShape};
use phasor::{Capabilities, DType, Kernel, Layout, Precision, Tensor, oracle, wgpu};

use super::{
    Attend, Gradients, Linear, ModelAttention, Runner, Ways, cache::Slots, remote::Remote,
};
use crate::{
    cases::{
        AttentionCase, BackwardCase, CacheCase, LinearBackwardCase, LinearCase, MergeCase, Order,
        Result, RopeBackwardCase, RopeCase, Rotation, ScoresCase,
    },
    gpu::Gpu,
};

/// All kernels, on one device. Compiled kernels and the last table are kept from case to case.
pub struct Device<'a> {
    pub(super) gpu: &'a Gpu,
    ropes: RefCell<Vec<Rope>>,
    attentions: RefCell<Vec<Attention>>,
    pub(super) decodes: RefCell<Vec<Decode>>,
    pub(super) appends: RefCell<Vec<KvAppend>>,
    pub(super) backwards: RefCell<Vec<AttentionBackward>>,
    table: RefCell<Option<Table>>,
    remote: Option<RefCell<Remote>>,
    /// Of prefill; the rest is in f32.
    pub(super) precision: Precision,
}

/// A table on the device, and the rotation that it is for.
#[derive(Clone)]
pub(super) struct Table {
    rotation: Rotation,
    buffer: wgpu::Buffer,
    shape: TableShape,
}

impl<'a> Device<'a> {
    pub fn new(gpu: &'a Gpu) -> Self {
        Device {
            gpu,
            ropes: RefCell::default(),
            attentions: RefCell::default(),
            decodes: RefCell::default(),
            appends: RefCell::default(),
            backwards: RefCell::default(),
            table: RefCell::default(),
            remote: None,
            precision: Precision::F32,
        }
    }

    /// The same calls over tensors on `gpu`, but run by another program: see [`Remote`].
    pub fn through(gpu: &'a Gpu, remote: Remote) -> Self {
        Device { remote: Some(RefCell::new(remote)), ..Device::new(gpu) }
    }

    /// The same with attention over whole sequences in this precision; models too, where it is
    /// about that of f32.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Device { precision, ..self }
    }

    /// What plans go by; who runs cases on matrix units wants to know whether they are right there.
    pub(super) fn capabilities(&self) -> Capabilities {
        self.gpu.capabilities().insist_on_matrices()
    }

    /// Runs a call, here or over there.
    pub(super) fn run<P: Plan>(
        &self,
        kernel: &Kernel<P>,
        shape: &P::Shape<'_>,
        bindings: &P::Bindings<wgpu::BufferBinding<'_>>,
    ) -> Result<()> {
        let Some(remote) = &self.remote else {
            let call = kernel.bind(&self.gpu.device, shape, bindings)?;
            self.gpu.run(|encoder| call.encode(encoder));
            return Ok(());
        };
        let plan = kernel.plan();
        remote.borrow_mut().run(self.gpu, plan, &plan.recipe(shape, bindings)?)
    }

    fn rope_kernel(&self, problem: &RopeProblem) -> Result<Rope> {
        let mut known = self.ropes.borrow_mut();
        if let Some(kernel) = known.iter().find(|kernel| kernel.plan().problem() == problem) {
            return Ok(kernel.clone());
        }
        let plan = problem.plan(&self.gpu.capabilities())?;
        known.push(Rope::new(&self.gpu.device, &plan)?);
        Ok(known[known.len() - 1].clone())
    }

    pub(super) fn attention_kernel(&self, problem: &AttentionProblem) -> Result<Attention> {
        let mut known = self.attentions.borrow_mut();
        if let Some(kernel) = known.iter().find(|kernel| kernel.plan().problem() == problem) {
            return Ok(kernel.clone());
        }
        let plan = problem.plan(&self.capabilities())?;
        let mut kernel = None;
        for other in known.iter() {
            kernel = kernel.or(other.reuse(&self.gpu.device, &plan)?);
        }
        known.push(match kernel {
            Some(kernel) => kernel,
            None => Attention::new(&self.gpu.device, &plan)?,
        });
        Ok(known[known.len() - 1].clone())
    }

    /// The table that reaches all positions of a rotation. Pairings share it.
    pub(super) fn table(&self, rotation: &Rotation) -> Result<Table> {
        let reach = |rotation: &Rotation| rotation.reach().into_iter().max();
        let same = |known: &Rotation| {
            let mut config = known.config.clone();
            config.pairing = rotation.config.pairing;
            (&config, known.current_len, known.xpos, reach(known))
                == (&rotation.config, rotation.current_len, rotation.xpos, reach(rotation))
        };
        if let Some(known) = self.table.borrow().as_ref().filter(|known| same(&known.rotation)) {
            return Ok(known.clone());
        }
        let positions = reach(rotation).map_or(0, |last| last + 1);
        let table = rotation.frequencies()?.table(positions)?;
        let made = Table {
            rotation: rotation.clone(),
            buffer: self.gpu.upload_bytes(table.as_bytes()),
            shape: table.shape()?,
        };
        Ok(self.table.borrow_mut().insert(made).clone())
    }

    /// A table, and the places in it of a rotation's positions: the positions themselves, unless a
    /// table up to the last of them is too large to bind. Then it holds those in use alone.
    fn table_with_places(&self, rotation: &Rotation) -> Result<(Table, Vec<u32>)> {
        let positions = rotation.positions.concat();
        let frequencies = rotation.frequencies()?;
        let mut shape = frequencies.table(1)?.shape()?;
        let rows = u64::from(positions.iter().max().map_or(0, |&last| last + 1));
        let bytes = 8 * rows * u64::from(shape.pairs) * u64::from(shape.planes);
        if bytes <= self.gpu.capabilities().max_storage_binding {
            return Ok((self.table(rotation)?, positions));
        }
        let used: BTreeSet<u32> = positions.iter().copied().collect();
        let mut entries: Vec<[f32; 2]> = Vec::new();
        for key in (0..shape.planes).map(|plane| plane == 1) {
            for &position in &used {
                entries.extend((0..shape.pairs as usize).map(|pair| {
                    let (cos, sin) = frequencies.cos_sin(position, pair);
                    let scale = frequencies.query_scale(position, pair);
                    let scale = if key { 1.0 / scale } else { scale };
                    [(cos * scale) as f32, (sin * scale) as f32]
                }));
            }
        }
        shape.positions = used.len() as u32;
        let buffer = self.gpu.upload_bytes(bytemuck::cast_slice(&entries));
        let place = |position: &u32| used.range(..position).count() as u32;
        let places = positions.iter().map(place).collect();
        Ok((Table { rotation: rotation.clone(), buffer, shape }, places))
    }

    /// Vectors of `shape` as the rope kernel rotates them, `[B, H, S, D]` without gaps.
    pub(super) fn rotate(
        &self,
        x: &[f32],
        shape: [u32; 4],
        order: Order,
        rotation: &Rotation,
    ) -> Result<wgpu::Buffer> {
        self.turn(x, shape, order, rotation, Direction::Forward)
    }

    /// [`Device::rotate`] forth or back.
    fn turn(
        &self,
        x: &[f32],
        shape: [u32; 4],
        order: Order,
        rotation: &Rotation,
        direction: Direction,
    ) -> Result<wgpu::Buffer> {
        rotation.check(shape[2])?;
        let [batch, heads, seq, head_dim] = shape;
        let config = &rotation.config;
        let problem = RopeProblem {
            rotary_dim: config.rotary_dim,
            pairing: config.pairing,
            aligned: head_dim.is_multiple_of(4),
            direction,
            ..RopeProblem::new(heads, if rotation.keys { heads } else { 0 }, head_dim)
        };
        let kernel = self.rope_kernel(&problem)?;
        let layout = match order {
            Order::Bhsd => Layout::bhsd(shape)?,
            Order::Bshd => Layout::bshd(shape)?,
        };
        let (table, places) = self.table_with_places(rotation)?;
        let ids = self.gpu.upload_u32(&places);
        // xPos treats keys as keys only in the place of K, beside which there is always a Q.
        let input = self.gpu.upload(x, DType::F32);
        let outputs = [(); 2].map(|()| self.gpu.output(x.len(), DType::F32));
        let out =
            |buffer| Ok::<_, phasor::Error>(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?));
        let bindings = RopeBindings {
            q: Tensor::new(&input, DType::F32, layout),
            k: rotation.keys.then(|| Tensor::new(&input, DType::F32, layout)),
            q_out: Some(out(&outputs[0])?),
            k_out: if rotation.keys { Some(out(&outputs[1])?) } else { None },
            rotation: table.at(ids_of(&ids, seq)),
        };
        let shape = RopeShape { batch, seq };
        self.run(&kernel, &shape, &bindings)?;
        let [q_out, k_out] = outputs;
        Ok(if rotation.keys { k_out } else { q_out })
    }

    pub(super) fn download(&self, buffer: &wgpu::Buffer, elements: usize) -> Vec<f64> {
        let data = self.gpu.download(buffer, DType::F32);
        data[..elements].iter().map(|&x| f64::from(x)).collect()
    }
}

impl Table {
    /// Rows at these positions.
    pub(super) fn at<'a>(&'a self, positions: Positions<'a>) -> phasor::rotary::Rotation<'a> {
        phasor::rotary::Rotation::new(self.bind(), positions)
    }

    pub(super) fn bind(&self) -> CosSin<'_> {
        CosSin { binding: self.buffer.as_entire_buffer_binding(), shape: self.shape }
    }
}

/// Position ids that all batches share, `[streams, S]`.
pub(super) fn ids_of(ids: &wgpu::Buffer, seq: u32) -> Positions<'_> {
    Positions::Ids { binding: ids.as_entire_buffer_binding(), batch_stride: 0, stream_stride: seq }
}

impl Runner for Device<'_> {
    fn name(&self) -> &'static str {
        if self.remote.is_some() { "remote" } else { "gpu" }
    }

    fn cache(&self, case: &CacheCase) -> Result<Ways<[Vec<f64>; 2]>> {
        Ok(vec![
            ("append", self.cached(case, Slots::Contiguous)?),
            ("paged", self.cached(case, Slots::Paged)?),
        ])
    }

    fn model(&self, model: &ModelAttention) -> Result<Ways<Box<dyn Attend + '_>>> {
        Ok(vec![
            (self.name(), self.model_attention(model, Slots::Contiguous)?),
            ("paged", self.model_attention(model, Slots::Paged)?),
        ])
    }

    fn merge(&self, case: &MergeCase) -> Result<oracle::Attended<f64>> {
        self.merged(case)
    }

    fn rope(&self, case: &RopeCase) -> Result<Vec<f64>> {
        let rotated = self.rotate(&case.x, case.shape, case.order, &case.rotation)?;
        Ok(self.download(&rotated, case.x.len()))
    }

    fn scores(&self, case: &ScoresCase) -> Result<(Vec<f64>, Vec<f64>)> {
        let [batch, q_heads, seq_q, dim] = case.q_shape;
        let [_, kv_heads, seq_k, _] = case.k_shape;
        let config = &case.q_rotation.config;
        let problem = ScoresProblem {
            rotary_dim: config.rotary_dim,
            pairing: config.pairing,
            causal: false,
            softmax_scale: 1.0,
            output: Output::Scores(ComponentOrder::Pairs),
            ..ScoresProblem::new(q_heads, kv_heads, dim)
        };
        let kernel = Scores::new(&self.gpu.device, &problem.plan(&self.gpu.capabilities())?)?;
        let q = self.rotate(&case.q, case.q_shape, Order::Bhsd, &case.q_rotation)?;
        let k = self.rotate(&case.k, case.k_shape, Order::Bhsd, &case.k_rotation)?;
        let shape = ScoresShape::new(batch, seq_q, seq_k);
        let elements = kernel.plan().output_bytes(&shape) as usize / 4;
        let out = self.gpu.output(elements, DType::F32);
        let bindings = ScoresBindings {
            q: Tensor::new(&q, DType::F32, Layout::bhsd(case.q_shape)?),
            k: Tensor::new(&k, DType::F32, Layout::bhsd(case.k_shape)?),
            out: out.as_entire_buffer_binding(),
            lse: None,
        };
        self.run(&kernel, &shape, &bindings)?;
        let complex = self.download(&out, elements);
        Ok(complex.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip())
    }

    /// By the prefill kernel, and where the case suits by cache and decode.
    fn attention(&self, case: &AttentionCase) -> Result<Ways<oracle::Attended<f64>>> {
        let mut ways = vec![(self.name(), self.prefilled(case, &self.problem(case))?)];
        // Served in f32, which is no news where another precision is asked for.
        if self.precision == Precision::F32 {
            ways.extend(self.served(case)?);
        }
        Ok(ways)
    }

    fn refusal(&self, case: &AttentionCase) -> Option<phasor::Error> {
        self.problem(case).plan(&self.capabilities()).err()
    }

    fn rounded(&self, case: &AttentionCase) -> Result<Option<[oracle::Attended<f64>; 2]>> {
        if self.precision == Precision::F32 {
            return Ok(None);
        }
        let keys = self.attention_kernel(&self.problem(case))?.plan().tile().block_k();
        let rounded = super::backward::attend_rounded(case, self.precision, keys)?;
        let rounded =
            oracle::Attended { out: super::widen(&rounded.out), lse: super::widen(&rounded.lse) };
        Ok(Some([rounded, super::backward::attend::<f64>(case)?]))
    }

    fn linear(&self, case: &LinearCase) -> Result<Linear> {
        self.run_linear(case)
    }

    fn forward(&self, case: &AttentionCase) -> Result<oracle::Attended<f64>> {
        self.prefill(case)
    }

    fn backward(&self, case: &BackwardCase) -> Result<Ways<Gradients>> {
        Ok(vec![(self.name(), self.gradients(case)?)])
    }

    fn rope_backward(&self, case: &RopeBackwardCase) -> Result<Vec<f64>> {
        let RopeBackwardCase { d_y, shape, rotation, .. } = case;
        // The problem says 1 for the attention scaling, which makes the inverse the transpose.
        let dx = self.turn(d_y, *shape, Order::Bhsd, rotation, Direction::Inverse)?;
        Ok(self.download(&dx, d_y.len()))
    }

    fn linear_backward(&self, case: &LinearBackwardCase) -> Result<[Vec<f64>; 3]> {
        self.linear_gradients(case)
    }
}
