//! Server-sent events, as a client of a live stream reads them.

use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

/// An open live stream.
#[derive(Debug)]
pub struct Events {
    response: Response,
    /// What has arrived and is not read yet.
    buffer: Vec<u8>,
}

/// One event of a live stream.
#[derive(Clone, Debug)]
pub struct Event {
    /// To resume after it.
    pub id: u64,
    pub post: Value,
    /// When the chunk was read that ended it.
    pub at: Instant,
}

/// More than the 15 s between two heartbeats.
const SILENCE: Duration = Duration::from_secs(20);

impl Events {
    pub(crate) async fn open(mut request: RequestBuilder, after: Option<u64>) -> Self {
        if let Some(id) = after {
            request = request.header("last-event-id", id.to_string());
        }
        let response = request.send().await.expect("a live stream");
        assert_eq!(response.status(), StatusCode::OK, "a live stream");
        let mut events = Self {
            response,
            buffer: Vec::new(),
        };
        // The first comment says that everything from here on is sent.
        let connected = events.block().await;
        assert_eq!(connected.as_deref(), Some(": connected"));
        events
    }

    /// The next event; `None` when the server has ended the stream. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            if let Some(event) = parse(&block) {
                return Some(event);
            }
        }
    }

    /// The text up to the next empty line.
    async fn block(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = end {
                let rest = self.buffer.split_off(end + 2);
                let mut block = std::mem::replace(&mut self.buffer, rest);
                block.truncate(end);
                return Some(String::from_utf8(block).expect("an event is text"));
            }
            let chunk = tokio::time::timeout(SILENCE, self.response.chunk()).await;
            let chunk = chunk.expect("a live stream is never silent for long");
            self.buffer.extend(chunk.ok()??);
        }
    }
}

/// An event of a block; `None` for a comment.
fn parse(block: &str) -> Option<Event> {
    let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
    let data = field("data: ")?;
    assert_eq!(field("event: "), Some("post"), "{block}");
    let id = field("id: ").and_then(|id| id.parse().ok());
    Some(Event {
        id: id.expect("every event can be resumed after"),
        post: serde_json::from_str(data).expect("an event is JSON"),
        at: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_events() {
        assert!(parse(": heartbeat").is_none());
        let event = parse("event: post\nid: 7\ndata: {\"entry_id\":\"9\"}").unwrap();
        assert_eq!((event.id, event.post["entry_id"].as_str()), (7, Some("9")));
    }
}
