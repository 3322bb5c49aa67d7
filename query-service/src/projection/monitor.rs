//! How far the fold is behind the stream: for readiness and for metrics.

use std::pin::pin;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use shared::connections::Nats;
use shared::contract::event_stream::StreamNames;
use shared::contract::time::{Clock, SystemClock};
use shared::web::ops::Readiness;
use tokio_util::sync::CancellationToken;

use super::stream_check::{StreamCheck, Teller};
use super::stream_ends::StreamEnds;
use crate::metric_rows::{
    CELEBRITIES, DEAD_LETTERS_KEPT, FOLD_LAG_MEASURED, FOLD_LAG_MESSAGES, FOLD_LAG_SECONDS,
};
use crate::reads::model::CurrentViews;
use crate::views::error::ViewError;
use crate::views::generation::Generation;

const EVERY: Duration = Duration::from_millis(250);
/// How often dead letters and celebrities are counted.
const COUNT: Duration = Duration::from_secs(10);
/// How often to look whether the stream holds this log.
const JUDGE: Duration = Duration::from_secs(1);
/// A start is ready when the fold is at most this far behind.
const NEAR: Duration = Duration::from_secs(5);

pub const CAUGHT_UP: &str = "the fold has caught up";

/// The lag of each partition as of the last measurement. Since then it may be longer by as much as
/// has passed: an alarm must not sleep because what it watches cannot be seen.
struct Lag {
    measured: Instant,
    behind: Vec<Duration>,
}

impl Lag {
    /// What was measured now. Partitions that the views before had, and these have not, are
    /// nobody's any more.
    fn measured(&mut self, behind: Vec<Duration>) {
        for gone in behind.len()..self.behind.len() {
            for gauge in [&FOLD_LAG_MESSAGES, &FOLD_LAG_SECONDS, &CELEBRITIES] {
                gauge.of([gone.to_string()]).set(0.0);
            }
        }
        *self = Self {
            measured: Instant::now(),
            behind,
        };
        let now = SystemClock.now().millis();
        FOLD_LAG_MEASURED.only().set(now as f64 / 1_000.0);
    }

    fn tell(&self) {
        let unknown = self.measured.elapsed();
        for (partition, behind) in self.behind.iter().enumerate() {
            let lag = *behind + unknown;
            FOLD_LAG_SECONDS
                .of([partition.to_string()])
                .set(lag.as_secs_f64());
        }
    }
}

/// Compares checkpoints with the stream's end, and the stream's log with ours where `check` is
/// given. Once caught up, a later lag is for the metrics:
/// timelines that are seconds old beat none.
pub async fn run(
    views: CurrentViews,
    nats: Nats,
    names: StreamNames,
    check: Option<StreamCheck>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let mut lag = Lag {
        measured: Instant::now(),
        behind: vec![Duration::ZERO; usize::from(views.borrow().partitions().count())],
    };
    let mut monitor = Monitor {
        views,
        nats,
        names,
        check,
        readiness,
        teller: Teller::default(),
        judged: None,
        counted: None,
        ends: StreamEnds::default(),
        caught_up: false,
    };
    while !stop.is_cancelled() {
        // An engine that is away answers late, and a call of the driver is never dropped.
        let mut look = pin!(monitor.look());
        let found = loop {
            tokio::select! {
                found = &mut look => break found,
                () = tokio::time::sleep(EVERY) => lag.tell(),
            }
        };
        if let Some(behind) = found {
            lag.measured(behind);
        }
        lag.tell();
        tokio::select! {
            () = tokio::time::sleep(EVERY) => (),
            () = stop.cancelled() => (),
        }
    }
}

struct Monitor {
    views: CurrentViews,
    nats: Nats,
    names: StreamNames,
    check: Option<StreamCheck>,
    readiness: Readiness,
    teller: Teller,
    judged: Option<Instant>,
    counted: Option<Instant>,
    ends: StreamEnds,
    caught_up: bool,
}

impl Monitor {
    /// How long each partition has been behind; `None` if that cannot be found out now.
    async fn look(&mut self) -> Option<Vec<Duration>> {
        let views = self.views.borrow().generation().clone();
        self.count(&views).await.ok()?;
        let stream = stream(&self.nats, &self.names).await?;
        if let Some(check) = &self.check
            && self.judged.is_none_or(|at| at.elapsed() >= JUDGE)
        {
            let (names, readiness) = (&self.names, &self.readiness);
            self.teller
                .look(check, names, &views, &stream, readiness)
                .await;
            self.judged = Some(Instant::now());
        }
        let end = stream.cached_info().state.last_sequence;
        let checkpoints = views.checkpoints().await.ok()?;
        let now = Instant::now();
        self.ends.observe(now, end);
        let near = self.ends.end_before(now, NEAR);
        let (mut folded_by_all, mut all_near, mut behind) = (end, true, Vec::new());
        for partition in views.partitions.all() {
            let at = checkpoints.iter().find(|(at, _)| *at == partition);
            let seq = at.map_or(0, |(_, at)| at.seq);
            all_near &= seq >= near;
            folded_by_all = folded_by_all.min(seq);
            let since = self.ends.behind_since(seq);
            behind.push(since.map_or(Duration::ZERO, |since| now - since));
            FOLD_LAG_MESSAGES
                .of([partition.0.to_string()])
                .set(end.saturating_sub(seq) as f64);
        }
        self.ends.forget(folded_by_all, now, NEAR);
        if all_near && !self.caught_up {
            self.caught_up = true;
            self.readiness.set(CAUGHT_UP, Ok(()));
        }
        Some(behind)
    }

    /// Every process counts, so that the alarm does not depend on the one that folds.
    async fn count(&mut self, views: &Generation) -> Result<(), ViewError> {
        if self.counted.is_some_and(|at| at.elapsed() < COUNT) {
            return Ok(());
        }
        self.counted = Some(Instant::now());
        DEAD_LETTERS_KEPT
            .only()
            .set(views.dead_letters_kept().await? as f64);
        for partition in views.partitions.all() {
            let celebrities = views.celebrities(partition).await?;
            CELEBRITIES
                .of([partition.0.to_string()])
                .set(celebrities as f64);
        }
        Ok(())
    }
}

async fn stream(nats: &Nats, names: &StreamNames) -> Option<Stream> {
    nats.jetstream().get_stream(names.stream()).await.ok()
}
