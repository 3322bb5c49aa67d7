//! `query-service verify`: does every reader see what the log says?
//!
//! Recomputes all users, lists and timelines from the log, reads them as clients do, page by
//! page, and compares. While others write, the views lag the log for a moment; so a difference
//! counts only if it is still there once the fold has passed all that the log held.
//!
//! * [`command`]: reads the log and the views, compares, and prints.
//! * [`model`]: what users should see, recomputed from the log alone.
//! * [`visible`]: what they do see, read as clients read it.
//! * [`generations`]: the same of two generations, for a rebuild.

pub mod command;
pub mod generations;
pub mod model;
pub mod progress;
pub mod visible;

pub use command::{Arguments, Report, VerifyError, main, read_log, verify};
pub use visible::{Cuts, Line, List, Visible};
