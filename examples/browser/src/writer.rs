//! A language model that writes in the page: positions, caches and attention by phasor's layers on
//! the device, matrices in wasm.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use phasor::cache::{CacheType, ModelKind};
use phasor::layers::{Layer as Kind, Layers, Model, Sequence};
use phasor::rotary::{Pairing, RopeRule};
use phasor::wgpu;
use phasor_smollm::linear::{Matrix, swiglu};
use phasor_smollm::weights::Weights;
use wasm_bindgen::prelude::*;

use crate::gpu::{Gpu, Shared};
use crate::layer::Layer;
use crate::speed::now;
use crate::{Result, thrown};

/// Tokens that there is room for: a map of more is too fine to read.
const CAPACITY: u32 = 256;

/// A model, and the sequence that it writes.
#[wasm_bindgen]
pub struct Writer {
    gpu: Rc<Shared>,
    weights: Weights,
    layers: RefCell<Layers>,
    sequence: Cell<Sequence>,
    /// A row of q, k and v side by side, `[H_q + 2 H_kv, D]`, and one of `[H_out, D]`.
    qkv: wgpu::Buffer,
    out: wgpu::Buffer,
    staging: wgpu::Buffer,
    plans: String,
    /// Of every layer, the rows of q, k and v so far: what is drawn.
    rows: RefCell<Vec<Vec<f32>>>,
    /// The pieces of the text so far.
    pieces: RefCell<Vec<String>>,
    busy: Cell<bool>,
    stopped: Cell<bool>,
}

#[wasm_bindgen]
impl Writer {
    /// The model in a GGUF or safetensors file, whose configuration is in its header or, as the
    /// text of a `config.json`, in `config`. Compiles its kernels.
    ///
    /// # Errors
    /// Where the file is no Llama-like model with a vocabulary, or the device has no room.
    #[wasm_bindgen(constructor)]
    pub fn new(
        gpu: &Gpu,
        file: &[u8],
        config: Option<String>,
    ) -> std::result::Result<Writer, JsError> {
        Self::of(gpu.shared(), file, config.as_deref()).map_err(thrown)
    }

    /// Layers of the model.
    #[wasm_bindgen(getter)]
    pub fn layers(&self) -> u32 {
        self.weights.config.layers
    }

    /// Which heads the model has.
    #[wasm_bindgen(getter)]
    pub fn kind(&self) -> String {
        match self.weights.components {
            ModelKind::Plain => "RoPE",
            ModelKind::EqualCache => "RoPE++ EC",
            ModelKind::EqualHeads => "RoPE++ EH",
        }
        .to_owned()
    }

    /// Tokens so far.
    #[wasm_bindgen(getter)]
    pub fn tokens(&self) -> usize {
        self.pieces.borrow().len()
    }

    /// What runs, as the plan says it.
    #[wasm_bindgen(getter)]
    pub fn plans(&self) -> String {
        self.plans.clone()
    }

    /// Starts anew with a prompt, and writes up to `count` tokens, as far as there is room: at
    /// `temperature` 0 the most probable each time, else drawn from the probabilities. `each` is
    /// handed every piece of text with its token, the prompt's too. Tokens a second of the new.
    ///
    /// # Errors
    /// Where the prompt has no tokens or too many, it writes already, or the device is lost.
    pub async fn write(
        &self,
        prompt: &str,
        count: u32,
        temperature: f64,
        each: &js_sys::Function,
    ) -> std::result::Result<f64, JsError> {
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(JsError::new(&format!("a temperature of {temperature}; 0 or more is due")));
        }
        if self.busy.replace(true) {
            return Err(JsError::new("it writes already"));
        }
        let written = self.written(prompt, count, temperature, each).await;
        self.busy.set(false);
        written.map_err(thrown)
    }

    /// Ends the writing at the next token.
    pub fn stop(&self) {
        self.stopped.set(true);
    }
}

impl Writer {
    fn of(gpu: Rc<Shared>, file: &[u8], config: Option<&str>) -> Result<Self> {
        let weights = local(Weights::from_bytes(file, config))?;
        if weights.text.is_none() {
            return Err("the file has no vocabulary that is read here".into());
        }
        let format = local(weights.cache(CacheType::F32))?;
        let heads = local(weights.heads())?;
        let row = |heads: usize| 4 * heads as u64 * u64::from(format.head_dim);
        let inputs = row(heads.q_heads() as usize + 2 * format.kv_heads as usize);
        let outputs = row(heads.heads().len());
        let layer = Kind::new(heads, format.kv_heads, weights.config.rope.clone());
        let count = weights.config.layers as usize;
        // One row a step: the prompt is read as it is written, and one kernel less is compiled.
        let model = Model { max_rows: 1, ..Model::new(vec![layer; count], 1, CAPACITY) };
        let plan = model.plan(&gpu.caps)?;
        let mut layers = Layers::new(&gpu.device, &plan)?;
        let (qkv, out) = (gpu.storage(inputs), gpu.storage(outputs));
        for n in 0..count {
            let whole = wgpu::Buffer::as_entire_buffer_binding;
            layers.bind_packed(n, whole(&qkv), whole(&out))?;
        }
        let sequence = Cell::new(layers.start()?);
        Ok(Self {
            staging: gpu.staging(outputs),
            gpu,
            weights,
            layers: RefCell::new(layers),
            sequence,
            qkv,
            out,
            plans: plan.to_string(),
            rows: RefCell::new(vec![Vec::new(); count]),
            pieces: RefCell::default(),
            busy: Cell::new(false),
            stopped: Cell::new(false),
        })
    }

    async fn written(
        &self,
        prompt: &str,
        count: u32,
        temperature: f64,
        each: &js_sys::Function,
    ) -> Result<f64> {
        let text = self.weights.text.as_ref().ok_or("no vocabulary")?;
        let ids = local(text.encode(prompt))?;
        let most = CAPACITY as usize - 1;
        if !(1..=most).contains(&ids.len()) {
            let got = ids.len();
            return Err(
                format!("it takes 1 to {most} tokens to begin with; there are {got}").into()
            );
        }
        self.stopped.set(false);
        {
            let mut layers = self.layers.borrow_mut();
            // Of a step that failed.
            layers.abandon();
            layers.end(self.sequence.get())?;
            self.sequence.set(layers.start()?);
        }
        self.rows.borrow_mut().iter_mut().for_each(Vec::clear);
        self.pieces.borrow_mut().clear();

        let mut spell = text.stream();
        let mut push = |id: u32| -> Result<()> {
            let piece = spell(id);
            self.pieces.borrow_mut().push(piece.clone());
            each.call2(&JsValue::NULL, &piece.into(), &id.into())
                .map(drop)
                .map_err(|_| "the page refused it".into())
        };
        let mut logits = Vec::new();
        for (i, &id) in ids.iter().enumerate() {
            let x = self.step(id).await?;
            if i + 1 == ids.len() {
                logits = self.logits(&x);
            }
            push(id)?;
        }
        let start = now();
        let mut written = 0;
        let room = (CAPACITY as usize - ids.len()) as u32;
        while written < count.min(room) && !self.stopped.get() {
            let id = choose(&logits, temperature);
            if self.weights.config.end.contains(&id) {
                break;
            }
            let x = self.step(id).await?;
            logits = self.logits(&x);
            push(id)?;
            written += 1;
        }
        Ok(f64::from(written) / (now() - start).max(1.0) * 1e3)
    }

    /// One more token through all layers: what the last one leaves.
    async fn step(&self, id: u32) -> Result<Matrix> {
        let Self { gpu, weights, .. } = self;
        let mut x = local(weights.embed(&[id]))?;
        self.layers.borrow_mut().advance(&gpu.queue, &[(self.sequence.get(), 1)])?;
        for (n, layer) in weights.layers.iter().enumerate() {
            let qkv = layer.qkv.forward(&layer.attention_norm.forward(&x));
            self.rows.borrow_mut()[n].extend_from_slice(qkv.data());
            gpu.queue.write_buffer(&self.qkv, 0, bytemuck::cast_slice(qkv.data()));
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            self.layers.borrow_mut().encode(n, &mut encoder)?;
            encoder.copy_buffer_to_buffer(&self.out, 0, &self.staging, 0, self.out.size());
            gpu.queue.submit([encoder.finish()]);
            // The output projection is the host's: this is all that has to come back.
            let attended = gpu.read(&self.staging).await?;
            x.add(&layer.output.forward(&local(Matrix::new(attended.len(), attended))?));
            let h = layer.mlp_norm.forward(&x);
            let mut gate = layer.gate.forward(&h);
            swiglu(&mut gate, &layer.up.forward(&h));
            x.add(&layer.down.forward(&gate));
        }
        Ok(x)
    }

    fn logits(&self, x: &Matrix) -> Vec<f32> {
        self.weights.head().forward(&self.weights.norm.forward(x)).data().to_vec()
    }

    /// Queries and keys of a layer over the text so far, to be drawn.
    ///
    /// # Errors
    /// Where there is no such layer, too little text, or another rotation than maps have.
    pub fn layer(&self, n: u32) -> Result<Layer> {
        let config = &self.weights.config;
        let rows = self.rows.borrow();
        let rows = rows.get(n as usize).ok_or_else(|| format!("no layer {n}"))?;
        let (heads, kv_heads) = (
            local(self.weights.heads())?.q_heads(),
            local(self.weights.cache(CacheType::F32))?.kv_heads,
        );
        let dim = config.head_dim as usize;
        let width = (heads + 2 * kv_heads) as usize * dim;
        // What is written while this is drawn may be half there.
        let seq = self.tokens().min(rows.len() / width);
        if seq < 2 {
            return Err("a map takes two tokens or more".into());
        }
        if config.rope.rotary_dim != config.head_dim || config.rope.rule != RopeRule::Default {
            return Err("drawn are heads that rotate as a whole, by plain frequencies".into());
        }
        let place = |channel: usize| match config.rope.pairing {
            // Drawn are half-split heads.
            Pairing::Interleaved => channel % (dim / 2) * 2 + channel / (dim / 2),
            _ => channel,
        };
        let plane = |first: u32, count: u32| -> Vec<f32> {
            let heads = first as usize..(first + count) as usize;
            heads
                .flat_map(|head| (0..seq).map(move |s| s * width + head * dim))
                .flat_map(|at| (0..dim).map(move |channel| rows[at + place(channel)]))
                .collect()
        };
        Ok(Layer {
            q: plane(0, heads),
            k: plane(heads, kv_heads),
            heads,
            kv_heads,
            seq: seq as u32,
            head_dim: config.head_dim,
            theta: config.rope.theta,
            pieces: self.pieces.borrow()[..seq].to_vec(),
        })
    }
}

/// The next token: the most probable one, the first of equals, or one that is drawn.
fn choose(logits: &[f32], temperature: f64) -> u32 {
    let mut largest = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[largest] {
            largest = id;
        }
    }
    if temperature == 0.0 {
        return largest as u32;
    }
    let top = logits[largest];
    let weight = |logit: &f32| (f64::from(logit - top) / temperature).exp();
    let mut left = js_sys::Math::random() * logits.iter().map(weight).sum::<f64>();
    let drawn = logits.iter().position(|logit| {
        left -= weight(logit);
        left < 0.0
    });
    // Past the last one by a rounding, or with logits that are no numbers.
    drawn.unwrap_or(largest) as u32
}

/// A result of the library, whose errors could go to other threads.
fn local<T>(result: phasor_smollm::Result<T>) -> Result<T> {
    result.map_err(|error| -> Box<dyn std::error::Error> { error })
}
