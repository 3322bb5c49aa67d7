//! How requests read: who may begin, what is asked first, and what is answered in bad times.
//!
//! * [`admission`]: permits, and how many each caller may hold.
//! * [`executor`]: what is remembered first, then the database, then what is remembered however
//!   old.
//! * [`error`]: why a read has no answer.

pub mod admission;
pub mod error;
pub mod executor;
