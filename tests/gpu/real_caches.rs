//! What caches of each storage cost in accuracy, on activations of a real language model:
//! un-rotated keys and values are appended, and every query attends as decode does, 16 rows at a
//! time.
//!
//! `cargo test --test gpu -- real_caches --nocapture` prints the table.
//! `REAL_ACTIVATIONS` names another folder with files of this kind.

use std::path::PathBuf;

use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{DecodeBindings, DecodePlan, DecodeProblem, DecodeShape, Tile};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::{DType, HeadMap, Layout, Tensor};
use phasor_kit::golden::File;

use crate::harness::{Result, lab};

/// Rows of a call.
const ROWS: u32 = 16;

/// Errors against the references in double precision, real heads and imaginary ones together.
#[derive(Debug, Clone, Copy)]
struct Errors {
    /// Largest of the outputs.
    out: f64,
    /// Root mean square of the outputs' errors, relative to that of the outputs.
    relative: f64,
    /// Largest of the log-sum-exps.
    lse: f64,
}

fn measure(file: &File, k: CacheType, v: CacheType) -> Result<Errors> {
    let gpu = &lab().gpu;
    let rank = "a tensor of another rank";
    let [_, q_heads, seq, dim] = file.tensor("q")?.shape4().ok_or(rank)?;
    let [_, kv_heads, ..] = file.tensor("k")?.shape4().ok_or(rank)?;
    let upload = |name| -> Result<_> { Ok(gpu.upload(&file.tensor(name)?.data, DType::F16)) };
    let (q, new_k, new_v) = (upload("q")?, upload("k")?, upload("v")?);
    let table = RopeConfig::new(dim, 1e5).table(seq, seq.into())?;
    let table_buffer = gpu.upload_bytes(table.as_bytes());
    let binding = table_buffer.as_entire_buffer_binding();
    let cos_sin = CosSin { binding, shape: table.shape()? };

    let format = CacheFormat { k, v, ..CacheFormat::new(kv_heads, dim) };
    let sides = [k, v].map(|stored| {
        let bytes = u64::from(kv_heads * seq) * stored.row_bytes(dim);
        (gpu.upload_bytes(&vec![0xff; bytes as usize]), stored)
    });
    // As many sequences as the call asks for, all of them the one that there is.
    let cache = |batch| -> Result<CacheBindings<'_>> {
        let side = |n: usize| -> Result<CacheTensor<'_>> {
            let (buffer, stored) = &sides[n];
            let mut layout = Layout::bhsd([batch, kv_heads, seq, stored.row(dim)])?;
            layout.strides[0] = 0;
            let binding = buffer.as_entire_buffer_binding();
            Ok(CacheTensor { binding, stored: *stored, layout })
        };
        Ok(CacheBindings { k: side(0)?, v: side(1)?, block_table: None })
    };
    let problem = KvAppendProblem { dtype: DType::F16, ..KvAppendProblem::new(format) };
    let append = KvAppend::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
    let shape = [1, kv_heads, seq, dim];
    let empty = gpu.upload_u32(&[0]);
    let append = append.bind(
        &gpu.device,
        &KvAppendShape::new(1, seq),
        &KvAppendBindings {
            k: Tensor::new(&new_k, DType::F16, Layout::bhsd(shape)?),
            v: Tensor::new(&new_v, DType::F16, Layout::bhsd(shape)?),
            cache: cache(1)?,
            lens: empty.as_entire_buffer_binding(),
            rotation: Some(Rotation::new(cos_sin.clone(), Positions::AmongKeys)),
        },
    )?;

    let batch = seq / ROWS;
    let heads = HeadMap::ropepp(q_heads)?;
    let heads_out = 2 * q_heads;
    let problem = DecodeProblem {
        q_dtype: DType::F16,
        rotate_q: true,
        lse: true,
        max_seq_q: ROWS,
        ..DecodeProblem::new(heads, format, batch, seq)
    };
    let tile = Tile::new(16, 1, 4);
    let plan = DecodePlan::with_parts(&problem, &gpu.capabilities(), tile, 1)?;
    let lens: Vec<u32> = (1..=batch).map(|b| b * ROWS).collect();
    let lens = gpu.upload_u32(&lens);
    let out = gpu.output((heads_out * seq * dim) as usize, DType::F32);
    let lse = gpu.output((heads_out * seq) as usize, DType::F32);
    // Rows of the one sequence, cut into the rows of calls.
    let cut = |heads| Layout {
        shape: [batch, heads, ROWS, dim],
        strides: [ROWS * dim, seq * dim, dim],
        offset: 0,
    };
    let decode = lab().decode(&plan)?.bind(
        &gpu.device,
        &DecodeShape { batch, seq_q: ROWS },
        &DecodeBindings {
            q: Tensor::new(&q, DType::F16, cut(q_heads)),
            cache: cache(batch)?,
            kv_lens: lens.as_entire_buffer_binding(),
            out: Tensor::new(&out, DType::F32, cut(heads_out)),
            lse: Some(lse.as_entire_buffer_binding()),
            rotation: Some(Rotation::new(cos_sin, Positions::AmongKeys)),
            bias: None,
            workspace: None,
        },
    )?;
    gpu.run(|encoder| {
        append.encode(encoder);
        decode.encode(encoder);
    });

    let (out, lse) = (gpu.download(&out, DType::F32), gpu.download(&lse, DType::F32));
    let mut errors = Errors { out: 0.0, relative: 0.0, lse: 0.0 };
    let (mut squares, mut sizes) = (0.0, 0.0);
    let (_, rows) = file.integers("rows")?;
    for (component, suffix) in ["", "_im"].into_iter().enumerate() {
        let wanted = file.tensor(&format!("out{suffix}.rows"))?;
        let wanted_lse = file.tensor(&format!("lse{suffix}"))?;
        for head in 0..q_heads as usize {
            let o = 2 * head + component;
            for (n, &row) in rows.iter().enumerate() {
                let at = (o * seq as usize + row as usize) * dim as usize;
                let wanted = &wanted.data[(head * rows.len() + n) * dim as usize..];
                for (got, wanted) in out[at..][..dim as usize].iter().zip(wanted) {
                    let error = f64::from(got - wanted).abs();
                    // A NaN must not be lost in a maximum.
                    assert!(error.is_finite());
                    errors.out = errors.out.max(error);
                    squares += error * error;
                    sizes += f64::from(*wanted).powi(2);
                }
            }
            for row in 0..seq as usize {
                let (b, i) = (row / ROWS as usize, row % ROWS as usize);
                let got = lse[(b * heads_out as usize + o) * ROWS as usize + i];
                let error = f64::from(got - wanted_lse.data[head * seq as usize + row]).abs();
                assert!(error.is_finite());
                errors.lse = errors.lse.max(error);
            }
        }
    }
    errors.relative = (squares / f64::max(sizes, f64::MIN_POSITIVE)).sqrt();
    Ok(errors)
}

#[test]
fn real_caches() {
    let folder = std::env::var_os("REAL_ACTIVATIONS").map(PathBuf::from);
    let own = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/real"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.unwrap_or_else(own))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "safetensors"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no activations to measure with");
    // Relative errors that no layer may exceed: one and a half times what the docs of `CacheType`
    // state.
    let caches = [
        (CacheType::F32, CacheType::F32, 2e-6),
        (CacheType::F16, CacheType::F16, 2e-3),
        (CacheType::Int8, CacheType::Int8, 0.033),
        (CacheType::Int8, CacheType::Q4, 0.15),
        (CacheType::Q4, CacheType::Q4, 0.36),
    ];
    for path in &files {
        let file = File::read(path).unwrap();
        println!("{}\nk     v     bytes   largest   relative   largest of lse", file.name);
        for (k, v, most) in caches {
            let errors = measure(&file, k, v).unwrap();
            let bytes = CacheFormat { k, v, ..CacheFormat::new(3, 64) }.bytes_per_token();
            let Errors { out, relative, lse } = errors;
            println!("{k:<5} {v:<5} {bytes:>5}   {out:.1e}   {relative:.1e}   {lse:.1e}");
            assert!(relative <= most, "{}: k {k}, v {v}: {errors:?}", file.name);
        }
    }
}
