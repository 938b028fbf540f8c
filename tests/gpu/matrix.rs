//! Attention on matrix units, where tables in general have nothing to say: shapes of tiles, the
//! self-test that opens them, values that f16 cannot hold, faults, real activations. The tables of
//! `attention/` run on matrix units with `PRECISION=f16` and `PRECISION=f16x3`, and so do these,
//! without it as with `f16`. They need an adapter with matrix units, and fail without one:
//!
//! ```sh
//! ADAPTERS='lavapipe26-f16 lavapipe26-f16x3' scripts/adapter-matrix.sh  # all of it, lavapipe 26.2
//! cargo test --test gpu -- matrix:: --ignored --nocapture
//! ```

use std::path::Path;

use phasor::attention::{AttentionPlan, AttentionProblem, AttentionShape, MatrixTile};
use phasor::cache::CacheType;
use phasor::oracle;
use phasor::rotary::{Pairing, RopeConfig};
use phasor::selftest::{Outcome, SelfTest};
use phasor::{
    Capabilities, DType, Error, HeadMap, KernelKind, Matrices, MatrixSide, NoMatrices, Precision,
    Suspect, Trust, wgpu,
};
use phasor_kit::golden::File;
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::attention::{Case, Inputs, Parts, control, matrix_tile, precision};
use crate::harness::{Fault, lab, run_table, widened, with_fault};

/// The adapter's side and lanes.
fn units() -> (MatrixSide, u32) {
    match lab().gpu.capabilities().matrices {
        Matrices::Listed { side, lanes, .. } => (side, lanes),
        other => panic!("{} has no matrix units for these tests: {other:?}", lab().gpu.info.name),
    }
}

/// Of these tests.
fn tier() -> Precision {
    match precision() {
        Precision::F32 => Precision::F16Products,
        tier => tier,
    }
}

fn problem() -> AttentionProblem {
    AttentionProblem { precision: tier(), ..control() }
}

/// A case in a tile, on a device that is said to have its side and lanes.
fn tiled(problem: &AttentionProblem, tile: MatrixTile) -> phasor::Result<Case> {
    let MatrixTile { side, lanes, .. } = tile;
    let mut caps = lab().gpu.capabilities();
    caps.matrices = Matrices::Listed { side, lanes, trust: Trust::Insisted };
    Ok(Case::planned(AttentionPlan::with_tile(problem, &caps, tile)?))
}

fn small() -> MatrixTile {
    MatrixTile { precision: tier(), ..matrix_tile() }
}

/// More lanes than a subgroup has do the same work several times: how tiles of wider subgroups are
/// tried on an adapter of narrow ones.
#[test]
#[ignore = "needs matrix units; scripts/adapter-matrix.sh runs it on lavapipe 26.2"]
fn shapes_of_tiles() {
    let small = small();
    let lanes = |n: u32| MatrixTile { lanes: n * small.lanes, block_k: small.block_k * n, ..small };
    let tiles = [
        ("values turned", MatrixTile { value_turned: true, ..small }),
        ("one subgroup", MatrixTile { subgroups: 1, ..small }),
        ("two lanes a row", lanes(2)),
        ("four lanes a row, turned", MatrixTile { value_turned: true, ..lanes(4) }),
        ("more keys", MatrixTile { block_k: 2 * small.block_k, ..small }),
    ];
    let case = |(name, tile): (&str, _)| (name.to_owned(), tiled(&problem(), tile).unwrap());
    run_table(&tiles.map(case), Case::check);
}

/// A tile of matrices of 16. lavapipe computes them right, and lists those of 8 alone.
fn sixteen() -> MatrixTile {
    assert!(lab().gpu.info.driver == "llvmpipe", "another driver may crash over it");
    MatrixTile {
        side: MatrixSide::M16,
        lanes: 32,
        subgroups: 2,
        block_k: 16,
        value_turned: false,
        precision: tier(),
    }
}

fn check_sixteen(problem: &AttentionProblem, tile: MatrixTile) {
    tiled(problem, tile).unwrap().check().unwrap();
}

#[test]
#[ignore = "needs lavapipe; scripts/adapter-matrix.sh runs it"]
fn matrices_of_16_of_both_streams() {
    // With 16 channels no loop is left, and LLVM takes long over one block of so much.
    let both = AttentionProblem { head_dim: 40, rotary_dim: 40, ..problem() };
    check_sixteen(&both, sixteen());
}

#[test]
#[ignore = "needs lavapipe; scripts/adapter-matrix.sh runs it"]
fn matrices_of_16_of_one_stream_with_values_turned() {
    check_sixteen(&one_stream(16), MatrixTile { value_turned: true, ..sixteen() });
}

#[test]
#[ignore = "needs lavapipe; scripts/adapter-matrix.sh runs it"]
fn matrices_of_16_with_a_tail_that_does_not_rotate() {
    let tail = AttentionProblem { rotary_dim: 8, head_dim: 24, ..problem() };
    check_sixteen(&tail, sixteen());
}

/// The low parts of queries, which stay in workgroup memory where two streams have more than 64
/// channels.
#[test]
#[ignore = "needs lavapipe; scripts/adapter-matrix.sh runs it"]
fn matrices_of_16_of_more_than_64_channels() {
    let large = AttentionProblem { head_dim: 72, rotary_dim: 72, ..problem() };
    check_sixteen(&large, sixteen());
}

/// Until a self-test has passed there is no plan, and then there is.
#[test]
#[ignore = "needs matrix units; scripts/adapter-matrix.sh runs it on lavapipe 26.2"]
fn a_self_test_opens_the_tiles() {
    units();
    let gpu = &lab().gpu;
    let others = KernelKind::ALL.iter().filter(|kernel| **kernel != KernelKind::Attention);
    let others = others.map(|&kernel| Suspect::Kernel(kernel));
    let storages = [CacheType::F16, CacheType::Int8, CacheType::Q4].map(Suspect::Storage);
    let leave_out = |caps: Capabilities, one| caps.without(one, "not this time");
    let caps = others.chain(storages).fold(gpu.capabilities(), leave_out);
    let heads = HeadMap::ropepp(2).unwrap();
    let problem = AttentionProblem { precision: tier(), ..AttentionProblem::new(heads, 1, 64) };
    let early = problem.plan(&caps).unwrap_err();
    assert_eq!(early, Error::NoMatrices(NoMatrices::NotProbed));
    let mut test = SelfTest::start(&gpu.device, &gpu.queue, &caps);
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let report = test.finish().expect("all has come back");
    println!("{report}");
    let of_matrices =
        |one: &Suspect| matches!(one, Suspect::Tile(tile) if tile.matrices().is_some());
    let passed = report.findings.iter().filter(|finding| {
        finding.suspects.iter().any(of_matrices)
            && matches!(finding.outcome, Outcome::Passed { .. })
    });
    assert!(passed.count() > 0, "{report}");
    println!("{}", problem.plan(&report.apply(caps)).unwrap());
}

/// f16 ends at 65504: a key or value past it is infinite to the rows that see it, and nothing to
/// the others.
#[test]
#[ignore = "needs matrix units; scripts/adapter-matrix.sh runs it on lavapipe 26.2"]
fn values_past_f16() {
    let case = tiled(&problem(), small()).unwrap();
    let inputs = case.inputs();
    let wanted = case.run(lab(), &inputs).unwrap();
    // Of batch 0: channel 3 of key 20, channel 5 of key 30.
    let mut large = inputs.clone();
    (large.v[20 * 16 + 3], large.v[30 * 16 + 5]) = (1e5, f32::NEG_INFINITY);
    let got = case.run(lab(), &large).unwrap();
    for (at, (&got, &wanted)) in got.out.iter().zip(&wanted.out).enumerate() {
        let (channel, row, batch) = (at % 16, at / 16 % 37, at / (16 * 37 * 4));
        let sees = |key: usize| batch == 0 && row + 6 >= key;
        match channel {
            3 if sees(20) => assert_eq!(got, f32::INFINITY),
            5 if sees(30) => assert_eq!(got, f32::NEG_INFINITY),
            3 | 5 if batch == 0 => {
                // The rest of the column stands, and the value counts for nothing.
                assert!((got - wanted).abs() < 1e-3, "{at}: {got} {wanted}");
            }
            _ => assert_eq!(got.to_bits(), wanted.to_bits(), "{at}"),
        }
    }
    // Parts of a call tell the last one of them.
    let resumable = AttentionProblem { resumable: true, ..problem() };
    let mut cut = tiled(&resumable, small()).unwrap();
    let budget = cut.plan.least_budget(&cut.shape);
    cut.cut = Some(Parts { budget, apart: false });
    let bits = |out: &[f32]| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let parts = || bits(&cut.run(lab(), &large).unwrap().out);
    assert_eq!(parts(), bits(&got.out));
    assert_ne!(with_fault(["kept.w != 0.0", "false"], parts), bits(&got.out));
    // A key's number is infinite to every row, and masks it or makes the row NaN.
    for x in [1e5, -1e6] {
        let with = |x| {
            let mut large = inputs.clone();
            large.k[20 * 16 + 3] = x;
            case.run(lab(), &large).unwrap()
        };
        let (got, wanted) = (with(x), with(f32::INFINITY.copysign(x)));
        let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
        assert!(wanted.out.iter().any(|x| x.is_nan()), "{x}");
        assert!(got.out.iter().zip(&wanted.out).all(same), "{x}");
    }
}

/// What a kernel on matrix units can get wrong, and the tables find.
#[test]
#[ignore = "needs matrix units; scripts/adapter-matrix.sh runs it on lavapipe 26.2"]
fn faults_are_found() {
    let mut faults = vec![
        ("weights that f16 flushes", ["const LIFT: f32 = -4.0;", "const LIFT: f32 = 20.0;"]),
        ("weights past f16", ["const LIFT: f32 = -4.0;", "const LIFT: f32 = -20.0;"]),
        (
            "the first half of a key twice",
            [
                "let kb = coopLoad<MatB>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW);",
                "let kb = coopLoad<MatB>(&half_tile[at][0], 4u * K_ROW);",
            ],
        ),
        (
            "the first half of a query twice",
            [
                "coopLoadT<MatA>(&half_tile[at + HALF_QUADS][0], 4u * K_ROW)",
                "coopLoadT<MatA>(&half_tile[at][0], 4u * K_ROW)",
            ],
        ),
        ("accumulators that are not rescaled", ["put_single(at, alpha * single(at));", ""]),
        ("sums that are not rescaled", ["alpha * before.l + ", "before.l + "]),
    ];
    if tier() == Precision::F16x3Products {
        faults.extend([
            (
                "the high part of a key twice",
                ["let at = K_QUADS + j * M * K_ROW + c * M4;", "let at = j * M * K_ROW + c * M4;"],
            ),
            ("a query without its low part", ["if (Q_PARTS == 2u) {", "if (false) {"]),
            (
                "a key without its low part",
                ["part_of(x, K_PARTS, n)", "f32(1u - n) * part_of(x, K_PARTS, n)"],
            ),
            (
                "a value without its own",
                ["part_of(x, V_PARTS, n)", "f32(1u - n) * part_of(x, V_PARTS, n)"],
            ),
            (
                "values that are not shrunk",
                ["const SHRUNK: f32 = 1.0 / LOW;", "const SHRUNK: f32 = 1.0;"],
            ),
            (
                "weights without their low part",
                ["put_half(at + P_QUADS, weight - p);", "put_half(at + P_QUADS, p - p);"],
            ),
            ("a query's factor that scores keep", ["(254u - factor) << 23u", "127u << 23u"]),
        ]);
    }
    find(&tiled(&one_stream(8), small()).unwrap(), &faults);
}

/// Barriers that are not there, by their comments. lavapipe runs a subgroup to its next barrier,
/// then the one behind it; two of them share the rows of a fragment here, and its last store
/// counts: what the other barriers guard, the last one has right. The one before `moved` is read
/// stays: without it some invocations take the slow path and others do not.
#[test]
#[ignore = "needs matrix units; scripts/adapter-matrix.sh runs it on lavapipe 26.2"]
fn missing_barriers_are_found() {
    let faults = [
        ("q is read", ["workgroupBarrier(); // q is read", ""]),
        ("k and v are staged", ["workgroupBarrier(); // k and v are staged", ""]),
        ("k is read", ["workgroupBarrier(); // scores are written; at t = 0, k is read", ""]),
        ("p and v are read", ["workgroupBarrier(); // p and v are read", ""]),
        ("accumulators are written", ["workgroupBarrier(); // accumulators are written", ""]),
        ("and read", ["workgroupBarrier(); // and read\n    }\n}", "}\n}"]),
        ("and read at the end", ["workgroupBarrier(); // and read\n    }\n    if", "}\n    if"]),
    ];
    let small = small();
    let wide = MatrixTile { lanes: 2 * small.lanes, block_k: 2 * small.block_k, ..small };
    find(&tiled(&one_stream(32), wide).unwrap(), &faults);
}

/// One stream: what two share is most of the text, which compiles in half the time.
fn one_stream(value_dim: u32) -> AttentionProblem {
    AttentionProblem { heads: HeadMap::plain(2).unwrap(), value_dim, ..problem() }
}

/// Every fault is found in a case whose maxima climb through the keys, which moves what was
/// accumulated.
fn find(case: &Case, faults: &[(&str, Fault)]) {
    let mut climbing = case.inputs();
    let rows = case.shape.seq_k as usize;
    for (n, k) in climbing.k.iter_mut().enumerate() {
        *k *= 1.0 + 8.0 * (n / 16 % rows) as f32 / rows as f32;
    }
    if tier() == Precision::F16Products {
        climbing.k = stored(&climbing.k, DType::F16);
    }
    let reference = case.reference(&climbing).unwrap();
    let check = || case.hold(&case.run(lab(), &climbing)?, &reference);
    check().unwrap();
    let unseen = faults.iter().filter(|(_, fault)| with_fault(*fault, check).is_ok());
    let unseen: Vec<_> = unseen.map(|(name, _)| name).collect();
    assert!(unseen.is_empty(), "not found: {unseen:?}");
}

/// Layers 0, 10 and 29 of SmolLM2: errors against the f64 oracle of the same activations, nothing
/// rounded, within twice what the rounding of this tier makes of them. With f16 products k and v
/// are stored in f16; with three for one in f32, and errors are within five times the bound of
/// f32's kernel too. Prints the table of `docs/measurements.md`.
#[test]
#[ignore = "needs matrix units; scripts/adapter-matrix.sh runs it on lavapipe 26.2"]
fn real_activations() {
    let (side, lanes) = units();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/real");
    let stored_in = match tier() {
        Precision::F16x3Products => DType::F32,
        _ => DType::F16,
    };
    println!("layer, part | {}: largest, rms | f32 arithmetic on {stored_in} storage", tier());
    for layer in [0, 10, 29] {
        let file = File::read(&folder.join(format!("real_layer{layer}.safetensors"))).unwrap();
        let shape = |name| file.tensor(name).unwrap().shape4().unwrap();
        let [_, heads, rows, dim] = shape("q");
        let [_, kv_heads, ..] = shape("k");
        let frequencies = RopeConfig::new(dim, 1e5).frequencies(rows.into()).unwrap();
        let turned = |name| {
            let x = widened(&file.tensor(name).unwrap().data);
            oracle::rope(&x, shape(name), dim, Pairing::Half, |_, s, pair| {
                frequencies.cos_sin(s, pair as usize)
            })
            .unwrap()
        };
        let exact = [turned("q"), turned("k"), widened(&file.tensor("v").unwrap().data)];
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let inputs = Inputs {
            q: narrow(&exact[0]),
            k: stored(&narrow(&exact[1]), stored_in),
            v: stored(&narrow(&exact[2]), stored_in),
        };
        let problem = AttentionProblem {
            precision: tier(),
            kv_dtype: stored_in,
            lse: true,
            ..AttentionProblem::new(HeadMap::ropepp(heads).unwrap(), kv_heads, dim)
        };
        let caps = lab().gpu.capabilities().insist_on_matrices();
        let case = Case::planned(problem.plan(&caps).unwrap());
        let case = Case { shape: AttentionShape::new(1, rows, rows), ..case };
        let reference = case.judge(&exact, &inputs).unwrap();
        let got = case.run(lab(), &inputs).unwrap();
        case.hold(&got, &reference).unwrap();
        let plain = AttentionProblem { precision: Precision::F32, ..problem };
        let plain = Case { plan: plain.plan(&caps).unwrap(), ..case.clone() };
        let f32_is = plain.run(lab(), &inputs).unwrap();
        if tier() == Precision::F16x3Products {
            let Bound::Uniform(bound) = plain.judge(&exact, &inputs).unwrap().out else {
                unreachable!("computed bounds are uniform");
            };
            let (truth, shape) = (&reference.truth.out, case.out_shape());
            compare("out", &got.out, truth, &(5.0 * bound).into(), shape).unwrap();
        }
        for (part, name) in ["real", "imaginary"].into_iter().enumerate() {
            let errors = |out: &[f32]| {
                let plane = (rows * dim) as usize;
                let of_part = |n: &usize| n / plane % 2 == part;
                let off = (0..out.len())
                    .filter(of_part)
                    .map(|n| (f64::from(out[n]) - reference.truth.out[n]).abs());
                let off: Vec<f64> = off.collect();
                let squares: f64 = off.iter().map(|e| e * e).sum();
                let largest = off.iter().copied().fold(0.0, f64::max);
                format!("{largest:.2e}, {:.2e}", (squares / off.len() as f64).sqrt())
            };
            println!("{layer}, {name} | {} | {}", errors(&got.out), errors(&f32_is.out));
        }
    }
    println!("{side:?}, {lanes} lanes");
}
