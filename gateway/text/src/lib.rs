//! The text library of the gateway: Hugging Face tokenizers and chat templates behind a C interface.
//!
//! `ffi` is the border to C++ (see moe_text.h); the other modules are ordinary safe Rust and know nothing of it.
//! Tested by the unit tests in each module and by tests/gateway/text.

mod detok;
mod error;
mod extract;
pub mod ffi;
mod panics;
mod pyjson;
mod strftime;
mod template;
mod tokenizer;

#[cfg(test)]
mod test_data;
