//! Progress bars for what takes seconds; they show on terminals only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;

/// A bar of `steps` steps.
pub fn bar(what: &'static str, steps: u32) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}/{len}, {elapsed}")?;
    let bar = ProgressBar::new(steps.into()).with_style(style).with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}
