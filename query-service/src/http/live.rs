//! `GET /timeline/stream`: new entries as server-sent events.
//!
//! Every event's id is its stream sequence. An event is sent once all partitions have applied its
//! sequence, so whoever resumes after an id misses nothing and gets nothing twice.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, ContentType};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use shared::error_chain::Chain;
use shared::ids::UserId;
use shared::problem::{Code, Problem};
use shared::resilience::Gate;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::answers::{Answer, Memory};
use super::extract::Reading;
use crate::live::{Live, Subscription};
use crate::read_model::{CurrentViews, ViewError, Views};

/// A comment is sent at least this often: proxies close what is silent.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that wait for a slow client.
const BUFFERED: usize = 64;
/// A client that takes nothing for so long is dropped: it can resume.
const SLOW: Duration = Duration::from_secs(5);
/// Between two looks at the views for one stream.
const PACE: Duration = Duration::from_millis(5);

/// `Last-Event-ID`, as a browser sends it back.
fn last_event_id(request: &HttpRequest) -> Result<Option<u64>, Problem> {
    let Some(value) = request.headers().get("last-event-id") else {
        return Ok(None);
    };
    let seq = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    seq.map(Some).ok_or_else(|| {
        Problem::field(
            "Last-Event-ID",
            "invalid",
            "send back the id of the last event",
        )
    })
}

pub async fn stream(live: Data<Live>, reading: Reading<UserId>) -> Answer {
    let reader = reading.caller;
    let resume = last_event_id(&reading.request)?;
    let full = || Problem::new(Code::Overloaded, "too many live streams: ask again");
    let subscription = live.subscribe(reader).ok_or_else(full)?;
    let begin = |views: Views| async move { views.position_now().await.map(Some) };
    let begun = reading.find(Memory::Never, begin).await?;
    let now = begun.item.unwrap_or(0);
    let (events, body) = mpsc::channel(BUFFERED);
    let stream = LiveStream {
        views: reading.views.get_ref().clone(),
        gate: reading.gate,
        live: live.get_ref().clone(),
        subscription,
        reader,
        at: resume.map_or(now, |resume| resume.min(now)),
        events,
    };
    tokio::spawn(stream.run());
    let body = futures_util::stream::unfold(body, |mut body| async move {
        body.recv()
            .await
            .map(|chunk| (Ok::<_, actix_web::Error>(chunk), body))
    });
    Ok(HttpResponse::Ok()
        .insert_header(ContentType("text/event-stream".parse().map_err(|_| {
            Problem::new(Code::Internal, "something went wrong here")
        })?))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body))
}

struct LiveStream {
    views: CurrentViews,
    gate: Data<Gate>,
    live: Live,
    subscription: Subscription,
    reader: UserId,
    /// Everything up to this sequence was sent.
    at: u64,
    events: mpsc::Sender<Bytes>,
}

impl LiveStream {
    async fn run(mut self) {
        let stopping = self.live.stopping();
        // Tell the client at once that it is connected.
        if !self.send(": connected\n\n".to_owned()).await {
            return;
        }
        let mut beat = Instant::now() + HEARTBEAT;
        loop {
            match self.send_new().await {
                Ok(Sent::All) => (),
                Ok(Sent::Some) => continue,
                Ok(Sent::Gone) => return,
                // The next look, at the latest with the heartbeat, makes up for it.
                Err(error) => debug!(error = %Chain(&error), "a live stream cannot read the views"),
            }
            let pace = Instant::now() + PACE;
            tokio::select! {
                () = self.subscription.woken() => tokio::time::sleep_until(pace).await,
                () = tokio::time::sleep_until(beat) => {
                    beat = Instant::now() + HEARTBEAT;
                    if !self.send(": heartbeat\n\n".to_owned()).await || self.left().await {
                        return;
                    }
                }
                () = self.events.closed() => return,
                () = self.subscription.ended() => {
                    self.send(": replaced\n\n".to_owned()).await;
                    return;
                }
                () = stopping.cancelled() => {
                    self.send(": goodbye\n\n".to_owned()).await;
                    return;
                }
            }
        }
    }

    /// Whether the reader was deactivated meanwhile. Where that cannot be asked, the next
    /// heartbeat asks again.
    async fn left(&self) -> bool {
        let views = self.views.borrow().cached();
        let _look = self.live.look().await;
        let open = self.gate.breaker().is_open();
        !open && views.is_deactivated(self.reader).await.unwrap_or(false)
    }

    /// Sends what has become visible.
    async fn send_new(&mut self) -> Result<Sent, ViewError> {
        // Whatever readers are shown now: a rebuild may have switched.
        let views = self.views.borrow().clone();
        let look = self.live.look().await;
        if self.gate.breaker().is_open() {
            return Err(ViewError::Away);
        }
        views.note_seen(self.reader).await?;
        let (all_up_to, posts) = views.newer_than(self.reader, self.at).await?;
        let now = views.position_now().await?;
        drop(look);
        for (seq, post) in posts {
            let Ok(json) = serde_json::to_string(&post) else {
                continue;
            };
            if !self
                .send(format!("event: post\nid: {seq}\ndata: {json}\n\n"))
                .await
            {
                return Ok(Sent::Gone);
            }
            metrics::counter!("query_service_live_events_total").increment(1);
        }
        let before = self.at;
        self.at = self.at.max(all_up_to);
        let more = self.at > before && self.at < now;
        Ok(if more { Sent::Some } else { Sent::All })
    }

    /// False if the client is gone, or too slow.
    async fn send(&self, text: String) -> bool {
        let sent = tokio::time::timeout(SLOW, self.events.send(Bytes::from(text))).await;
        matches!(sent, Ok(Ok(())))
    }
}

/// How far sending what is new came.
enum Sent {
    /// Everything that all partitions have applied.
    All,
    /// There is more.
    Some,
    /// Not to its end: the client is gone, or too slow.
    Gone,
}
