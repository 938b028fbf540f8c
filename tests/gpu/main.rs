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
