//! Readers who stay away: nothing is fanned out to them until they return.
//!
//! A parked reader's horizon is above everything, so that their timeline is merged from the
//! outboxes: slower, and whole. Reading marks them as seen; the partition then re-activates them
//! between two messages, with the greatest entry id it has applied as their horizon: everything
//! above it is fanned out again, everything below is merged.

use std::collections::HashSet;
use std::time::Duration;

use shared::ids::UserId;
use shared::partition::Partition;
use shared::time::{Clock, SystemClock};
use tokio::time::Instant;

use super::hold::Hold;
use crate::read_model::changes::Changes;
use crate::read_model::write::CommitError;
use crate::read_model::{ViewError, Views};

/// Readers parked or re-activated in one slice.
const PER_SLICE: usize = 500;
/// How soon a returned reader is re-activated. Until then their timeline is merged.
const LOOK: Duration = Duration::from_secs(1);

/// Who is parked in one partition.
pub struct Idle {
    /// `None`: nobody is ever parked.
    after: Option<Duration>,
    parked: HashSet<UserId>,
    next_look: Instant,
}

impl Idle {
    pub async fn load(
        views: &Views,
        partition: Partition,
        after: Option<Duration>,
    ) -> Result<Self, ViewError> {
        let parked = views.parked_in(partition).await?.into_iter().collect();
        Ok(Self {
            after,
            parked,
            next_look: Instant::now(),
        })
    }

    pub fn is_parked(&self, reader: UserId) -> bool {
        self.parked.contains(&reader)
    }

    /// Parks those who have been away for long, re-activates those who came back. Says whether
    /// anything was done.
    ///
    /// Both are commits of this partition: a holder that was paused cannot do either.
    pub async fn look(&mut self, hold: &mut Hold) -> Result<bool, CommitError> {
        if Instant::now() < self.next_look {
            return Ok(false);
        }
        let (views, partition) = (hold.views.clone(), hold.partition);
        self.next_look = Instant::now() + LOOK;
        let away = self
            .after
            .and_then(|after| i64::try_from(after.as_millis()).ok());
        // Without a limit nobody is away for too long, and whoever is parked comes back.
        let since = away.map_or(i64::MIN, |away| SystemClock.now().millis() - away);
        let back = if self.parked.is_empty() {
            Vec::new()
        } else {
            views.parked_and_seen(partition, since, PER_SLICE).await?
        };
        let gone = if away.is_some() {
            views
                .unparked_and_unseen(partition, since, PER_SLICE)
                .await?
        } else {
            Vec::new()
        };
        if back.is_empty() && gone.is_empty() {
            return Ok(false);
        }
        let mut changes = Changes::default();
        for reader in &back {
            Views::reactivate(&mut changes, *reader, &hold.at);
        }
        for reader in &gone {
            Views::park(&mut changes, *reader);
        }
        hold.commit_job(&[], &changes).await?;
        for reader in back {
            self.parked.remove(&reader);
        }
        for reader in gone {
            views.delete_entries(reader, hold.at.top).await?;
            self.parked.insert(reader);
        }
        metrics::gauge!("query_service_parked_readers", "partition" => partition.0.to_string())
            .set(self.parked.len() as f64);
        Ok(true)
    }
}
