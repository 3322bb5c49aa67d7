//! Named policies: how long to wait, how often, for whom, and when not to ask at all.
//!
//! * [`Backoff`]: waits between tries.
//! * [`Breaker`]: whether a dependency answers at all. A pulse asks it all the time; while it is
//!   silent nobody else does.
//! * [`Gate`]: a breaker, a bounded number of places, and a deadline: what stands between
//!   requests and the database.
//! * [`lease`]: a name that one process holds at a time, with epochs.
//!
//! By hand, for what the usual crates do not do: a call of a driver is given up and never dropped,
//! and a refusal takes its time (failsafe, tower); a backoff is shorter than its adapter (backon).

mod admission;
mod backoff;
mod circuit_breaker;
pub mod lease;

pub use admission::{Bounds, Gate, Place, Refused};
pub use backoff::{Backoff, background, interactive};
pub use circuit_breaker::{Breaker, tell_circuit};
