//! What earlier reads leave for later ones: how far back to look, and what the last merge for a
//! reader found.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use shared::contract::ids::UserId;

use super::scan::Reach;
use crate::cache::Since;
use crate::views::entry::TimelineItem;
use crate::views::generation::View;

pub(super) struct Hints {
    /// How far back a reader's last page reached, in milliseconds.
    pub windows: Cache<UserId, i64>,
    /// How lists are spread over ids: which view, whose list.
    pub reaches: Cache<(View, i64), Reach>,
    /// The ids that a merge for a reader spans.
    pub depths: Cache<UserId, i64>,
    pub merged: Cache<UserId, Arc<Merged>>,
}

/// The newest entries below some id, of everybody whom one reader follows.
pub(super) struct Merged {
    pub following: Vec<UserId>,
    pub before: i64,
    pub complete_above: i64,
    /// Newest first.
    pub items: Vec<TimelineItem>,
    /// Nothing of it is believed once one of these authors' lists has changed since.
    pub since: Since,
}

impl Default for Hints {
    fn default() -> Self {
        // Merges take up to 50 KB each.
        let merged = Cache::builder()
            .max_capacity(1_000)
            .time_to_live(Duration::from_secs(60))
            .build();
        Self {
            windows: Cache::new(100_000),
            reaches: Cache::new(100_000),
            depths: Cache::new(100_000),
            merged,
        }
    }
}
