//! RoPE++ attention on wgpu 29: real and imaginary heads from one recipe, all tensors in one buffer
//! between guards, held to the f64 oracle with the bounds of the crate's own tests.
//!
//!     cargo run --manifest-path examples/hosts/wgpu29/Cargo.toml

mod host;

use host::Host;
use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::oracle::{self, AttentionInputs, Real};
use phasor::recipe::{AttentionBindings, Plan as _, Range, Tensor};
use phasor::{Capabilities, DType, HeadMap, Layout, Sharing};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const ROWS: u32 = 100;
const DIM: u32 = 64;
/// Bytes around every tensor.
const GUARD: usize = 256;

fn main() -> Result {
    let capabilities = Capabilities::webgpu_default().sharing(Sharing::Ranges);
    let problem = AttentionProblem::new(HeadMap::ropepp(HEADS)?, KV_HEADS, DIM);
    let plan = problem.plan(&capabilities)?;
    println!("{plan}");

    // q, k, v and out in one buffer, NaN between them and in out.
    let layout = |heads| Layout::bhsd([1, heads, ROWS, DIM]);
    let layouts = [layout(HEADS)?, layout(KV_HEADS)?, layout(KV_HEADS)?, layout(2 * HEADS)?];
    let mut numbers = numbers();
    let inputs = [0, 1, 2].map(|n| -> Vec<f32> {
        (0..layouts[n].elements()).filter_map(|_| numbers.next()).collect()
    });
    let mut pool = Vec::new();
    let mut places = [0; 4];
    for (n, place) in places.iter_mut().enumerate() {
        pool.extend([f32::NAN; GUARD / 4]);
        *place = 4 * pool.len();
        match inputs.get(n) {
            Some(input) => pool.extend(input),
            None => pool.resize(pool.len() + layouts[n].elements() as usize, f32::NAN),
        }
        pool.resize(pool.len().next_multiple_of(GUARD / 4), f32::NAN);
    }
    pool.extend([f32::NAN; GUARD / 4]);
    let bytes: Vec<u8> = pool.iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = |n: usize| {
        let range = Range::new(0, places[n] as u64, 4 * layouts[n].elements());
        Tensor::at(range, DType::F32, layouts[n])
    };
    let (q, k) = (tensor(0)?, tensor(1)?);
    let shape = AttentionShape::of(&q, &k)?;
    let recipe = plan.recipe(&shape, &AttentionBindings::new(q, k, tensor(2)?, tensor(3)?))?;

    let host = Host::new()?;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let buffers = [host.buffer(&bytes, usage)];
    host.run(&plan, &recipe, &buffers);
    let after = host.read(&buffers[0])?;
    println!("on {}, wgpu 29", host.adapter);

    let end = places[3] + 4 * layouts[3].elements() as usize;
    if after[..places[3]] != bytes[..places[3]] || after[end..] != bytes[end..] {
        return Err("something beside the output was written".into());
    }
    let got: Vec<f32> = after[places[3]..end]
        .chunks_exact(4)
        .map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]))
        .collect();
    let truth = attended::<f64>(&plan, inputs.each_ref())?;
    let naive = attended::<f32>(&plan, inputs.each_ref())?;
    // Heads in turn: real, imaginary.
    let component = |i: usize| (i / (ROWS * DIM) as usize) % 2;
    let mut right = true;
    for (n, name) in ["real", "imaginary"].into_iter().enumerate() {
        let largest = |x: &dyn Fn(usize) -> f64| {
            let of = (0..truth.len()).filter(|&i| component(i) == n).map(x);
            // A NaN is no small error.
            of.fold(0.0, |most: f64, x| if x.is_nan() { f64::INFINITY } else { most.max(x) })
        };
        let error = largest(&|i| (f64::from(got[i]) - truth[i]).abs());
        // Twice what naive f32 is off by, and 4 ulps of the largest output.
        let off = largest(&|i| (f64::from(naive[i]) - truth[i]).abs());
        let bound = 2.0 * off + 4.0 * f64::from(f32::EPSILON) * largest(&|i| truth[i].abs());
        println!("{name}: largest error {error:.1e}, allowed {bound:.1e}");
        right &= error <= bound;
    }
    if right { Ok(()) } else { Err("attention is wrong".into()) }
}

/// The oracle's output, naive in `R`.
fn attended<R: Real>(
    plan: &phasor::attention::AttentionPlan,
    inputs: [&Vec<f32>; 3],
) -> Result<Vec<R>> {
    let [q, k, v] = inputs.map(|x| x.iter().map(|&x| R::from_f64(x.into())).collect::<Vec<R>>());
    let kv_shape = [1, KV_HEADS, ROWS, DIM];
    let problem = plan.problem();
    let inputs = AttentionInputs {
        q: &q,
        q_shape: [1, HEADS, ROWS, DIM],
        k: &k,
        k_shape: kv_shape,
        v: &v,
        v_shape: kv_shape,
        rotary_dim: DIM,
        pairing: problem.pairing,
        heads: problem.heads.heads(),
        softmax_scale: problem.softmax_scale.into(),
        causal: problem.causal,
        q_offset: None,
        kv_lens: None,
    };
    Ok(oracle::attention(&inputs)?.out)
}

/// Numbers from −2 to 2, the same in every run.
fn numbers() -> impl Iterator<Item = f32> {
    let mut state = 1u32;
    std::iter::from_fn(move || {
        // xorshift32
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        Some((state >> 8) as f32 / (1 << 22) as f32 - 2.0)
    })
}
