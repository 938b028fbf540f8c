//! Inverse frequencies, tables and rotated vectors against values that other libraries computed.
//! What every file holds is told in `data/golden/README.md`; all parameters come from the files.

use std::{error::Error, path::Path};

use phasor::rotary::{
    Axial2d, Frequencies, Like, ModelRope, Pairing, PositionAxes, RopeConfig, RopeRule, Xpos,
};
use phasor_kit::golden::{File, Tensor};
use serde_json::Value;

type Test = Result<(), Box<dyn Error>>;

/// Relative error of the reference's frequencies, which it forms in f32.
const F32_FORMULA: f64 = 3e-6;
/// Absolute error of rotated vectors against f64 references.
const ROTATED: f64 = 1e-5;

fn file(name: &str) -> Result<File, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    File::read(&folder.join(name).with_extension("safetensors"))
}

/// The parameters of a case have keys as in a `config.json`, and no model type.
fn described(params: &Value) -> Result<RopeConfig, Box<dyn Error>> {
    let model = ModelRope::from_json_like(&params.to_string(), &Like::model("llama"))?;
    Ok(model.only()?.rope.clone())
}

/// The names before `.inv_freq` (or another suffix) in a file: its cases.
fn cases<'a>(file: &'a File, suffix: &str) -> Vec<&'a str> {
    let cases: Vec<_> = file.names().iter().filter_map(|name| name.strip_suffix(suffix)).collect();
    assert!(!cases.is_empty(), "{}: nothing ends in {suffix}", file.name);
    cases
}

/// A base that older files leave out: 10000, the libraries' default.
fn theta(params: &Value) -> f64 {
    params["rope_theta"].as_f64().unwrap_or(10_000.0)
}

fn dim(params: &Value, key: &str) -> Result<u32, Box<dyn Error>> {
    Ok(u32::try_from(params[key].as_u64().ok_or_else(|| format!("{key} in {params}"))?)?)
}

/// Frequencies within [`F32_FORMULA`] of a reference, zeros exact.
fn assert_frequencies(what: &str, ours: &[f64], reference: &Tensor) {
    assert_eq!(ours.len(), reference.data.len(), "{what}: number of frequencies");
    for (i, (&f, &expected)) in ours.iter().zip(&reference.data).enumerate() {
        let expected = f64::from(expected);
        let error = (f - expected).abs();
        assert!(error <= F32_FORMULA * expected.abs(), "{what}: inv_freq[{i}] {f} for {expected}");
    }
}

/// The frequencies of a reference, which are f32, in place of the rule's.
fn with_reference(config: &RopeConfig, inv_freq: &Tensor, scaling: f64) -> RopeConfig {
    let rule = RopeRule::Custom { inv_freq: inv_freq.f64(), attention_scaling: scaling };
    RopeConfig { rule, ..config.clone() }
}

/// Rows of the last axis, the position index of each row, and its channels rotated.
struct Rotation<'a> {
    frequencies: &'a Frequencies,
    /// 1 for queries, −1 for keys under xPos.
    scale_sign: f64,
}

impl Rotation<'_> {
    fn apply(&self, row: &[f32], streams: &[u32]) -> Vec<f64> {
        let (r, pairing) = (self.frequencies.rotary_dim(), self.frequencies.pairing());
        let mut out: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        for pair in 0..r / 2 {
            let j = pair as usize;
            let position = streams[self.frequencies.axes().map_or(0, |axes| axes[j] as usize)];
            let (cos, sin) = self.frequencies.cos_sin(position, j);
            let scale = self.frequencies.query_scale(position, j).powf(self.scale_sign);
            let (a, b) = pairing.input(pair, r);
            let (x, y) = (f64::from(row[a as usize]), f64::from(row[b as usize]));
            let (a, b) = pairing.output(pair, r);
            out[a as usize] = (x * cos - y * sin) * scale;
            out[b as usize] = (y * cos + x * sin) * scale;
        }
        out
    }
}

/// Holds the rotation of `x` (`[B, H, T, D]`) to `expected`. `streams(t)` are the positions.
/// `slack(t)` is added to the bound for every unit of the row's largest member.
fn assert_rotated(
    what: &str,
    rotation: &Rotation,
    (x, expected): (&Tensor, &Tensor),
    streams: impl Fn(usize) -> Vec<u32>,
    slack: impl Fn(usize) -> f64,
) {
    assert_eq!(x.shape, expected.shape, "{what}: shapes");
    let [.., tokens, d] = x.shape[..] else { panic!("{what}: rank {}", x.shape.len()) };
    for (row, (x, expected)) in x.data.chunks(d).zip(expected.data.chunks(d)).enumerate() {
        let t = row % tokens;
        let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let bound = ROTATED + slack(t) * f64::from(largest);
        for (c, (ours, &expected)) in
            rotation.apply(x, &streams(t)).iter().zip(expected).enumerate()
        {
            let error = (ours - f64::from(expected)).abs();
            assert!(error <= bound, "{what}: row {row} channel {c}: {ours} for {expected}");
        }
    }
}

fn plain(frequencies: &Frequencies) -> Rotation<'_> {
    Rotation { frequencies, scale_sign: 1.0 }
}

fn positions(file: &File, name: &str) -> Result<Vec<u32>, Box<dyn Error>> {
    Ok(file.integers(name)?.1.iter().map(|&p| p as u32).collect())
}

#[test]
fn every_rope_type_has_the_library_s_frequencies_and_scaling() -> Test {
    let file = file("rope_variants")?;
    for case in cases(&file, ".inv_freq") {
        let (name, at_len) = case.split_once(".at_len.").unwrap_or((case, ""));
        let params = file.json(name)?;
        let config = described(&params)?;
        let seen = params["seq_len_seen"].as_u64().ok_or("seq_len_seen")?;
        let len = if at_len.is_empty() { seen } else { at_len.parse()? };
        let frequencies = config.frequencies(len)?;
        assert_frequencies(case, frequencies.inv_freq(), file.tensor(&format!("{case}.inv_freq"))?);
        let scaling = file.tensor(&format!("{case}.attention_scaling"))?.f64()[0];
        let error = (frequencies.attention_scaling() - scaling).abs();
        assert!(
            error <= 1e-7 * scaling,
            "{case}: {} for {scaling}",
            frequencies.attention_scaling()
        );
    }
    Ok(())
}

#[test]
fn every_rope_type_rotates_as_the_reference_in_f64() -> Test {
    let file = file("rope_variants")?;
    let positions = positions(&file, "positions")?;
    for case in cases(&file, ".half.q_f64") {
        let params = file.json(case)?;
        let config = described(&params)?;
        let len = params["seq_len_seen"].as_u64().ok_or("seq_len_seen")?;
        let reference = file.tensor(&format!("{case}.inv_freq"))?;
        let scaling = file.tensor(&format!("{case}.attention_scaling"))?.f64()[0];
        for (layout, pairing) in [("half", Pairing::Half), ("pairs", Pairing::Interleaved)] {
            let config = RopeConfig { pairing, ..config.clone() };
            let own = config.frequencies(len)?;
            let given = with_reference(&config, reference, scaling).frequencies(len)?;
            // The reference turned by its f32 frequencies: ours differ by this much of angle.
            let drift = own.inv_freq().iter().zip(given.inv_freq()).map(|(a, b)| (a - b).abs());
            let drift = drift.fold(0.0, f64::max);
            for x in ["q", "k"] {
                let pair = (file.tensor(x)?, file.tensor(&format!("{case}.{layout}.{x}_f64"))?);
                let what = format!("{case}.{layout}.{x}");
                let streams = |t: usize| vec![positions[t]];
                assert_rotated(&what, &plain(&given), pair, streams, |_| 0.0);
                let slack = |t: usize| 2.0 * scaling * drift * f64::from(positions[t]);
                assert_rotated(&what, &plain(&own), pair, streams, slack);
            }
        }
    }
    Ok(())
}

#[test]
fn partial_rotary_models_rotate_a_prefix() -> Test {
    let file = file("rope_partial")?;
    let positions = positions(&file, "positions")?;
    for case in cases(&file, ".q_rot_f64") {
        let params = file.json(case)?;
        let config = RopeConfig {
            rotary_dim: dim(&params, "rotary_dims")?,
            pairing: if params["layout"] == "half" { Pairing::Half } else { Pairing::Interleaved },
            ..RopeConfig::new(dim(&params, "head_dim")?, theta(&params))
        };
        let reference = file.tensor(&format!("{case}.inv_freq"))?;
        assert_frequencies(case, config.frequencies(1)?.inv_freq(), reference);
        let given = with_reference(&config, reference, 1.0).frequencies(1)?;
        for x in ["q", "k"] {
            let Ok(expected) = file.tensor(&format!("{case}.{x}_rot_f64")) else { continue };
            let pair = (file.tensor(x)?, expected);
            assert_rotated(case, &plain(&given), pair, |t| vec![positions[t]], |_| 0.0);
        }
    }
    Ok(())
}

/// The library's own f32 output: its angle is off by half an ulp of f32 for the frequency and half
/// for the product.
fn f32_angles(position: u32) -> f64 {
    2.0 * 2f64.powi(-23) * f64::from(position)
}

#[test]
fn deepseek_reads_interleaved_and_writes_half_split() -> Test {
    let file = file("rope_partial")?;
    let positions = positions(&file, "positions")?;
    let case = "deepseek_interleave_in_half_out";
    for x in ["q", "k"] {
        let pair = (file.tensor(x)?, file.tensor(&format!("{case}.{x}_rot"))?);
        let head_dim = u32::try_from(pair.0.shape[3])?;
        let pairing = Pairing::InterleavedToHalf;
        let config = RopeConfig { pairing, ..RopeConfig::new(head_dim, 10_000.0) };
        let frequencies = config.frequencies(1)?;
        let slack = |t: usize| f32_angles(positions[t]);
        assert_rotated(case, &plain(&frequencies), pair, |t| vec![positions[t]], slack);
    }
    Ok(())
}

#[test]
fn gptj_and_roformer_are_interleaved() -> Test {
    let file = file("rope_interleaved_gptj_roformer")?;
    let positions = positions(&file, "gptj.positions")?;
    let interleaved = |head_dim, rotary_dim| {
        let pairing = Pairing::Interleaved;
        let config = RopeConfig { rotary_dim, pairing, ..RopeConfig::new(head_dim, 10_000.0) };
        config.frequencies(1)
    };
    for case in cases(&file, ".q_rot_bthd_f64") {
        // gptj.d<head_dim>_r<rotary_dim>
        let sizes = case.strip_prefix("gptj.d").and_then(|c| c.split_once("_r")).ok_or(case)?;
        let frequencies = interleaved(sizes.0.parse()?, sizes.1.parse()?)?;
        let [x, expected] =
            ["q_bthd", "q_rot_bthd_f64"].map(|t| file.tensor(&format!("{case}.{t}")));
        let pair = (&heads_first(x?), &heads_first(expected?));
        let slack = |t: usize| f32_angles(positions[t]);
        assert_rotated(case, &plain(&frequencies), pair, |t| vec![positions[t]], slack);
    }
    for x in ["q", "k", "v"] {
        let pair =
            (file.tensor(&format!("roformer.{x}"))?, file.tensor(&format!("roformer.{x}_rot"))?);
        let d = u32::try_from(pair.0.shape[3])?;
        let slack = |t: usize| f32_angles(t as u32);
        assert_rotated("roformer", &plain(&interleaved(d, d)?), pair, |t| vec![t as u32], slack);
    }
    Ok(())
}

/// `[B, T, H, D]` to `[B, H, T, D]`.
fn heads_first(x: &Tensor) -> Tensor {
    let [b, t, h, d] = x.shape[..] else { panic!("rank {}", x.shape.len()) };
    let rows: Vec<&[f32]> = x.data.chunks(d).collect();
    let mut data = Vec::with_capacity(x.data.len());
    for batch in 0..b {
        for head in 0..h {
            for token in 0..t {
                data.extend_from_slice(rows[(batch * t + token) * h + head]);
            }
        }
    }
    Tensor { shape: vec![b, h, t, d], data }
}

#[test]
fn mrope_gives_every_pair_its_stream() -> Test {
    let file = file("rope_mrope")?;
    for case in cases(&file, ".axis_of_freq") {
        let params = file.json(case)?;
        let sections = params["mrope_section"].as_array().ok_or("mrope_section")?;
        let sections: Vec<u32> =
            sections.iter().map(|n| n.as_u64().unwrap_or_default() as u32).collect();
        let sections = sections.try_into().map_err(|s| format!("three sections: {s:?}"))?;
        let axes = if case.ends_with("interleaved") {
            PositionAxes::MropeInterleaved(sections)
        } else {
            PositionAxes::MropeSectioned(sections)
        };
        let config =
            RopeConfig { axes, ..RopeConfig::new(dim(&params, "head_dim")?, theta(&params)) };
        let frequencies = config.frequencies(1)?;
        let ours: Vec<i32> =
            frequencies.axes().ok_or("no axes")?.iter().map(|&a| i32::from(a)).collect();
        assert_eq!(ours, file.integers(&format!("{case}.axis_of_freq"))?.1, "{case}");
        let reference = file.tensor(&format!("{case}.inv_freq"))?;
        assert_frequencies(case, frequencies.inv_freq(), reference);

        let given = with_reference(&config, reference, 1.0).frequencies(1)?;
        let (shape, thw) = file.integers(&format!("{case}.positions_thw"))?;
        let tokens = shape[1];
        let streams = |t: usize| (0..3).map(|axis| thw[axis * tokens + t] as u32).collect();
        for x in ["q", "k"] {
            let tensor = |suffix: &str| file.tensor(&format!("{case}.{x}{suffix}"));
            let pair = (tensor("")?, tensor("_rot_f64")?);
            assert_rotated(case, &plain(&given), pair, streams, |_| 0.0);
        }
    }
    Ok(())
}

#[test]
fn three_conventions_for_two_axes() -> Test {
    let file = file("rope_axial_xpos")?;
    let hw = positions(&file, "positions_hw")?;
    let streams = |t: usize| hw[2 * t..2 * t + 2].to_vec();
    for (case, axial, pairing) in [
        ("pixtral_axial", Axial2d::Alternating, Pairing::Half),
        ("gemma4_axial", Axial2d::Blocks, Pairing::HalfBlocks(2)),
        ("ret_axial_pairs", Axial2d::Blocks, Pairing::Interleaved),
    ] {
        for x in ["q", "k"] {
            let Ok(expected) = file.tensor(&format!("{case}.{x}_rot")) else { continue };
            let source = file.tensor(x)?;
            let head_dim = u32::try_from(source.shape[3])?;
            let axes = PositionAxes::Axial2d(axial);
            let config = RopeConfig { pairing, axes, ..RopeConfig::new(head_dim, 10_000.0) };
            let frequencies = config.frequencies(1)?;
            let slack = |t: usize| f32_angles(hw[2 * t].max(hw[2 * t + 1]));
            assert_rotated(case, &plain(&frequencies), (source, expected), streams, slack);
        }
    }
    Ok(())
}

#[test]
fn xpos_scales_queries_up_and_keys_down() -> Test {
    let file = file("rope_axial_xpos")?;
    let params = file.json("xpos_pairs")?;
    let xpos = Xpos {
        scale_base: params["scale_base"].as_f64().ok_or("scale_base")?,
        centre: dim(&params, "centre")?,
        ..Xpos::default()
    };
    let head_dim = u32::try_from(file.tensor("xpos_pairs.q")?.shape[3])?;
    let config =
        RopeConfig { pairing: Pairing::Interleaved, ..RopeConfig::new(head_dim, theta(&params)) };
    let frequencies = config.frequencies(1)?.with_xpos(xpos)?;
    for (x, scale_sign) in [("q", 1.0), ("k", -1.0)] {
        let tensor = |suffix: &str| file.tensor(&format!("xpos_pairs.{x}{suffix}"));
        let rotation = Rotation { frequencies: &frequencies, scale_sign };
        let slack = |t: usize| f32_angles(t as u32);
        assert_rotated(x, &rotation, (tensor("")?, tensor("_rot")?), |t| vec![t as u32], slack);
    }
    // The planes of the table are these scales times the rotation.
    let table = frequencies.table(16)?;
    let plane = 16 * table.pairs() as usize;
    assert_eq!((table.planes(), table.entries().len()), (2, 2 * plane));
    for (index, (query, key)) in
        table.entries()[..plane].iter().zip(&table.entries()[plane..]).enumerate()
    {
        let (position, pair) = (index as u32 / table.pairs(), index % table.pairs() as usize);
        let (cos, sin) = frequencies.cos_sin(position, pair);
        let scale = frequencies.query_scale(position, pair);
        assert_eq!(*query, [(cos * scale) as f32, (sin * scale) as f32]);
        assert_eq!(*key, [(cos * (1.0 / scale)) as f32, (sin * (1.0 / scale)) as f32]);
    }
    Ok(())
}

#[test]
fn static_ntk_changes_the_base() -> Test {
    let file = file("rope_axial_xpos")?;
    for case in cases(&file, ".inv_freq") {
        let factor: f64 = case.strip_prefix("ntk_static.s").ok_or(case)?.parse()?;
        let reference = file.tensor(&format!("{case}.inv_freq"))?;
        let rule = RopeRule::NtkAware { factor };
        let head_dim = 2 * u32::try_from(reference.data.len())?;
        let config = RopeConfig { rule, ..RopeConfig::new(head_dim, 10_000.0) };
        assert_frequencies(case, config.frequencies(1)?.inv_freq(), reference);
    }
    Ok(())
}

#[test]
fn ropepp_authors_tables() -> Test {
    let file = file("ropepp_apply")?;
    let positions = positions(&file, "positions")?;
    for case in cases(&file, ".k_out_f64tab") {
        let params = file.json(case)?;
        let config = described(&params)?;
        let group = case.split('.').next().ok_or(case)?;
        let reference = file.tensor(&format!("{group}.inv_freq"))?;
        let frequencies = config.frequencies(1)?;
        assert_frequencies(case, frequencies.inv_freq(), reference);
        let scaling = file.tensor(&format!("{group}.scaling"))?.f64()[0];
        assert!((frequencies.attention_scaling() - scaling).abs() <= 1e-7 * scaling, "{case}");
        let given = with_reference(&config, reference, scaling).frequencies(1)?;
        let pair = (file.tensor("k")?, file.tensor(&format!("{case}.k_out_f64tab"))?);
        assert_rotated(case, &plain(&given), pair, |t| vec![positions[t]], |_| 0.0);
    }
    Ok(())
}
