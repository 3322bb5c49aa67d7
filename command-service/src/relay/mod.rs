//! Copies the log to the stream: in commit order, each event once.
//!
//! * `worker` is the relay at work: one attempt after another, each from the stream's tail onwards.
//! * `change_stream` reads the log's change stream in a task of its own.
//! * A batch is published right behind the stream's tail *as observed*; the stream refuses it if
//!   anything came between (the fence). The next batch waits for its acknowledgement.
//! * **The stream is the checkpoint.** Each message carries the token to resume the change stream
//!   after it. After any error, refusal or doubt the relay forgets what it was about to do, reads
//!   the tail, and goes on from there: there is one way to start and to recover.
//! * Where no token helps, `recovery_scan` finds out what the stream lacks.
//!
//! A lease makes one relay active, so that two do not waste each other's time. What makes it
//! correct is the fence: a relay that was paused past its lease is refused. Only who is connected
//! to the broker asks for the lease, and who cannot publish for a while gives it up and stands
//! back: see `lead`.
//!
//! The stream must hold this log and no other: [`shared::connections::log_identity`]. What stands in the way of
//! publishing is told by [`health`], how long events wait by `watch`.
//!
//! There is no `Nats-Msg-Id`. The fence is exact; de-duplication would be a second memory, limited
//! in time, that may disagree with the stream after the broker was restored.
//!
//! An event that this build cannot read is left out, told and counted (`relay_corrupt_total`): one must not
//! hold up all. It stays in the log, and a start with [`Settings::rescan`] by a build that can
//! read it publishes it. So new kinds of events are deployed to relays before writers.
//!
//! `beyond_log` reads what a stream has that its log lacks, after the log was restored.
//!
//! Nothing here knows what events mean, nor who asks for them over HTTP.

mod batch;
mod beyond_log;
mod change_stream;
mod error;
mod fail_point;
pub mod health;
mod lead;
mod log;
mod message;
mod publish_spans;
mod recovery_scan;
mod settings;
mod state;
mod stream;
mod watch;
mod worker;

pub use beyond_log::{BeyondLog, beyond_log};
pub use error::RelayError;
pub use fail_point::FailPoint;
pub use health::READY;
pub use settings::Settings;
pub use worker::Relay;
