//! The fold of one partition, while this process holds its lease.

use std::time::Duration;

use shared::connections::Nats;
use shared::contract::events::{DecodeError, Event, Payload};
use shared::contract::partition::Partition;
use shared::contract::time::{Clock, SystemClock, Timestamp};
use shared::contract::trace_parent::TraceParent;
use shared::resilience::lease::{HeldLease, Lease};
use shared::resilience::{self, Backoff};
use shared::runtime::error_chain::Chain;
use shared::runtime::failing::Failing;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info};

use super::fold::{Batch, Fold};
use super::fold_spans::FoldSpans;
use super::held::Held;
use super::jobs;
use super::partition_writer::{HEARTBEAT, PartitionWriter};
use super::settings::FoldSettings;
use super::sizes::Sizes;
use super::stream_fault::{self, StreamFault};
use super::stream_reader::{Content, Message, StreamReader};
use crate::metric_rows::{
    CHECKPOINT, DEAD_LETTERS, FAN_OUT, INACTIVE_READERS, MESSAGES, POST_TO_VISIBLE, PULLED,
};
use crate::reads::model::CurrentViews;
use crate::views::checkpoints::Checkpoint;
use crate::views::dead_letters::DeadLetter;
use crate::views::error::ViewError;
use crate::views::fail_point::FailPoint;
use crate::views::transaction::CommitError;
use crate::views::writer::ViewWriter;

/// Entries after which a batch is committed before its end: what one message can name, and less
/// than a tenth of a second's worth.
const ENTRIES_PER_COMMIT: usize = 5_000;
/// A holder that cannot read the stream for so long lets its partition go.
const STUCK: Duration = Duration::from_secs(15);
/// How long jobs are done between two batches, at most.
const MOST_JOBS: Duration = Duration::from_millis(500);
/// How long to wait for messages while jobs wait for other partitions.
const WHILE_PENDING: Duration = Duration::from_millis(20);

/// Why a partition was let go.
pub enum Ended {
    Stopped,
    LeaseLost,
    /// The stream could not be read for long: somebody else may be able to.
    Stuck,
}

/// What fails of a partition at the moment, from one holding to the next.
#[derive(Debug, Default)]
pub struct Failures {
    /// Its lease cannot be asked for.
    pub lease: Failing,
    pub stream: stream_fault::Told,
    /// What was read could not be folded.
    pub fold: Failing,
}

/// One holding of a partition.
pub struct PartitionWorker {
    reader: StreamReader,
    fold: Fold,
    writer: PartitionWriter,
    sizes: Sizes,
    backoff: Backoff,
    /// The last step did a job: there may be more.
    job_done: bool,
    stuck_since: Option<Instant>,
    /// The lease is lost.
    lost: CancellationToken,
    /// The lease is renewed until this is dropped.
    _renewal: DropGuard,
    _held: Held,
    /// Readers were shown what it folds.
    was_shown: bool,
}

impl Drop for PartitionWorker {
    /// Whoever has the partition next says the rest of it.
    fn drop(&mut self) {
        if self.was_shown {
            let label = self.writer.partition.0.to_string();
            INACTIVE_READERS.of([label]).set(0.0);
        }
    }
}

impl PartitionWorker {
    /// Takes the checkpoint over and loads what is unfinished. `None` if somebody else has taken
    /// the lease meanwhile.
    pub async fn acquire(
        views: &ViewWriter,
        current: &CurrentViews,
        settings: &FoldSettings,
        partition: Partition,
        lease: &Lease,
        held: HeldLease,
        nats: &Nats,
    ) -> Result<Option<Self>, ViewError> {
        // A step may take longer than the lease: it is renewed beside them, until this ends.
        let (lost, done) = (CancellationToken::new(), CancellationToken::new());
        let renewal = done.clone().drop_guard();
        let keeping = lease.clone().keep(held, done, lost.clone());
        settings.tasks.run(keeping);
        let session = views.session().await?;
        let taken = views.take_over(partition, held.epoch, &session);
        let Some(at) = taken.await? else {
            return Ok(None);
        };
        let generation = views.generation();
        let fold = Fold::load(
            generation.clone(),
            partition,
            settings.celebrity_threshold,
            settings.idle_after,
            settings.memory,
        )
        .await?;
        let nats = nats.clone();
        let reader =
            StreamReader::new(nats.clone(), settings, generation.clone(), at.seq, at.chain);
        let (names, current) = (settings.names.clone(), current.clone());
        let writer =
            PartitionWriter::begin(views.clone(), partition, at, session, nats, names, current)
                .await;
        Ok(Some(Self {
            reader,
            fold,
            writer,
            sizes: Sizes::new(settings.memory.share(views.partitions()).sizes),
            backoff: resilience::background(),
            job_done: true,
            stuck_since: None,
            lost,
            _renewal: renewal,
            _held: Held::begin(generation.number, partition),
            was_shown: false,
        }))
    }

    /// Folds from the checkpoint on while the lease is held.
    pub async fn run(
        mut self,
        stop: &CancellationToken,
        failures: &Failures,
    ) -> Result<Ended, ViewError> {
        let lost = self.lost.clone();
        while !stop.is_cancelled() {
            if lost.is_cancelled() {
                return Ok(Ended::LeaseLost);
            }
            let until = Instant::now() + self.patience();
            let read = tokio::select! {
                read = self.reader.next_batch(until) => read,
                () = stop.cancelled() => break,
                () = lost.cancelled() => return Ok(Ended::LeaseLost),
            };
            match read {
                Ok(messages) => {
                    self.backoff.reset();
                    self.stuck_since = None;
                    failures.stream.is_read(self.writer.partition.0);
                    let any = !messages.is_empty();
                    match self.step(messages).await {
                        Ok(done) => {
                            self.job_done = done;
                            if any && failures.fold.ends() {
                                let partition = self.writer.partition.0;
                                info!(partition, "partition {partition} goes on");
                            }
                        }
                        Err(CommitError::Fenced) => return Ok(Ended::LeaseLost),
                        Err(CommitError::View(error)) => return Err(error),
                    }
                }
                Err(fault) => {
                    stream_fault::report(self.writer.partition.0, &fault, &failures.stream);
                    if let Some(ended) = self.wait_out(&fault, stop).await {
                        return Ok(ended);
                    }
                }
            }
        }
        Ok(Ended::Stopped)
    }

    /// How long to wait for messages: not at all while there are jobs to do.
    fn patience(&self) -> Duration {
        let waiting = self.fold.pending.is_waiting()
            || !self.fold.fan_outs.is_empty()
            || self.sizes.is_behind();
        match (self.job_done, waiting) {
            (true, true) => Duration::ZERO,
            (false, true) => WHILE_PENDING,
            (_, false) => HEARTBEAT,
        }
    }

    /// Waits after a fault of the stream. Says whether the holding ends by it.
    async fn wait_out(&mut self, fault: &StreamFault, stop: &CancellationToken) -> Option<Ended> {
        // The views stay as they are, and what is remembered of them stays right.
        self.writer.heartbeat().await;
        let is_first = self.stuck_since.is_none();
        let since = *self.stuck_since.get_or_insert_with(Instant::now);
        if since.elapsed() > STUCK {
            return Some(Ended::Stuck);
        }
        // Only once: a gap that stays in the stream would be met again and again without a pause.
        let at_once = is_first && matches!(fault, StreamFault::Disconnected | StreamFault::Named);
        if !at_once && stopped_while(stop, self.backoff.wait()).await {
            return Some(Ended::Stopped);
        }
        None
    }

    /// Folds a batch, then does some of each kind of job. Says whether any job was done.
    async fn step(&mut self, messages: Vec<Message>) -> Result<bool, CommitError> {
        let began = Instant::now();
        self.fold_all(&messages).await?;
        // Jobs have as much time as messages had, or either would starve the other.
        let (until, mut any) = (Instant::now() + began.elapsed().min(MOST_JOBS), false);
        let (fold, writer, sizes) = (&mut self.fold, &mut self.writer, &mut self.sizes);
        loop {
            let fanned = jobs::fan_out(fold, writer, sizes).await?;
            let filled = jobs::backfill(fold, writer, sizes).await?;
            writer.heartbeat().await;
            any |= fanned || filled;
            if !(fanned || filled) || Instant::now() >= until {
                break;
            }
        }
        let trimmed = sizes.trim(&writer.views).await?;
        let idle = fold.inactive_readers.look(writer).await?;
        writer.heartbeat().await;
        Ok(any || trimmed || idle)
    }

    /// Folds messages in order, and commits them: all at once unless they make many entries.
    async fn fold_all(&mut self, messages: &[Message]) -> Result<(), CommitError> {
        self.fold.forget();
        let events = messages.iter().filter_map(Message::event);
        let prepared = self.fold.prepare(events).await;
        let (mut batch, mut to, mut folded) = (Batch::default(), self.writer.at, 0);
        let mut spans = FoldSpans::of(self.writer.is_shown());
        if prepared.is_err() {
            for message in messages {
                let turn = spans.turn(message, &batch);
                spans.folded(turn, message, &batch, self.is_home_of(message));
            }
            let made = (messages.len() as u64, 0);
            spans.ended(self.writer.partition, made, &prepared);
            return prepared.map_err(CommitError::from);
        }
        for (number, message) in messages.iter().enumerate() {
            let turn = spans.turn(message, &batch);
            let applied = self.fold_message(&mut batch, message).await;
            let is_seen = applied.is_err() || self.is_home_of(message);
            spans.folded(turn, message, &batch, is_seen);
            if applied.is_err() {
                let made = (folded + 1, batch.entries.len());
                spans.ended(self.writer.partition, made, &applied);
                return applied.map_err(CommitError::from);
            }
            to = Checkpoint {
                seq: message.seq,
                chain: message.chain,
                top: message.event_id().max(to.top),
                ..to
            };
            folded += 1;
            let is_last = number + 1 == messages.len();
            if is_last || batch.entries.len() >= ENTRIES_PER_COMMIT {
                let (batch, spans) = (std::mem::take(&mut batch), spans.take());
                let made = (folded, batch.entries.len());
                let committed = self.commit(batch, to, folded).await;
                spans.ended(self.writer.partition, made, &committed);
                committed?;
                folded = 0;
            }
        }
        Ok(())
    }

    /// Whether the event's author belongs to this partition.
    fn is_home_of(&self, message: &Message) -> bool {
        let partitions = self.writer.views.partitions();
        let author = message.event().map(|event| event.actor);
        author.is_some_and(|author| partitions.of(author) == self.writer.partition)
    }

    /// Commits what `folded` messages have made, up to the checkpoint `to`.
    async fn commit(
        &mut self,
        batch: Batch,
        to: Checkpoint,
        folded: u64,
    ) -> Result<(), CommitError> {
        self.writer
            .commit(&batch.entries, batch.changes, &batch.pulled, to)
            .await?;
        self.sizes.begin(&batch.new_readers);
        self.sizes.grow(&batch.entries);
        report_letters(self.writer.partition, &batch.letters);
        let label = self.writer.partition.0.to_string();
        MESSAGES.of([label.clone()]).increment(folded);
        // What nobody is shown is a rebuild's: as old as the log, and counted once already.
        if self.writer.is_shown() {
            self.was_shown = true;
            CHECKPOINT.of([label.clone()]).set(to.seq as f64);
            DEAD_LETTERS
                .of([label])
                .increment(batch.letters.len() as u64);
            PULLED.only().increment(batch.pulled.len() as u64);
            for made in &batch.fanned_out {
                FAN_OUT.only().record(*made as f64);
            }
            report_visible(&batch.posted);
        }
        Ok(())
    }

    async fn fold_message(
        &mut self,
        batch: &mut Batch,
        message: &Message,
    ) -> Result<(), ViewError> {
        let (reason, says_every_build) = match &message.content {
            Content::Event(event) if self.is_unknown_here(event) => {
                (Chain(&DecodeError::Kind).to_string(), false)
            }
            Content::Event(event) => {
                let entries = batch.entries.len();
                self.fold.apply(batch, message.seq, event).await?;
                if matches!(
                    event.payload,
                    Payload::PostCreated(_) | Payload::Reposted(_)
                ) {
                    let made = batch.entries.len().saturating_sub(entries);
                    batch.fanned_out.push(made);
                }
                if matches!(event.payload, Payload::PostCreated(_)) {
                    batch.posted.push(event.at);
                }
                return Ok(());
            }
            Content::Tick => return Ok(()),
            Content::Foreign => ("not written by the relay".to_owned(), true),
            Content::Unreadable(error) => (Chain(error).to_string(), false),
        };
        // What one build does not understand another may, and each may hold some partitions: every
        // one keeps its own. What the relay did not write is nothing to any build.
        let partition = self.writer.partition;
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
        batch.letters.push((letter, message.trace));
        Ok(())
    }

    /// Whether a test has this partition folded as an older build would.
    fn is_unknown_here(&self, event: &Event) -> bool {
        let is_like = matches!(event.payload, Payload::Liked(_) | Payload::Unliked(_));
        let is_old = self.writer.views.fails_at(FailPoint::Older);
        is_like && self.writer.partition != Partition(0) && is_old
    }
}

/// Says how old posts are that readers see from now on.
fn report_visible(posted: &[Timestamp]) {
    let now = SystemClock.now().millis();
    for at in posted {
        let age = (now - at.millis()).max(0).unsigned_abs();
        let age = Duration::from_millis(age).as_secs_f64();
        POST_TO_VISIBLE.only().record(age);
    }
}

/// Says what was kept, once it is.
fn report_letters(partition: Partition, letters: &[(DeadLetter, Option<TraceParent>)]) {
    for (letter, trace) in letters {
        error!(
            partition = partition.0,
            seq = letter.seq,
            trace.id = trace.map(TraceParent::trace_id),
            reason = letter.reason,
            "message {} is kept as a dead letter of partition {}",
            letter.seq,
            partition.0
        );
    }
}

/// Waits, unless it is time to stop.
pub(super) async fn stopped_while(
    stop: &CancellationToken,
    wait: impl Future<Output = ()>,
) -> bool {
    tokio::select! {
        () = wait => false,
        () = stop.cancelled() => true,
    }
}
