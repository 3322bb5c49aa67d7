//! What users, posts and edges are and what they allow: pure decisions, state in, events out.
//!
//! Time and ids are arguments; nothing here waits, reads or writes. A decision answers with the
//! event to append, with `None` when what was asked already holds, or with a refusal.
//!
//! * [`text`]: usernames, e-mail addresses, passwords, names, posts: parsed once, valid since.
//! * `characters`: which characters a text may have, and which of them show anything.
//! * [`user`]: registration, profile, status.
//! * [`post`]: writing and deleting.
//! * [`edge`]: follows, likes, reposts: toggles that alternate.

mod characters;
pub mod edge;
pub mod post;
pub mod text;
pub mod user;

use std::fmt;

/// One fault of one field, as told to whoever filled it in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    pub field: &'static str,
    /// A stable word for programs.
    pub code: &'static str,
    pub detail: String,
}

impl Fault {
    pub fn of(field: &'static str, error: &impl Coded) -> Self {
        Self {
            field,
            code: error.code(),
            detail: error.to_string(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

/// An error of parsing that has a stable word.
pub trait Coded: std::error::Error {
    fn code(&self) -> &'static str;
}
