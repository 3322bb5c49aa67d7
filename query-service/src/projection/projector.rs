//! The fold of one partition, while this process holds its lease.

use std::time::Duration;

use shared::engines::{self, Nats};
use shared::error_chain::Chain;
use shared::events::{DecodeError, Event, Payload};
use shared::lease::{Held, Lease};
use shared::partition::Partition;
use shared::resilience;
use shared::tasks::Tasks;
use shared::time::{Clock, SystemClock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::fold::{Batch, Fold};
use super::hold::{HEARTBEAT, Hold};
use super::jobs;
use super::settings::FoldSettings;
use super::sizes::Sizes;
use super::stream_fault::{self, StreamFault};
use super::stream_reader::{Content, Message, StreamReader};
use crate::reads::model::CurrentViews;
use crate::views::checkpoints::Checkpoint;
use crate::views::dead_letters::DeadLetter;
use crate::views::error::ViewError;
use crate::views::fail_point::Sabotage;
use crate::views::transaction::CommitError;
use crate::views::writer::ViewWriter;

/// How long a partition is held without being renewed.
const LEASE: Duration = Duration::from_secs(3);
const RENEW: Duration = Duration::from_secs(1);
/// Entries after which a batch is committed before its end: what one notice can name, and less
/// than a tenth of a second's worth.
const ENTRIES_PER_COMMIT: usize = 5_000;
/// A holder that cannot read the stream for so long lets its partition go.
const STUCK: Duration = Duration::from_secs(15);
/// How long jobs are done between two batches, at most.
const MOST_JOBS: Duration = Duration::from_millis(500);
/// How long to wait for messages while jobs wait for other partitions.
const WHILE_PENDING: Duration = Duration::from_millis(20);

/// What every partition needs.
#[derive(Clone)]
pub struct Projector {
    pub views: ViewWriter,
    /// What readers are shown: only its fold sends notices.
    pub current: CurrentViews,
    pub settings: FoldSettings,
}

/// Why a partition was let go.
enum Ended {
    Stopped,
    LeaseLost,
    /// The stream could not be read for long: somebody else may be able to.
    Stuck,
}

impl Projector {
    /// Folds every partition that this process can hold, until `stop`.
    pub fn spawn(&self, tasks: &Tasks, stop: &CancellationToken) {
        for partition in self.views.partitions().all() {
            let (projector, until) = (self.clone(), stop.clone());
            tasks.spawn_until(stop.clone(), "projector", async move {
                projector.run(partition, until).await;
            });
        }
    }

    /// Takes the partition whenever it is free, and folds it while the lease lasts.
    async fn run(&self, partition: Partition, stop: CancellationToken) {
        let lease = Lease::new(
            self.views.generation().leases(),
            format!("partition-{}", partition.0),
            self.settings.holder.clone(),
            LEASE,
        );
        let mut backoff = resilience::background();
        // One connection per partition: they read several times faster than through one.
        let nats = loop {
            match engines::nats(
                &self.settings.nats,
                &format!("query-service partition {}", partition.0),
            )
            .await
            {
                Ok(nats) => break nats,
                Err(error) => {
                    warn!(error = %Chain(&error), "partition {} cannot connect", partition.0)
                }
            }
            if stopped_while(&stop, backoff.wait()).await {
                return;
            }
        };
        while !stop.is_cancelled() {
            match lease.acquire().await {
                Ok(Some(held)) => {
                    info!(
                        partition = partition.0,
                        epoch = held.epoch,
                        "partition {} taken",
                        partition.0
                    );
                    match self.hold(partition, &lease, held, &nats, &stop).await {
                        Ok(Ended::Stopped) => {
                            if let Err(error) = lease.release(held).await {
                                warn!(error = %Chain(&error), "partition {} not released: it is free in {LEASE:?}", partition.0);
                            }
                            return;
                        }
                        Ok(Ended::Stuck) => {
                            warn!(
                                partition = partition.0,
                                "partition {} is let go: the stream cannot be read here",
                                partition.0
                            );
                            if let Err(error) = lease.release(held).await {
                                warn!(error = %Chain(&error), "partition {} not released: it is free in {LEASE:?}", partition.0);
                            }
                            // Others first.
                            if stopped_while(&stop, tokio::time::sleep(LEASE)).await {
                                return;
                            }
                        }
                        Ok(Ended::LeaseLost) => warn!(
                            partition = partition.0,
                            "partition {} was taken over", partition.0
                        ),
                        Err(error) => {
                            warn!(partition = partition.0, error = %Chain(&error), "partition {} starts again from its checkpoint", partition.0)
                        }
                    }
                }
                Ok(None) => (),
                Err(error) => {
                    warn!(partition = partition.0, error = %Chain(&error), "the lease of partition {} cannot be asked for", partition.0)
                }
            }
            if stopped_while(&stop, backoff.wait()).await {
                return;
            }
        }
    }

    /// Folds from the checkpoint on while the lease is held.
    async fn hold(
        &self,
        partition: Partition,
        lease: &Lease,
        held: Held,
        nats: &Nats,
        stop: &CancellationToken,
    ) -> Result<Ended, ViewError> {
        // A step may take longer than the lease: it is renewed beside them, until this ends.
        let (lost, done) = (CancellationToken::new(), CancellationToken::new());
        let _ends_with_us = done.clone().drop_guard();
        tokio::spawn(keep_lease(lease.clone(), held, lost.clone(), done));
        let session = self.views.session().await?;
        let taken = self.views.take_over(partition, held.epoch, &session);
        let Some(at) = taken.await? else {
            return Ok(Ended::LeaseLost);
        };
        let mut fold = Fold::load(
            self.views.generation().clone(),
            partition,
            self.settings.celebrity_threshold,
            self.settings.idle_after,
            self.settings.memory,
        )
        .await?;
        let mut reader = StreamReader::new(
            nats.clone(),
            &self.settings,
            self.views.generation().clone(),
            at.seq,
            at.chain,
        );
        let mut hold = Hold::begin(
            self.views.clone(),
            partition,
            at,
            session,
            nats.clone(),
            self.settings.names.clone(),
            self.current.clone(),
        )
        .await;
        let memory = self.settings.memory.share(self.views.partitions());
        let mut sizes = Sizes::new(memory.sizes);
        let mut backoff = resilience::background();
        let mut job_done = true;
        let mut stuck_since = None;
        while !stop.is_cancelled() {
            if lost.is_cancelled() {
                return Ok(Ended::LeaseLost);
            }
            let waiting =
                fold.pending.is_waiting() || !fold.fan_outs.is_empty() || sizes.is_behind();
            let patience = match (job_done, waiting) {
                (true, true) => Duration::ZERO,
                (false, true) => WHILE_PENDING,
                (_, false) => HEARTBEAT,
            };
            let read = tokio::select! {
                read = reader.next_batch(Instant::now() + patience) => read,
                () = stop.cancelled() => break,
                () = lost.cancelled() => return Ok(Ended::LeaseLost),
            };
            let step = match read {
                Ok(messages) => {
                    backoff.reset();
                    stuck_since = None;
                    self.step(&mut hold, &mut fold, &mut sizes, messages).await
                }
                Err(fault) => {
                    stream_fault::report(partition.0, &fault);
                    // The views stay as they are, and what is remembered of them stays right.
                    hold.heartbeat().await;
                    if stuck_since.get_or_insert_with(Instant::now).elapsed() > STUCK {
                        return Ok(Ended::Stuck);
                    }
                    if !matches!(fault, StreamFault::Disconnected | StreamFault::Named)
                        && stopped_while(stop, backoff.wait()).await
                    {
                        break;
                    }
                    continue;
                }
            };
            match step {
                Ok(done) => job_done = done,
                Err(CommitError::Fenced) => return Ok(Ended::LeaseLost),
                Err(CommitError::View(error)) => return Err(error),
            }
        }
        Ok(Ended::Stopped)
    }

    /// Folds a batch, then does some of each kind of job. Says whether any job was done.
    async fn step(
        &self,
        hold: &mut Hold,
        fold: &mut Fold,
        sizes: &mut Sizes,
        messages: Vec<Message>,
    ) -> Result<bool, CommitError> {
        let began = Instant::now();
        fold.forget();
        let events = messages.iter().filter_map(Message::event);
        fold.prepare(events).await?;
        let (mut batch, mut to, mut folded) = (Batch::default(), hold.at, 0);
        for (number, message) in messages.iter().enumerate() {
            self.fold_message(hold.partition, fold, &mut batch, message)
                .await?;
            to = Checkpoint {
                seq: message.seq,
                chain: message.chain,
                top: message.event_id().max(to.top),
                ..to
            };
            folded += 1;
            let is_last = number + 1 == messages.len();
            if is_last || batch.entries.len() >= ENTRIES_PER_COMMIT {
                let changes = std::mem::take(&mut batch.changes);
                hold.commit(&batch.entries, changes, &batch.pulled, to)
                    .await?;
                sizes.begin(&batch.new_readers);
                sizes.grow(&batch.entries);
                report_letters(hold.partition, &batch.letters);
                batch = Batch::default();
                let label = hold.partition.0.to_string();
                metrics::gauge!("query_service_checkpoint_sequence", "partition" => label.clone())
                    .set(to.seq as f64);
                metrics::counter!("query_service_messages_total", "partition" => label)
                    .increment(folded);
                folded = 0;
            }
        }
        // Jobs have as much time as messages had, or either would starve the other.
        let (until, mut any) = (Instant::now() + began.elapsed().min(MOST_JOBS), false);
        loop {
            let fanned = jobs::fan_out(fold, hold, sizes).await?;
            let filled = jobs::backfill(fold, hold, sizes).await?;
            hold.heartbeat().await;
            any |= fanned || filled;
            if !(fanned || filled) || Instant::now() >= until {
                break;
            }
        }
        let trimmed = sizes.trim(&hold.views).await?;
        let idle = fold.idle.look(hold).await?;
        hold.heartbeat().await;
        Ok(any || trimmed || idle)
    }

    async fn fold_message(
        &self,
        partition: Partition,
        fold: &mut Fold,
        batch: &mut Batch,
        message: &Message,
    ) -> Result<(), ViewError> {
        let (reason, says_every_build) = match &message.content {
            Content::Event(event) if self.is_unknown_here(partition, event) => {
                (Chain(&DecodeError::Kind).to_string(), false)
            }
            Content::Event(event) => return fold.apply(batch, message.seq, event).await,
            Content::Tick => return Ok(()),
            Content::Foreign => ("not written by the relay".to_owned(), true),
            Content::Unreadable(error) => (Chain(error).to_string(), false),
        };
        // What one build does not understand another may, and each may hold some partitions: every
        // one keeps its own. What the relay did not write is nothing to any build.
        if says_every_build && partition != Partition(0) {
            return Ok(());
        }
        let letter = DeadLetter {
            seq: message.seq,
            partitions: vec![partition],
            subject: message.subject.clone(),
            reason,
            at: SystemClock.now(),
        };
        letter.keep(&mut batch.changes);
        batch.letters.push(letter);
        Ok(())
    }

    /// Whether a test has this partition folded as an older build would.
    fn is_unknown_here(&self, partition: Partition, event: &Event) -> bool {
        let is_like = matches!(event.payload, Payload::Liked(_) | Payload::Unliked(_));
        is_like && partition != Partition(0) && self.views.is_sabotaged(Sabotage::Older)
    }
}

/// Says what was kept, once it is.
fn report_letters(partition: Partition, letters: &[DeadLetter]) {
    for letter in letters {
        error!(
            partition = partition.0,
            seq = letter.seq,
            reason = letter.reason,
            "message {} is kept as a dead letter of partition {}",
            letter.seq,
            partition.0
        );
    }
    if !letters.is_empty() {
        let label = partition.0.to_string();
        metrics::counter!("query_service_dead_letters_total", "partition" => label)
            .increment(letters.len() as u64);
    }
}

/// Renews a lease until `done`; says so when it is lost.
async fn keep_lease(lease: Lease, held: Held, lost: CancellationToken, done: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW) => (),
            () = done.cancelled() => return,
        }
        match lease.renew(held).await {
            Ok(Some(_)) => (),
            Ok(None) => {
                lost.cancel();
                return;
            }
            // Whatever cannot be reached cannot be written to either; others may take it soon.
            Err(error) => warn!(error = %Chain(&error), "a partition's lease is not renewed"),
        }
    }
}

/// Waits, unless it is time to stop.
async fn stopped_while(stop: &CancellationToken, wait: impl Future<Output = ()>) -> bool {
    tokio::select! {
        () = wait => false,
        () = stop.cancelled() => true,
    }
}
