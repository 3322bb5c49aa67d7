//! Query side: folds the stream into views, and serves them.
//!
//! Rooms, in reading order:
//! * [`projection`]: partition leases, the ordered reader, one file per family of events, jobs.
//! * [`read_model`]: the only reader and writer of the views, and what is remembered of them.
//! * [`reads`]: which reads begin, in which order cache and database are asked; never mentions HTTP.
//! * [`http`]: extracts, makes one call into [`reads`], maps.
//! * [`live`]: follows the notices of the fold, hands them to the caches, wakes live streams.
//! * [`accounts`]: users' own e-mail addresses, which no view holds.
//! * [`verify`]: recomputes from the log what readers should see, and compares.
//! * [`rebuild`]: a second generation of views beside the live one.
//! * [`dead_letters`]: messages that could not be understood.
//! * [`startup`]: the only file that sees every room.

pub mod accounts;
pub mod dead_letters;
pub mod http;
pub mod live;
pub mod projection;
pub mod read_model;
pub mod reads;
pub mod rebuild;
pub mod startup;
pub mod verify;
