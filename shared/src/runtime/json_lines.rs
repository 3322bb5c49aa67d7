//! The log as JSON: each line an object, with all fields at its top, those of its request as well.
//!
//! By hand and not by json-subscriber: that one builds a tree of maps for each line, which made the
//! line of a request a tenth of what a hot timeline costs, and writes a name twice that a span and its
//! line both have.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::ops::Range;

use chrono::{DateTime, SecondsFormat, Utc};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::runtime::{span_fields, trace};

/// What every line has, beside the fields of its own and of its spans.
const EVERY_LINE: [&str; 6] = [
    "timestamp",
    "level",
    "target",
    "service",
    "instance",
    "version",
];
/// Space in bytes that a thread keeps from one line to the next.
const KEPT: usize = 16 * 1024;

/// A layer of the log.
#[derive(Debug)]
pub struct JsonLines<W> {
    writer: W,
    /// The end of every line: which process says it.
    who: Vec<u8>,
}

impl<W> JsonLines<W> {
    pub fn new(writer: W, service: &str, instance: &str, version: &str) -> Self {
        let mut who = Vec::new();
        for (name, value) in [
            ("service", service),
            ("instance", instance),
            ("version", version),
        ] {
            named(&mut who, name);
            string(&mut who, value);
        }
        who.extend_from_slice(b"}\n");
        Self { writer, who }
    }
}

/// Fields as JSON, each with a comma before it; each name once.
#[derive(Default)]
struct Fields {
    text: Vec<u8>,
    names: Vec<(&'static str, Range<usize>)>,
    /// Where values are written that are to be escaped.
    scratch: String,
}

impl Fields {
    fn clear(&mut self) {
        self.text.clear();
        self.names.clear();
    }

    /// Adds a field. The last value of a name holds; what every line has is said by us alone.
    fn add(&mut self, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        if EVERY_LINE.contains(&name) {
            return;
        }
        if let Some(at) = self.names.iter().position(|(known, _)| *known == name) {
            let (_, old) = self.names.remove(at);
            self.text.drain(old.clone());
            for (_, later) in &mut self.names[at..] {
                *later = later.start - old.len()..later.end - old.len();
            }
        }
        let start = self.text.len();
        named(&mut self.text, name);
        value(&mut self.text);
        self.names.push((name, start..self.text.len()));
    }

    /// Adds what is not named yet.
    fn complete(&mut self, others: &Self) {
        for (name, range) in &others.names {
            if !self.names.iter().any(|(known, _)| known == name) {
                let start = self.text.len();
                self.text.extend_from_slice(&others.text[range.clone()]);
                self.names.push((name, start..self.text.len()));
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut shown = std::mem::take(&mut self.scratch);
        shown.clear();
        // A value that cannot be shown is shown as far as it could be.
        let _ = write!(shown, "{value:?}");
        self.record_str(field, &shown);
        self.scratch = shown;
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), |text| string(text, value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), |text| json(text, &value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), |text| json(text, &value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), |text| json(text, &value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), |text| json(text, &value));
    }
}

fn named(text: &mut Vec<u8>, name: &str) {
    text.push(b',');
    string(text, name);
    text.push(b':');
}

fn string(text: &mut Vec<u8>, value: &str) {
    json(text, value);
}

fn json(text: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(text, value).expect("memory takes texts and numbers");
}

thread_local! {
    /// Space for the next line of this thread. Taken while one is written: a value may log when it is
    /// shown.
    static SPACE: Cell<Fields> = Cell::default();
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        span_fields::begin::<Fields, S>(attributes, id, &context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        span_fields::record::<Fields, S>(id, values, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // What came through the crate `log` says there where it was said.
        let normal = event.normalized_metadata();
        let metadata = normal.as_ref().unwrap_or_else(|| event.metadata());
        let mut line = SPACE.take();
        line.clear();
        line.text.extend_from_slice(b"{\"timestamp\":\"");
        let now = DateTime::<Utc>::from(trace::now());
        let now = now.to_rfc3339_opts(SecondsFormat::Micros, true);
        line.text.extend_from_slice(now.as_bytes());
        line.text.extend_from_slice(b"\",\"level\":\"");
        line.text
            .extend_from_slice(metadata.level().as_str().as_bytes());
        line.text.extend_from_slice(b"\",\"target\":");
        string(&mut line.text, metadata.target());
        event.record(&mut line);
        span_fields::around(event, &context, |of_span| line.complete(of_span));
        line.text.extend_from_slice(&self.who);
        // Nobody is left to be told of a log that takes no lines.
        let _ = self.writer.make_writer().write_all(&line.text);
        if line.text.capacity() + line.scratch.capacity() <= KEPT {
            SPACE.set(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is logged, as text.
    fn logged(log: impl FnOnce()) -> String {
        let written = Written::default();
        let of_line = written.clone();
        let lines = JsonLines::new(move || of_line.clone(), "tests", "here:1", "1.2.3");
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// The object of the only line, without its time.
    fn only(text: &str) -> Value {
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{text}");
        let mut line: Value = serde_json::from_str(line).unwrap();
        let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        let time = time.as_str().unwrap();
        assert!(DateTime::parse_from_rfc3339(time).is_ok() && time.ends_with('Z'));
        line
    }

    #[test]
    fn a_line_has_its_fields_and_those_of_its_request_at_the_top() {
        let text = logged(|| {
            let span = tracing::info_span!(
                "request",
                request.id = %"r\"1",
                actor = tracing::field::Empty,
                trace.id = Option::<String>::None,
            );
            span.record("actor", tracing::field::display(7));
            span.in_scope(|| {
                tracing::warn!(target: "access", status = 503_u16, ms = 0.5, ok = false, "line\nof {}", "two");
            });
        });
        let wanted = json!({
            "level": "WARN", "target": "access", "message": "line\nof two", "status": 503, "ms": 0.5,
            "ok": false, "request.id": "r\"1", "actor": "7",
            "service": "tests", "instance": "here:1", "version": "1.2.3",
        });
        assert_eq!(only(&text), wanted);
    }

    #[test]
    fn each_name_is_there_once_and_the_innermost_says_what_it_is() {
        let text = logged(|| {
            let whole = tracing::info_span!("whole", who = 1, what = 1, which = 1, late = 1);
            whole.record("what", 9);
            whole.record("late", 10);
            let _whole = whole.entered();
            let _part = tracing::info_span!("part", what = 2, which = 2, version = 9).entered();
            tracing::info!(which = 3, service = "another", "said");
        });
        let line = only(&text);
        for (name, value) in [("who", 1), ("what", 2), ("which", 3), ("late", 10)] {
            assert_eq!(line[name], value, "{name}");
            assert_eq!(text.matches(&format!("\"{name}\"")).count(), 1, "{text}");
        }
        assert_eq!(line["version"], "1.2.3");
        assert_eq!(line["service"], "tests");
        assert_eq!(text.matches("\"service\"").count(), 1, "{text}");
    }
}
