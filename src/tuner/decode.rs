//! Tiles and splits of decode.

use std::time::{Duration, Instant};

use wgpu::util::DeviceExt as _;

use super::measure::{Bench, Stored, pattern, stored, tensor};
use super::{Choice, Tiles, Trials, Tuning};
use crate::cache::{CacheBindings, CacheTensor, CacheType};
use crate::decode::{Decode, DecodeBindings};
use crate::plan::cache::CacheFormat;
use crate::plan::decode::{DecodePlan, DecodeProblem, DecodeShape, Tile};
use crate::{Capabilities, DType, Dispatch, Layout, Result, oracle};

/// Times the tiles of [`Tile::candidates`] as [`attention`](super::attention()) does its own, and
/// with the best of them more splits and fewer. Calls have full caches of the problem's `max_kv`
/// keys, the merge is part of them.
///
/// Timed are contiguous caches of the problem's storage; pages, bias, hooks and the rotation of
/// queries are left out.
///
/// # Errors
/// As [`DecodeProblem::plan`] and [`Decode::bind`].
pub fn decode(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    problem: &DecodeProblem,
    shape: &DecodeShape,
    budget: Duration,
) -> Result<Tuning<(Tile, u32)>> {
    let end = Instant::now() + budget;
    let caps = Capabilities::of(device);
    let dense = dense(problem);
    let tiles = Tile::candidates(&dense, &caps)?;
    let splits = dense.plan(&caps)?.splits();
    let others = [splits / 2, splits.saturating_mul(2), splits / 4, splits.saturating_mul(4)];
    let others = others.into_iter().filter(|&n| n > 0 && n != splits && n <= dense.max_kv);
    let others: Vec<u32> = others.collect();
    let most = others.iter().copied().max().unwrap_or(1).max(splits);
    let workspace = DecodePlan::with_parts(&dense, &caps, tiles[0], most)?.workspace_bytes(shape);
    let call = Call::new(device, &dense, shape, workspace)?;
    let prepare = |(tile, splits)| {
        let plan = DecodePlan::with_parts(&dense, &caps, tile, splits)?;
        call.bind(device, &plan, &Decode::new(device, &plan)?)
    };
    let mut trials = Trials::new(Bench::new(device, queue, call.outputs()), end);
    let first: Vec<_> = tiles.iter().map(|&tile| (tile, splits)).collect();
    trials.run(&first, prepare)?;
    let best = trials.best().map_or(tiles[0], |((tile, _), _)| tile);
    let more: Vec<_> = others.iter().map(|&splits| (best, splits)).collect();
    trials.run(&more, prepare)?;
    let sizes = format!("B {} Sq {} Sk {}", shape.batch, shape.seq_q, dense.max_kv);
    let candidates = first.len() + more.len();
    Ok(trials.tuning((&caps, describe(problem), sizes), first[0], candidates))
}

impl Choice<(Tile, u32)> {
    /// A plan with this tile and these splits.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where version, adapter or problem are not those
    /// that were tuned; otherwise as [`DecodePlan::with_parts`].
    pub fn plan(&self, problem: &DecodeProblem, capabilities: &Capabilities) -> Result<DecodePlan> {
        self.made_for(&describe(problem), capabilities)?;
        let (tile, splits) = self.tile;
        DecodePlan::with_parts(problem, capabilities, tile, splits)
    }
}

/// What the speed of a tile depends on, short of the number of keys.
fn describe(problem: &DecodeProblem) -> String {
    let cache = &problem.cache;
    format!(
        "decode H {}/{}/{} D {} Dv {} q {} k {} v {} out {}",
        problem.heads.heads().len(),
        problem.heads.q_heads(),
        cache.kv_heads,
        cache.head_dim,
        cache.value_dim,
        problem.q_dtype,
        cache.k,
        cache.v,
        problem.out_dtype,
    )
}

impl Tiles for (Tile, u32) {
    fn spelled(&self) -> String {
        let (t, splits) = self;
        format!(
            "{},{},{},{},{},{},{},{splits}",
            t.threads,
            t.keys_each,
            t.rows,
            t.run,
            t.prefetch,
            t.subgroup.unwrap_or(0),
            t.key_lanes,
        )
    }

    fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(',').collect();
        let &[threads, keys_each, rows, run, prefetch, subgroup, key_lanes, splits] =
            parts.as_slice()
        else {
            return None;
        };
        let tile = Tile {
            threads: threads.parse().ok()?,
            keys_each: keys_each.parse().ok()?,
            rows: rows.parse().ok()?,
            run: run.parse().ok()?,
            prefetch: prefetch.parse().ok()?,
            subgroup: Some(subgroup.parse().ok()?).filter(|&size| size > 0),
            key_lanes: key_lanes.parse().ok()?,
        };
        Some((tile, splits.parse().ok()?))
    }
}

/// The problem without what needs the caller's data.
fn dense(problem: &DecodeProblem) -> DecodeProblem {
    let cache = CacheFormat { paged: false, rolling: false, v_in_k: false, ..problem.cache };
    DecodeProblem {
        cache,
        rotate_q: false,
        bias: None,
        score_mod: None,
        mask_mod: None,
        lse: false,
        ..problem.clone()
    }
}

/// The tensors of a call.
struct Call {
    shape: DecodeShape,
    /// q, out.
    tensors: [Stored; 2],
    /// Of k and v.
    cache: [(wgpu::Buffer, CacheType, Layout); 2],
    lens: wgpu::Buffer,
    workspace: wgpu::Buffer,
}

impl Call {
    fn new(
        device: &wgpu::Device,
        problem: &DecodeProblem,
        shape: &DecodeShape,
        workspace: u64,
    ) -> Result<Self> {
        let DecodeShape { batch, seq_q } = *shape;
        let (heads, cache) = (&problem.heads, &problem.cache);
        let heads_out = heads.heads().len() as u32;
        let rows = [batch, cache.kv_heads, problem.max_kv];
        let buffer = |contents: &[u8]| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("tuner"),
                contents,
                usage: wgpu::BufferUsages::STORAGE,
            })
        };
        let side = |stored: CacheType, dim: u32| -> Result<_> {
            // A few rows, again and again.
            let some = pattern(64 * u64::from(dim), DType::F32);
            let some: Vec<f32> = bytemuck::pod_collect_to_vec(&some);
            let some = oracle::encode_rows(&some, dim, stored)?;
            let len = rows.iter().map(|&n| u64::from(n)).product::<u64>() * stored.row_bytes(dim);
            let bytes: Vec<u8> = some.iter().copied().cycle().take(len as usize).collect();
            let layout = Layout::bhsd([rows[0], rows[1], rows[2], stored.row(dim)])?;
            Ok((buffer(&bytes), stored, layout))
        };
        Ok(Self {
            shape: *shape,
            tensors: [
                stored(device, problem.q_dtype, [batch, heads.q_heads(), seq_q, cache.head_dim])?,
                stored(device, problem.out_dtype, [batch, heads_out, seq_q, cache.value_dim])?,
            ],
            cache: [side(cache.k, cache.head_dim)?, side(cache.v, cache.value_dim)?],
            lens: buffer(bytemuck::cast_slice(&vec![problem.max_kv; batch.max(1) as usize])),
            workspace: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("tuner"),
                size: workspace.max(16),
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }),
        })
    }

    fn outputs(&self) -> &[Stored] {
        &self.tensors[1..]
    }

    fn bind(&self, device: &wgpu::Device, plan: &DecodePlan, kernel: &Decode) -> Result<Dispatch> {
        let [q, out] = self.tensors.each_ref().map(tensor);
        let [k, v] = self.cache.each_ref().map(|(buffer, stored, layout)| CacheTensor {
            binding: buffer.as_entire_buffer_binding(),
            stored: *stored,
            layout: *layout,
        });
        let lens = self.lens.as_entire_buffer_binding();
        let workspace = plan.merge().map(|_| self.workspace.as_entire_buffer_binding());
        let bindings = DecodeBindings {
            workspace,
            ..DecodeBindings::new(q, CacheBindings::new(k, v), lens, out)
        };
        kernel.bind(device, &self.shape, &bindings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;

    #[test]
    fn a_line_reads_back() {
        let mut caps = Capabilities::webgpu_default();
        let cache = CacheFormat::new(2, 64);
        let problem = DecodeProblem::new(HeadMap::ropepp(4).unwrap(), cache, 1, 4096);
        for subgroup in [None, Some((32, 32))] {
            caps.subgroup = subgroup;
            let tiles = Tile::candidates(&problem, &caps).unwrap();
            for tile in [tiles[0], tiles[tiles.len() - 1]] {
                let sizes = "B 1 Sq 1 Sk 4096".to_owned();
                let choice = Choice::new(&caps, describe(&problem), sizes, (tile, 7), 1.25, 2.5);
                let read: Choice<(Tile, u32)> = choice.to_string().parse().unwrap();
                assert_eq!(read, choice);
                let plan = read.plan(&problem, &caps).unwrap();
                assert_eq!((*plan.tile(), plan.splits()), (tile, 7));
            }
        }
        let tile = Tile::new(64, 1, 4);
        let sizes = "B 1 Sq 1 Sk 4096".to_owned();
        let choice = Choice::new(&caps, describe(&problem), sizes, (tile, 7), 1.25, 2.5);
        let other = DecodeProblem { q_dtype: DType::F16, ..problem };
        assert!(matches!(choice.plan(&other, &caps), Err(crate::Error::Invalid { .. })));
    }
}
