//! What is cached beside timelines.

use std::sync::Arc;
use std::time::Instant;

use shared::contract::ids::UserId;

use super::freshness::{CLOCKS, SILENCE};
use super::slots::Remembered;
use crate::views::documents::{PostRow, UserRow};

/// A post, with what all its readers are sent alike.
#[derive(Clone, Debug)]
pub struct Post {
    pub row: PostRow,
    /// Serialized once: see [`crate::reads::bodies::PostView`].
    pub rendered: Option<Arc<str>>,
}

/// What one user did to one post.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reactions {
    pub liked: bool,
    pub reposted: bool,
}

/// Whom a reader follows. Both sorted.
#[derive(Clone, Debug, Default)]
pub struct Edges {
    pub following: Vec<UserId>,
    /// Of those, whose older entries are not inserted yet.
    pub pending: Vec<UserId>,
    pub lately: RecentlyPulled,
}

/// Authors who were pulled, or not followed, when this was loaded before.
///
/// A load sees the views as they are, which may be ahead of the messages: the entries that made
/// it needless to pull them may be missing in what is remembered of timelines. So they are pulled
/// until the messages must have come, or nothing is fresh.
#[derive(Clone, Debug, Default)]
pub struct RecentlyPulled(Option<(Instant, Vec<UserId>)>);

impl RecentlyPulled {
    pub fn new(authors: Vec<UserId>) -> Self {
        Self((!authors.is_empty()).then(|| (Instant::now(), authors)))
    }

    pub fn authors(&self) -> &[UserId] {
        match &self.0 {
            // A message that is believed may be older by what clocks may differ.
            Some((loaded, authors)) if loaded.elapsed() < SILENCE + CLOCKS => authors,
            Some(_) | None => &[],
        }
    }
}

/// The authors whom all their readers in a partition pull. Sorted.
#[derive(Clone, Debug, Default)]
pub struct Pulled {
    pub authors: Vec<UserId>,
    pub lately: RecentlyPulled,
}

impl Remembered for Post {}
impl Remembered for UserRow {}
impl Remembered for i64 {}
impl Remembered for Reactions {}
impl Remembered for () {}
impl Remembered for Edges {}
impl Remembered for Pulled {}
