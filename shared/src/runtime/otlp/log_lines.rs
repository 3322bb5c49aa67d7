//! Log lines as records: the message as body, fields as attributes, those of the request as well.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::queue::Queue;
use crate::runtime::{span_fields, trace};

/// What logs while lines are sent: told, it would make lines of its own without end.
pub const SENDERS: [&str; 6] = [
    "h2=off",
    "hyper=off",
    "hyper_util=off",
    "reqwest=off",
    "rustls=off",
    "tower=off",
];
const MESSAGE: &str = "message";
const TRACE_ID: &str = "trace.id";

/// A layer of the log.
#[derive(Debug)]
pub struct LogLines {
    queue: Arc<Queue<LogRecord>>,
}

impl LogLines {
    pub(super) fn new(queue: Arc<Queue<LogRecord>>) -> Self {
        Self { queue }
    }
}

/// The fields of a span or of a line.
#[derive(Default)]
struct Fields(Vec<KeyValue>);

impl Fields {
    fn add(&mut self, name: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        match self.0.iter_mut().find(|known| known.key == name) {
            Some(known) => known.value = value,
            None => self.0.push(KeyValue {
                key: name.to_owned(),
                value,
                ..KeyValue::default()
            }),
        }
    }

    /// Adds what is not named yet.
    fn complete(&mut self, others: &Self) {
        for other in &others.0 {
            if !self.0.iter().any(|known| known.key == other.key) {
                self.0.push(other.clone());
            }
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|field| field.key == name)?;
        let Value::StringValue(text) = field.value.as_ref()?.value.as_ref()? else {
            return None;
        };
        Some(text)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), Value::StringValue(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), Value::StringValue(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), Value::BoolValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = match i64::try_from(value) {
            Ok(value) => Value::IntValue(value),
            Err(_) => Value::StringValue(value.to_string()),
        };
        self.add(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), Value::DoubleValue(value));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        span_fields::begin::<Fields, S>(attributes, id, &context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        span_fields::record::<Fields, S>(id, values, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        span_fields::around(event, &context, |of_span| fields.complete(of_span));
        let target = event.metadata().target().to_owned();
        fields.add("target", Value::StringValue(target));
        event.record(&mut fields);
        self.queue.push(record(*event.metadata().level(), fields));
    }
}

fn record(level: Level, mut fields: Fields) -> LogRecord {
    let at = trace::now().duration_since(UNIX_EPOCH);
    let at = at.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0));
    let (trace_id, span_id, flags) = match trace::current() {
        Some(span) => (
            span.trace().to_be_bytes().to_vec(),
            span.span().to_be_bytes().to_vec(),
            u32::from(span.sampled),
        ),
        // Of what is not traced here, or has been traced before, the trace alone is known.
        None => (trace_named(&fields).unwrap_or_default(), Vec::new(), 0),
    };
    let is_message = |field: &KeyValue| field.key == MESSAGE;
    let message = fields.0.iter().position(is_message);
    let body = message.and_then(|at| fields.0.swap_remove(at).value);
    LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at,
        severity_number: severity(level).into(),
        severity_text: level.to_string(),
        body,
        attributes: fields.0,
        trace_id,
        span_id,
        flags,
        ..LogRecord::default()
    }
}

fn trace_named(fields: &Fields) -> Option<Vec<u8>> {
    let text = fields.text(TRACE_ID).filter(|text| text.len() == 32)?;
    let trace = u128::from_str_radix(text, 16).ok()?;
    Some(trace.to_be_bytes().to_vec())
}

fn severity(level: Level) -> SeverityNumber {
    match level {
        Level::TRACE => SeverityNumber::Trace,
        Level::DEBUG => SeverityNumber::Debug,
        Level::INFO => SeverityNumber::Info,
        Level::WARN => SeverityNumber::Warn,
        Level::ERROR => SeverityNumber::Error,
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_line_has_its_message_its_fields_and_those_of_its_request() {
        let queue = Arc::new(Queue::new("logs", 10));
        let subscriber = tracing_subscriber::registry().with(LogLines::new(queue.clone()));
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(
                "request",
                request.id = "r-1",
                actor = tracing::field::Empty,
                trace.id = trace
            );
            span.record("actor", "7");
            span.in_scope(|| tracing::warn!(status = 503_u16, "answered"));
        });
        let line = queue.take().unwrap().remove(0);
        assert_eq!(line.severity_text, "WARN");
        assert_eq!(line.severity_number, i32::from(SeverityNumber::Warn));
        let text = |text: &str| Some(Value::StringValue(text.to_owned()));
        assert_eq!(line.body.unwrap().value, text("answered"));
        let of = |name: &str| {
            let field = line.attributes.iter().find(|field| field.key == name);
            field.and_then(|field| field.value.clone()?.value)
        };
        assert_eq!(of("request.id"), text("r-1"));
        assert_eq!(of("actor"), text("7"));
        assert_eq!(of("status"), Some(Value::IntValue(503)));
        assert_eq!(of("message"), None);
        assert_eq!(
            line.trace_id,
            u128::from_str_radix(trace, 16).unwrap().to_be_bytes()
        );
    }

    #[test]
    fn each_name_is_there_once_and_the_innermost_says_what_it_is() {
        let queue = Arc::new(Queue::new("logs", 10));
        let subscriber = tracing_subscriber::registry().with(LogLines::new(queue.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _whole = tracing::info_span!("whole", who = 1, what = 1, which = 1).entered();
            let _part = tracing::info_span!("part", what = 2, which = 2).entered();
            tracing::info!(which = 3, "said");
        });
        let line = queue.take().unwrap().remove(0);
        let mut said: Vec<_> = line.attributes.into_iter().collect();
        said.retain(|field| field.key != "target");
        said.sort_by(|one, other| one.key.cmp(&other.key));
        let said = said.into_iter().map(|field| (field.key, field.value));
        let number = |number| {
            Some(AnyValue {
                value: Some(Value::IntValue(number)),
            })
        };
        let wanted = [("what", 2), ("which", 3), ("who", 1)];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), number(value)));
        assert_eq!(said.collect::<Vec<_>>(), wanted);
    }
}
