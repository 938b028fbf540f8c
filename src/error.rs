//! The one error type. Every variant carries what was needed and what there is.

use crate::DType;

/// Result of everything in this crate that can be refused.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why a description, a plan or a binding was refused.
///
/// An error is always raised before anything is recorded or written: a refused call leaves the
/// caller's buffers, encoder and pass as they were.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number in a problem, layout or rotary configuration that no kernel accepts.
    #[error("{what} must be {needed}, but is {got}")]
    Invalid {
        /// Which number, by its field name.
        what: &'static str,
        /// The rule.
        needed: &'static str,
        /// The offending value.
        got: String,
    },
    /// A tensor's shape differs from what the call computes.
    #[error("{tensor}: shape [B, H, S, D] must be {needed:?}, but is {got:?}")]
    Shape {
        /// The binding's name.
        tensor: &'static str,
        /// Shape that fits the call.
        needed: [u32; 4],
        /// Shape of the layout handed over.
        got: [u32; 4],
    },
    /// A stride or element offset that the kernel cannot address.
    #[error("{tensor}: {what} must be {needed}, but is {got}")]
    Stride {
        /// The binding's name.
        tensor: &'static str,
        /// Which stride.
        what: &'static str,
        /// The rule.
        needed: &'static str,
        /// The offending value, in elements.
        got: u32,
    },
    /// An output whose strides give two elements the same address.
    #[error(
        "{tensor}: strides {strides:?} put two elements of shape {shape:?} at one address; \
         an output needs distinct addresses"
    )]
    SelfOverlap {
        /// The binding's name.
        tensor: &'static str,
        /// `[B, H, S, D]`.
        shape: [u32; 4],
        /// Strides of batch, head and position, in elements.
        strides: [u32; 3],
    },
    /// A dtype other than the one the kernel was planned for.
    #[error("{tensor}: the plan stores {needed:?}, but the binding holds {got:?}")]
    DType {
        /// The binding's name.
        tensor: &'static str,
        /// Element type in the plan.
        needed: DType,
        /// Element type of the binding.
        got: DType,
    },
    /// A cache that is stored in another way than the kernel was planned for.
    #[error("{tensor}: the plan stores {needed}, but the binding holds {got}")]
    CacheType {
        /// The binding's name.
        tensor: &'static str,
        /// Storage in the plan.
        needed: crate::plan::cache::CacheType,
        /// Storage of the binding.
        got: crate::plan::cache::CacheType,
    },
    /// A binding that is shorter than its layout reaches.
    #[error("{tensor}: the layout reaches {needed} bytes, but the binding has {available}")]
    BindingTooSmall {
        /// The binding's name.
        tensor: &'static str,
        /// Bytes from the binding's start to the end of the last element.
        needed: u64,
        /// Bytes in the binding.
        available: u64,
    },
    /// A binding whose offset or size does not have the alignment that the device asks for.
    #[error("{tensor}: {what} must be a multiple of {needed} bytes, but is {got}")]
    Alignment {
        /// The binding's name.
        tensor: &'static str,
        /// `binding offset` or `binding size`.
        what: &'static str,
        /// Required alignment in bytes.
        needed: u64,
        /// The value, in bytes.
        got: u64,
    },
    /// An output that shares a buffer with another binding. WebGPU tracks reads and writes per
    /// buffer, so two disjoint ranges of one buffer conflict as well.
    #[error(
        "{a} and {b} lie in the same buffer, and {b} is written: put them into \
         different buffers (WebGPU tracks use per buffer, not per range)"
    )]
    Overlap {
        /// The one binding.
        a: &'static str,
        /// The binding that is written.
        b: &'static str,
    },
    /// Two ranges of one buffer that overlap, where at least one is bound to be written.
    #[error(
        "{a} and {b} overlap in one buffer, and one of them is bound writable: \
         make the ranges disjoint"
    )]
    RangesOverlap {
        /// The one binding.
        a: &'static str,
        /// The other.
        b: &'static str,
    },
    /// A call that cannot take the place of the one that is bound.
    #[error("{what} differ from those of the bound call; bind this one anew")]
    Rebind {
        /// What is not the same.
        what: &'static str,
    },
    /// A buffer without a usage flag that the call needs.
    #[error("{tensor}: the buffer lacks the usage {needed}")]
    Usage {
        /// The binding's name.
        tensor: &'static str,
        /// Missing flag, as wgpu spells it.
        needed: &'static str,
    },
    /// A binding that the problem asks for was not handed over, or the other way round.
    #[error("{tensor}: {why}")]
    Binding {
        /// The binding's name.
        tensor: &'static str,
        /// What to do.
        why: &'static str,
    },
    /// A device limit that is too low.
    #[error("device limit {limit}: needed {needed}, available {available} ({what})")]
    Limit {
        /// The limit's name in `wgpu::Limits`.
        limit: &'static str,
        /// What asks for it.
        what: &'static str,
        /// Needed.
        needed: u64,
        /// Available.
        available: u64,
    },
    /// The device made no buffer. It is lost, or out of memory: its lost callback or its error
    /// scope says which.
    #[error(
        "{what}: the device made no buffer; it is lost or out of memory, see its \
         lost callback and its error scopes"
    )]
    Device {
        /// What the buffer was for.
        what: &'static str,
    },
    /// A device feature that the plan needs and the device was created without.
    #[error("device feature {missing} is needed for {what}: request it when the device is created")]
    Feature {
        /// The feature's name in `wgpu::Features`.
        missing: &'static str,
        /// What asks for it.
        what: &'static str,
    },
    /// Products on matrix units were asked for, and there are none to be had.
    #[error("matrix units: {0}")]
    NoMatrices(crate::plan::NoMatrices),
    /// A kernel, tile or storage that the device was seen to get wrong.
    #[error("{suspect} is quarantined: {reason}")]
    Quarantined {
        /// What is left out.
        suspect: crate::plan::Suspect,
        /// What was wrong with it.
        reason: String,
    },
    /// WGSL of the caller's that cannot become part of a kernel.
    #[error("hook {name}: {reason}")]
    Hook {
        /// The function that it has to define.
        name: &'static str,
        /// What is wrong with it, as the parser or the rules of hooks say.
        reason: String,
    },
    /// Index arithmetic in the shaders is 32 bits wide.
    #[error(
        "{tensor}: element index {index} does not fit 32 bits; bind a part of it \
         (per batch or per head)"
    )]
    IndexOverflow {
        /// The binding's name.
        tensor: &'static str,
        /// Largest element index of the layout.
        index: u64,
    },
    /// A position beyond the end of the cos/sin table.
    #[error(
        "the cos/sin table holds {available} positions, but position {needed} is used; \
         build a longer table"
    )]
    TableTooShort {
        /// Largest position of the call.
        needed: u64,
        /// Positions in the table.
        available: u64,
    },
    /// A cache without room for the rows of an append.
    #[error("sequence {sequence}: the cache holds {capacity} rows, but {needed} are needed")]
    CacheFull {
        /// Which sequence.
        sequence: u32,
        /// Rows after the append.
        needed: u64,
        /// Rows that the sequence can have.
        capacity: u64,
    },
    /// A page number beyond the pool.
    #[error("sequence {sequence}: entry {entry} of its block table names page {page} of {pages}")]
    UnknownPage {
        /// Which sequence.
        sequence: u32,
        /// Entry of its block table.
        entry: u32,
        /// The page named there.
        page: u32,
        /// Pages of the pool.
        pages: u32,
    },
    /// A page that an append would write, and that stands in the block tables twice.
    #[error(
        "sequence {sequence}: entry {entry} of its block table, page {page}, is written, \
         and stands elsewhere as well; only full pages can be shared"
    )]
    SharedPage {
        /// Which sequence.
        sequence: u32,
        /// Entry of its block table.
        entry: u32,
        /// The page.
        page: u32,
    },
    /// A pool without free pages for the rows of a step.
    #[error("{needed} more pages are needed, but {free} are free")]
    OutOfPages {
        /// Pages that the rows need beside those of their sequences.
        needed: u64,
        /// Pages that no sequence uses.
        free: u32,
    },
    /// A sequence more than the model was planned for.
    #[error("all {sequences} sequences are in use: end one, or plan for more")]
    NoSequence {
        /// Sequences at a time.
        sequences: u32,
    },
    /// A sequence that has ended, or lies in the caches of other layers.
    #[error("the sequence has ended, or was started elsewhere")]
    UnknownSequence,
    /// A layer that the model does not have.
    #[error("layer {layer} of {layers}")]
    UnknownLayer {
        /// The layer, from 0.
        layer: usize,
        /// Layers that there are.
        layers: usize,
    },
    /// A layer without tensors of the host's.
    #[error("layer {layer} has no tensors yet: bind them before a step begins")]
    Unbound {
        /// The layer, from 0.
        layer: usize,
    },
    /// A step with more rows than the model was planned for.
    #[error("the step has {needed} rows, but there is room for {available}: take several steps")]
    TooManyRows {
        /// New rows of all sequences together.
        needed: u64,
        /// Rows of a step at most.
        available: u32,
    },
    /// A call at the wrong time of a step.
    #[error("layer {layer} {why}")]
    Order {
        /// The layer, from 0.
        layer: usize,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// A configuration is of a model type that is not known.
    #[error(
        "rope configuration: model type {model_type} is not known, so neither are its pairs nor \
         which way they turn; state a known model that it is like (Like::model)"
    )]
    UnknownModel {
        /// `model_type` in the configuration.
        model_type: String,
    },
    /// A configuration is of a model type without a rotary embedding that could be read.
    #[error("rope configuration: {model_type} has none to read: {reason}")]
    NotRotary {
        /// `model_type` in the configuration.
        model_type: String,
        /// Why.
        reason: &'static str,
    },
    /// A rope section names something this crate does not know.
    #[error("rope configuration: {key} = {value} is not known")]
    UnknownRope {
        /// Key in the model's configuration.
        key: String,
        /// Its value.
        value: String,
    },
    /// A rope section lacks a key that its type needs.
    #[error("rope configuration: type {rope_type} needs the key {key}")]
    MissingRopeKey {
        /// The rope type.
        rope_type: String,
        /// The missing key.
        key: &'static str,
    },
    /// A rope section holds a value of the wrong kind or out of range.
    #[error("rope configuration: {key} must be {needed}, but is {got}")]
    RopeValue {
        /// The key.
        key: String,
        /// The rule.
        needed: &'static str,
        /// The value as written.
        got: String,
    },
}
