//! Errors that cross the C interface: a code of absl::StatusCode and a message for a person.

/// The numbers are those of absl::StatusCode, so the C++ side needs no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Internal = 13,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, TextError>;

pub fn invalid(message: impl Into<String>) -> TextError {
    TextError { code: Code::InvalidArgument, message: message.into() }
}

pub fn exhausted(message: impl Into<String>) -> TextError {
    TextError { code: Code::ResourceExhausted, message: message.into() }
}

pub fn internal(message: impl Into<String>) -> TextError {
    TextError { code: Code::Internal, message: message.into() }
}
