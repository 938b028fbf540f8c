//! Training runs of whole small models: matrix products, norms, losses and AdamW on the host in
//! f64, attention and its gradients by whoever runs the case.

use serde_json::Value;

use super::{
    AttentionCase, BackwardCase, Case, Cases, Matrix, Model, Result, Variant, read::*, swap_axes,
};
use crate::{golden::File, runner::Runner, tolerance::Stats};

/// A model, the tokens of every step, and what the run should show.
#[derive(Debug, Clone)]
pub struct TrainCase {
    pub name: String,
    model: Model,
    optimizer: AdamW,
    /// Token ids of each step, `[B, T + 1]`.
    steps: Vec<Vec<Vec<u32>>>,
    loss: Vec<f32>,
    grad_norm: Vec<f32>,
    /// Gradient of the first step and weights after the last, in the order of
    /// [`Model::parameters`].
    grad0: Vec<Vec<f32>>,
    last: Vec<Vec<f32>>,
}

#[derive(Debug, Clone)]
struct AdamW {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    decay: f64,
}

pub fn recognises(file: &File) -> bool {
    has(file, "loss") && has(file, "tokens") && has(file, "w.model.embed_tokens.weight")
}

pub fn parse(file: &File) -> Result<Cases> {
    let model = Model::read(file)?;
    let (shape, _) = file.integers("tokens")?;
    let [_, batch, length] = *shape else {
        return Err(format!("{}: tokens {shape:?}, not three axes", file.name).into());
    };
    let ids = counts(file, "tokens")?;
    let vocabulary = model.embedding.outputs() as u32;
    if batch == 0 || length < 2 || ids.iter().any(|&id| id >= vocabulary) {
        return Err(format!("{}: tokens {shape:?} are none", file.name).into());
    }
    let step = |ids: &[u32]| ids.chunks_exact(length).map(<[u32]>::to_vec).collect();
    let steps = ids.chunks_exact(batch * length).map(step).collect();
    let about = file.json("optimizer")?;
    let stated = [about["algorithm"] == "AdamW", about["bias_correction"] == Value::Bool(true)];
    if stated != [true; 2] || !about["clipping"].is_null() || about["schedule"] != "constant" {
        return Err(format!("{}: an optimizer that is not known here: {about}", file.name).into());
    }
    let beta = |n: usize| about["betas"][n].as_f64().ok_or("no betas");
    let optimizer = AdamW {
        lr: number(&about, "lr")?,
        betas: [beta(0)?, beta(1)?],
        eps: number(&about, "eps")?,
        decay: number(&about, "weight_decay")?,
    };
    let parameters = |prefix: &str| -> Result<Vec<Vec<f32>>> {
        let names = model.names();
        let tensor = |name: &String| Ok(file.tensor(&format!("{prefix}.{name}"))?.data.clone());
        names.iter().map(tensor).collect()
    };
    let case = TrainCase {
        name: case_name(file, "training run"),
        optimizer,
        steps,
        loss: file.tensor("loss")?.data.clone(),
        grad_norm: file.tensor("grad_norm")?.data.clone(),
        grad0: parameters("grad0")?,
        last: parameters("final")?,
        model,
    };
    if [case.loss.len(), case.grad_norm.len()] != [case.steps.len(); 2] {
        return Err(format!(
            "{}: {} steps, {} losses",
            file.name,
            case.steps.len(),
            case.loss.len()
        )
        .into());
    }
    Ok(Cases { cases: vec![Case::Train(Box::new(case))], ..Cases::default() })
}

impl TrainCase {
    /// Runs all steps. What comes back is the loss that came closest to its bound.
    ///
    /// # Errors
    /// Where a loss, a gradient norm, the first gradient or the last weights are off by more than
    /// the reference's README calls fair for f32.
    pub fn run(&self, runner: &dyn Runner) -> Result<Stats> {
        let mut model = self.model.clone();
        let sizes = |model: &mut Model| -> Vec<usize> {
            model.parameters().iter().map(|p| p.len()).collect()
        };
        let zeros: Vec<Vec<f64>> = sizes(&mut model).into_iter().map(|n| vec![0.0; n]).collect();
        let (mut first, mut second) = (zeros.clone(), zeros);
        let mut most = Stats { error: 0.0, bound: 1e-5, ulps: 0, at: [0; 4] };
        let mut hold = |what: &str, step: usize, error: f64, bound: f64| -> Result<()> {
            if error.is_nan() || error > bound {
                return Err(format!("step {step}: {what} is off by {error:e} > {bound:e}").into());
            }
            if error * most.bound > most.error * bound {
                most = Stats { error, bound, ulps: 0, at: [step, 0, 0, 0] };
            }
            Ok(())
        };
        for (step, tokens) in self.steps.iter().enumerate() {
            let (loss, gradients) = model.gradients(tokens, runner)?;
            hold("the loss", step, (loss - f64::from(self.loss[step])).abs(), 1e-5)?;
            let squares: f64 = gradients.iter().flatten().map(|g| g * g).sum();
            let stated = f64::from(self.grad_norm[step]);
            hold("the gradient's norm", step, (squares.sqrt() - stated).abs() / stated, 1e-5)?;
            if step == 0 {
                let pairs = gradients.iter().flatten().zip(self.grad0.iter().flatten());
                let error = pairs.map(|(&g, &truth)| (g - f64::from(truth)).abs());
                hold("the gradient", 0, error.fold(0.0, f64::max), 1e-6)?;
            }
            let AdamW { lr, betas: [b1, b2], eps, decay } = self.optimizer;
            let n = step as i32 + 1;
            let (bias1, bias2) = (1.0 - b1.powi(n), 1.0 - b2.powi(n));
            let moments = first.iter_mut().zip(&mut second);
            for ((weights, gradient), (m, v)) in
                model.parameters().into_iter().zip(&gradients).zip(moments)
            {
                for (i, &g) in gradient.iter().enumerate() {
                    m[i] = b1 * m[i] + (1.0 - b1) * g;
                    v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                    let update = m[i] / bias1 / ((v[i] / bias2).sqrt() + eps);
                    weights[i] -= lr * (decay * weights[i] + update);
                }
            }
        }
        let weights = model.parameters();
        let errors: Vec<f64> = weights
            .iter()
            .flat_map(|w| w.iter())
            .zip(self.last.iter().flatten())
            .map(|(&w, &truth)| (w - f64::from(truth)).abs())
            .collect();
        let square = errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64;
        let last = self.steps.len();
        hold("the weights' root mean square", last, square.sqrt(), 1e-6)?;
        hold("a weight", last, errors.into_iter().fold(0.0, f64::max), 1e-3)?;
        Ok(most)
    }
}

impl Model {
    /// Loss and gradients, in the order of [`Model::parameters`], of tokens `[B, T + 1]`: mean
    /// cross entropy of each next token.
    fn gradients(&self, tokens: &[Vec<u32>], runner: &dyn Runner) -> Result<(f64, Vec<Vec<f64>>)> {
        let ids: Vec<u32> = tokens.iter().flat_map(|row| row[..row.len() - 1].to_vec()).collect();
        let targets: Vec<u32> = tokens.iter().flat_map(|row| row[1..].to_vec()).collect();
        let mut x: Vec<f64> =
            ids.iter().flat_map(|&id| self.embedding.row(id as usize).to_vec()).collect();
        let shape = [tokens.len() as u32, tokens[0].len() as u32 - 1];
        // Forward, everything kept that the way back needs.
        let mut kept = Vec::new();
        for block in &self.blocks {
            let normed = self.normed(&x, &block.attention_norm);
            let case = self.attention_case(&normed, block, shape)?;
            let merged = self.merged(&runner.forward(&case)?.out, shape);
            let middle = sum(&x, &block.out.times(&merged));
            let mlp_in = self.normed(&middle, &block.mlp_norm);
            let (gate, up) = (block.gate.times(&mlp_in), block.up.times(&mlp_in));
            let gated: Vec<f64> = gate.iter().zip(&up).map(|(&g, &u)| g * sigmoid(g) * u).collect();
            let next = sum(&middle, &block.down.times(&gated));
            kept.push((x, normed, case, merged, middle, mlp_in, gate, up, gated));
            x = next;
        }
        let normed = self.normed(&x, &self.norm);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut d_logits = head.times(&normed);
        let rows = targets.len() as f64;
        let mut loss = 0.0;
        for (row, &target) in d_logits.chunks_exact_mut(head.outputs()).zip(&targets) {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = row.iter().map(|x| (x - top).exp()).sum();
            loss += (top + total.ln() - row[target as usize]) / rows;
            row.iter_mut().for_each(|x| *x = (*x - top).exp() / total / rows);
            row[target as usize] -= 1.0 / rows;
        }
        // And back.
        let d_head = head.weights_gradient(&d_logits, &normed);
        let (mut d_x, d_norm) = self.normed_back(&x, &self.norm, &head.back(&d_logits));
        let mut blocks = Vec::new();
        for (block, (x, normed, case, merged, middle, mlp_in, gate, up, gated)) in
            self.blocks.iter().zip(kept).rev()
        {
            let d_gated = block.down.back(&d_x);
            let d_down = block.down.weights_gradient(&d_x, &gated);
            let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
            let d_up: Vec<f64> =
                d_gated.iter().zip(&gate).map(|(d, &g)| d * g * sigmoid(g)).collect();
            let d_gate: Vec<f64> =
                (0..gate.len()).map(|i| d_gated[i] * up[i] * slope(gate[i])).collect();
            let d_mlp_in = sum(&block.gate.back(&d_gate), &block.up.back(&d_up));
            let (d_middle, d_mlp_norm) = self.normed_back(&middle, &block.mlp_norm, &d_mlp_in);
            let d_middle = sum(&d_x, &d_middle);
            let heads_out = self.heads.heads().len() as u32;
            let [batch, seq] = shape;
            let d_heads =
                swap_axes(&block.out.back(&d_middle), [batch, seq, heads_out, self.head_dim]);
            let backward = BackwardCase {
                attention: case,
                d_out: d_heads.into_iter().map(|x| x as f32).collect(),
                d_lse: None,
                gradients: Vec::new(),
            };
            let got = runner.backward(&backward)?;
            let got = got.into_iter().next().ok_or("no gradients")?.1;
            let d_qkv =
                [(got.dq, self.heads.q_heads()), (got.dk, self.kv_heads), (got.dv, self.kv_heads)]
                    .map(|(d, heads)| swap_axes(&d, [batch, heads, seq, self.head_dim]));
            let mut d_normed = vec![0.0; normed.len()];
            for (w, d) in block.qkv.iter().zip(&d_qkv) {
                d_normed = sum(&d_normed, &w.back(d));
            }
            let (d_in, d_attention_norm) = self.normed_back(&x, &block.attention_norm, &d_normed);
            d_x = sum(&d_middle, &d_in);
            let mut all = vec![d_attention_norm];
            all.extend(block.qkv.iter().zip(&d_qkv).map(|(w, d)| w.weights_gradient(d, &normed)));
            all.extend([
                block.out.weights_gradient(&d_middle, &merged),
                d_mlp_norm,
                block.gate.weights_gradient(&d_gate, &mlp_in),
                block.up.weights_gradient(&d_up, &mlp_in),
                d_down,
            ]);
            blocks.push(all);
        }
        let mut d_embedding = vec![0.0; self.embedding.weights.len()];
        for (&id, d) in ids.iter().zip(d_x.chunks_exact(self.embedding.inputs)) {
            let row = &mut d_embedding[id as usize * self.embedding.inputs..][..d.len()];
            row.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
        }
        let mut all = vec![d_embedding];
        all.extend(blocks.into_iter().rev().flatten());
        all.push(d_norm);
        match self.head {
            Some(_) => all.push(d_head),
            None => all[0] = sum(&all[0], &d_head),
        }
        Ok((loss, all))
    }

    fn attention_case(
        &self,
        normed: &[f64],
        block: &super::model::Block,
        [batch, seq]: [u32; 2],
    ) -> Result<AttentionCase> {
        let project = |w: &Matrix| -> Vec<f32> {
            let heads = w.outputs() as u32 / self.head_dim;
            let rows = swap_axes(&w.times(normed), [batch, seq, heads, self.head_dim]);
            rows.into_iter().map(|x| x as f32).collect()
        };
        let [q, k, v] = block.qkv.each_ref().map(project);
        let kv_shape = [batch, self.kv_heads, seq, self.head_dim];
        let rotation = rotation(self.config.clone(), vec![(0..seq).collect()]);
        Ok(AttentionCase {
            name: String::new(),
            q,
            q_shape: [batch, self.heads.q_heads(), seq, self.head_dim],
            k,
            k_shape: kv_shape,
            v,
            v_shape: kv_shape,
            rotations: Some([rotation.clone(), rotation]),
            heads: self.heads.clone(),
            softmax_scale: f64::from(self.head_dim).powf(-0.5),
            causal: true,
            kv_lens: None,
            variant: Variant::default(),
            out: Vec::new(),
            lse: Vec::new(),
        })
    }

    fn merged(&self, heads: &[f64], [batch, seq]: [u32; 2]) -> Vec<f64> {
        swap_axes(heads, [batch, self.heads.heads().len() as u32, seq, self.head_dim])
    }

    /// Gradients of RMSNorm: of its input and of its weight.
    fn normed_back(&self, x: &[f64], weight: &[f64], d_y: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let n = weight.len();
        let mut d_weight = vec![0.0; n];
        let mut d_x = Vec::with_capacity(x.len());
        for (x, d_y) in x.chunks_exact(n).zip(d_y.chunks_exact(n)) {
            let square = x.iter().map(|x| x * x).sum::<f64>() / n as f64;
            let scale = 1.0 / (square + self.norm_eps).sqrt();
            let along: f64 = (0..n).map(|i| d_y[i] * weight[i] * x[i]).sum();
            for i in 0..n {
                d_weight[i] += d_y[i] * x[i] * scale;
                let back = along * scale.powi(3) / n as f64;
                d_x.push(d_y[i] * weight[i] * scale - x[i] * back);
            }
        }
        (d_x, d_weight)
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn sum(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}
