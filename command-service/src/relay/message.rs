//! What the relay puts on the stream, and how it knows its own messages again.

use async_nats::HeaderMap;
use bson::RawDocumentBuf;
use bytes::Bytes;
use mongodb::change_stream::event::ResumeToken;
use shared::connections::log_identity::LogId;
use shared::contract::event_stream::{
    CHAIN, ChainHash, EVENT_ID, LAST_EVENT, LOG, RESUME_TOKEN, StreamNames,
};
use shared::contract::ids::EventId;
use shared::contract::log::{CorruptLog, LogDocument};
use shared::contract::time::Timestamp;
use shared::contract::trace_parent::{TRACEPARENT, TraceParent};

/// Stands before the token of every message that a recovery scan publishes.
const SCAN: &str = "scan:";
/// Ticks are no events: they count as id 0.
const TICK_ID: i64 = 0;

/// A document of the log that cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum Unpublishable {
    #[error("it is no document of the log")]
    Shape(#[source] bson::error::Error),
    #[error(transparent)]
    Corrupt(#[from] CorruptLog),
}

/// A message that lacks only its place on the stream: the token and the chain.
#[derive(Debug)]
pub struct Message {
    pub id: i64,
    pub at: Timestamp,
    pub subject: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Of the append, as the event's document says it.
    pub trace: Option<TraceParent>,
}

impl Message {
    /// The message of a stored event.
    pub fn read(names: &StreamNames, raw: &RawDocumentBuf) -> Result<Self, Unpublishable> {
        let document: LogDocument =
            bson::deserialize_from_slice(raw.as_bytes()).map_err(Unpublishable::Shape)?;
        let event = document.to_event()?;
        let id = event.id.get();
        let mut headers = cloud_event(names, id, event.payload.kind(), event.at);
        headers.insert("ce-subject", event.stream.to_string());
        // It may come from a client, through an earlier build: what is none is left out.
        let trace: Option<TraceParent> = document.trace.and_then(|trace| trace.parse().ok());
        if let Some(trace) = trace {
            headers.insert(TRACEPARENT, trace.to_string());
        }
        Ok(Self {
            id,
            at: event.at,
            subject: names.event(&event.payload),
            headers,
            body: event.encode().into(),
            trace,
        })
    }

    /// The message that carries a fresh token while there is nothing to say.
    pub fn tick(names: &StreamNames, at: Timestamp) -> Self {
        Self {
            id: TICK_ID,
            at,
            subject: names.tick(),
            headers: cloud_event(names, TICK_ID, "relay.tick", at),
            body: Bytes::from_static(b"{}"),
            trace: None,
        }
    }

    /// About what it takes on the wire; the headers are of much the same size in all.
    pub fn size(&self) -> usize {
        const HEADERS: usize = 700;
        self.body.len() + self.subject.len() + HEADERS
    }

    /// Gives it its place, in the stream of `log`, unless that is not known for sure; `before` is
    /// the last event before it, if any.
    pub fn seal(
        &mut self,
        resume: &str,
        chain: ChainHash,
        log: Option<LogId>,
        before: Option<i64>,
    ) {
        self.headers.insert(RESUME_TOKEN, resume);
        self.headers.insert(CHAIN, chain.to_hex());
        if let Some(log) = log {
            self.headers.insert(LOG, log.to_string());
        }
        // So that nobody has to walk back over a quiet week of ticks.
        if let Some(event) = before.filter(|_| self.id == TICK_ID) {
            self.headers.insert(LAST_EVENT, event.to_string());
        }
    }
}

fn cloud_event(names: &StreamNames, id: i64, kind: &str, at: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(EVENT_ID, id.to_string());
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-type", kind);
    headers.insert("ce-source", source(names));
    headers.insert("ce-time", at.to_string());
    headers.insert("ce-datacontenttype", "application/json");
    headers
}

fn source(names: &StreamNames) -> String {
    format!("/{}/log", names.stream().to_lowercase())
}

/// The id of a document that cannot be read, as far as it has one.
pub fn id_of(raw: &RawDocumentBuf) -> Option<EventId> {
    EventId::new(raw.get_i64("_id").ok()?)
}

/// The trace of a document that cannot be read, as far as it has one.
pub fn trace_of(raw: &RawDocumentBuf) -> Option<TraceParent> {
    raw.get_str("trace").ok()?.parse().ok()
}

/// How to go on after a message.
#[derive(Clone, Debug)]
pub enum Resume {
    /// Everything up to this point of the log is on the stream.
    After(Box<ResumeToken>),
    /// Only a scan can tell what the stream lacks; the reason is for the operator.
    Scan(&'static str),
}

impl Resume {
    pub fn read(header: &str) -> Self {
        if header.starts_with(SCAN) {
            return Self::Scan("a scan did not come to its end");
        }
        serde_json::from_str(header).map_or(Self::Scan("the token is malformed"), |token| {
            Self::After(Box::new(token))
        })
    }
}

/// A token as it stands in the header: the compact JSON of its BSON.
pub fn write_token(token: &ResumeToken) -> Result<String, serde_json::Error> {
    serde_json::to_string(token)
}

/// The token that the messages of a scan carry, and the tick that calls for one.
pub fn write_scan(token: &str) -> String {
    format!("{SCAN}{token}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::Value;
    use shared::contract::events::Event;
    use shared::contract::stream_end::Marked;

    use super::*;

    /// A message in `shared/golden/messages/`. Their bodies are compared in `shared`.
    #[derive(Deserialize)]
    struct Golden {
        subject: String,
        headers: BTreeMap<String, String>,
        payload: Value,
    }

    impl Golden {
        fn header(&self, name: &str) -> Option<&str> {
            self.headers.get(name).map(String::as_str)
        }

        /// Its message, as this build makes it.
        fn written(&self, names: &StreamNames) -> Message {
            let mut message = if self.subject == names.tick() {
                let at = Value::from(self.header("ce-time").unwrap());
                Message::tick(names, serde_json::from_value(at).unwrap())
            } else {
                let body = serde_json::to_vec(&self.payload).unwrap();
                let event = Event::decode(&body).unwrap();
                let mut document = LogDocument::new(&event, event.actor, 7).unwrap();
                document.trace = self.header(TRACEPARENT).map(str::to_owned);
                let raw = bson::serialize_to_raw_document_buf(&document).unwrap();
                Message::read(names, &raw).unwrap()
            };
            let chain = ChainHash::from_hex(self.header(CHAIN).unwrap()).unwrap();
            let log = self.header(LOG).map(|log| log.parse().unwrap());
            let before = self.header(LAST_EVENT).map(|id| id.parse().unwrap());
            message.seal(self.header(RESUME_TOKEN).unwrap(), chain, log, before);
            message
        }
    }

    #[test]
    fn golden_messages_are_published_again_with_the_same_subject_and_headers() {
        let names: StreamNames = "microblog".parse().unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/golden/messages");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let golden: Golden = serde_json::from_str(&text).unwrap();
            let message = golden.written(&names);
            assert_eq!(message.subject, golden.subject, "{}", path.display());
            let headers = message.headers.iter();
            let headers = headers.map(|(name, values)| (name.to_string(), values[0].to_string()));
            let headers: BTreeMap<String, String> = headers.collect();
            assert_eq!(headers, golden.headers, "{}", path.display());
        }
    }

    #[test]
    fn tokens_round_trip_through_the_header() {
        let token: ResumeToken =
            bson::deserialize_from_document(bson::doc! { "t": { "_data": "82AB" } })
                .map(|holder: std::collections::BTreeMap<String, ResumeToken>| holder["t"].clone())
                .unwrap();
        let text = write_token(&token).unwrap();
        assert_eq!(text, r#"{"_data":"82AB"}"#);
        assert!(matches!(Resume::read(&text), Resume::After(back) if *back == token));
        assert!(matches!(Resume::read(&write_scan(&text)), Resume::Scan(_)));
        assert!(matches!(Resume::read("{"), Resume::Scan(_)));
    }

    #[test]
    fn headers_like_ours_are_not_ours_unless_the_chain_fits() {
        let names: StreamNames = "microblog".parse().unwrap();
        let mut tick = Message::tick(&names, Timestamp::from_millis(0));
        let (before, log) = (ChainHash::START.then(7), LogId::random());
        tick.seal("{}", before.then(0), Some(log), Some(7));
        let marked = Marked::read(Some(&tick.headers)).unwrap();
        assert!(marked.follows(before));
        assert_eq!((marked.log, marked.last_event), (Some(log), Some(7)));
        assert!(!marked.follows(before.then(0)));
        assert!(Marked::read(None).is_none());
    }
}
