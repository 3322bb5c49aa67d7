//! What both services agree on, and nothing that only one of them needs.
//!
//! Rooms, in reading order:
//! * [`ids`], [`time`], [`database_clock`]: causal 64-bit ids and the clock that makes them.
//! * [`events`]: the event contract: what the log holds and the stream carries.
//! * [`log`]: how the log stores an event.
//! * [`accounts`]: where a user's e-mail address is.
//! * [`event_stream`], [`stream_end`]: the JetStream stream's name, settings, headers, chain, ends.
//! * [`log_id`], [`log_identity`]: which log a stream holds.
//! * [`partition`]: which partition owns a user.
//! * [`names`]: when two names are the same.
//! * [`views_schema`]: names in the database of views that both services use.
//! * [`consistency`]: the token that lets a reader see an earlier write.
//! * [`request_id`], [`problem`]: the id of a request, and error bodies (RFC 9457).
//! * [`http`], [`middleware`]: routes, and what every request passes through.
//! * [`address`], [`cors`]: where requests come from: how many, and from which pages.
//! * [`token`]: verification of access tokens.
//! * [`server`]: the HTTP server behind which all that is.
//! * [`settings`], [`telemetry`], [`ops`], [`tasks`], [`process`], [`resilience`],
//!   [`error_chain`]: the ground every process stands on.
//! * [`connections`], [`lease`]: connections to MongoDB and NATS, and leases with epochs.
//! * [`crypto`]: the one provider of cryptography, installed before anything else.
//!
//! Nothing here knows a service crate.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests spawn what they need")
)]

pub mod accounts;
pub mod address;
pub mod connections;
pub mod consistency;
pub mod cors;
pub mod crypto;
pub mod database_clock;
pub mod error_chain;
pub mod event_stream;
pub mod events;
pub mod http;
pub mod ids;
pub mod lease;
pub mod log;
pub mod log_id;
pub mod log_identity;
pub mod middleware;
pub mod names;
pub mod ops;
pub mod partition;
pub mod problem;
pub mod process;
pub mod public_url;
pub mod request_id;
pub mod resilience;
pub mod server;
pub mod settings;
pub mod stream_end;
pub mod tasks;
pub mod telemetry;
pub mod time;
pub mod token;
pub mod views_schema;

// Until every user has moved to the new path.
pub use connections as engines;
