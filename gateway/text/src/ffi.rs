use std::any::Any;
use crate::error::{internal, TextError};
pub fn panic_error(panic: &(dyn Any + Send)) -> TextError {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    internal(text.unwrap_or_default())
}
