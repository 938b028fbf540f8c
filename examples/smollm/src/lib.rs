//! A Llama-like language model whose positions, caches and attention run on the GPU through phasor,
//! embedded as an inference engine would. Its matrices are multiplied by a library, on the CPU
//! here.
//!
//! ```text
//! weights    GGUF or safetensors -> f32 matrices; RoPE or RoPE++ (EC, EH) from their shapes
//! model      embedding, norms, projections, MLP; asks an Attention for everything between
//! gpu        that Attention on phasor's layer API: append with rotation, prefill in chunks, decode
//! cpu        the same with the library's products on the CPU, to compare with
//! text       vocabulary and chat template of the file
//! sampler    greedy, temperature, top-p
//! check      reference continuations and logits
//! ```

#[cfg(feature = "native")]
pub mod check;
#[cfg(feature = "native")]
pub mod cpu;
#[cfg(feature = "native")]
pub mod gpu;
pub mod linear;
#[cfg(feature = "native")]
pub mod model;
#[cfg(feature = "native")]
pub mod sampler;
pub mod text;
pub mod weights;

/// Any error: those of phasor, of the libraries, and sentences of our own.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
