//! Who a request comes from.
//!
//! * [`token`]: verification of access tokens, by published keys.
//! * [`keys_in_use`]: which keys a process works with, for operators.

pub mod keys_in_use;
pub mod token;
