//! smoke
use phasor::kernels::attention::{Attention, AttentionBindings};
use phasor::oracle;
use phasor::plan::attention::{AttentionProblem, AttentionShape};
use phasor::{DType, HeadMap, Layout, Tensor};
use phasor_kit::gpu::Gpu;

fn rnd(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2654435761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(1664525).wrapping_add(1013904223);
            ((x >> 8) as f32 / (1 << 24) as f32 - 0.5) * 4.0
        })
        .collect()
}

#[test]
fn smoke() {
    let gpu = Gpu::new().unwrap();
    println!("{:?}", gpu.capabilities());
    for (d, dv, hq, hkv, sq, sk, causal, ropepp) in [
        (64, 64, 2, 1, 70, 70, true, true),
        (64, 64, 2, 1, 33, 100, false, false),
        (128, 128, 2, 2, 65, 129, true, true),
        (256, 256, 1, 1, 33, 65, true, true),
        (72, 40, 3, 1, 17, 31, true, true),
        (8, 8, 1, 1, 1, 1, true, true),
    ] {
        let heads = if ropepp { HeadMap::ropepp(hq).unwrap() } else { HeadMap::plain(hq).unwrap() };
        let ho = heads.heads().len() as u32;
        let mut problem = AttentionProblem::new(heads.clone(), hkv, d);
        problem.value_dim = dv;
        problem.causal = causal;
        problem.lse = true;
        let plan = problem.plan(&gpu.capabilities()).unwrap();
        println!("{plan}\n  {}", plan.cost(&AttentionShape::new(1, sq, sk)));
        let t = std::time::Instant::now();
        let kernel = Attention::new(&gpu.device, &plan).unwrap();
        let (q, k, v) = (
            rnd((hq * sq * d) as usize, 1),
            rnd((hkv * sk * d) as usize, 2),
            rnd((hkv * sk * dv) as usize, 3),
        );
        let (ql, kl, vl, ol) = (
            Layout::bhsd([1, hq, sq, d]).unwrap(),
            Layout::bhsd([1, hkv, sk, d]).unwrap(),
            Layout::bhsd([1, hkv, sk, dv]).unwrap(),
            Layout::bhsd([1, ho, sq, dv]).unwrap(),
        );
        let bufs = [&q, &k, &v].map(|x| gpu.upload(x, DType::F32));
        let out = gpu.output((ho * sq * dv) as usize, DType::F32);
        let lse = gpu.output((ho * sq) as usize, DType::F32);
        let mut b = AttentionBindings::new(
            Tensor::new(&bufs[0], DType::F32, ql),
            Tensor::new(&bufs[1], DType::F32, kl),
            Tensor::new(&bufs[2], DType::F32, vl),
            Tensor::new(&out, DType::F32, ol),
        );
        b.lse = Some(lse.as_entire_buffer_binding());
        let dispatch = kernel.bind(&gpu.device, &AttentionShape::new(1, sq, sk), &b).unwrap();
        gpu.run(|e| dispatch.encode(e));
        println!("first run {:?}", t.elapsed());
        let got = gpu.download(&out, DType::F32);
        let f = |x: &Vec<f32>| x.iter().map(|&x| x as f64).collect::<Vec<_>>();
        let (q, k, v) = (f(&q), f(&k), f(&v));
        let inputs = oracle::AttentionInputs {
            q: &q,
            q_shape: ql.shape,
            k: &k,
            k_shape: kl.shape,
            v: &v,
            v_shape: vl.shape,
            rotary_dim: d,
            pairing: phasor::rotary::Pairing::Half,
            heads: heads.heads(),
            softmax_scale: problem.softmax_scale as f64,
            causal,
            q_offset: None,
            kv_lens: None,
        };
        let want = oracle::attention(&inputs).unwrap();
        let err = got
            .iter()
            .zip(&want.out)
            .map(|(a, b)| (*a as f64 - b).abs())
            .fold(0.0, |a: f64, b| if b.is_nan() { f64::NAN } else { a.max(b) });
        let gl = gpu.download(&lse, DType::F32);
        let errl = gl
            .iter()
            .zip(&want.lse)
            .map(|(a, b)| (*a as f64 - b).abs())
            .fold(0.0, |a: f64, b| if b.is_nan() { f64::NAN } else { a.max(b) });
        println!("err {err:e} lse {errl:e}");
        assert!(err < 1e-5);
    }
}

#[test]
fn smoke_rope() {
    use phasor::gpu::{CosSin, Positions};
    use phasor::kernels::rope::{Rope, RopeBindings};
    use phasor::plan::rope::{RopeProblem, RopeShape};
    use phasor::rotary::{Pairing, RopeConfig};
    let gpu = Gpu::new().unwrap();
    for (d, r, pairing, dtype, aligned, in_place) in [
        (64, 64, Pairing::Half, DType::F32, true, false),
        (64, 64, Pairing::Half, DType::F32, true, true),
        (64, 32, Pairing::Interleaved, DType::F32, true, false),
        (80, 20, Pairing::Half, DType::F32, true, false),
        (80, 20, Pairing::Half, DType::F16, true, false),
        (24, 10, Pairing::Half, DType::F16, true, true),
        (64, 64, Pairing::InterleavedToHalf, DType::F16, true, false),
        (64, 64, Pairing::HalfBlocks(2), DType::F16, true, true),
        (24, 10, Pairing::InterleavedToHalf, DType::F16, true, false),
    ] {
        let (b, hq, hk, s) = (2, 3, 1, 5);
        let mut p = RopeProblem::new(hq, hk, d);
        p.rotary_dim = r;
        p.pairing = pairing;
        p.dtype = dtype;
        p.aligned = aligned;
        p.in_place = in_place;
        let plan = p.plan(&gpu.capabilities()).unwrap();
        println!("{plan}");
        let kernel = Rope::new(&gpu.device, &plan).unwrap();
        let mut cfg = RopeConfig::new(d, 10000.0);
        cfg.rotary_dim = r;
        cfg.pairing = pairing;
        let table = cfg.table(16, 16).unwrap();
        let tb = gpu.upload_bytes(table.as_bytes());
        let (ql, kl) = (Layout::bhsd([b, hq, s, d]).unwrap(), Layout::bshd([b, hk, s, d]).unwrap());
        let half = |x: Vec<f32>| {
            if dtype == DType::F16 {
                x.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect()
            } else {
                x
            }
        };
        let (q, k) =
            (half(rnd((b * hq * s * d) as usize, 1)), half(rnd((b * hk * s * d) as usize, 2)));
        let (qb, kb) = (gpu.upload(&q, dtype), gpu.upload(&k, dtype));
        let (qo, ko) = (gpu.output(q.len(), dtype), gpu.output(k.len(), dtype));
        let t = |b, l| Tensor::new(b, dtype, l);
        let bind = RopeBindings {
            q: t(&qb, ql),
            k: Some(t(&kb, kl)),
            q_out: (!in_place).then(|| t(&qo, ql)),
            k_out: (!in_place).then(|| t(&ko, kl)),
            table: CosSin { binding: tb.as_entire_buffer_binding(), shape: table.shape().unwrap() },
            positions: Positions::From(7),
        };
        let call = kernel.bind(&gpu.device, &RopeShape { batch: b, seq: s }, &bind).unwrap();
        gpu.run(|e| call.encode(e));
        let (gq, gk) = if in_place {
            (gpu.download(&qb, dtype), gpu.download(&kb, dtype))
        } else {
            (gpu.download(&qo, dtype), gpu.download(&ko, dtype))
        };
        let f = cfg.frequencies(16).unwrap();
        let want = |x: &[f32], shape, l: Layout| {
            let mut dense = vec![0.0f64; x.len()];
            let dl = Layout::bhsd(shape).unwrap();
            for b in 0..shape[0] {
                for h in 0..shape[1] {
                    for s in 0..shape[2] {
                        for d in 0..shape[3] {
                            dense[dl.index(b, h, s, d)] = x[l.index(b, h, s, d)] as f64;
                        }
                    }
                }
            }
            let y = oracle::rope(&dense, shape, r, pairing, |_, s, j| f.cos_sin(7 + s, j as usize))
                .unwrap();
            let mut out = vec![0.0f64; x.len()];
            for b in 0..shape[0] {
                for h in 0..shape[1] {
                    for s in 0..shape[2] {
                        for d in 0..shape[3] {
                            out[l.index(b, h, s, d)] = y[dl.index(b, h, s, d)];
                        }
                    }
                }
            }
            out
        };
        let err = |got: &[f32], want: &[f64]| {
            got.iter()
                .zip(want)
                .map(|(a, b)| (*a as f64 - b).abs())
                .fold(0.0, |a: f64, b| if b.is_nan() { f64::NAN } else { a.max(b) })
        };
        let (eq, ek) = (err(&gq, &want(&q, ql.shape, ql)), err(&gk, &want(&k, kl.shape, kl)));
        println!("err {eq:e} {ek:e}");
        assert!(eq < 2e-3 && ek < 2e-3);
    }
}
