//! The spans of a batch of the fold: one for each event whose trace is recorded, in its own trace,
//! from its turn until its batch is committed; and one for the batch, which names them all by links.
//!
//! A batch commits the events of many traces together. Its own span is in the first one's, and each
//! event's span has a link to it, so that it is found from every trace.
//!
//! They are made once the batch has ended, whatever became of it: nothing of them is held while it
//! is at work.

use std::time::SystemTime;

use shared::contract::partition::Partition;
use shared::contract::trace_parent::TraceParent;
use shared::runtime::trace::{self, Kind, Span};

use super::fold::Batch;
use super::stream_reader::Message;

/// What the batch had made before an event's turn.
pub(super) struct Turn {
    began: SystemTime,
    entries: usize,
    rows: usize,
}

/// One event, as its span will say it.
struct Folded {
    parent: TraceParent,
    began: SystemTime,
    kind: &'static str,
    seq: u64,
    entries: usize,
}

/// The events of a batch whose traces are recorded.
pub(super) struct FoldSpans {
    is_on: bool,
    events: Vec<Folded>,
}

impl FoldSpans {
    /// None yet. What is `shown` to nobody makes none: a rebuild's traces have ended long ago.
    pub(super) fn of(shown: bool) -> Self {
        Self {
            is_on: shown && trace::is_on(),
            events: Vec::new(),
        }
    }

    /// Those by now; others follow.
    pub(super) fn take(&mut self) -> Self {
        Self {
            is_on: self.is_on,
            events: std::mem::take(&mut self.events),
        }
    }

    /// It is this message's turn; `None` if it gets no span.
    pub(super) fn turn(&self, message: &Message, batch: &Batch) -> Option<Turn> {
        let is_recorded = self.is_on && message.trace.is_some_and(|trace| trace.sampled);
        is_recorded.then(|| Turn {
            began: trace::now(),
            entries: batch.entries.len(),
            rows: batch.changes.count(),
        })
    }

    /// Its turn is over. Where it changes nothing and its author is not at home there is nothing to
    /// see.
    pub(super) fn folded(
        &mut self,
        turn: Option<Turn>,
        message: &Message,
        batch: &Batch,
        at_home: bool,
    ) {
        let (Some(turn), Some(parent), Some(event)) = (turn, message.trace, message.event()) else {
            return;
        };
        let entries = batch.entries.len().saturating_sub(turn.entries);
        let is_changed = entries > 0 || batch.changes.count() > turn.rows;
        if at_home || is_changed {
            self.events.push(Folded {
                parent,
                began: turn.began,
                kind: event.payload.kind(),
                seq: message.seq,
                entries,
            });
        }
    }

    /// The batch is committed, or has failed.
    pub(super) fn ended<T, E>(
        self,
        partition: Partition,
        (messages, entries): (u64, usize),
        outcome: &Result<T, E>,
    ) {
        let Some(first) = self.events.first() else {
            return;
        };
        let partition = i64::from(partition.0);
        let batch = Span::after(
            first.parent,
            Kind::Consumer,
            "fold batch",
            Some(first.began),
        );
        batch.says("messaging.system", "nats");
        batch.says("messaging.operation.type", "process");
        batch.says("messaging.batch.message_count", number(messages));
        batch.says("microblog.partition", partition);
        batch.says("microblog.entries", number(entries));
        for event in &self.events {
            let name = format!("fold {}", event.kind);
            let span = Span::after(event.parent, Kind::Consumer, name, Some(event.began));
            span.says("messaging.system", "nats");
            span.says("messaging.operation.type", "process");
            span.says("microblog.partition", partition);
            span.says("microblog.stream.sequence", number(event.seq));
            span.says("microblog.entries", number(event.entries));
            if let (Some(span_told), Some(batch_told)) = (span.told(), batch.told()) {
                span.links(batch_told);
                batch.links(span_told);
            }
            if outcome.is_err() {
                span.fails("not_committed");
            }
        }
        if outcome.is_err() {
            batch.fails("not_committed");
        }
    }
}

fn number<N: TryInto<i64>>(number: N) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
