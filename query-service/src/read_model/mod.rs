//! The only reader and writer of the views.
//!
//! * [`views`]: the handle of one generation; [`error`]: why it cannot be read or written.
//! * `rows`, `entry`, `keys`, `generation`: what is stored, and where.
//! * [`changes`], [`mod@write`], [`readers`], [`dead_letters`]: how the fold writes.
//! * [`timeline`], [`people`], [`posts`]: how readers read; [`newer`], [`walks`]: how live streams do.
//! * `visibility`, [`view`]: what of it is shown, and how it looks.
//! * `scan`, `windows`: how lists are read, whatever their length; `merge`: many of them as one.
//! * [`budget`]: what one read may cost.
//! * [`cursor`]: where a page ended.
//! * [`notice`], `cache`, `freshness`: what replicas are told of changes, and what they remember
//!   until then; `hints`: where later reads begin to look.
//! * [`addresses`]: takes out what earlier builds have stored of them.
//! * [`sabotage`]: faults that tests build in.
//!
//! An entry is a hint, rows are the truth: every answer is checked against the edges, posts and
//! users that make it true.

pub mod addresses;
pub mod budget;
mod cache;
pub mod changes;
pub mod cursor;
pub mod dead_letters;
pub mod entry;
pub mod error;
mod freshness;
pub mod generation;
mod hints;
pub mod keys;
mod merge;
pub mod newer;
pub mod notice;
pub mod people;
pub mod posts;
pub mod readers;
pub mod rows;
pub mod sabotage;
mod scan;
mod switch;
pub mod timeline;
pub mod view;
pub mod views;
mod visibility;
pub mod walks;
mod windows;
pub mod write;

pub use error::ViewError;
pub use views::{CurrentViews, Views};
