//! Server-sent events, as a client of a live stream reads them.

use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;
use shared::runtime::error_chain::Chain;

/// An open live stream.
#[derive(Debug)]
pub struct Events {
    response: Response,
    /// What has arrived and is not read yet.
    buffer: Vec<u8>,
    /// Lines of the event that is being read.
    lines: Vec<String>,
    end: Option<End>,
}

/// What a live stream is made of.
#[derive(Clone, Debug)]
pub enum Item {
    /// Milliseconds after which to reconnect.
    Retry(u64),
    /// Without its colon.
    Comment(String),
    Event(Event),
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

/// How a stream has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// With the last chunk of its body.
    InOrder,
    /// Without the last chunk: clients reconnect.
    BrokenOff,
}

/// More than the 15 s between two heartbeats.
const SILENCE: Duration = Duration::from_secs(20);

impl Events {
    pub(crate) async fn open(mut request: RequestBuilder, after: Option<u64>) -> Self {
        if let Some(id) = after {
            request = request.header("last-event-id", id.to_string());
        }
        let mut events = Self::begin(request).await;
        // From here on no event is missed.
        events.comment("connected").await;
        events
    }

    /// Opens a stream. The service may not have begun to send events yet.
    pub async fn begin(request: RequestBuilder) -> Self {
        let begun = Self::try_begin(request).await;
        begun.unwrap_or_else(|why| panic!("no live stream: {why}"))
    }

    /// Opens a stream, or says what came instead.
    pub async fn try_begin(request: RequestBuilder) -> Result<Self, String> {
        let response = request.send().await;
        let response = response.map_err(|error| Chain(&error).to_string())?;
        if response.status() != StatusCode::OK {
            return Err(response.status().to_string());
        }
        Ok(Self {
            response,
            buffer: Vec::new(),
            lines: Vec::new(),
            end: None,
        })
    }

    /// The next event; `None` when the stream has ended. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Item::Event(event) = self.item().await? {
                return Some(event);
            }
        }
    }

    /// Waits for a comment; nothing but other comments may come before it.
    pub async fn comment(&mut self, wanted: &str) {
        loop {
            match self.item().await {
                Some(Item::Comment(comment)) if comment == wanted => return,
                Some(Item::Comment(_) | Item::Retry(_)) => (),
                other => panic!("{other:?} before the comment {wanted:?}"),
            }
        }
    }

    /// How the stream has ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The next of what the stream is made of. Cancelling loses nothing.
    pub async fn item(&mut self) -> Option<Item> {
        loop {
            let line = self.line().await?;
            if let Some(comment) = line.strip_prefix(':') {
                return Some(Item::Comment(comment.trim().to_owned()));
            }
            if let Some(retry) = line.strip_prefix("retry: ") {
                return Some(Item::Retry(retry.parse().expect("a number")));
            }
            if line.is_empty() {
                let lines = std::mem::take(&mut self.lines);
                return Some(Item::Event(event(&lines)));
            }
            self.lines.push(line);
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                return Some(String::from_utf8(line).expect("a stream is text"));
            }
            let chunk = tokio::time::timeout(SILENCE, self.response.chunk()).await;
            match chunk.expect("a live stream is never silent for long") {
                Ok(Some(chunk)) => self.buffer.extend(chunk),
                ended => {
                    let how = ended.map_or(End::BrokenOff, |_| End::InOrder);
                    self.end.get_or_insert(how);
                    return None;
                }
            }
        }
    }
}

/// An event of the lines before an empty one. An empty line that ends no event is one that some
/// libraries deliver: it is a fault.
fn event(lines: &[String]) -> Event {
    let field = |name| lines.iter().find_map(|line| line.strip_prefix(name));
    assert_eq!(field("event: "), Some("post"), "{lines:?}");
    let id = field("id: ").and_then(|id| id.parse().ok());
    Event {
        id: id.expect("every event can be resumed after"),
        post: serde_json::from_str(field("data: ").expect("data")).expect("an event is JSON"),
        at: Instant::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_from_its_lines() {
        let lines = ["event: post", "id: 7", "data: {\"entry_id\":\"9\"}"];
        let event = event(&lines.map(str::to_owned));
        assert_eq!((event.id, event.post["entry_id"].as_str()), (7, Some("9")));
    }

    #[test]
    #[should_panic(expected = "[]")]
    fn an_empty_line_by_itself_is_a_fault() {
        event(&[]);
    }
}
