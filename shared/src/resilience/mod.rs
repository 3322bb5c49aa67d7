//! Named policies: how long to wait, how often to try, how many may, and when not to ask at all.
//!
//! * [`Backoff`]: waits between tries.
//! * [`Breaker`]: whether a dependency answers at all. It is probed all the time; while it does not
//!   answer, no request is sent there.
//! * [`AdmissionControl`]: a breaker, a bounded number of permits, and timeouts: what stands between
//!   requests and the database.
//! * [`lease`]: a name that one process holds at a time, with epochs.
//!
//! By hand, for what the usual crates do not do: a call of a driver is given up and never dropped,
//! and a rejection is delayed (failsafe, tower); a backoff is shorter than its adapter (backon).

mod admission;
mod backoff;
mod circuit_breaker;
pub mod lease;

pub use admission::{AdmissionControl, Limits, Permit, Rejected};
pub use backoff::{Backoff, background, interactive};
pub use circuit_breaker::{Breaker, NotUsed, report_circuit, report_why};
