//! Rotations and their gradients beside the formula.

use burn::tensor::{Device, Int, Tensor, TensorData};
use phasor_burn::phasor::rotary::{Pairing, PositionAxes, RopeConfig, RopeRule};
use phasor_burn::{Positions, Result, Rotary, formula};

use crate::support::{Numbers, close, cpu, memories, tensor};

struct Case {
    name: &'static str,
    config: RopeConfig,
    /// `[streams, B or 1, S]`.
    ids: Option<[usize; 2]>,
    first: u32,
}

fn cases() -> Vec<Case> {
    let new = || RopeConfig::new(32, 1e4);
    let case = |name, config| Case { name, config, ids: None, first: 3 };
    let yarn = RopeRule::YarnRotations {
        factor: 8.0,
        original_max_position_embeddings: 4096,
        alpha: 1.0,
        beta: 32.0,
    };
    vec![
        case("half", new()),
        case("half, scaled", RopeConfig { rule: yarn.clone(), ..new() }),
        case(
            "pairs, a part",
            RopeConfig { pairing: Pairing::Interleaved, rotary_dim: 16, ..new() },
        ),
        case(
            "pairs to half, scaled",
            RopeConfig { pairing: Pairing::InterleavedToHalf, rule: yarn, ..new() },
        ),
        case("two blocks", RopeConfig { pairing: Pairing::HalfBlocks(2), ..new() }),
        case("a head of 6", RopeConfig::new(6, 1e4)),
        Case { name: "ids", config: new(), ids: Some([1, 2]), first: 0 },
        Case { name: "ids of all batches", config: new(), ids: Some([1, 1]), first: 0 },
        Case {
            name: "three streams",
            config: RopeConfig { axes: PositionAxes::MropeSectioned([6, 5, 5]), ..new() },
            ids: Some([3, 2]),
            first: 0,
        },
    ]
}

fn positions(case: &Case, seq: usize, device: &Device) -> Positions {
    let Some([streams, batches]) = case.ids else { return Positions::From(case.first) };
    let ids: Vec<i32> = (0..streams * batches * seq).map(|i| (i as i32 * 7 + 2) % 40).collect();
    let data = TensorData::new(ids, [streams, batches, seq]);
    Positions::Ids(Tensor::<3, Int>::from_data(data, &device.clone().without_autodiff()))
}

/// A rotation of queries or of keys.
type Turn = fn(&Rotary, Tensor<4>, &Positions) -> Result<Tensor<4>>;

fn run(case: &Case, device: &Device, turns: [Turn; 2]) -> Vec<Tensor<4>> {
    let rotary = Rotary::new(&case.config, 50, device).unwrap();
    let (mut numbers, dim) = (Numbers::new(3), case.config.head_dim as usize);
    let [x, d_out] = [(); 2].map(|()| numbers.take([2, 11, 3, dim]));
    let positions = positions(case, 11, device);
    let turned = turns.map(|turn| {
        let x = tensor::<4>(&x, device).require_grad();
        let out = turn(&rotary, x.clone().swap_dims(1, 2), &positions).unwrap();
        let d_out = tensor::<4>(&d_out, device).swap_dims(1, 2);
        let grads = (out.clone() * d_out).sum().backward();
        [out.inner(), x.grad(&grads).expect("a gradient")]
    });
    turned.into_iter().flatten().collect()
}

#[test]
fn rotations_and_their_gradients_are_the_formula() {
    for case in cases() {
        let want = run(&case, &cpu().autodiff(), [formula::query, formula::key]);
        for (memory, device) in memories() {
            let got = run(&case, &device.autodiff(), [Rotary::query, Rotary::key]);
            let names = ["query", "its gradient", "key", "its gradient"];
            for ((name, got), want) in names.iter().zip(got).zip(&want) {
                let what = format!("{}, {memory}: {name}", case.name);
                close(&what, tensor(&got.into_data(), &cpu()), want.clone(), 1e-6);
            }
        }
    }
}
