//! Every form of every event, as the message that relays have published: it stays readable, and is
//! written again as it was. `docs/asyncapi.yaml` has the same messages as its examples.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use super::event_stream::{ChainHash, StreamNames};
use super::events::{Event, Payload};
use super::stream_end::Marked;

/// A message in `shared/golden/messages/`.
#[derive(Deserialize)]
struct Golden {
    subject: String,
    headers: BTreeMap<String, String>,
    payload: Value,
}

impl Golden {
    fn marked(&self) -> Marked {
        let parse = |(name, value): (&String, &String)| -> (HeaderName, HeaderValue) {
            (name.parse().unwrap(), value.parse().unwrap())
        };
        let headers: HeaderMap = self.headers.iter().map(parse).collect();
        Marked::read(Some(&headers)).unwrap()
    }

    /// The form of its kind of event; 1 where the body does not say.
    fn revision(&self) -> u64 {
        self.payload["revision"].as_u64().unwrap_or(1)
    }
}

/// All of them, by the names of their files.
fn golden() -> BTreeMap<String, Golden> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/messages"));
    let read = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(path).unwrap();
        (name, serde_json::from_str(&text).unwrap())
    };
    files
        .unwrap()
        .map(|file| read(file.unwrap().path()))
        .collect()
}

#[test]
fn every_form_of_every_event_is_read_and_written_again_as_the_newest() {
    let names: StreamNames = "microblog".parse().unwrap();
    let all = golden();
    let mut forms: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (name, message) in &all {
        let marked = message.marked();
        assert!(marked.follows(ChainHash::START), "{name}");
        if marked.id == 0 {
            assert_eq!(message.subject, names.tick(), "{name}");
            continue;
        }
        let body = serde_json::to_vec(&message.payload).unwrap();
        let event = Event::decode(&body).unwrap();
        let (kind, revision) = (event.payload.kind(), message.revision());
        let form = format!("{kind}.v{revision}");
        assert!(name.starts_with(&form), "{name} has {form}");
        assert_eq!(message.subject, names.event(&event.payload), "{name}");
        assert_eq!(event.id.get(), marked.id, "{name}");
        let newest = u64::from(event.payload.revision());
        let written: Value = serde_json::from_slice(&event.encode()).unwrap();
        let expected = name.replacen(&form, &format!("{kind}.v{newest}"), 1);
        assert_eq!(written, all[&expected].payload, "{name}");
        // So that a new revision asks for its message here.
        forms.entry(kind).or_default().extend([revision, newest]);
    }
    for kind in Payload::KINDS {
        let newest = forms.get(kind).and_then(|forms| forms.last().copied());
        let newest = newest.unwrap_or_else(|| panic!("there is no golden message of {kind}"));
        for revision in 1..=newest {
            let form = format!("{kind}.v{revision}");
            assert!(all.contains_key(&form), "there is no {form}.json");
        }
    }
}
