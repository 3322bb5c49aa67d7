//! Folds the stream into the views.
//!
//! Every partition is one task: it holds a lease, reads the whole stream, applies its share and
//! moves its checkpoint with the same transaction. A keeper beside it renews the lease, however
//! long a step takes. A holder that was paused past its lease finds its commits refused by the
//! checkpoint's epoch.
//!
//! * [`projector`]: takes partitions; [`partition_worker`]: folds one while its lease lasts;
//!   [`settings`]: what all need.
//! * [`stream_reader`]: messages in order, from a position of its own; [`stream_fault`]: why it
//!   has none.
//! * [`stream_check`]: whether the stream holds the log that the views are of.
//! * [`fold`]: events in, changes and entries out.
//! * `fold_spans`: what of that is seen in traces.
//! * [`partition_writer`]: commits them, then tells the replicas.
//! * [`jobs`], [`pending`]: fan-outs and backfills.
//! * [`sizes`], [`inactive_readers`]: timelines that grow too long; readers who stay away.
//! * [`memory`]: what of all that is kept in memory.
//! * [`generations`]: which views are folded, and which are shown.
//! * [`monitor`]: how far the fold is behind.

pub mod fold;
mod fold_spans;
pub mod generations;
mod held;
pub mod inactive_readers;
pub mod jobs;
pub mod memory;
pub mod monitor;
pub mod partition_worker;
pub mod partition_writer;
pub mod pending;
pub mod projector;
pub mod settings;
pub mod sizes;
pub mod stream_check;
mod stream_ends;
pub mod stream_fault;
pub mod stream_reader;

pub use projector::Projector;
