//! phasor in a web page: maps of real and imaginary attention of a real model, the rotation behind
//! them, the self-test of the browser's WebGPU device, and its speed. `scripts/browser.sh` builds,
//! serves and checks the page, whose other half is `page/`.

mod gpu;
mod layer;
mod maps;
mod oracle;
mod rule;
mod selftest;
mod speed;
mod writer;

pub use gpu::Gpu;
pub use maps::Maps;
pub use rule::curves;
pub use speed::Trial;
pub use writer::Writer;

use std::error::Error;

use wasm_bindgen::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The version of phasor.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// An error as the page catches it.
fn thrown(error: Box<dyn Error>) -> JsError {
    JsError::new(&error.to_string())
}
