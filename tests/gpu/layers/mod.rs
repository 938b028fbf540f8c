//! The layer API, held to the oracle: every row of every step, whatever the sequences went through.

mod changes;
mod chunks;
mod wrong_calls;

use std::collections::HashMap;

use phasor::{
    Capabilities, DType, HeadMap, Layout, Tensor,
    cache::CacheType,
    layers::{Layer, LayerBindings, Layers, Model, Rows, Sequence},
    oracle::{self, AttentionInputs, Real},
    rotary::RopeConfig,
    wgpu,
};
use phasor_kit::tolerance::{Bound, compare};

use crate::harness::{Result, lab, random};

const DIM: u32 = 32;
/// Rows of a sequence, and of a step.
const CAPACITY: u32 = 64;
const MAX_ROWS: u32 = 40;
const PAGE: u32 = 8;

/// A token that a sequence has: whose it was when it was new, which of its tokens, and the places
/// that it had, the newest last.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    of: u64,
    n: u64,
    places: Vec<u32>,
}

/// The layers on the device, and what the host knows of their sequences.
struct World {
    layers: Layers,
    /// q, k, v and out of each layer.
    tensors: Vec<[wgpu::Buffer; 4]>,
    tokens: HashMap<Sequence, (u64, Vec<Token>)>,
}

/// Both components over all keys.
fn full() -> Layer {
    Layer::new(HeadMap::ropepp(4).unwrap(), 2, RopeConfig::new(DIM, 1e4))
}

/// What real models have in every second layer: a window, sinks, a softcap, another base.
fn local() -> Layer {
    let rope = RopeConfig::new(DIM, 500.0);
    Layer {
        window: Some(9),
        softcap: Some(5.0),
        sinks: vec![0.3, -0.5, 1.0, f32::NEG_INFINITY],
        softmax_scale: 0.25,
        ..Layer::new(HeadMap::plain(4).unwrap(), 1, rope)
    }
}

/// A layer without rotary embedding.
fn bare() -> Layer {
    Layer { rope: None, ..Layer::new(HeadMap::plain(2).unwrap(), 2, RopeConfig::new(DIM, 1e4)) }
}

fn model(layers: Vec<Layer>, rows: Rows) -> Model {
    Model { max_rows: MAX_ROWS, rows, moves: true, ..Model::new(layers, 3, CAPACITY) }
}

const PAGED: Rows = Rows::Paged { page_size: PAGE, pages: 14 };

/// q, k or v of a token in a layer, `[H, D]`.
fn data(token: &Token, layer: usize, tensor: u64, heads: u32) -> Vec<f32> {
    let seed = ((token.of * 1000 + token.n) * 10 + layer as u64) * 3 + tensor;
    random([1, 1, heads, DIM], 1.5, DType::F32, seed)
}

fn heads(layer: &Layer) -> [u32; 4] {
    let out = layer.heads.heads().len() as u32;
    [layer.heads.q_heads(), layer.kv_heads, layer.kv_heads, out]
}

impl World {
    fn new(model: &Model) -> Result<Self> {
        Self::with(model, &lab().gpu.capabilities())
    }

    fn with(model: &Model, caps: &Capabilities) -> Result<Self> {
        let gpu = &lab().gpu;
        let plan = model.plan(caps)?;
        let mut layers = Layers::new(&gpu.device, &plan)?;
        let mut tensors = Vec::new();
        for (n, layer) in model.layers.iter().enumerate() {
            let rows = model.max_rows;
            let [q, k, v, out] =
                heads(layer).map(|heads| gpu.output((heads * rows * DIM) as usize, DType::F32));
            // Heads outside, rows within: an engine may have them so.
            let tensor = |buffer, heads| -> Result<Tensor<'_>> {
                Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, rows, DIM])?))
            };
            let [hq, hk, hv, ho] = heads(layer);
            let (q_of, k_of) = (tensor(&q, hq)?, tensor(&k, hk)?);
            let (v_of, out_of) = (tensor(&v, hv)?, tensor(&out, ho)?);
            layers.bind(n, &LayerBindings::new(q_of, k_of, v_of, out_of))?;
            tensors.push([q, k, v, out]);
        }
        Ok(Self { layers, tensors, tokens: HashMap::new() })
    }

    fn model(&self) -> &Model {
        self.layers.plan().model()
    }

    /// A sequence whose tokens have this name.
    fn start(&mut self, name: u64) -> Result<Sequence> {
        let sequence = self.layers.start()?;
        self.tokens.insert(sequence, (name, Vec::new()));
        Ok(sequence)
    }

    fn end(&mut self, sequence: Sequence) -> Result {
        self.tokens.remove(&sequence);
        Ok(self.layers.end(sequence)?)
    }

    fn fork(&mut self, sequence: Sequence, rows: u32, name: u64) -> Result<Sequence> {
        let fork = self.layers.fork(sequence, rows)?;
        let tokens = self.tokens[&sequence].1[..rows as usize].to_vec();
        self.tokens.insert(fork, (name, tokens));
        Ok(fork)
    }

    fn truncate(&mut self, sequence: Sequence, rows: u32) -> Result {
        self.layers.truncate(sequence, rows)?;
        self.told(sequence).truncate(rows as usize);
        Ok(())
    }

    fn shift(&mut self, sequence: Sequence, keep: u32, dropped: u32) -> Result {
        self.layers.shift(sequence, keep, dropped)?;
        let tokens = self.told(sequence);
        tokens.drain(keep as usize..(keep + dropped) as usize);
        for (place, token) in (0..).zip(tokens.iter_mut()).skip(keep as usize) {
            token.places.push(place);
        }
        Ok(())
    }

    fn told(&mut self, sequence: Sequence) -> &mut Vec<Token> {
        &mut self.tokens.get_mut(&sequence).unwrap().1
    }

    /// New tokens of each sequence: those that `advance` takes.
    fn grow(&mut self, rows: &[(Sequence, u32)]) -> Vec<Token> {
        let mut new = Vec::new();
        for &(sequence, rows) in rows {
            let (name, tokens) = self.tokens.get_mut(&sequence).unwrap();
            let first = tokens.iter().filter(|token| token.of == *name).map(|it| it.n + 1).max();
            let place = tokens.len() as u32;
            let fresh = |i| Token {
                of: *name,
                n: first.unwrap_or(0) + u64::from(i),
                places: vec![place + i],
            };
            tokens.extend((0..rows).map(fresh));
            new.extend(tokens[place as usize..].to_vec());
        }
        new
    }

    /// Writes what the projections of a step would.
    fn write(&self, new: &[Token]) {
        let gpu = &lab().gpu;
        let rows = self.model().max_rows as usize;
        for (n, layer) in self.model().layers.iter().enumerate() {
            for (tensor, heads) in heads(layer).into_iter().enumerate() {
                // Rows that are not in the step are NaN, and all that is written.
                let mut all = vec![f32::NAN; heads as usize * rows * DIM as usize];
                for (row, token) in new.iter().enumerate().filter(|_| tensor < 3) {
                    let x = data(token, n, tensor as u64, heads);
                    for (head, x) in x.chunks_exact(DIM as usize).enumerate() {
                        let at = (head * rows + row) * DIM as usize;
                        all[at..at + DIM as usize].copy_from_slice(x);
                    }
                }
                let buffer = &self.tensors[n][tensor];
                gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&all));
            }
        }
    }

    /// A step: outputs `[layer][row][H_out D]`.
    fn step(&mut self, rows: &[(Sequence, u32)]) -> Result<Vec<Vec<Vec<f32>>>> {
        let gpu = &lab().gpu;
        self.layers.advance(&gpu.queue, rows)?;
        let new = self.grow(rows);
        self.write(&new);
        let mut wrong = Ok(());
        gpu.run(|encoder| {
            wrong = (0..self.tensors.len()).try_for_each(|n| self.layers.encode(n, encoder));
        });
        wrong?;
        self.read(new.len())
    }

    fn read(&self, new: usize) -> Result<Vec<Vec<Vec<f32>>>> {
        let rows = self.model().max_rows as usize;
        let outputs = self.tensors.iter().map(|[.., out]| {
            let out = lab().gpu.download(out, DType::F32);
            let dim = DIM as usize;
            let row = |row: usize| -> Vec<f32> {
                let heads = out.chunks_exact(rows * dim);
                heads.flat_map(|head| head[row * dim..][..dim].to_vec()).collect()
            };
            if (new..rows).any(|n| row(n).iter().any(|x| !x.is_nan())) {
                return Err("rows behind the step are written".into());
            }
            Ok((0..new).map(row).collect())
        });
        outputs.collect()
    }

    /// A step whose outputs are held to the oracle.
    fn checked(&mut self, rows: &[(Sequence, u32)]) -> Result<Vec<Vec<Vec<f32>>>> {
        let outputs = self.step(rows)?;
        for (n, outputs) in outputs.iter().enumerate() {
            let mut first = 0;
            for &(sequence, rows) in rows.iter().filter(|(_, rows)| *rows > 0) {
                let got = outputs[first..first + rows as usize].concat();
                first += rows as usize;
                let layer = &self.model().layers[n];
                let truth = self.reference::<f64>(n, sequence, rows)?;
                let naive = self.reference::<f32>(n, sequence, rows)?;
                let bound = Bound::computed(&naive, &truth, DType::F32);
                let shape = [1, rows, heads(layer)[3], DIM];
                compare(&format!("layer {n}"), &got, &truth, &bound, shape)?;
            }
        }
        Ok(outputs)
    }

    /// The newest rows of a sequence, `[rows][H_out][D]`.
    fn reference<R: Real>(&self, n: usize, sequence: Sequence, rows: u32) -> Result<Vec<R>> {
        let layer = &self.model().layers[n];
        let tokens = &self.tokens[&sequence].1;
        let len = tokens.len() as u32;
        let [q_heads, kv_heads, _, heads_out] = heads(layer);
        // `[H, rows, D]` of some tokens, keys turned from place to place as they were on the
        // device.
        let tensor = |tokens: &[Token], tensor: u64, heads: u32| -> Result<Vec<R>> {
            let rotated = tokens.iter().map(|token| -> Result<Vec<R>> {
                let mut x: Vec<R> = data(token, n, tensor, heads)
                    .into_iter()
                    .map(|x| R::from_f64(f64::from(x)))
                    .collect();
                let Some(rope) = layer.rope.as_ref().filter(|_| tensor < 2) else { return Ok(x) };
                let frequencies = rope.frequencies(u64::from(CAPACITY))?;
                let mut at = 0;
                for &place in &token.places {
                    let far = place.abs_diff(at);
                    x = oracle::rope(&x, [1, heads, 1, DIM], DIM, rope.pairing, |_, _, pair| {
                        let (cos, sin) = frequencies.cos_sin(far, pair as usize);
                        let sin = if place < at { -sin } else { sin };
                        (R::from_f64(cos), R::from_f64(sin))
                    })?;
                    at = place;
                }
                Ok(x)
            });
            let rotated = rotated.collect::<Result<Vec<_>>>()?;
            let head = |h: usize| {
                rotated.iter().flat_map(move |x| x[h * DIM as usize..][..DIM as usize].to_vec())
            };
            Ok((0..heads as usize).flat_map(head).collect())
        };
        let new = &tokens[(len - rows) as usize..];
        // What a quantised cache holds is no question of attention.
        let kept = |side: u64, stored: CacheType| match stored {
            CacheType::F32 => tensor(tokens, side, kv_heads),
            _ => self.kept(n, side, len),
        };
        let inputs = AttentionInputs {
            q: &tensor(new, 0, q_heads)?,
            q_shape: [1, q_heads, rows, DIM],
            k: &kept(1, layer.k)?,
            k_shape: [1, kv_heads, len, DIM],
            v: &kept(2, layer.v)?,
            v_shape: [1, kv_heads, len, DIM],
            rotary_dim: DIM,
            pairing: layer.rope.as_ref().map_or(phasor::rotary::Pairing::Half, |it| it.pairing),
            heads: layer.heads.heads(),
            softmax_scale: layer.softmax_scale.into(),
            causal: true,
            q_offset: None,
            kv_lens: None,
        };
        let modify = |place: oracle::Place, score: R| {
            let score = match layer.softcap.map(|cap| R::from_f64(cap.into())) {
                // tanh x = 1 − 2 / (e^2x + 1)
                Some(cap) => {
                    let (one, two) = (R::from_f64(1.0), R::from_f64(2.0));
                    cap - cap * two / ((two * score / cap).exp() + one)
                }
                None => score,
            };
            let start = layer.window.map_or(i64::MIN, |w| place.position - i64::from(w));
            (place.key as i64 > start).then_some(score)
        };
        let sinks: Vec<f64> = layer.sinks.iter().map(|&sink| sink.into()).collect();
        let sinks = (!sinks.is_empty()).then_some(sinks.as_slice());
        let out = oracle::attention_with(&inputs, &modify, sinks)?.out;
        Ok(phasor_kit::cases::swap_axes(&out, [1, heads_out, rows, DIM]))
    }
}

impl World {
    /// K or V of the sequence in the first slot of a contiguous cache, as it is stored there,
    /// `[H_kv][len][D]`.
    fn kept<R: Real>(&self, n: usize, side: u64, len: u32) -> Result<Vec<R>> {
        let cache = self.layers.cache(n)?;
        let tensor = if side == 1 { cache.k } else { cache.v };
        let bytes = lab().gpu.download_bytes(tensor.binding.buffer);
        let (layout, size) = (tensor.layout, tensor.stored.row_bytes(DIM) as usize);
        let mut rows = Vec::new();
        for (head, row) in (0..layout.shape[1]).flat_map(|h| (0..len).map(move |row| (h, row))) {
            let at = layout.index(0, head, row, 0) * tensor.stored.element_bytes() as usize;
            rows.extend(oracle::decode_rows(&bytes[at..at + size], DIM, tensor.stored)?);
        }
        Ok(rows.into_iter().map(|x| R::from_f64(x.into())).collect())
    }
}

/// The rows of each sequence of a step, in every layer.
fn by_sequence(outputs: &[Vec<Vec<f32>>], rows: &[(Sequence, u32)]) -> Vec<Vec<Vec<Vec<f32>>>> {
    let mut first = 0;
    let parts = rows.iter().map(|&(_, rows)| {
        first += rows as usize;
        outputs.iter().map(|layer| layer[first - rows as usize..first].to_vec()).collect()
    });
    parts.collect()
}

/// Fails without printing what differs: it would be thousands of numbers.
fn same<T: PartialEq + ?Sized>(got: &T, other: &T, what: &str) -> Result {
    if got == other { Ok(()) } else { Err(format!("{what}: other bits").into()) }
}

fn all(rows: Rows) -> Result {
    // Kernels take long to compile: one world for all.
    let mut world = World::new(&model(vec![full(), local(), bare()], rows))?;
    batches(&mut world)?;
    changes::all(&mut world)
}

#[test]
fn contiguous_sequences() -> Result {
    all(Rows::Contiguous)
}

#[test]
fn paged_sequences() -> Result {
    all(PAGED)
}

/// Sequences of one batch are what they are alone.
fn batches(world: &mut World) -> Result {
    // Prompts of different length, tokens of both, of one, a draft beside a token, a late third.
    let steps: [[u32; 3]; 6] = [[17, 5, 0], [1, 1, 0], [0, 1, 0], [3, 1, 21], [1, 1, 1], [1, 0, 1]];
    let sequences = [world.start(1)?, world.start(2)?, world.start(3)?];
    let free = world.layers.free_pages();
    let mut together = vec![Vec::new(); 3];
    for step in steps {
        // The order is the host's: here the last one first.
        let order = [2, 0, 1].map(|n| (sequences[n], step[n]));
        let outputs = world.checked(&order)?;
        for (n, outputs) in [2, 0, 1].into_iter().zip(by_sequence(&outputs, &order)) {
            together[n].push(outputs);
        }
    }
    for sequence in sequences {
        world.end(sequence)?;
    }
    for (n, together) in together.iter().enumerate() {
        // Other slots and pages than before.
        let other = world.start(77)?;
        let alone = world.start(n as u64 + 1)?;
        for (step, together) in steps.iter().zip(together).filter(|(step, _)| step[n] > 0) {
            let rows = [(alone, step[n])];
            let outputs = world.step(&rows)?;
            same(&by_sequence(&outputs, &rows)[0], together, "alone")?;
        }
        world.end(alone)?;
        world.end(other)?;
    }
    assert_eq!(world.layers.free_pages(), free);
    Ok(())
}
