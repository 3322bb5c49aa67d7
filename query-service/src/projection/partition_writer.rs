//! One holding of a partition: what it writes, where it stands, and what it tells.
//!
//! Whatever the fold and its jobs change goes through [`PartitionWriter::commit`]: the entries, then the rows
//! with the checkpoint, then the message. A crash between any two of them is healed: entries are
//! hints, the checkpoint guards the rows, and who misses a message finds out by its number.
//!
//! Trimming and rising horizons tell nobody: the entries that replicas remember of a timeline are
//! fewer than those that are kept.

use mongodb::ClientSession;
use shared::connections::Nats;
use shared::contract::event_stream::StreamNames;
use shared::contract::partition::Partition;
use shared::contract::time::{Clock, SystemClock};
use tokio::time::{Duration, Instant};

use crate::reads::model::CurrentViews;
use crate::views::changes::Changes;
use crate::views::checkpoints::Checkpoint;
use crate::views::entry::Entry;
use crate::views::invalidation::InvalidationMessage;
use crate::views::transaction::CommitError;
use crate::views::writer::ViewWriter;
use shared::contract::ids::UserId;

/// A partition with nothing to say says so this often.
pub const HEARTBEAT: Duration = Duration::from_millis(500);

pub struct PartitionWriter {
    pub views: ViewWriter,
    pub partition: Partition,
    pub at: Checkpoint,
    nats: Nats,
    names: StreamNames,
    /// What readers are shown: nobody remembers anything of other generations.
    current: CurrentViews,
    /// All commits of this holding are made in it.
    session: ClientSession,
    /// Names this holding.
    id: u64,
    told: u64,
    told_at: Instant,
}

impl PartitionWriter {
    /// Begins at a checkpoint that was just taken over.
    pub async fn begin(
        views: ViewWriter,
        partition: Partition,
        at: Checkpoint,
        session: ClientSession,
        nats: Nats,
        names: StreamNames,
        current: CurrentViews,
    ) -> Self {
        let mut writer = Self {
            views,
            partition,
            at,
            nats,
            names,
            current,
            session,
            id: rand::random(),
            told: 0,
            told_at: Instant::now(),
        };
        // The holder before may have died between a commit and its message.
        writer
            .tell(InvalidationMessage {
                all: true,
                ..InvalidationMessage::default()
            })
            .await;
        writer
    }

    /// Inserts entries, then changes rows and moves the checkpoint, then tells.
    ///
    /// # Errors
    /// `Fenced` if another holder has gone on.
    pub async fn commit(
        &mut self,
        entries: &[Entry],
        changes: Changes,
        pulled: &[(UserId, u64)],
        to: Checkpoint,
    ) -> Result<(), CommitError> {
        // Entries first: once the checkpoint has passed, they must be there.
        self.views.insert_entries(entries).await?;
        self.views
            .commit(&mut self.session, self.partition, &changes, &self.at, &to)
            .await?;
        self.at = to;
        self.tell(InvalidationMessage::of(
            changes.into_invalidations(),
            entries,
            pulled,
        ))
        .await;
        Ok(())
    }

    /// As [`Self::commit`], for a job: the checkpoint stays, and guards.
    pub async fn commit_job(
        &mut self,
        entries: &[Entry],
        changes: Changes,
    ) -> Result<(), CommitError> {
        self.commit(entries, changes, &[], self.at).await
    }

    /// Whether readers are shown what is folded here.
    pub fn is_shown(&self) -> bool {
        self.current.borrow().generation().number == self.views.generation().number
    }

    /// Says that this partition is there, if it has said nothing for a while.
    pub async fn heartbeat(&mut self) {
        if self.told_at.elapsed() >= HEARTBEAT {
            self.tell(InvalidationMessage::default()).await;
        }
    }

    /// A message that cannot be sent is counted all the same: replicas notice the gap.
    async fn tell(&mut self, message: InvalidationMessage) {
        let message = InvalidationMessage {
            v: Some(self.views.id()),
            g: self.views.generation().number,
            p: self.partition.0,
            hold: self.id,
            n: self.told,
            to: self.at.seq,
            sent: Some(SystemClock.now().millis()),
            ..message
        };
        self.told += 1;
        self.told_at = Instant::now();
        if self.is_shown() && self.nats.is_connected() {
            // Publishing only hands it to the connection: it does not wait for the broker.
            let body = message.encode().into();
            let _ = self.nats.client.publish(self.names.notices(), body).await;
        }
    }
}
