//! Panics become errors: the libraries panic on some inputs, and no panic may reach C++ or print to stderr.

use std::any::Any;
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{internal, Result, TextError};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What a panic said, without the place in our sources.
pub fn panic_error(panic: &(dyn Any + Send)) -> TextError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    internal(format!("the text library failed: {}", text.unwrap_or("unknown cause")))
}

/// Runs `work` so that a panic in it becomes an error and prints nothing.
pub fn quiet<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !INSIDE.with(Cell::get) {
                previous(info);
            }
        }));
    });
    let outer = INSIDE.with(|inside| inside.replace(true));
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.with(|inside| inside.set(outer));
    result.unwrap_or_else(|panic| Err(panic_error(panic.as_ref())))
}
