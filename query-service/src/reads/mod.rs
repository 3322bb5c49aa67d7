//! How requests and live streams read: what is asked first, what it may cost, what is shown.
//!
//! * [`admission`], [`executor`]: which reads begin, and where they look first; [`error`]: why one
//!   has no answer.
//! * [`model`]: the handle that reads one generation of views; [`unanswered`]: why it could not.
//! * [`consistency`]: whether the views reflect a write.
//! * [`timeline`], [`people`], [`posts`], [`threads`]: what is read; [`newer`], `resume`, [`walks`]: what live
//!   streams read.
//! * `visibility`, [`bodies`]: what of it is shown, and how it looks.
//! * `scan`, `windows`: how lists are read, whatever their length; `merge`: many of them as one;
//!   `hints`: where later reads begin.
//! * [`budget`]: what one read may cost; [`cursor`]: where a page ended.

pub mod admission;
pub mod bodies;
pub mod budget;
pub mod consistency;
pub mod cursor;
pub mod error;
pub mod executor;
mod hints;
mod merge;
pub mod model;
pub mod newer;
pub mod people;
pub mod posts;
mod resume;
mod scan;
pub mod threads;
pub mod timeline;
pub mod unanswered;
mod visibility;
pub mod walks;
mod windows;

pub use crate::cache::ReadFrom;
pub use error::ReadError;
pub use model::{CurrentViews, ReadModel};
pub use unanswered::Unanswered;
