//! What both services agree on: what is stored and sent, and must stay readable.
//!
//! * [`ids`], [`time`]: causal 64-bit ids, and time as a value.
//! * [`events`]: the event contract: what the log holds and the stream carries.
//! * [`log`]: how the log stores an event; [`log_id`]: the name of one log.
//! * [`event_stream`], [`stream_end`]: the JetStream stream's name, settings, headers, chain, ends.
//! * [`accounts`]: where a user's e-mail address is; [`sessions`]: where their sessions are.
//! * [`partition`]: which partition owns a user.
//! * [`views_schema`]: names of collections and fields of the views that both services use.
//! * [`names`]: when two names are the same.
//! * [`trace_parent`]: which trace a request, an event or a message belongs to.
//! * [`consistency`]: the token that lets a reader see an earlier write.

pub mod accounts;
pub mod consistency;
pub mod event_stream;
pub mod events;
#[cfg(test)]
#[path = "golden/tests.rs"]
mod golden;
pub mod ids;
pub mod log;
pub mod log_id;
pub mod names;
pub mod partition;
pub mod sessions;
pub mod stream_end;
pub mod time;
pub mod trace_parent;
pub mod views_schema;
