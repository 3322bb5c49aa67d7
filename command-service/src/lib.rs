//! Command side: accept, decide, append; the relay publishes.
//!
//! Rooms, in reading order:
//! * [`domain`]: what users, posts and edges are and allow. No I/O, no clock, no async.
//! * [`app`]: one file per use case: load, decide, append. Knows no web and no database.
//! * [`http`]: extract, convert, one call into [`app`], map. Knows no database.
//! * [`store`]: the log, names, credentials, sessions, quotas as MongoDB documents, private here.
//! * [`relay`]: change stream to JetStream, in commit order, each event once.
//! * [`import`]: many users, follows and posts at once, by the same decisions.
//! * [`backup`]: the log's database into a file and back. Knows documents, and not what they mean.
//! * [`keys`]: the key that signs access tokens.
//! * [`metric_rows`]: what is measured here.
//! * [`cli`]: the commands of the binary.
//! * [`startup`]: the only file that sees every room.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests spawn what they need")
)]

// `tests/store/conformance.rs` is compiled here too, and names the crate.
#[cfg(test)]
extern crate self as command_service;

pub mod app;
pub mod backup;
pub mod cli;
pub mod domain;
pub mod http;
pub mod import;
pub mod keys;
pub mod metric_rows;
pub mod relay;
pub mod startup;
pub mod store;
