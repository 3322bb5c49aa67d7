//! The spans of a batch on its way to the stream: one for each event whose trace is recorded.
//!
//! Its trace comes from the event's document, whoever appended it and when: after a restart, or from
//! a scan, it is the same. The message's `traceparent` is the span's, so that who folds it goes on
//! from here.

use shared::contract::trace_parent::TRACEPARENT;
use shared::runtime::trace::{self, Kind, Span};

use super::message::Message;

pub(super) struct PublishSpans(Vec<Span>);

impl PublishSpans {
    pub(super) fn begin(batch: &mut [(Message, String)]) -> Self {
        let mut spans = Vec::new();
        if !trace::is_on() {
            return Self(spans);
        }
        let count = i64::try_from(batch.len()).unwrap_or(i64::MAX);
        for (message, _) in batch {
            let Some(parent) = message.trace.filter(|trace| trace.sampled) else {
                continue;
            };
            let name = format!("publish {}", message.subject);
            let span = Span::after(parent, Kind::Producer, name, None);
            if let Some(told) = span.told() {
                message.headers.insert(TRACEPARENT, told.to_string());
            }
            span.says("messaging.system", "nats");
            span.says("messaging.operation.name", "publish");
            span.says("messaging.operation.type", "send");
            span.says("messaging.destination.name", message.subject.clone());
            span.says("messaging.message.id", message.id.to_string());
            span.says("messaging.batch.message_count", count);
            spans.push(span);
        }
        Self(spans)
    }

    /// The batch is stored, or nobody knows.
    pub(super) fn end<T, E>(self, outcome: &Result<T, E>) {
        if outcome.is_err() {
            for span in &self.0 {
                span.fails("not_acknowledged");
            }
        }
    }
}
