//! Attention maps of one head at a time: the rotation turns queries and keys, and the kernels for
//! analysis give the scores and the log-sum-exp of every row. Weights are `exp(score − lse)`.
//!
//! A phase φ costs nothing: S_φ is the score of a query that is turned by −φ, so the table that
//! rotates queries is turned by −φ, and the one of keys is not.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use phasor::rope::{RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, Rotation, TableShape};
use phasor::scores::{
    ComponentOrder, Output, RowStatistics, ScoresBindings, ScoresProblem, ScoresShape,
};
use phasor::{DType, Dispatch, Layout, Tensor, wgpu};
use wasm_bindgen::prelude::*;

use crate::gpu::{Gpu, Shared};
use crate::layer::Layer;
use crate::rule::Rule;
use crate::writer::Writer;
use crate::{Result, oracle, thrown};

/// The maps of a layer.
#[wasm_bindgen]
pub struct Maps {
    gpu: Rc<Shared>,
    layer: Layer,
    /// cos and sin of each position and pair, in f64: `[S, D / 2]`.
    turns: RefCell<Vec<(f64, f64)>>,
    buffers: Buffers,
    /// In this order.
    calls: [Dispatch; 3],
    plans: String,
    busy: Cell<bool>,
}

/// All of one head but the layer's own.
struct Buffers {
    /// q and k of all heads.
    layer: [wgpu::Buffer; 2],
    /// q and k of the head, `[S, D]` each.
    head: [wgpu::Buffer; 2],
    /// `[2, S, D / 2]` of cos and sin: the plane of queries, then that of keys.
    table: wgpu::Buffer,
    /// Scores at φ and at φ + π/2, `[2, S, S]`.
    scores: wgpu::Buffer,
    /// Statistics of each row of both, `[S, 2]`.
    rows: wgpu::Buffer,
    /// Scores and then rows, for the page to read.
    staging: wgpu::Buffer,
}

#[wasm_bindgen]
impl Maps {
    /// The maps of the layer in a safetensors file; compiles three kernels.
    ///
    /// # Errors
    /// Where the file is no such layer, or the device has no room.
    #[wasm_bindgen(constructor)]
    pub fn new(gpu: &Gpu, file: &[u8]) -> std::result::Result<Maps, JsError> {
        let layer = Layer::read(file).map_err(thrown)?;
        Self::over(gpu.shared(), layer).map_err(thrown)
    }

    /// The maps of a layer over what a model has written so far.
    ///
    /// # Errors
    /// Where there is no such layer, or too little text.
    pub fn written(gpu: &Gpu, writer: &Writer, layer: u32) -> std::result::Result<Maps, JsError> {
        let layer = writer.layer(layer).map_err(thrown)?;
        Self::over(gpu.shared(), layer).map_err(thrown)
    }

    /// H_q.
    #[wasm_bindgen(getter)]
    pub fn heads(&self) -> u32 {
        self.layer.heads
    }

    /// S.
    #[wasm_bindgen(getter)]
    pub fn tokens(&self) -> u32 {
        self.layer.seq
    }

    /// D.
    #[wasm_bindgen(getter)]
    pub fn head_dim(&self) -> u32 {
        self.layer.head_dim
    }

    /// Base of the model's rotation.
    #[wasm_bindgen(getter)]
    pub fn theta(&self) -> f64 {
        self.layer.theta
    }

    /// The pieces of the text, where the file spells them.
    #[wasm_bindgen(getter)]
    pub fn pieces(&self) -> Vec<String> {
        self.layer.pieces.clone()
    }

    /// What runs, as the plans say it.
    #[wasm_bindgen(getter)]
    pub fn plans(&self) -> String {
        self.plans.clone()
    }

    /// How positions turn from now on.
    ///
    /// # Errors
    /// Where the rule refuses its numbers.
    pub fn rotate(
        &self,
        name: &str,
        theta: f64,
        factor: f64,
        original: u32,
    ) -> std::result::Result<(), JsError> {
        let rule = Rule { name, theta, factor, original };
        self.turn_by(&rule).map_err(thrown)
    }

    /// Weights of a head at the phases φ and φ + π/2, `[2, S, S]`, from the device.
    ///
    /// # Errors
    /// Where there is no such head, another drawing is under way, or the device is lost.
    pub async fn draw(&self, head: u32, phi: f64) -> std::result::Result<Vec<f32>, JsError> {
        if head >= self.layer.heads {
            return Err(JsError::new(&format!("head {head} of {}", self.layer.heads)));
        }
        if self.busy.replace(true) {
            return Err(JsError::new("another drawing is under way"));
        }
        self.run(head, phi);
        let read = self.gpu.read(&self.buffers.staging).await;
        self.busy.set(false);
        Ok(weights(read.map_err(thrown)?, self.layer.seq as usize))
    }

    /// How far what was drawn is from the formula in f64, and how far it may be.
    ///
    /// # Errors
    /// Where `drawn` is no drawing of this layer.
    pub fn judge(
        &self,
        head: u32,
        phi: f64,
        drawn: &[f32],
    ) -> std::result::Result<Vec<f64>, JsError> {
        let turns = self.turns.borrow();
        let judged = oracle::judge(&self.layer, head, phi, &turns, drawn).map_err(thrown)?;
        Ok(vec![judged.error, judged.bound])
    }
}

impl Maps {
    fn over(gpu: Rc<Shared>, layer: Layer) -> Result<Self> {
        let n = |x: u32| u64::from(x);
        let (seq, dim) = (n(layer.seq), n(layer.head_dim));
        let plane = 4 * seq * dim;
        let scores = 2 * 4 * seq * seq;
        let rows = 2 * seq * size_of::<RowStatistics>() as u64;
        let buffers = Buffers {
            layer: [&layer.q, &layer.k].map(|x| gpu.upload(x)),
            head: [(); 2].map(|()| gpu.storage(plane)),
            table: gpu.storage(2 * 8 * seq * dim / 2),
            scores: gpu.storage(scores),
            rows: gpu.storage(rows),
            staging: gpu.staging(scores + rows),
        };
        let (calls, plans) = calls(&gpu, &layer, &buffers)?;
        let (turns, busy) = (RefCell::default(), Cell::new(false));
        let maps = Self { gpu, layer, turns, buffers, calls, plans, busy };
        let theta = maps.layer.theta;
        maps.turn_by(&Rule { name: "plain", theta, factor: 1.0, original: 1 })?;
        Ok(maps)
    }

    fn turn_by(&self, rule: &Rule<'_>) -> Result<()> {
        let Layer { seq, head_dim, .. } = self.layer;
        let frequencies = rule.frequencies(head_dim)?;
        let pairs = head_dim as usize / 2;
        let row = |position| (0..pairs).map(move |pair| (position, pair));
        let turns = (0..seq).flat_map(row).map(|(s, pair)| frequencies.cos_sin(s, pair));
        *self.turns.borrow_mut() = turns.collect();
        Ok(())
    }

    /// Submits a drawing.
    fn run(&self, head: u32, phi: f64) {
        let Self { gpu, layer, buffers, .. } = self;
        let turns = self.turns.borrow();
        let narrow = |(c, s): (f64, f64)| [c as f32, s as f32];
        let queries = turns.iter().map(|&turn| narrow(oracle::turned(turn, phi)));
        let table: Vec<[f32; 2]> = queries.chain(turns.iter().map(|&turn| narrow(turn))).collect();
        gpu.queue.write_buffer(&buffers.table, 0, bytemuck::cast_slice(&table));

        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let kv_head = head / (layer.heads / layer.kv_heads);
        let heads = [head, kv_head].map(u64::from);
        let plane = 4 * u64::from(layer.seq) * u64::from(layer.head_dim);
        for ((from, to), head) in buffers.layer.iter().zip(&buffers.head).zip(heads) {
            encoder.copy_buffer_to_buffer(from, head * plane, to, 0, plane);
        }
        self.calls.iter().for_each(|call| call.encode(&mut encoder));
        let Buffers { scores, rows, staging, .. } = buffers;
        encoder.copy_buffer_to_buffer(scores, 0, staging, 0, scores.size());
        encoder.copy_buffer_to_buffer(rows, 0, staging, scores.size(), rows.size());
        gpu.queue.submit([encoder.finish()]);
    }
}

/// Weights `[2, S, S]` of scores and statistics as they are read.
fn weights(mut read: Vec<f32>, seq: usize) -> Vec<f32> {
    let rows = read.split_off(2 * seq * seq);
    let each = size_of::<RowStatistics>() / size_of::<f32>();
    for (n, scores) in read.chunks_exact_mut(seq).enumerate() {
        let (plane, row) = (n / seq, n % seq);
        // The log-sum-exp is the first of a row's statistics.
        let lse = rows[(2 * row + plane) * each];
        scores.iter_mut().for_each(|score| *score = (*score - lse).exp());
    }
    read
}

/// Rotation, scores and statistics of one head, and what their plans say.
fn calls(gpu: &Shared, layer: &Layer, buffers: &Buffers) -> Result<([Dispatch; 3], String)> {
    let Layer { seq, head_dim: dim, .. } = *layer;
    let (device, kernels) = (&gpu.device, &gpu.kernels);
    let layout = Layout::bhsd([1, 1, seq, dim])?;
    let rows = |buffer| Tensor::new(buffer, DType::F32, layout);
    let [q, k] = &buffers.head;
    let [q_turned, k_turned] = [q, k].map(|x| gpu.storage(x.size()));

    let rope = kernels.rope.get(&RopeProblem::new(1, 1, dim))?;
    let shape = TableShape { positions: seq, pairs: dim / 2, planes: 2, axes: None };
    let table = CosSin { binding: buffers.table.as_entire_buffer_binding(), shape };
    let bindings = RopeBindings {
        q: rows(q),
        k: Some(rows(k)),
        q_out: Some(rows(&q_turned)),
        k_out: Some(rows(&k_turned)),
        rotation: Rotation::new(table, Positions::From(0)),
    };
    let turned = rope.bind(device, &RopeShape::new(1, seq), &bindings)?;

    let analysis = |output, out: &wgpu::Buffer| -> Result<(Dispatch, String)> {
        let kernel =
            kernels.scores.get(&ScoresProblem { output, ..ScoresProblem::new(1, 1, dim) })?;
        let out = out.as_entire_buffer_binding();
        let bindings = ScoresBindings::new(rows(&q_turned), rows(&k_turned), out);
        let shape = ScoresShape::new(1, seq, seq);
        let call = kernel.bind(device, &shape, &bindings)?;
        Ok((call, kernel.plan().to_string()))
    };
    let scores = analysis(Output::Scores(ComponentOrder::Planes), &buffers.scores)?;
    // Of the statistics the log-sum-exps are read; the distance serves the others.
    let statistics = analysis(Output::Statistics { distance: 1 }, &buffers.rows)?;
    let plans = [rope.plan().to_string(), scores.1, statistics.1].join("\n");
    Ok(([turned, scores.0, statistics.0], plans))
}
