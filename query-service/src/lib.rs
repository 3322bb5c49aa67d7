//! Query side: folds the stream into views, and serves them.
//!
//! Rooms, in reading order; each names only those before it:
//! * [`views`]: schema and storage of the views: rows, keys, generations, the one transaction that
//!   writes them. Never mentions actix or async_nats.
//! * `cache`: what this replica remembers of the views, until it is told that it changed. Knows
//!   no database, and [`reads`] alone uses it.
//! * [`reads`]: reads of timelines, posts and users: which begin, where they look first, what is
//!   shown. Writes nothing but when a reader was last seen; never mentions HTTP.
//! * [`projection`]: partition leases, the ordered reader, the fold, its jobs. The only writer of
//!   the views; never answers a request.
//! * [`live`]: who is connected, and when to wake them. Reads and writes nothing.
//! * [`invalidation`]: follows what the fold of every replica says: feeds the cache, then wakes
//!   [`live`]. Changes nothing that is stored.
//! * [`accounts`]: users' own e-mail addresses, which no view holds. Keeps none of them.
//! * [`http`]: extracts, makes one call into [`reads`], maps. Cannot reach a write.
//! * [`operator`]: the commands verify, rebuild and dead-letters. Serves nothing.
//! * [`metric_rows`]: what is measured here.
//! * [`cli`]: the commands of the binary.
//! * [`startup`]: the only file that sees every room.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests spawn what they need")
)]

pub mod accounts;
mod cache;
pub mod cli;
pub mod http;
pub mod invalidation;
pub mod live;
pub mod metric_rows;
pub mod operator;
pub mod projection;
pub mod reads;
pub mod startup;
pub mod views;
