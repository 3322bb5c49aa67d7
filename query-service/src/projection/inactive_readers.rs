//! Readers who stay away: nothing is fanned out to them until they return.
//!
//! An inactive reader's horizon is above everything, so that their timeline is merged from the
//! author feeds: slower, and whole. Reading marks them as seen; the partition then re-activates them
//! between two messages, with the greatest entry id it has applied as their horizon: everything
//! above it is fanned out again, everything below is merged.
//!
//! Nobody is inactive in a generation that readers are not shown: its marks are as old as the
//! readers' registration. Reads are noted in the generation that is shown, for a moment also in
//! the one that was shown before; so whoever seems to be away is looked up in the others first.

use std::collections::HashMap;
use std::time::Duration;

use shared::contract::ids::UserId;
use shared::contract::partition::Partition;
use shared::contract::time::{Clock, SystemClock};
use tokio::time::Instant;

use super::partition_writer::PartitionWriter;
use crate::metric_rows::INACTIVE_READERS;
use crate::views::changes::Changes;
use crate::views::error::ViewError;
use crate::views::generation::Generation;
use crate::views::transaction::CommitError;

/// Readers re-activated in one slice.
const BACK_PER_SLICE: usize = 500;
/// Readers inactive in one slice: their entries are deleted with it.
const GONE_PER_SLICE: usize = 100;
/// Of them, those whose entries are deleted by one command.
const TOGETHER: usize = 16;
/// How soon a returned reader is re-activated. Until then their timeline is merged.
const LOOK: Duration = Duration::from_secs(1);

/// Who is inactive in one partition.
pub struct InactiveReaders {
    views: Generation,
    /// `None`: nobody is ever inactive.
    after: Option<Duration>,
    /// Of how many readers it may be remembered whether they are inactive.
    most: usize,
    known: HashMap<UserId, bool>,
    /// Everybody who is inactive is known: whoever is not known is not inactive.
    complete: bool,
    inactive: usize,
    next_look: Instant,
}

impl InactiveReaders {
    pub async fn load(
        views: &Generation,
        partition: Partition,
        after: Option<Duration>,
        most: usize,
    ) -> Result<Self, ViewError> {
        let some = views.some_inactive(partition, most + 1).await?;
        let complete = some.len() <= most;
        let inactive = if complete {
            some.len()
        } else {
            views.count_inactive(partition).await?
        };
        let known = some.into_iter().take(most).map(|reader| (reader, true));
        Ok(Self {
            views: views.clone(),
            after,
            most,
            known: known.collect(),
            complete,
            inactive,
            next_look: Instant::now(),
        })
    }

    /// Finds out who of these readers is inactive, where that is not known: one query at most.
    pub async fn learn(&mut self, readers: &[UserId]) -> Result<(), ViewError> {
        if self.complete {
            return Ok(());
        }
        let is_unknown = |reader: &&UserId| !self.known.contains_key(*reader);
        let mut unknown: Vec<UserId> = readers.iter().filter(is_unknown).copied().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        if self.known.len() + unknown.len() > self.most {
            self.known.clear();
            unknown = readers.to_vec();
        }
        let inactive = self.views.inactive_among(&unknown).await?;
        self.known
            .extend(unknown.into_iter().map(|reader| (reader, false)));
        self.known
            .extend(inactive.into_iter().map(|reader| (reader, true)));
        Ok(())
    }

    /// Whether a reader is inactive, of those who were learned last.
    pub fn is_inactive(&self, reader: UserId) -> bool {
        self.known.get(&reader).copied().unwrap_or(false)
    }

    /// Parks those who have been away for long, re-activates those who came back. Says whether
    /// anything was done.
    ///
    /// Both are commits of this partition: a holder that was paused cannot do either.
    pub async fn look(&mut self, writer: &mut PartitionWriter) -> Result<bool, CommitError> {
        if Instant::now() < self.next_look {
            return Ok(false);
        }
        self.next_look = Instant::now() + LOOK;
        self.tell(writer);
        let away = self
            .after
            .and_then(|after| i64::try_from(after.as_millis()).ok());
        // Without a limit nobody is away for too long, and whoever is inactive comes back.
        let since = away.map_or(i64::MIN, |away| SystemClock.now().millis() - away);
        let back = self.back(writer.partition, since).await?;
        let gone = if away.is_some() && writer.is_shown() {
            self.gone(writer, since).await?
        } else {
            Vec::new()
        };
        if back.is_empty() && gone.is_empty() {
            return Ok(false);
        }
        let mut changes = Changes::default();
        for reader in &back {
            changes.reader_reactivated(*reader, &writer.at);
        }
        for reader in &gone {
            changes.reader_becomes_inactive(*reader);
        }
        writer.commit_job(&[], changes).await?;
        self.inactive = (self.inactive + gone.len()).saturating_sub(back.len());
        for reader in back {
            self.note(reader, false);
        }
        for reader in &gone {
            self.note(*reader, true);
        }
        for some in gone.chunks(TOGETHER) {
            writer.views.delete_entries(some, writer.at.top).await?;
            writer.heartbeat().await;
        }
        self.tell(writer);
        Ok(true)
    }

    /// Says how many there are, of what readers are shown.
    fn tell(&self, writer: &PartitionWriter) {
        if writer.is_shown() {
            INACTIVE_READERS
                .of([writer.partition.0.to_string()])
                .set(self.inactive as f64);
        }
    }

    async fn back(&self, partition: Partition, since: i64) -> Result<Vec<UserId>, ViewError> {
        if self.inactive == 0 {
            return Ok(Vec::new());
        }
        self.views
            .inactive_and_seen(partition, since, BACK_PER_SLICE)
            .await
    }

    /// Some of those who have not read since `since`, whatever they were shown.
    async fn gone(&self, writer: &PartitionWriter, since: i64) -> Result<Vec<UserId>, ViewError> {
        let mut gone = self
            .views
            .active_and_unseen(writer.partition, since, GONE_PER_SLICE)
            .await?;
        if !gone.is_empty() {
            let seen = writer.views.take_marks_of_others(&gone, since).await?;
            gone.retain(|reader| !seen.contains(reader));
        }
        Ok(gone)
    }

    fn note(&mut self, reader: UserId, is_inactive: bool) {
        if self.complete && !is_inactive {
            self.known.remove(&reader);
            return;
        }
        // Past the bound not everybody who is inactive is known; `learn` keeps to it from then on.
        self.complete &= self.known.len() < self.most;
        if self.complete || self.known.contains_key(&reader) {
            self.known.insert(reader, is_inactive);
        }
    }
}
