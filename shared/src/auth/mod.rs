//! Who a request comes from.
//!
//! * [`token`]: verification of access tokens, by published keys.

pub mod token;
