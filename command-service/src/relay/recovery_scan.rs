//! Recovery: finds out what the stream lacks and publishes that.
//!
//! 1. Take a token *T* for now. All that is on the stream was committed before it. Write a mark,
//!    with a majority: *T* may be ahead of what a majority has, and reads see only that. Once the
//!    mark is there, so is every event before *T*.
//! 2. Publish, in id order, every event that was committed before *T* and is not on the stream,
//!    marked `scan:T`.
//! 3. Publish a tick with the plain token *T*, and go on from *T*.
//!
//! Id order is version order within a log stream, and what was committed before *T* has all its
//! predecessors there. An event that is committed *after T* must not be published here, though
//! it can be read: its predecessor may have been committed behind the scan's back, at an id that
//! the scan has passed. Which events these are, the change stream from *T* on tells; a mark,
//! written once a window of the log has been read, tells how far it must be read. Nor does
//! anything then have to be skipped after *T*, so that a scan under constant load comes to an end.
//!
//! A crash repeats the scan. The windows bound its memory: 9 bytes for each id.

use std::collections::BTreeSet;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::change_stream::event::ResumeToken;
use shared::contract::ids::SEQUENCE_BITS;
use shared::contract::time::{Clock, SystemClock};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::batch::Batch;
use super::change_stream::{self, Late};
use super::error::RelayError;
use super::fail_point::FailPoint;
use super::log::Log;
use super::message::{self, Message};
use super::settings::PROGRESS;
use super::stream::Publisher;
use super::worker::Relay;
use crate::metric_rows::RELAY_SCANS;

/// Events read from the log at once, and ahead of the publisher.
const PAGE: usize = 1_000;
/// Ids read from the log at once.
const IDS: i64 = 50_000;

impl Relay {
    /// Brings the stream up to the token it returns, or to where `stop` came.
    pub(super) async fn scan(
        &self,
        publisher: &mut Publisher,
        stop: &CancellationToken,
    ) -> Result<Option<ResumeToken>, RelayError> {
        RELAY_SCANS.only().increment(1);
        let began = Instant::now();
        // What this scan publishes lies above: its windows do not overlap.
        let until = publisher.tail.last;
        let (token, upper) = self.begin_scan().await?;
        let plain = message::write_token(&token).map_err(RelayError::Token)?;
        let resume = message::write_scan(&plain);
        self.fail.reached(FailPoint::ScanBegun)?;
        let mut late = LateEvents::follow(&self.log, self, token.clone(), upper);
        let (mut after, mut published) = (0, 0_u64);
        let mut pager = Pager::default();
        while after < upper && !stop.is_cancelled() {
            let (events, size) = (self.log.events.clone(), self.settings.scan_window);
            let stopped = stop.clone();
            let (window, next) = self
                .finish(async move {
                    let window = pager.window(&events, after, upper, size, &stopped).await?;
                    Ok((window, pager))
                })
                .await?;
            pager = next;
            let Some(&end) = window.last() else { break };
            late.catch_up(self).await?;
            self.fail.reached(FailPoint::ScanWindowRead)?;
            let missing = lacking(&window, late.up_to(end), publisher, until).await?;
            self.fail.reached(FailPoint::ScanCompared)?;
            info!(
                window.events = window.len(),
                window.missing = missing.len(),
                "relay scan: of {} events up to {end} the stream lacks {}",
                window.len(),
                missing.len()
            );
            published += self
                .publish_missing(publisher, window, missing, &resume, stop)
                .await?;
            after = end;
        }
        if stop.is_cancelled() {
            return Ok(None);
        }
        self.fail.reached(FailPoint::ScanPublished)?;
        self.tick(publisher, &plain).await?;
        info!(
            scan.published = published,
            "relay scan: done in {:?}, published {published} events",
            began.elapsed()
        );
        Ok(Some(token))
    }

    /// A token for now, and, once a majority has all that was committed before it, the greatest id.
    async fn begin_scan(&self) -> Result<(ResumeToken, i64), RelayError> {
        let events = self.log.events.clone();
        let token = self
            .finish(async move { change_stream::now(&events).await })
            .await?;
        let mark = self.set_mark().await?;
        self.clear_mark(mark).await?;
        let events = self.log.events.clone();
        let upper = self
            .finish(async move { greatest_id(&events).await })
            .await?;
        Ok((token, upper))
    }

    /// Writes a mark beside the log; when this returns, a majority has it and all before it.
    async fn set_mark(&self) -> Result<ObjectId, RelayError> {
        let (marks, mark) = (self.log.marks.clone(), ObjectId::new());
        self.finish(async move {
            // The moment lets a TTL index, or an operator, clean up after a crash.
            let row = doc! { "_id": mark, "at": bson::DateTime::now() };
            marks.insert_one(row).await.map(|_| mark)
        })
        .await
    }

    async fn clear_mark(&self, mark: ObjectId) -> Result<(), RelayError> {
        let marks = self.log.marks.clone();
        self.finish(async move { marks.delete_one(doc! { "_id": mark }).await.map(|_| ()) })
            .await
    }

    /// Publishes the events with the ids `missing`, in their order.
    async fn publish_missing(
        &self,
        publisher: &mut Publisher,
        window: Vec<i64>,
        missing: Vec<i64>,
        resume: &str,
        stop: &CancellationToken,
    ) -> Result<u64, RelayError> {
        let total = missing.len();
        let (out, mut found) = mpsc::channel(2 * PAGE);
        let log = self.log.clone();
        self.tasks.spawn(async move {
            if let Err(error) = read_events(&log, &window, &missing, &out).await {
                let _ = out.send(Err(RelayError::Log(error))).await;
            }
        });
        let (mut published, mut told) = (0, Instant::now());
        while !stop.is_cancelled() {
            let Some(first) = found.recv().await else {
                break;
            };
            let mut batch = Batch::new(&self.settings);
            batch.push(first?, resume.to_owned());
            while !batch.is_full() {
                let Ok(next) = found.try_recv() else { break };
                batch.push(next?, resume.to_owned());
            }
            published += u64::try_from(batch.len()).unwrap_or(u64::MAX);
            self.publish(publisher, batch).await?;
            self.fail.reached(FailPoint::ScanBatch)?;
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                info!("relay scan: published {published} of {total} in this window");
            }
        }
        Ok(published)
    }
}

/// What is committed after the scan's token, at ids that the scan reads.
struct LateEvents {
    changes: mpsc::Receiver<Result<Late, RelayError>>,
    /// Not yet asked for: ids come in commit order, windows in id order.
    ids: BTreeSet<i64>,
}

impl LateEvents {
    fn follow(log: &Log, relay: &Relay, token: ResumeToken, upper: i64) -> Self {
        Self {
            changes: change_stream::follow_late(log, &relay.tasks, token, upper),
            ids: BTreeSet::new(),
        }
    }

    /// Learns of every event committed before this call.
    async fn catch_up(&mut self, relay: &Relay) -> Result<(), RelayError> {
        let mark = relay.set_mark().await?;
        loop {
            match self.changes.recv().await {
                Some(Ok(Late::Event(id))) => {
                    self.ids.insert(id);
                }
                Some(Ok(Late::Mark(seen))) if seen == mark => break,
                Some(Ok(Late::Mark(_))) => (), // Another scan's, or this one's first.
                Some(Err(error)) => return Err(error),
                None => return Err(RelayError::ReaderGone),
            }
        }
        relay.clear_mark(mark).await
    }

    /// Hands out those up to `end`.
    fn up_to(&mut self, end: i64) -> BTreeSet<i64> {
        let above = self.ids.split_off(&end.saturating_add(1));
        std::mem::replace(&mut self.ids, above)
    }
}

/// The ids in `window` that are neither `late` nor on the stream up to `until`.
async fn lacking(
    window: &[i64],
    late: BTreeSet<i64>,
    publisher: &Publisher,
    until: u64,
) -> Result<Vec<i64>, RelayError> {
    let mut known = vec![false; window.len()];
    let mut know = |id: &i64| {
        if let Ok(place) = window.binary_search(id) {
            known[place] = true;
        }
    };
    late.iter().for_each(&mut know);
    publisher.read_ids(until, |id| know(&id)).await?;
    let missing = window.iter().zip(known).filter(|(_, known)| !known);
    Ok(missing.map(|(id, _)| *id).collect())
}

/// Reads the events with the ids `missing`, all of them in `window`, both ascending.
async fn read_events(
    log: &Log,
    window: &[i64],
    missing: &[i64],
    out: &mpsc::Sender<Result<Message, RelayError>>,
) -> mongodb::error::Result<()> {
    for page in missing.chunks(PAGE) {
        let [first, .., last] = *page else {
            let only = doc! { "_id": page[0] };
            if !read_page(log, only, page, out).await? {
                return Ok(());
            }
            continue;
        };
        // A range is the quicker read, unless most of what lies in it is not wanted.
        let place = |id| window.partition_point(|other| *other < id);
        let dense = place(last) - place(first) < 2 * page.len();
        let filter = if dense {
            doc! { "_id": { "$gte": first, "$lte": last } }
        } else {
            doc! { "_id": { "$in": page } }
        };
        if !read_page(log, filter, page, out).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends the page's events; `false` when nobody listens any more.
async fn read_page(
    log: &Log,
    filter: Document,
    page: &[i64],
    out: &mpsc::Sender<Result<Message, RelayError>>,
) -> mongodb::error::Result<bool> {
    let mut found = log
        .events
        .find(filter)
        .sort(doc! { "_id": 1 })
        .batch_size(u32::try_from(PAGE).unwrap_or(u32::MAX))
        .await?;
    let mut wanted = page.iter().copied().peekable();
    while let Some(document) = found.try_next().await? {
        let id = document.get_i64("_id").unwrap_or_default();
        while let Some(gone) = wanted.next_if(|wanted| *wanted < id) {
            error!(event.id = gone, "event {gone} has vanished from the log");
        }
        if wanted.next_if_eq(&id).is_none() {
            continue;
        }
        let message = match Message::read(&log.names, &document) {
            Ok(message) => message,
            Err(error) => {
                change_stream::tell_corrupt(&document, &error);
                continue;
            }
        };
        if out.send(Ok(message)).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The greatest id in the log, 0 if it is empty.
///
/// Looks back from now in growing steps: the engine may read a whole range to sort it.
async fn greatest_id(events: &Collection<RawDocumentBuf>) -> mongodb::error::Result<i64> {
    const MINUTE: i64 = 60_000;
    let (now, mut span) = (SystemClock.now().millis(), MINUTE);
    loop {
        let from = now.saturating_sub(span).max(0) << SEQUENCE_BITS;
        let last = events
            .find_one(doc! { "_id": { "$gt": from } })
            .sort(doc! { "_id": -1 })
            .projection(doc! { "_id": 1 })
            .await?;
        match last {
            Some(last) => return Ok(last.get_i64("_id").unwrap_or_default()),
            None if from == 0 => return Ok(0),
            None => span = span.saturating_mul(8),
        }
    }
}

/// Reads ascending ids in ranges that hold about [`IDS`] each, whatever the log's density.
#[derive(Clone, Copy, Debug)]
struct Pager {
    span: i64,
}

impl Default for Pager {
    fn default() -> Self {
        const HOUR: i64 = 3_600_000;
        Self {
            span: HOUR << SEQUENCE_BITS,
        }
    }
}

impl Pager {
    /// The next `size` ids or a few more, in `(after, upper]`.
    async fn window(
        &mut self,
        events: &Collection<RawDocumentBuf>,
        mut after: i64,
        upper: i64,
        size: usize,
        stop: &CancellationToken,
    ) -> mongodb::error::Result<Vec<i64>> {
        let mut window = Vec::new();
        let mut told = Instant::now();
        while after < upper && window.len() < size && !stop.is_cancelled() {
            let end = after.saturating_add(self.span).min(upper);
            let wanted = i64::try_from(size - window.len()).unwrap_or(IDS).min(IDS);
            let before = window.len();
            let mut found = events
                .find(doc! { "_id": { "$gt": after, "$lte": end } })
                .sort(doc! { "_id": 1 })
                .projection(doc! { "_id": 1 })
                .limit(wanted)
                .batch_size(10_000)
                .await?;
            while let Some(document) = found.try_next().await? {
                window.extend(document.get_i64("_id").ok());
            }
            let count = i64::try_from(window.len() - before).unwrap_or(i64::MAX);
            let reached = match window.last() {
                Some(&last) if count >= wanted => last,
                _ => end,
            };
            self.adapt(reached - after, count);
            after = reached;
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                info!("relay scan: read {} ids of the log", window.len());
            }
        }
        Ok(window)
    }

    fn adapt(&mut self, covered: i64, count: i64) {
        let density_says = match count {
            0 => self.span.saturating_mul(2),
            _ => (covered / count).saturating_mul(IDS),
        };
        self.span = density_says.clamp(1, self.span.saturating_mul(8));
    }
}
