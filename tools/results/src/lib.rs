//! Results of the browser page (`examples/browser`), as it saves them: read, checked, tabulated.

mod document;
mod table;

pub use document::{Document, read};
pub use table::{BEGIN, END, replaced, table};
