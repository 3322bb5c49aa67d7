//! What is stored, and how it is read and written: the only room that knows the shape of rows.
//!
//! * [`generation`], [`switch`]: which generations of views there are, and which one readers are
//!   shown.
//! * [`documents`], [`keys`], [`entry`]: the rows, their keys, and what timelines are made of.
//! * [`changes`], `row_changes`: what one batch of events changes; [`invalidation`]: what replicas are told of it.
//! * [`writer`], [`transaction`]: the handle of the fold, and its one way to commit.
//! * [`queries`], [`lookups`], [`checkpoints`]: what is looked up by those who write.
//! * [`readers`], [`last_seen`]: horizons, who is inactive, and when readers have read.
//! * [`dead_letters`]: messages that could not be understood.
//! * [`addresses`]: takes out what earlier builds have stored of them.
//! * [`fail_point`]: faults that tests build in.
//!
//! An entry is a hint, rows are the truth: every answer is checked against the edges, posts and
//! users that make it true.

pub mod addresses;
pub mod changes;
pub mod checkpoints;
pub mod dead_letters;
pub mod documents;
pub mod entry;
pub mod error;
pub mod fail_point;
pub mod generation;
pub mod invalidation;
pub mod keys;
pub mod last_seen;
pub mod lookups;
pub mod queries;
pub mod readers;
mod row_changes;
pub mod switch;
pub mod transaction;
pub mod writer;

pub use error::ViewError;
pub use writer::ViewWriter;
