//! What both services agree on, and nothing that only one of them needs.
//!
//! Rooms, in reading order:
//! * [`contract`]: ids, events, the log's documents, the stream, consistency tokens, partitions.
//! * [`runtime`]: settings, tasks, logs and metrics: what every process stands on.
//! * [`resilience`]: backoff, circuit breaker, admission control, leases.
//! * [`connections`]: the only place that opens a client of MongoDB or NATS.
//! * [`auth`]: verification of access tokens.
//! * [`web`]: what every request passes, from the server to the error body.
//! * [`process`]: a service from its settings and ports to its end; [`health`]: the command that asks
//!   it whether it is ready.
//!
//! Nothing here knows a service crate.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests spawn what they need")
)]

pub mod auth;
pub mod connections;
pub mod contract;
pub mod health;
pub mod process;
pub mod resilience;
pub mod runtime;
pub mod web;
