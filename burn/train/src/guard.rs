//! What libraries panic of, as an error: Burn and drivers do so where a device runs out of memory.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;

/// Runs something. The first panic, of any thread, is its error; with `RUST_BACKTRACE` each is
/// printed as well.
///
/// # Errors
/// Its own, and panics.
pub fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let first = Arc::new(Mutex::new(None));
    let before = Arc::new(take_hook());
    let (seen, print) = (first.clone(), before.clone());
    let loud = std::env::var_os("RUST_BACKTRACE").is_some();
    set_hook(Box::new(move |info| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| message(info));
        if loud {
            print(info);
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(run));
    set_hook(Box::new(move |info| before(info)));
    let panic = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (result, panic) {
        (Ok(Ok(result)), _) => Ok(result),
        (Ok(Err(error)), None) => Err(error),
        (_, panic) => Err(format!(
            "{}. If that was for memory, a smaller --batch, --ctx or --layers takes less",
            panic.unwrap_or_default()
        )
        .into()),
    }
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(String::new, |place| format!(" ({place})"));
    format!("{}{place}", info.payload_as_str().unwrap_or("a panic"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_errors() {
        let error = guarded::<()>(|| panic!("no {} left", "memory")).unwrap_err().to_string();
        assert!(error.starts_with("no memory left (") && error.contains("guard.rs"), "{error}");
        assert!(error.ends_with("a smaller --batch, --ctx or --layers takes less"), "{error}");
        // That of a thread says more than what the others make of its end.
        let lost = || std::thread::spawn(|| panic!("the device is gone")).join().is_err();
        let error = guarded::<()>(|| Err(format!("lost: {}", lost()).into())).unwrap_err();
        assert!(error.to_string().starts_with("the device is gone ("), "{error}");
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
        assert_eq!(guarded::<()>(|| Err("refused".into())).unwrap_err().to_string(), "refused");
    }
}
