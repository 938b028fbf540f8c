//! Gradients of the RoPE++ authors' attention layer: of its input and of its four weights. The
//! projections are the host's part.

use super::{
    AttentionCase, BackwardCase, Case, Cases, Expected, LayerBackwardCase, Matrix, Result, Variant,
    read::*, swap_axes,
};
use crate::golden::File;

/// Of the largest element.
const LAYER: f64 = 5e-6;

pub fn recognises(file: &File) -> bool {
    !prefixes(file, ".d_hidden_states").is_empty()
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for case in prefixes(file, ".d_hidden_states") {
        cases.cases.push(Case::LayerBackward(Box::new(layer(file, &case)?)));
    }
    Ok(cases)
}

fn layer(file: &File, case: &str) -> Result<LayerBackwardCase> {
    let about = file.json(case)?;
    let matrix = |part: &str| -> Result<Matrix> {
        let tensor = file.tensor(&format!("{case}.w.{part}_proj.weight"))?;
        Matrix::new(&tensor.shape, tensor.f64())
    };
    let weights = [matrix("q")?, matrix("k")?, matrix("v")?, matrix("o")?];
    let [w_q, w_k, _, w_o] = &weights;
    let head_dim = count(&about, "head_dim")?;
    let hidden = file.tensor(&format!("{case}.hidden_states"))?;
    let [batch, seq, _] = *hidden.shape.as_slice() else {
        return Err(format!("{case}.hidden_states: shape {:?}", hidden.shape).into());
    };
    let channels = [head_dim as usize, hidden.data.len() / (batch * seq).max(1)];
    let fits = |w: &Matrix, [outputs, inputs]: [usize; 2]| {
        outputs > 0 && w.outputs().is_multiple_of(outputs) && w.inputs.is_multiple_of(inputs.max(1))
    };
    let projections = [w_q, w_k, &weights[2]].iter().all(|w| fits(w, channels));
    let d_output = file.tensor(&format!("{case}.d_output"))?;
    if !projections || !fits(w_o, [channels[1], channels[0]]) || d_output.shape != hidden.shape {
        return Err(format!("{case}: weights that do not fit heads of {head_dim}").into());
    }
    let (batch, seq) = (batch as u32, seq as u32);
    let q_heads = w_q.outputs() as u32 / head_dim;
    let kv_heads = w_k.outputs() as u32 / head_dim;
    let heads = head_map(&about["rope_config"], q_heads)?;
    let x = hidden.f64();
    let project = |w: &Matrix| -> Vec<f32> {
        let heads = w.outputs() as u32 / head_dim;
        let rows = swap_axes(&w.times(&x), [batch, seq, heads, head_dim]);
        rows.into_iter().map(|x| x as f32).collect()
    };
    let d_output = d_output.f64();
    let heads_out = heads.heads().len() as u32;
    let d_heads = swap_axes(&w_o.back(&d_output), [batch, seq, heads_out, head_dim]);
    let rotation = rotation(rope_of(&about)?, vec![(0..seq).collect()]);
    let kv_shape = [batch, kv_heads, seq, head_dim];
    let expect = |name: &str| -> Result<Expected> {
        let name = format!("{case}.{name}");
        let tensor = file.tensor(&name)?;
        let shape = match *tensor.shape.as_slice() {
            [b, s, d] => [b, 1, s, d],
            [s, d] => [1, 1, s, d],
            _ => return Err(format!("{name}: shape {:?}", tensor.shape).into()),
        };
        let largest = tensor.data.iter().fold(0f32, |most, x| most.max(x.abs()));
        let bound = LAYER * f64::from(largest);
        Expected::whole(&name, tensor, shape.map(|n| n as u32), bound)
    };
    Ok(LayerBackwardCase {
        name: case_name(file, case),
        output: expect("output")?,
        d_x: expect("d_hidden_states")?,
        d_weights: [
            expect("d_w.q_proj.weight")?,
            expect("d_w.k_proj.weight")?,
            expect("d_w.v_proj.weight")?,
            expect("d_w.o_proj.weight")?,
        ],
        attention: BackwardCase {
            attention: AttentionCase {
                name: case_name(file, case),
                q: project(&weights[0]),
                q_shape: [batch, q_heads, seq, head_dim],
                k: project(&weights[1]),
                k_shape: kv_shape,
                v: project(&weights[2]),
                v_shape: kv_shape,
                rotations: Some([rotation.clone(), rotation]),
                heads,
                softmax_scale: number(&about, "scale")?,
                causal: true,
                kv_lens: None,
                variant: Variant::default(),
                out: Vec::new(),
                lse: Vec::new(),
            },
            d_out: d_heads.into_iter().map(|x| x as f32).collect(),
            d_lse: None,
            gradients: Vec::new(),
        },
        x,
        d_output,
        weights,
    })
}
