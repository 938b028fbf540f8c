//! Calls that cannot be computed. Each is refused with the error that says why, before anything
//! reaches wgpu, and leaves the buffers as they were: a right call afterwards gives what it gave
//! before.
//!
//! A table is a line an entry: what it is called, what is done to a right call, and the error.

mod attention;
mod decode;
mod extremes;
mod kv_move;
mod linear;
mod merge;
mod missing;
mod plans;
mod rope;
mod scores;
mod serving;

use phasor::recipe::Plan;
use phasor::rotary::Positions;
use phasor::{Dispatch, Error, Kernel, KernelKind, wgpu};
use phasor_kit::gpu::Gpu;

use crate::harness::{KernelTests, Lab, Result, run_table};

/// The first offset of a query that no kernel takes, whichever it is.
pub const TOO_FAR: i32 = (1 << 29) + 1;

/// The wrong calls of each kernel.
const KERNELS: KernelTests = [
    (KernelKind::Attention, Ok(attention::shapes_strides_and_types)),
    (
        KernelKind::AttentionBackward,
        Ok(crate::attention_backward::wrong_calls::calls_that_do_not_fit_are_refused),
    ),
    (KernelKind::Decode, Ok(serving::decode_over_pages)),
    (KernelKind::KvAppend, Ok(serving::appends_to_pages)),
    (KernelKind::KvMove, Ok(kv_move::calls)),
    (KernelKind::LinearAttention, Ok(linear::calls_of_all_that_there_is)),
    (
        KernelKind::LinearAttentionBackward,
        Ok(crate::linear_attention_backward::wrong_calls::calls_that_do_not_fit_are_refused),
    ),
    (KernelKind::Merge, Ok(merge::calls)),
    (KernelKind::Rope, Ok(rope::to_other_buffers)),
    (KernelKind::Scores, Ok(scores::windows)),
];

/// Those of its plans.
const PLANS: KernelTests = [
    (KernelKind::Attention, Ok(plans::attention_problems)),
    (
        KernelKind::AttentionBackward,
        Ok(crate::attention_backward::wrong_calls::what_has_no_gradient_is_refused),
    ),
    (KernelKind::Decode, Ok(decode::problems)),
    (KernelKind::KvAppend, Ok(plans::cache_problems)),
    (KernelKind::KvMove, Ok(plans::cache_problems)),
    (KernelKind::LinearAttention, Ok(linear::problems)),
    (
        KernelKind::LinearAttentionBackward,
        Ok(crate::linear_attention_backward::wrong_calls::what_has_no_gradient_is_refused),
    ),
    (KernelKind::Merge, Ok(merge::problems)),
    (KernelKind::Rope, Ok(plans::rope_problems)),
    (KernelKind::Scores, Ok(scores::problems)),
];

#[test]
fn every_kernel_has_a_row() {
    for table in [KERNELS, PLANS] {
        assert_eq!(KernelKind::not_once(table.map(|(kernel, _)| kernel)), []);
    }
}

/// Whether an error is the expected one, and how that is written.
#[derive(Clone, Copy)]
pub struct Expected {
    pub is: fn(&Error) -> bool,
    pub written: &'static str,
}

/// The error that a call is refused with, as a pattern.
macro_rules! error {
    ($($pattern:tt)*) => {
        $crate::wrong_calls::Expected {
            is: |error| matches!(error, phasor::Error::$($pattern)*),
            written: stringify!($($pattern)*),
        }
    };
}
use error;

/// Wrong calls of a plan, of buffers `w`, sizes `s` and bindings `b`:
/// `"what is wrong": change => Error { .. };`.
macro_rules! calls {
    (
        $world:ty, $plan:ty, |$w:ident, $s:ident, $b:ident|
        $($name:literal: $change:expr => $kind:ident { $($pattern:tt)* };)+
    ) => {
        [$((
            $name.to_owned(),
            $crate::wrong_calls::Wrong::<$world, $plan> {
                change: |$w, $s, $b| {
                    let _ = (&$w, &$s, &$b);
                    $change;
                },
                expected: $crate::wrong_calls::error!($kind { $($pattern)* }),
            },
        )),+]
    };
}
use calls;

/// Problems `p` (or whatever else a plan is made from) without a plan, each a right one changed.
macro_rules! problems {
    (
        $right:expr, |$p:ident|
        $($name:literal: $change:expr => $kind:ident { $($pattern:tt)* };)+
    ) => {
        [$((
            $name.to_owned(),
            (
                {
                    let mut $p = $right;
                    $change;
                    $p
                },
                $crate::wrong_calls::error!($kind { $($pattern)* }),
            ),
        )),+]
    };
}
use problems;

impl Expected {
    /// Holds a refusal to it.
    fn check<T>(&self, result: phasor::Result<T>) -> Result {
        match result {
            Ok(_) => Err(format!("taken, though {} was due", self.written).into()),
            Err(error) if (self.is)(&error) => Ok(()),
            Err(error) => Err(format!("{error:?}, though {} was due", self.written).into()),
        }
    }
}

type Range = wgpu::BufferBinding<'static>;
/// The sizes and the tensors of a call.
type Call<P> = (<P as Plan>::Shape<'static>, <P as Plan>::Bindings<Range>);

/// What is done to a right call, and what comes of it.
struct Wrong<W: 'static, P: Plan> {
    change: fn(&'static W, &mut P::Shape<'static>, &mut P::Bindings<Range>),
    expected: Expected,
}

/// Buffers of right calls. They live as long as the tests, so that calls may borrow from them
/// without ceremony.
trait World: Sized + 'static {
    /// What calls write.
    fn outputs(&self) -> Vec<&wgpu::Buffer>;

    /// Before every right call: outputs of NaN.
    fn reset(&self, gpu: &Gpu) {
        for output in self.outputs() {
            gpu.queue.write_buffer(output, 0, &vec![0xff; output.size() as usize]);
        }
    }

    fn contents(&self, gpu: &Gpu) -> Vec<u8> {
        self.outputs().into_iter().flat_map(|buffer| gpu.download_bytes(buffer)).collect()
    }

    /// Runs a right call and says what it gave.
    fn run<P: Plan>(&self, lab: &Lab, kernel: &Kernel<P>, call: &Call<P>) -> Result<Vec<u8>> {
        self.reset(&lab.gpu);
        let dispatch = kernel.bind(&lab.gpu.device, &call.0, &call.1)?;
        lab.gpu.run(|encoder| dispatch.encode(encoder));
        Ok(self.contents(&lab.gpu))
    }

    /// Changes the right call as each entry says, and has it refused: the outputs stay, and the
    /// right call gives afterwards what it gave before.
    fn refuse<'t, P: Plan + 'static>(
        &'static self,
        lab: &Lab,
        kernel: &Kernel<P>,
        right: fn(&'static Self) -> phasor::Result<Call<P>>,
        table: impl IntoIterator<Item = &'t (String, Wrong<Self, P>)>,
    ) {
        let run = || self.run(lab, kernel, &right(self)?);
        let before = run().expect("a right call");
        run_table(table, |Wrong { change, expected }| {
            let (mut shape, mut bindings) = right(self)?;
            change(self, &mut shape, &mut bindings);
            let bind = || kernel.bind(&lab.gpu.device, &shape, &bindings);
            expected.check(bind_silently(&lab.gpu, bind)?)?;
            if self.contents(&lab.gpu) != before {
                return Err("the refused call has changed an output".into());
            }
            match run()? == before {
                true => Ok(()),
                false => Err("a right call after it gives something else".into()),
            }
        });
    }
}

/// What `bind` gives; an error if wgpu had to complain about it.
fn bind_silently(
    gpu: &Gpu,
    bind: impl FnOnce() -> phasor::Result<Dispatch>,
) -> Result<phasor::Result<Dispatch>> {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let result = bind();
    match pollster::block_on(scope.pop()) {
        Some(error) => Err(format!("wgpu had to refuse it: {error}").into()),
        None => Ok(result),
    }
}

/// Buffers that something is wrong with.
pub struct Wrongs {
    /// Lacks STORAGE.
    no_storage: wgpu::Buffer,
    /// Of a size that no binding has.
    odd: wgpu::Buffer,
    /// Four bytes.
    tiny: wgpu::Buffer,
    /// Large enough for anything here.
    large: wgpu::Buffer,
    larger: wgpu::Buffer,
}

impl Wrongs {
    fn new(gpu: &Gpu) -> Self {
        let buffer = |size, usage| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let copies = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let storage = wgpu::BufferUsages::STORAGE;
        Self {
            no_storage: buffer(1 << 19, copies),
            odd: buffer((1 << 12) + 2, copies | storage),
            tiny: buffer(4, copies | storage),
            large: buffer(1 << 19, copies | storage),
            larger: buffer(1 << 19, copies | storage),
        }
    }
}

/// The bytes of `buffer` from `offset` on, `size` of them.
fn range(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(size) }
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

/// Ids of one stream.
fn ids(binding: wgpu::BufferBinding<'_>, batch_stride: u32) -> Positions<'_> {
    Positions::Ids { binding, batch_stride, stream_stride: 0 }
}
