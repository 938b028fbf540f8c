//! Decode of one token over a long cache: the real component alone, and both components from one
//! pass, over the same cache and the same query heads. Caches of f32, and of f16 and int8.

use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{Decode, DecodeBindings, DecodeProblem, DecodeShape};
use phasor::rotary::Pairing;
use phasor::{DType, Dispatch, HeadMap, Layout, Tensor, oracle, wgpu};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::Result;
use crate::roof::Copy;
use crate::timing::{Clock, Time, print};

/// Times over one cache.
pub struct Decoding {
    /// The model whose plain form has 32 query heads over 8 kv heads.
    pub model: &'static str,
    pub stored: CacheType,
    pub kv: u32,
    pub dim: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// Time and bytes of plain and fused decode, and its share of a copy.
    pub ways: [(Time, u64, f64); 2],
    pub fused_over_plain: f64,
}

/// Real alone, and both components.
pub const WAYS: [&str; 2] = ["plain", "fused"];

/// RoPE++ with the cache of the plain model, and with its output heads over half of that cache: a
/// smaller one, which is timed in f32 alone.
const MODELS: [(&str, u32, u32, &[CacheType]); 2] =
    [("EC", 32, 8, &[CacheType::F32, CacheType::F16, CacheType::Int8]), ("EH", 16, 4, &[F32])];
const F32: CacheType = CacheType::F32;

pub fn measure(clock: &Clock<'_>, quick: bool) -> Result<Vec<Decoding>> {
    let dim = 128;
    let lengths: &[u32] = if quick { &[4096, 16384] } else { &[1024, 4096, 16384] };
    let mut decodings = Vec::new();
    let caches = MODELS.into_iter().flat_map(|(model, heads, kv_heads, types)| {
        types.iter().map(move |&stored| (model, heads, kv_heads, stored))
    });
    for (model, heads, kv_heads, stored) in caches {
        let mut compiled: [Option<Decode>; 2] = [None, None];
        // What is not f32 takes the longest alone, where there is little time.
        let skipped = if quick && stored != F32 { lengths.len() - 1 } else { 0 };
        for &kv in &lengths[skipped..] {
            println!(
                "decode as {model}, kv {kv}, D {dim}, {heads} query heads, {kv_heads} kv heads, {stored}"
            );
            let cache = Cache::new(clock, [kv, dim, heads, kv_heads], stored)?;
            let [plain, fused] = &mut compiled;
            let plain = cache.step(clock, HeadMap::plain(heads)?, plain)?;
            let fused = cache.step(clock, HeadMap::ropepp(heads)?, fused)?;
            let copy = Copy::new(clock, plain.1);
            let race =
                clock.race(&[&|p| plain.0.record(p), &|p| fused.0.record(p), &|p| copy.record(p)]);
            let ways = [plain.1, fused.1];
            let way = |i: usize| (race.best[i], ways[i], copy.share(ways[i], &race, i, 2));
            let ways = [way(0), way(1)];
            for (name, (time, bytes, share)) in WAYS.iter().zip(&ways) {
                let (gbs, percent) = (*bytes as f64 / time.ms() * 1e-6, 100.0 * share);
                print(name, time, &format!("{gbs:8.2} GB/s, {percent:5.1} % of a copy"));
            }
            let fused_over_plain = race.ratio(1, 0);
            println!("  fused / plain {fused_over_plain:.2}\n");
            decodings.push(Decoding {
                model,
                stored,
                kv,
                dim,
                heads,
                kv_heads,
                ways,
                fused_over_plain,
            });
        }
    }
    Ok(decodings)
}

/// A full cache and a query.
struct Cache {
    sizes: [u32; 4],
    stored: CacheType,
    /// q, and what the cache holds of k and v.
    data: [Vec<f32>; 3],
    buffers: [wgpu::Buffer; 3],
}

impl Cache {
    fn new(clock: &Clock<'_>, sizes: [u32; 4], stored: CacheType) -> Result<Self> {
        let [kv, dim, heads, kv_heads] = sizes;
        let mut rng = SmallRng::seed_from_u64(3);
        let [q, k, v] = [heads, kv_heads * kv, kv_heads * kv].map(|rows| -> Vec<f32> {
            (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect()
        });
        let k = oracle::encode_rows(&k, dim, stored)?;
        let v = oracle::encode_rows(&v, dim, stored)?;
        let buffers = [
            clock.gpu.upload(&q, DType::F32),
            clock.gpu.upload_bytes(&k),
            clock.gpu.upload_bytes(&v),
        ];
        let k = oracle::decode_rows(&k, dim, stored)?;
        let v = oracle::decode_rows(&v, dim, stored)?;
        Ok(Self { sizes, stored, data: [q, k, v], buffers })
    }

    /// The call that decodes one token, run once and checked, and the bytes that it must move.
    /// `compiled` keeps the kernel for caches of other lengths.
    fn step(
        &self,
        clock: &Clock<'_>,
        heads: HeadMap,
        compiled: &mut Option<Decode>,
    ) -> Result<(Dispatch, u64)> {
        let [kv, dim, q_heads, kv_heads] = self.sizes;
        let device = &clock.gpu.device;
        let stored = self.stored;
        let format = CacheFormat { k: stored, v: stored, ..CacheFormat::new(kv_heads, dim) };
        let problem = DecodeProblem::new(heads.clone(), format, 1, kv);
        let plan = problem.plan(&clock.gpu.capabilities())?;
        let known = compiled.as_ref().map(|known| known.reuse(device, &plan)).transpose()?;
        let kernel = match known.flatten() {
            Some(kernel) => kernel,
            None => Decode::new(device, &plan)?,
        };
        let [q, k, v] = &self.buffers;
        let layout = Layout::bhsd([1, kv_heads, kv, stored.row(dim)])?;
        let [k, v] = [k, v].map(|buffer| {
            let binding = buffer.as_entire_buffer_binding();
            CacheTensor { binding, stored, layout }
        });
        let heads_out = heads.heads().len() as u32;
        let out = clock.gpu.output((heads_out * dim) as usize, DType::F32);
        let lens = clock.gpu.upload_u32(&[kv]);
        let bytes = plan.workspace_bytes(&plan.problem().largest());
        let workspace = clock.gpu.output(bytes as usize / 4, DType::F32);
        let shape = DecodeShape { batch: 1, seq_q: 1 };
        let bindings = DecodeBindings {
            q: Tensor::new(q, DType::F32, Layout::bhsd([1, q_heads, 1, dim])?),
            cache: CacheBindings { k, v, block_table: None },
            kv_lens: lens.as_entire_buffer_binding(),
            out: Tensor::new(&out, DType::F32, Layout::bhsd([1, heads_out, 1, dim])?),
            lse: None,
            rotation: None,
            bias: None,
            workspace: (bytes > 0).then(|| workspace.as_entire_buffer_binding()),
        };
        let call = kernel.bind(device, &shape, &bindings)?;
        *compiled = Some(kernel);
        clock.gpu.run(|encoder| call.encode(encoder));
        self.check(&heads, &clock.gpu.download(&out, DType::F32))?;
        Ok((call, plan.cost_over(&shape, kv).bytes))
    }

    /// Every output head against the f64 oracle. With scores and values of the size of 1 the error
    /// of f32 is a few units in the last place of 1.
    fn check(&self, heads: &HeadMap, out: &[f32]) -> Result<()> {
        let [kv, dim, q_heads, kv_heads] = self.sizes;
        let wide = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<f64>>();
        let [q, k, v] = self.data.each_ref().map(|data| wide(data));
        let truth = oracle::attention(&oracle::AttentionInputs {
            q: &q,
            q_shape: [1, q_heads, 1, dim],
            k: &k,
            k_shape: [1, kv_heads, kv, dim],
            v: &v,
            v_shape: [1, kv_heads, kv, dim],
            rotary_dim: dim,
            pairing: Pairing::Half,
            heads: heads.heads(),
            softmax_scale: f64::from(dim).powf(-0.5),
            causal: true,
            q_offset: None,
            kv_lens: None,
        })?;
        for (i, (&got, &truth)) in out.iter().zip(&truth.out).enumerate() {
            let error = (f64::from(got) - truth).abs();
            if error.is_nan() || error > 4e-6 {
                let (head, channel) = (i / dim as usize, i % dim as usize);
                let place = format!("head {head}, channel {channel}, kv {kv}");
                return Err(format!("wrong decode: {place}: {got} instead of {truth}").into());
            }
        }
        Ok(())
    }
}
