//! Activations of a real language model: rotation and both attentions, kept at some positions in
//! full and everywhere through a few directions.

use phasor::{HeadMap, rotary::RopeConfig};

use super::{AttentionCase, Case, Cases, Expected, Map, Order, Result, RopeCase, Variant, read::*};
use crate::{
    golden::{File, Tensor},
    tolerance::Bound,
};

pub fn recognises(file: &File) -> bool {
    has(file, "probe") && has(file, "rows") && has(file, "out.probe")
}

pub fn parse(file: &File) -> Result<Cases> {
    let layout = file.metadata.get("layout").ok_or("metadata: no entry layout")?;
    if !layout.contains("half-split") || !layout.contains("causal") {
        return Err(format!("metadata: a layout that is not read here: {layout:?}").into());
    }
    let (q, q_shape) = tensor4(file, "q")?;
    let (k, k_shape) = tensor4(file, "k")?;
    let (v, v_shape) = tensor4(file, "v")?;
    let config = RopeConfig::new(q_shape[3], number_after(layout, "theta")?);
    let at = |seq: u32| rotation(config.clone(), vec![(0..seq).collect()]);

    let mut cases = Cases::default();
    for (name, x, shape) in [("q_rot", q, q_shape), ("k_rot", k, k_shape)] {
        let rotation = at(shape[2]);
        cases.cases.push(Case::Rope(RopeCase {
            name: case_name(file, name),
            x: x.data.clone(),
            shape,
            order: Order::Bhsd,
            expected: views(file, name, 1e-5, None)?,
            rotation,
            heads: None,
        }));
    }
    // Real heads at even places, their imaginary partners at odd ones.
    let heads = |first: usize| (first..2 * q_shape[1] as usize).step_by(2).collect::<Vec<_>>();
    let lse = |name: &str, first| -> Result<Expected> {
        let (values, shape) = tensor3(file, name)?;
        Ok(Expected { heads: Some(heads(first)), ..Expected::whole(name, values, shape, 2e-5)? })
    };
    let mut out = views(file, "out", 2e-5, Some(heads(0)))?;
    out.extend(views(file, "out_im", 2e-5, Some(heads(1)))?);
    cases.cases.push(Case::Attention(AttentionCase {
        name: case_name(file, "attention"),
        q: q.data.clone(),
        q_shape,
        k: k.data.clone(),
        k_shape,
        v: v.data.clone(),
        v_shape,
        rotations: Some([at(q_shape[2]), at(k_shape[2])]),
        heads: HeadMap::ropepp(q_shape[1])?,
        softmax_scale: number_after(layout, "scale")?,
        causal: true,
        kv_lens: None,
        variant: Variant::default(),
        out,
        lse: vec![lse("lse", 0)?, lse("lse_im", 1)?],
    }));
    Ok(cases)
}

/// The two views of a tensor: some rows, and every row along the probe's directions.
fn views(file: &File, name: &str, bound: f64, heads: Option<Vec<usize>>) -> Result<Vec<Expected>> {
    let view = |suffix: &str| -> Result<Expected> {
        let (values, shape) = tensor4(file, &format!("{name}.{suffix}"))?;
        let whole = Expected::whole(&format!("{name}.{suffix}"), values, shape, bound)?;
        Ok(Expected { heads: heads.clone(), ..whole })
    };
    let rows = counts(file, "rows")?.into_iter().map(|row| row as usize).collect();
    let probe: &Tensor = file.tensor("probe")?;
    // A sum over channels can be off by each channel's error, weighted.
    let directions = probe.shape.first().copied().unwrap_or(0).max(1);
    let lengths = probe.data.chunks((probe.data.len() / directions).max(1));
    let longest = lengths.map(|d| d.iter().map(|x| x.abs()).sum()).fold(0f32, f32::max);
    let along = view("probe")?;
    let bound = Bound::Uniform(bound * f64::from(longest.max(1.0)));
    let along = Expected { map: Map::PerHead(probe.data.clone()), bound, ..along };
    let rows = Expected { rows: Some(rows), ..view("rows")? };
    Ok(vec![rows, along])
}
