//! The commands of whoever operates the service.
//!
//! * [`verify`]: recomputes from the log what readers should see, and compares.
//! * [`rebuild`]: a second generation of views beside the live one.
//! * [`dead_letters`]: messages that could not be understood.

pub mod dead_letters;
pub mod rebuild;
pub mod verify;
