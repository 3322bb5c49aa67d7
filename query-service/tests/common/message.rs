//! The headers of an event's message, as the relay writes them.

use async_nats::HeaderMap;
use shared::contract::event_stream::{self, ChainHash, StreamNames};
use shared::contract::events::Event;

/// Of an event that nobody has to resume after, at the end of `chain`.
pub fn headers(names: &StreamNames, event: &Event, chain: ChainHash) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(event_stream::CHAIN, chain.to_hex());
    headers.insert(event_stream::EVENT_ID, event.id.to_string());
    headers.insert(event_stream::RESUME_TOKEN, "scan:{}");
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-type", event.payload.kind());
    headers.insert(
        "ce-source",
        format!("/{}/log", names.stream().to_lowercase()),
    );
    headers.insert("ce-time", event.at.to_string());
    headers.insert("ce-datacontenttype", "application/json");
    headers.insert("ce-subject", event.stream.to_string());
    headers
}
