//! A decode loop over a growing cache: each step appends one token's keys and values (rotated on
//! their way) and attends with its query, for plain RoPE and both shapes of RoPE++.
//!
//! ```sh
//! cargo run --release --example decode -- --kv 4096 --steps 64
//! ```
//!
//! One layer, random numbers. Everything is bound once: a step writes one length, records two calls
//! and submits. What is timed is the step, submission and wait included.

use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use phasor::gpu::{CacheBindings, CacheTensor, CosSin, Positions};
use phasor::kernels::decode::{Decode, DecodeBindings};
use phasor::kernels::kv_append::{KvAppend, KvAppendBindings};
use phasor::plan::cache::{CacheType, Components, ModelShape};
use phasor::plan::decode::{DecodeProblem, DecodeShape};
use phasor::plan::kv_append::{KvAppendProblem, KvAppendShape};
use phasor::rotary::RopeConfig;
use phasor::{DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
struct Options {
    /// Tokens in the cache when the loop starts.
    #[arg(long, default_value_t = 4096)]
    kv: u32,
    /// Tokens to decode.
    #[arg(long, default_value_t = 32)]
    steps: u32,
    /// Query heads of the plain model.
    #[arg(long, default_value_t = 32)]
    heads: u32,
    /// Kv heads of the plain model.
    #[arg(long, default_value_t = 8)]
    kv_heads: u32,
    /// Channels of a head.
    #[arg(long, default_value_t = 128)]
    head_dim: u32,
    /// Storage of the cache: f32, f16, int8 or q4.
    #[arg(long, default_value = "f32", value_parser = cache_type)]
    cache: CacheType,
}

fn cache_type(name: &str) -> std::result::Result<CacheType, String> {
    let all = [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
    let known = all.into_iter().find(|stored| stored.to_string() == name);
    known.ok_or_else(|| format!("{name} is none of f32, f16, int8, q4"))
}

/// One layer's step, bound.
struct Step {
    append: Dispatch,
    decode: Dispatch,
    /// Rows before the append, and after it.
    lens: [wgpu::Buffer; 2],
    bytes_per_token: u64,
}

fn random(len: u32) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(len.into());
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

impl Step {
    fn new(gpu: &Gpu, options: &Options, components: Components) -> Result<Self> {
        let (dim, stored) = (options.head_dim, options.cache);
        let model = ModelShape {
            layers: 1,
            kv_heads: options.kv_heads,
            head_dim: dim,
            value_dim: dim,
            components,
            k: stored,
            v: stored,
        };
        let format = model.cache()?;
        let heads = match components {
            Components::Plain => HeadMap::plain(options.heads)?,
            Components::EqualCache => HeadMap::ropepp(options.heads)?,
            // Half of the query heads, each with both components.
            Components::EqualHeads => HeadMap::ropepp(options.heads / 2)?,
        };
        let capacity = options.kv + options.steps;
        let problem = DecodeProblem {
            rotate_q: true,
            ..DecodeProblem::new(heads.clone(), format, 1, capacity)
        };
        let plan = problem.plan(&gpu.capabilities())?;
        println!("{plan}");
        let append_plan = KvAppendProblem::new(format).plan(&gpu.capabilities())?;

        let table = RopeConfig::new(dim, 1e4).table(capacity, capacity.into())?;
        let table_buffer = gpu.upload_bytes(table.as_bytes());
        let table =
            CosSin { binding: table_buffer.as_entire_buffer_binding(), shape: table.shape()? };
        let layout = Layout::bhsd([1, format.kv_heads, capacity, stored.row(dim)])?;
        let rows = random(format.kv_heads * capacity * dim);
        let bytes = phasor::oracle::encode_rows(&rows, dim, stored)?;
        let caches = [(); 2].map(|()| gpu.upload_bytes(&bytes));
        let [k, v] = caches.each_ref().map(|buffer| {
            let binding = buffer.as_entire_buffer_binding();
            CacheTensor { binding, stored, layout }
        });
        let cache = CacheBindings { k, v, block_table: None };
        let lens = [0, 1].map(|new| gpu.upload_u32(&[options.kv + new]));

        let new = gpu.upload(&random(format.kv_heads * dim), DType::F32);
        let new = Tensor::new(&new, DType::F32, Layout::bhsd([1, format.kv_heads, 1, dim])?);
        let append = KvAppend::new(&gpu.device, &append_plan)?.bind(
            &gpu.device,
            &KvAppendShape::new(1, 1),
            &KvAppendBindings {
                k: new.clone(),
                v: new,
                cache: cache.clone(),
                lens: lens[0].as_entire_buffer_binding(),
                rotation: Some((table.clone(), Positions::AmongKeys)),
            },
        )?;
        let q = gpu.upload(&random(heads.q_heads() * dim), DType::F32);
        let heads_out = heads.heads().len() as u32;
        let out = gpu.output((heads_out * dim) as usize, DType::F32);
        let workspace = gpu.output(plan.workspace_bytes() as usize / 4, DType::F32);
        let decode = Decode::new(&gpu.device, &plan)?.bind(
            &gpu.device,
            &DecodeShape { batch: 1, seq_q: 1 },
            &DecodeBindings {
                q: Tensor::new(&q, DType::F32, Layout::bhsd([1, heads.q_heads(), 1, dim])?),
                cache,
                kv_lens: lens[1].as_entire_buffer_binding(),
                out: Tensor::new(&out, DType::F32, Layout::bhsd([1, heads_out, 1, dim])?),
                lse: None,
                rotation: Some((table, Positions::AmongKeys)),
                bias: None,
                workspace: (plan.workspace_bytes() > 0)
                    .then(|| workspace.as_entire_buffer_binding()),
            },
        )?;
        Ok(Self { append, decode, lens, bytes_per_token: model.bytes_per_token()? })
    }

    /// Decodes the token at `position`.
    fn run(&self, gpu: &Gpu, position: u32) -> Duration {
        let start = Instant::now();
        for (buffer, len) in self.lens.iter().zip([position, position + 1]) {
            gpu.queue.write_buffer(buffer, 0, &len.to_le_bytes());
        }
        gpu.run(|encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.append.record(&mut pass);
            self.decode.record(&mut pass);
        });
        start.elapsed()
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let gpu = Gpu::new()?;
    println!("{} ({:?}, {})\n", gpu.info.name, gpu.info.backend, gpu.info.driver_info);
    let models = [
        ("plain", Components::Plain),
        ("EC", Components::EqualCache),
        ("EH", Components::EqualHeads),
    ];
    let mut steps = Vec::new();
    for (name, components) in models {
        let step = Step::new(&gpu, &options, components)?;
        // The first run compiles, on some drivers.
        step.run(&gpu, options.kv);
        steps.push((name, step, Vec::new()));
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} tokens, {elapsed}")?;
    let bar = ProgressBar::new(options.steps.into()).with_style(style);
    for step in 0..options.steps {
        // The models take turns, so that whatever else the machine does slows all of them.
        for (_, model, times) in &mut steps {
            times.push(model.run(&gpu, options.kv + step));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!(
        "\n{:8}{:>14}{:>14}{:>14}{:>18}",
        "", "median", "tokens/s", "of plain", "cache per token"
    );
    let mut plain = None;
    for (name, model, mut times) in steps {
        times.sort();
        let Some(&median) = times.get(times.len() / 2) else { continue };
        let of_plain = median.as_secs_f64() / plain.get_or_insert(median).as_secs_f64();
        let bytes = model.bytes_per_token;
        println!(
            "{name:8}{:>11.3} ms{:>14.1}{of_plain:>13.2}x{bytes:>12} bytes",
            median.as_secs_f64() * 1e3,
            1.0 / median.as_secs_f64(),
        );
    }
    Ok(())
}
