//! Calls of hosts that keep all tensors in one buffer, for every kernel: ranges that touch are
//! taken, any two that overlap are refused by name. Without a device, as any host may ask.

use std::cell::RefCell;

use phasor::attention::{AttentionProblem, AttentionShape, Outputs};
use phasor::attention_backward::AttentionBackwardProblem;
use phasor::cache::{CacheFormat, CacheType};
use phasor::decode::{DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppendProblem, KvAppendShape};
use phasor::kv_move::{KvMoveProblem, KvMoveShape, Move};
use phasor::linear_attention::{FeatureMap, LinearAttentionProblem, LinearAttentionShape};
use phasor::linear_attention_backward::LinearAttentionBackwardProblem;
use phasor::merge::{MergeProblem, MergeShape};
use phasor::recipe::{
    AttentionBackwardBindings, AttentionBindings, BackwardRotation, BlockList, BlockTable,
    CacheBindings, CacheTensor, CosSin, DecodeBindings, KvAppendBindings, KvMoveBindings,
    LinearAttentionBackwardBindings, LinearAttentionBindings, MergeBindings, Plan, Positions,
    Problem, RandomFeatureBindings, Range, Recipe, Resource, RopeBindings, Rotation,
    ScoresBindings, State, Tensor,
};
use phasor::rope::{RopeProblem, RopeShape};
use phasor::rotary::RopeConfig;
use phasor::scores::{ComponentOrder, Output, ScoresProblem, ScoresShape};
use phasor::shader::BindingType;
use phasor::{Bias, Capabilities, DType, Error, HeadMap, Layout, Result, Sharing};

const B: u32 = 2;
const S: u32 = 16;
const D: u32 = 32;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;

/// One buffer that ranges are taken of, each where the last one ends.
struct Pool {
    taken: RefCell<Vec<Range>>,
    /// This one lies elsewhere.
    moved: Option<(usize, Range)>,
}

impl Pool {
    fn new(moved: Option<(usize, Range)>) -> Self {
        Self { taken: RefCell::default(), moved }
    }

    fn range(&self, bytes: u64) -> Range {
        let mut taken = self.taken.borrow_mut();
        let offset = taken.last().map_or(0, |last| last.offset + last.size);
        let range = Range::new(0, offset, bytes.next_multiple_of(256));
        taken.push(range);
        match self.moved {
            Some((n, to)) if n + 1 == taken.len() => Range { size: range.size, ..to },
            _ => range,
        }
    }

    fn words(&self, n: u32) -> Range {
        self.range(4 * u64::from(n))
    }

    fn tensor(&self, heads: u32) -> Result<Tensor<Range>> {
        self.shaped([B, heads, S, D])
    }

    fn shaped(&self, shape: [u32; 4]) -> Result<Tensor<Range>> {
        let layout = Layout::bhsd(shape)?;
        Tensor::at(self.range(4 * layout.elements()), DType::F32, layout)
    }

    fn bias(&self) -> Result<(Layout, Range)> {
        let layout = Layout::bhsd([B, 2 * HEADS, S, S])?;
        Ok((layout, self.range(4 * layout.elements())))
    }

    fn cache(&self, format: &CacheFormat) -> Result<CacheBindings<Range>> {
        let side = |stored: CacheType| {
            let shape = [2 * B, KV_HEADS, 8, stored.row(D)];
            let layout = Layout::bhsd(shape)?;
            let bytes = layout.elements() * stored.element_bytes();
            Ok(CacheTensor { binding: self.range(bytes), stored, layout })
        };
        let mut cache = CacheBindings::new(side(format.k)?, side(format.v)?);
        cache.block_table = Some(BlockTable { binding: self.words(2 * B), max_pages: 2 });
        Ok(cache)
    }

    fn table(&self) -> Result<CosSin<Range>> {
        let shape = RopeConfig::new(D, 1e4).table(2 * S, 64)?.shape()?;
        Ok(CosSin { binding: self.range(8 * u64::from(2 * S * D / 2)), shape })
    }

    fn ids(&self) -> Positions<Range> {
        Positions::Ids { binding: self.words(B * S), batch_stride: S, stream_stride: 0 }
    }

    fn rotation(&self) -> Result<Rotation<Range>> {
        Ok(Rotation::new(self.table()?, self.ids()))
    }
}

/// A device that binds whatever a call may have.
fn capabilities(sharing: Sharing) -> Capabilities {
    let mut caps = Capabilities::webgpu_default().sharing(sharing);
    caps.max_storage_buffers = 64;
    caps
}

/// Checks a call of a problem, with its ranges out of a pool.
type Call<'a, P> = &'a dyn Fn(&P, &Pool) -> Result<Recipe<Range>>;

/// Holds one kind of call to the rules.
fn hold<P: Problem>(name: &str, problem: &P, call: Call<'_, P::Plan>)
where
    P::Plan: std::fmt::Display,
{
    let plan = problem.plan(&capabilities(Sharing::Ranges)).unwrap();
    let pool = Pool::new(None);
    let recipe = call(&plan, &pool).unwrap_or_else(|error| panic!("{name}: {error}"));
    let ranges = pool.taken.into_inner();

    // All that was handed over is bound, all of it writable, and the plan says so.
    let bound: Vec<Range> = recipe
        .steps
        .iter()
        .flat_map(|step| &step.entries)
        .filter_map(|entry| match &entry.resource {
            Resource::Caller(range) => Some(*range),
            _ => None,
        })
        .collect();
    for range in &ranges {
        let end = range.offset + range.size;
        let within = |one: &Range| one.offset >= range.offset && one.offset + one.size <= end;
        assert!(bound.iter().any(within), "{name}: {range:?} is not bound");
    }
    let read_only = |plan: &P::Plan| {
        let bindings = plan.stages().into_iter().flat_map(|stage| stage.bindings());
        let mut names: Vec<_> = bindings
            .filter(|one| one.ty == BindingType::ReadOnlyStorage)
            .map(|one| one.name)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    assert!(read_only(&plan).is_empty(), "{name}: {:?}", read_only(&plan));
    let said = plan.to_string();
    assert!(said.ends_with("buffers: all may lie in one buffer, every storage binding writable"));

    // Any two that overlap are refused, at the first byte or at the last.
    for (n, one) in ranges.iter().enumerate() {
        for other in ranges.iter().filter(|other| *other != one) {
            let last = Range { offset: other.offset + other.size - 256, ..*other };
            for to in [*other, last] {
                let refused = call(&plan, &Pool::new(Some((n, to))));
                let expected = matches!(refused, Err(Error::RangesOverlap { a, b }) if a != b);
                assert!(expected, "{name}: {one:?} over {to:?} gave {:?}", refused.map(drop));
            }
        }
    }

    // Without the mode, one buffer is refused at once; views keep what they are read-only for.
    let apart = problem.plan(&capabilities(Sharing::Apart)).unwrap();
    let refused = call(&apart, &Pool::new(None)).map(drop);
    assert!(matches!(refused, Err(Error::Overlap { .. })), "{name}: {refused:?}");
    assert!(!apart.to_string().contains("buffers: "), "{name}: {apart}");
    let views = problem.plan(&capabilities(Sharing::RangesButViews)).unwrap();
    let said = views.to_string();
    match read_only(&views) {
        none if none.is_empty() => assert!(!said.contains("read-only"), "{name}: {said}"),
        names => assert!(said.ends_with(&format!("; read-only: {}", names.join(", "))), "{said}"),
    }
}

fn heads() -> HeadMap {
    HeadMap::ropepp(HEADS).unwrap()
}

fn paged() -> CacheFormat {
    CacheFormat { paged: true, ..CacheFormat::new(KV_HEADS, D) }
}

#[test]
fn rope() {
    let problem = RopeProblem::new(HEADS, KV_HEADS, D);
    let shape = RopeShape::new(B, S);
    hold("rope", &problem, &|plan, pool| {
        let q = pool.tensor(HEADS)?;
        let bindings = RopeBindings {
            k: Some(pool.tensor(KV_HEADS)?),
            q_out: Some(pool.tensor(HEADS)?),
            k_out: Some(pool.tensor(KV_HEADS)?),
            ..RopeBindings::new(q, pool.rotation()?)
        };
        plan.recipe(&shape, &bindings)
    });
}

#[test]
fn appends_and_moves() {
    hold("kv_append", &KvAppendProblem::new(paged()), &|plan, pool| {
        let (k, v) = (pool.tensor(KV_HEADS)?, pool.tensor(KV_HEADS)?);
        let bindings = KvAppendBindings {
            rotation: Some(pool.rotation()?),
            ..KvAppendBindings::new(k, v, pool.cache(&paged())?, pool.words(B))
        };
        plan.recipe(&KvAppendShape::new(B, S), &bindings)
    });
    let moves = [Move::shift(0, 2, 3, 10)];
    hold("kv_move", &KvMoveProblem::new(paged()), &|plan, pool| {
        let cache = pool.cache(&paged())?;
        let bindings = KvMoveBindings { table: Some(pool.table()?), ..KvMoveBindings::new(cache) };
        plan.recipe(&KvMoveShape::new(B, &moves), &bindings)
    });
}

#[test]
fn attention() {
    let problem = AttentionProblem {
        outputs: Outputs::Split,
        lse: true,
        bias: Some(Bias::Additive),
        prefix: true,
        block_list: true,
        rotate_q: true,
        ..AttentionProblem::new(heads(), KV_HEADS, D)
    };
    hold("attention", &problem, &|plan, pool| {
        let [q, k, v, out] = [HEADS, KV_HEADS, KV_HEADS, HEADS].map(|heads| pool.tensor(heads));
        let tile = plan.tile();
        let tiles = S.div_ceil(tile.block_q()) * S.div_ceil(tile.block_k());
        let mut bindings = AttentionBindings::new(q?, k?, v?, out?);
        bindings.out_im = Some(pool.tensor(HEADS)?);
        bindings.lse = Some(pool.words(B * 2 * HEADS * S));
        bindings.kv_lens = Some(pool.words(B));
        bindings.bias = Some(pool.bias()?);
        bindings.prefix_lens = Some(pool.words(B));
        bindings.block_list = Some(BlockList { binding: pool.words(B * tiles), per_batch: true });
        bindings.rotation = Some(pool.rotation()?);
        plan.recipe(&AttentionShape::new(B, S, S), &bindings)
    });
    let over = AttentionProblem::over(heads(), paged());
    hold("attention over pages", &over, &|plan, pool| {
        let q = pool.tensor(HEADS)?;
        let (cache, lens) = (pool.cache(&paged())?, pool.words(B));
        let bindings = AttentionBindings::over(q, cache, lens, pool.tensor(2 * HEADS)?);
        plan.recipe(&AttentionShape::new(B, S, S), &bindings)
    });
}

#[test]
fn attention_backward() {
    let forward = AttentionProblem {
        bias: Some(Bias::Additive),
        sinks: vec![0.0; 2 * HEADS as usize],
        rotate_q: true,
        ..AttentionProblem::new(heads(), KV_HEADS, D)
    };
    let problem = AttentionBackwardProblem {
        d_lse: true,
        d_sinks: true,
        d_bias: true,
        unrotate: true,
        ..AttentionBackwardProblem::new(forward)
    };
    let shape = AttentionShape::new(B, S, S);
    hold("attention_backward", &problem, &|plan, pool| {
        let [q, k, v, out, d_out, dq, dk, dv] =
            [HEADS, KV_HEADS, KV_HEADS, 2 * HEADS, 2 * HEADS, HEADS, KV_HEADS, KV_HEADS]
                .map(|heads| pool.tensor(heads));
        let rows = B * 2 * HEADS * S;
        let workspace = pool.range(plan.workspace_bytes(&shape, B * S));
        let mut bindings = AttentionBackwardBindings::new(
            [q?, k?, v?],
            (out?, pool.words(rows)),
            d_out?,
            [dq?, dk?, dv?],
            workspace,
        );
        bindings.d_lse = Some(pool.words(rows));
        bindings.d_sinks = Some(pool.words(2 * HEADS));
        bindings.d_bias = Some(pool.words(rows * S));
        bindings.kv_lens = Some(pool.words(B));
        bindings.bias = Some(pool.bias()?);
        bindings.rotation = Some(BackwardRotation {
            table: pool.table()?,
            q_positions: pool.ids(),
            k_positions: pool.ids(),
        });
        plan.recipe(&shape, &bindings)
    });
}

#[test]
fn decode_and_merge() {
    let problem = DecodeProblem {
        bias: Some(Bias::Additive),
        rotate_q: true,
        lse: true,
        ..DecodeProblem::new(heads(), paged(), B, 1 << 16)
    };
    hold("decode", &problem, &|plan, pool| {
        let (q, cache) = (pool.shaped([B, HEADS, 1, D])?, pool.cache(&paged())?);
        let (lens, out) = (pool.words(B), pool.shaped([B, 2 * HEADS, 1, D])?);
        let mut bindings = DecodeBindings::new(q, cache, lens, out);
        let layout = Layout::bhsd([B, 2 * HEADS, 1, 16])?;
        bindings.bias = Some((layout, pool.range(4 * layout.elements())));
        bindings.lse = Some(pool.words(B * 2 * HEADS));
        bindings.rotation = Some(pool.rotation()?);
        let bytes = plan.workspace_bytes(&plan.problem().largest());
        assert!(bytes > 0, "a call of two dispatches");
        bindings.workspace = Some(pool.range(bytes));
        plan.recipe(&DecodeShape::new(B, 1), &bindings)
    });
    let problem = MergeProblem { lse: true, ..MergeProblem::new(D) };
    hold("merge", &problem, &|plan, pool| {
        let parts = pool.shaped([3, B * HEADS, S, D])?;
        let lse_parts = pool.words(3 * B * HEADS * S);
        let mut bindings = MergeBindings::new(parts, lse_parts, pool.tensor(HEADS)?);
        bindings.lse = Some(pool.words(B * HEADS * S));
        plan.recipe(&MergeShape::new(3, [B, HEADS, S]), &bindings)
    });
}

#[test]
fn scores_and_linear_attention() {
    let output = Output::Probabilities(ComponentOrder::Pairs);
    let problem = ScoresProblem { output, ..ScoresProblem::new(HEADS, KV_HEADS, D) };
    hold("scores", &problem, &|plan, pool| {
        let (q, k) = (pool.tensor(HEADS)?, pool.tensor(KV_HEADS)?);
        let mut bindings = ScoresBindings::new(q, k, pool.words(B * HEADS * 2 * S * S));
        bindings.lse = Some(pool.words(B * 2 * HEADS * S));
        plan.recipe(&ScoresShape::new(B, S, S), &bindings)
    });
    let features = 32;
    let problem = LinearAttentionProblem {
        feature_map: FeatureMap::Favor { features, key_offset: 0.0 },
        state: true,
        ..LinearAttentionProblem::new(heads(), KV_HEADS, D)
    };
    let shape = LinearAttentionShape { resume: true, ..LinearAttentionShape::new(B, S) };
    hold("linear_attention", &problem, &|plan, pool| {
        let [q, k, v, out] = [HEADS, KV_HEADS, KV_HEADS, 2 * HEADS].map(|heads| pool.tensor(heads));
        let workspace = pool.range(plan.workspace_bytes(&shape));
        let mut bindings = LinearAttentionBindings::new(q?, k?, v?, out?, workspace);
        bindings.rotation = Some(pool.rotation()?);
        bindings.state = Some(State {
            s: pool.words(B * KV_HEADS * features * D),
            z: pool.words(B * KV_HEADS * features),
        });
        bindings.random = Some(RandomFeatureBindings {
            projection: pool.words(D * features),
            features: pool.range(plan.features_bytes(&shape)),
        });
        plan.recipe(&shape, &bindings)
    });
}

#[test]
fn linear_attention_backward() {
    let forward =
        LinearAttentionProblem { state: true, ..LinearAttentionProblem::new(heads(), KV_HEADS, D) };
    let shape = LinearAttentionShape { resume: true, ..LinearAttentionShape::new(B, S) };
    let problem = LinearAttentionBackwardProblem::new(forward);
    hold("linear_attention_backward", &problem, &|plan, pool| {
        let [q, k, v, out, d_out, dq, dk, dv] =
            [HEADS, KV_HEADS, KV_HEADS, 2 * HEADS, 2 * HEADS, HEADS, KV_HEADS, KV_HEADS]
                .map(|heads| pool.tensor(heads));
        let workspace = pool.range(plan.workspace_bytes(&shape));
        let mut bindings = LinearAttentionBackwardBindings::new(
            [q?, k?, v?],
            out?,
            d_out?,
            [dq?, dk?, dv?],
            workspace,
        );
        let state =
            || State { s: pool.words(B * KV_HEADS * D * D), z: pool.words(B * KV_HEADS * D) };
        bindings.rotation = Some(pool.rotation()?);
        bindings.state = Some(state());
        bindings.d_state = Some(state());
        plan.recipe(&shape, &bindings)
    });
}

/// q, k and v of a fused projection are three views of one range: bound read-only, in a buffer that
/// the call writes nothing to.
#[test]
fn views_of_one_range() {
    let caps = capabilities(Sharing::RangesButViews);
    let plan = AttentionProblem::new(heads(), KV_HEADS, D).plan(&caps).unwrap();
    let all = HEADS + 2 * KV_HEADS;
    let packed = Range::new(1, 0, u64::from(4 * B * S * all * D));
    let view = |range, heads, first| {
        let layout = Layout::packed([B, heads, S, D], all, first).unwrap();
        Tensor::at(range, DType::F32, layout).unwrap()
    };
    let call = |range: Range, out: Range| {
        let q = view(range, HEADS, 0);
        let [k, v] = [HEADS, HEADS + KV_HEADS].map(|first| view(range, KV_HEADS, first));
        let out = Tensor::at(out, DType::F32, Layout::bhsd([B, 2 * HEADS, S, D])?)?;
        let mut bindings = AttentionBindings::new(q, k, v, out);
        bindings.kv_lens = Some(Range::new(2, 0, 256));
        plan.recipe(&AttentionShape::new(B, S, S), &bindings).map(drop)
    };
    let bytes = u64::from(4 * B * 2 * HEADS * S * D);
    assert_eq!(call(packed, Range::new(2, 256, bytes)), Ok(()));
    let lens_too = call(packed, Range::new(2, 0, bytes));
    assert!(matches!(lens_too, Err(Error::RangesOverlap { .. })), "{lens_too:?}");
    let behind = call(packed, Range::new(1, packed.size, bytes));
    assert!(matches!(behind, Err(Error::Overlap { a: "q", b: "out" })), "{behind:?}");
}
