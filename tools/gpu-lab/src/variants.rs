//! The kernels that are compiled: every default plan for the sizes that models have.

use clap::ValueEnum;
use phasor::attention::{AttentionPlan, AttentionProblem, MatrixTile, Tile};
use phasor::attention_backward::AttentionBackwardProblem;
use phasor::cache::{CacheFormat, CacheType};
use phasor::decode::{DecodePlan, DecodeProblem, Tile as DecodeTile};
use phasor::kv_append::KvAppendProblem;
use phasor::kv_move::KvMoveProblem;
use phasor::linear_attention::LinearAttentionProblem;
use phasor::linear_attention_backward::LinearAttentionBackwardProblem;
use phasor::merge::MergeProblem;
use phasor::recipe::Plan;
use phasor::rope::RopeProblem;
use phasor::scores::ScoresProblem;
use phasor::shader::Shader;
use phasor::{Bias, Capabilities, DType, HeadMap, Precision};

use crate::isa::Parts;

/// Which variants to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Selection {
    /// Attention with D 64 and 128 in f32.
    Core,
    /// Prefill over caches, and heads as wide as caches have them.
    Caches,
    /// The backward pass of attention.
    Backward,
    /// Attention on matrix units, in both of its precisions.
    Matrices,
    /// Decode with D 64 and 128 in every tile that a tuner would try.
    Decode,
    /// All head dimensions and storage types, but nothing on matrix units, which few GPUs have.
    All,
}

pub struct Variant {
    pub name: String,
    pub head_dim: u32,
    pub parts: Parts,
    /// The shader of the plan; an error where the device has no room for it.
    pub shader: phasor::Result<Shader>,
}

/// The variants for one device. A tile, where given, takes the place of the plans' own.
pub fn variants(
    caps: &Capabilities,
    selection: Selection,
    tile: Option<Tile>,
) -> phasor::Result<Vec<Variant>> {
    let mut variants = Vec::new();
    if selection == Selection::Matrices {
        matrices(&mut variants, caps)?;
        return Ok(variants);
    }
    if selection == Selection::Decode {
        decode_tiles(&mut variants, caps)?;
        return Ok(variants);
    }
    let dims: &[u32] = match selection {
        Selection::Core | Selection::Backward | Selection::Matrices => &[64, 128],
        Selection::Caches | Selection::Decode => &[],
        Selection::All => &[32, 64, 80, 96, 128, 192, 256],
    };
    let dtypes: &[DType] = match selection {
        Selection::All => &[DType::F32, DType::F16],
        _ => &[DType::F32],
    };
    if tile.is_none() && selection != Selection::Core {
        for &dim in dims {
            backward(&mut variants, dim, caps)?;
        }
    }
    if selection == Selection::Backward {
        return Ok(variants);
    }
    for &dim in dims {
        for &dtype in dtypes {
            for (name, heads) in [("plain", HeadMap::plain(8)?), ("fused", HeadMap::ropepp(8)?)] {
                let problem = AttentionProblem {
                    q_dtype: dtype,
                    kv_dtype: dtype,
                    out_dtype: dtype,
                    ..AttentionProblem::new(heads, 2, dim)
                };
                variants.push(attention(name, &problem, caps, tile));
            }
        }
        if selection == Selection::All {
            let rotating = AttentionProblem {
                rotate_q: true,
                ..AttentionProblem::new(HeadMap::ropepp(8)?, 2, dim)
            };
            variants.push(attention("fused, rotating q", &rotating, caps, tile));
        }
    }
    if selection != Selection::Core {
        caches(&mut variants, caps, tile)?;
    }
    if tile.is_none() && selection == Selection::All {
        rotations(&mut variants, caps);
        serving(&mut variants, caps)?;
        inspection(&mut variants, caps)?;
    }
    Ok(variants)
}

fn attention(
    name: &str,
    problem: &AttentionProblem,
    caps: &Capabilities,
    tile: Option<Tile>,
) -> Variant {
    let plan = match tile {
        Some(tile) => AttentionPlan::with_tile(problem, caps, tile),
        None => problem.plan(caps),
    };
    Variant {
        name: format!("prefill D{} {} {name}", problem.head_dim, problem.kv_dtype),
        head_dim: problem.head_dim,
        parts: Parts::QkAndPv,
        shader: stage(plan, 0),
    }
}

/// Prefill on matrix units: the tile that plans take, with values the other way, and with much of
/// what problems may ask for.
fn matrices(variants: &mut Vec<Variant>, caps: &Capabilities) -> phasor::Result<()> {
    let (f16, x3) = (Precision::F16Products, Precision::F16x3Products);
    for (tier, precision, dtype) in
        [("f16", f16, DType::F16), ("f16 x3", x3, DType::F32), ("f16 x3", x3, DType::F16)]
    {
        for dim in [64, 128] {
            for (name, heads) in [("plain", HeadMap::plain(8)?), ("fused", HeadMap::ropepp(8)?)] {
                let problem = AttentionProblem {
                    precision,
                    q_dtype: dtype,
                    kv_dtype: dtype,
                    out_dtype: dtype,
                    ..AttentionProblem::new(heads.clone(), 2, dim)
                };
                let asks_much = AttentionProblem {
                    rotate_q: true,
                    softcap: Some(30.0),
                    sinks: vec![0.5; heads.heads().len()],
                    window: Some(512),
                    bias: Some(Bias::Additive),
                    lse: true,
                    ..problem.clone()
                };
                let format = CacheFormat {
                    k: CacheType::Int8,
                    v: CacheType::Int8,
                    paged: true,
                    ..CacheFormat::new(2, dim)
                };
                let pages = AttentionProblem {
                    precision,
                    q_dtype: dtype,
                    out_dtype: dtype,
                    ..AttentionProblem::over(heads, format)
                };
                let mut push = |what: &str, problem: &AttentionProblem, tile| {
                    let variant = attention(name, problem, caps, tile);
                    let name = format!("{tier} D{dim} {dtype} {name}{what}");
                    variants.push(Variant { name, ..variant });
                };
                push("", &problem, None);
                if let Some(tile) = problem.plan(caps).ok().and_then(|plan| plan.tile().matrices())
                {
                    let other = MatrixTile { value_turned: !tile.value_turned, ..tile };
                    let what = match other.value_turned {
                        true => ", values turned",
                        false => ", values in rows",
                    };
                    push(what, &problem, Some(other.into()));
                }
                push(", rules", &asks_much, None);
                push(", int8 pages", &pages, None);
            }
        }
    }
    Ok(())
}

/// Prefill over caches of 8 kv heads, latent attention, and full layers of 512 channels.
fn caches(
    variants: &mut Vec<Variant>,
    caps: &Capabilities,
    tile: Option<Tile>,
) -> phasor::Result<()> {
    for (name, heads) in [("plain", HeadMap::plain(32)?), ("fused", HeadMap::ropepp(32)?)] {
        let mut push = |what: String, cache: CacheFormat| {
            let problem = AttentionProblem::over(heads.clone(), cache);
            let mut variant = attention(name, &problem, caps, tile);
            variant.name = format!("prefill D{} {what} {name}", cache.head_dim);
            variants.push(variant);
        };
        for dim in [64, 128, 256] {
            for stored in [CacheType::F16, CacheType::Int8, CacheType::Q4] {
                for paged in [false, true] {
                    let cache =
                        CacheFormat { k: stored, v: stored, paged, ..CacheFormat::new(8, dim) };
                    let what = if paged { "pages" } else { "cache" };
                    push(format!("{what} {stored}"), cache);
                }
            }
        }
        push("cache f32".into(), CacheFormat::new(8, 512));
        let latent = CacheFormat { value_dim: 512, v_in_k: true, ..CacheFormat::new(1, 576) };
        let (k, v) = (CacheType::F16, CacheType::F16);
        push("latent f16".into(), CacheFormat { k, v, ..latent });
    }
    Ok(())
}

/// The large passes of a backward call, gradients turned back on their way out.
fn backward(variants: &mut Vec<Variant>, dim: u32, caps: &Capabilities) -> phasor::Result<()> {
    for (name, heads) in [("plain", HeadMap::plain(8)?), ("fused", HeadMap::ropepp(8)?)] {
        let problem = AttentionBackwardProblem {
            unrotate: true,
            ..AttentionBackwardProblem::new(AttentionProblem::new(heads, 2, dim))
        };
        for (pass, last) in [("dq", 2), ("dk dv", 1)] {
            let plan = problem.plan(caps);
            let at = plan.as_ref().map_or(0, |plan| plan.stages().len() - last);
            variants.push(Variant {
                name: format!("backward {pass} D{dim} {name}"),
                head_dim: dim,
                parts: Parts::QkAndPv,
                shader: stage(plan, at),
            });
        }
    }
    Ok(())
}

/// The shader of a plan's stage; the error where there is no plan.
fn stage<P: Plan>(plan: phasor::Result<P>, stage: usize) -> phasor::Result<Shader> {
    plan.map(|plan| plan.stages()[stage].clone())
}

fn other(name: String, head_dim: u32, shader: phasor::Result<Shader>) -> Variant {
    Variant { name, head_dim, parts: Parts::None, shader }
}

fn rotations(variants: &mut Vec<Variant>, caps: &Capabilities) {
    for dtype in [DType::F32, DType::F16] {
        for (name, in_place, aligned) in
            [("apart", false, true), ("in place", true, true), ("by channel", false, false)]
        {
            let problem = RopeProblem { dtype, in_place, aligned, ..RopeProblem::new(8, 2, 128) };
            let shader = stage(problem.plan(caps), 0);
            variants.push(other(format!("rope D128 {dtype} {name}"), 128, shader));
        }
    }
}

/// Decode, append, move and merge over caches of 8 kv heads.
fn serving(variants: &mut Vec<Variant>, caps: &Capabilities) -> phasor::Result<()> {
    for dim in [64, 128, 256] {
        for stored in [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4] {
            let cache = CacheFormat { k: stored, v: stored, ..CacheFormat::new(8, dim) };
            for (name, heads) in [("plain", HeadMap::plain(32)?), ("fused", HeadMap::ropepp(32)?)] {
                let shader = stage(DecodeProblem::new(heads, cache, 4, 16384).plan(caps), 0);
                variants.push(other(format!("decode D{dim} {stored} {name}"), dim, shader));
            }
            let shader = stage(KvAppendProblem::new(cache).plan(caps), 0);
            variants.push(other(format!("append D{dim} {stored}"), dim, shader));
            let shader = stage(KvMoveProblem::new(cache).plan(caps), 0);
            variants.push(other(format!("move D{dim} {stored}"), dim, shader));
        }
        let shader = stage(MergeProblem::new(dim).plan(caps), 0);
        variants.push(other(format!("merge D{dim}"), dim, shader));
    }
    Ok(())
}

/// Decode over caches of 8 kv heads, in the plan's tile and in all others.
fn decode_tiles(variants: &mut Vec<Variant>, caps: &Capabilities) -> phasor::Result<()> {
    for dim in [64, 128] {
        for stored in [CacheType::F32, CacheType::F16, CacheType::Int8] {
            let cache = CacheFormat { k: stored, v: stored, ..CacheFormat::new(8, dim) };
            for (name, heads) in [("plain", HeadMap::plain(32)?), ("fused", HeadMap::ropepp(32)?)] {
                let problem = DecodeProblem::new(heads, cache, 4, 16384);
                let splits = problem.plan(caps)?.splits();
                for tile in DecodeTile::candidates(&problem, caps)? {
                    let plan = DecodePlan::with_parts(&problem, caps, tile, splits);
                    let name = format!("decode D{dim} {stored} {name}: {tile}");
                    variants.push(other(name, dim, stage(plan, 0)));
                }
            }
        }
    }
    Ok(())
}

/// Scores and linear attention.
fn inspection(variants: &mut Vec<Variant>, caps: &Capabilities) -> phasor::Result<()> {
    for dim in [64, 128] {
        let shader = stage(ScoresProblem::new(8, 2, dim).plan(caps), 0);
        variants.push(other(format!("scores D{dim}"), dim, shader));
        let problem = LinearAttentionProblem::new(HeadMap::plain(8)?, 2, dim);
        for (n, pass) in ["sums", "scan", "outputs"].into_iter().enumerate() {
            let shader = stage(problem.plan(caps), n);
            variants.push(other(format!("linear D{dim} {pass}"), dim, shader));
        }
        let forward = LinearAttentionProblem::new(HeadMap::ropepp(8)?, 2, dim);
        let plan = LinearAttentionBackwardProblem::new(forward).plan(caps)?;
        for (pass, shader) in ["dv", "dk", "dq"].into_iter().zip(plan.shaders().iter().rev()) {
            let name = format!("linear backward D{dim} {pass}");
            variants.push(other(name, dim, Ok(shader.clone())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use phasor::KernelKind;

    #[test]
    fn every_kernel_is_compiled() {
        let caps = Capabilities::webgpu_default();
        let all = variants(&caps, Selection::All, None).unwrap();
        let of =
            |kernel| all.iter().any(|one| one.shader.as_ref().is_ok_and(|s| s.kernel == kernel));
        for &kernel in KernelKind::ALL {
            assert!(of(kernel), "no variant of {kernel}");
        }
    }
}
