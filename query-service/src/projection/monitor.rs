//! How far the fold is behind the stream: for readiness and for metrics.

use std::collections::HashMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use shared::connections::Nats;
use shared::contract::event_stream::StreamNames;
use shared::contract::partition::Partition;
use shared::contract::time::{Clock, SystemClock};
use shared::web::ops::Readiness;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::held;
use super::stream_check::{StreamCheck, Teller};
use super::stream_ends::StreamEnds;
use crate::metric_rows::{
    CELEBRITIES, DEAD_LETTERS_KEPT, FOLD_LAG_MEASURED, FOLD_LAG_MESSAGES, FOLD_LAG_SECONDS,
    PARTITIONS_ALL,
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

/// What waits for longer than this is told as degraded: the fold stands still, or cannot keep up.
const LATE: Duration = Duration::from_secs(30);
/// A stream that ends before what was folded is told as degraded after this: a relay that publishes
/// the rest again has mostly done so.
const BEYOND: Duration = Duration::from_secs(5);

pub const CAUGHT_UP: &str = "the fold has caught up";
/// What is degraded when messages wait.
const FOLD: &str = "fold";

/// How a partition stands to the stream's end.
#[derive(Clone, Copy)]
struct Behind {
    /// For how long a message has waited, or the stream has ended before the checkpoint.
    lag: Duration,
    /// The checkpoint and the stream's end, where that comes first: nothing can be folded.
    beyond: Option<(u64, u64)>,
}

/// The lag of each partition as of the last measurement. Since then it may be longer by as much as
/// has passed: an alarm must not sleep because what it watches cannot be seen.
struct Lag {
    measured: Instant,
    behind: Vec<Behind>,
}

impl Lag {
    /// What was measured now. Partitions that the views before had, and these have not, are
    /// nobody's any more.
    fn measured(before: Option<Self>, behind: Vec<Behind>) -> Self {
        let before = before.map_or(0, |before| before.behind.len());
        for gone in behind.len()..before {
            for gauge in [&FOLD_LAG_MESSAGES, &FOLD_LAG_SECONDS, &CELEBRITIES] {
                gauge.of([gone.to_string()]).set(0.0);
            }
        }
        let now = SystemClock.now().millis();
        FOLD_LAG_MEASURED.only().set(now as f64 / 1_000.0);
        Self {
            measured: Instant::now(),
            behind,
        }
    }

    fn tell(&self) {
        let unknown = self.measured.elapsed();
        for (partition, behind) in self.behind.iter().enumerate() {
            let lag = behind.lag + unknown;
            FOLD_LAG_SECONDS
                .of([partition.to_string()])
                .set(lag.as_secs_f64());
        }
    }
}

/// Why readers see too little, in whatever process they ask.
fn late(behind: &[Behind]) -> Option<String> {
    let is_late = |it: &Behind| it.lag >= if it.beyond.is_some() { BEYOND } else { LATE };
    let late = behind.iter().enumerate().filter(|(_, it)| is_late(it));
    let (partition, longest) = late.max_by_key(|(_, it)| it.lag)?;
    let seconds = longest.lag.as_secs();
    Some(match longest.beyond {
        Some((checkpoint, end)) => format!(
            "partition {partition} has folded up to {checkpoint}, and the stream has ended at {end} since {seconds} s: either the relay has not published the rest again yet, or the stream was made anew; then fold new views with `query-service rebuild --accept`"
        ),
        None => format!(
            "partition {partition} has not folded what is on the stream since {seconds} s: the log of the process that holds it says why, if it stands still"
        ),
    })
}

fn tell(lag: Option<&Lag>, shown: &CurrentViews) {
    held::tell(shown.borrow().generation().number);
    if let Some(lag) = lag {
        lag.tell();
    }
}

/// Compares checkpoints with the stream's end, and the stream's log with ours where `check` is
/// given. Once caught up, a later lag is for the metrics, and degrades at most: timelines that are
/// old beat none.
pub async fn run(
    views: CurrentViews,
    nats: Nats,
    names: StreamNames,
    check: Option<StreamCheck>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    // Nothing is known until it was measured once: another process may know more.
    let mut lag: Option<Lag> = None;
    let (shown, told) = (views.clone(), readiness.clone());
    let mut monitor = Monitor {
        views,
        nats,
        names,
        check,
        readiness,
        teller: Teller::default(),
        judged: None,
        counted: None,
        waiting: HashMap::new(),
        beyond: HashMap::new(),
        ends: StreamEnds::default(),
        caught_up: false,
    };
    while !stop.is_cancelled() {
        // An engine that is away answers late, and a call of the driver is never dropped.
        let mut look = pin!(monitor.look());
        let found = loop {
            tokio::select! {
                found = &mut look => break found,
                () = tokio::time::sleep(EVERY) => tell(lag.as_ref(), &shown),
            }
        };
        if let Some(behind) = found {
            told.degrade(FOLD, late(&behind));
            lag = Some(Lag::measured(lag, behind));
        }
        tell(lag.as_ref(), &shown);
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
    /// The first message that a partition has not folded, and when it came, in milliseconds: until
    /// the fold has caught up once.
    waiting: HashMap<Partition, (u64, i64)>,
    /// Since when the stream has ended before what a partition has folded.
    beyond: HashMap<Partition, Instant>,
    ends: StreamEnds,
    caught_up: bool,
}

impl Monitor {
    /// How long each partition has been behind; `None` if that cannot be found out now.
    async fn look(&mut self) -> Option<Vec<Behind>> {
        let views = self.views.borrow().generation().clone();
        let stream = stream_of(&self.nats, &self.names).await?;
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
        let mut end_after = end;
        if checkpoints.iter().any(|(_, at)| at.seq > end) {
            // The fold may have gone on in between: asked now, the stream has what was folded then.
            let stream = stream_of(&self.nats, &self.names).await?;
            end_after = stream.cached_info().state.last_sequence;
        }
        let now = Instant::now();
        self.ends.observe(now, end);
        let near = self.ends.end_before(now, NEAR);
        let (mut folded_by_all, mut all_near, mut behind) = (end, true, Vec::new());
        PARTITIONS_ALL
            .only()
            .set(f64::from(views.partitions.count()));
        for partition in views.partitions.all() {
            let at = checkpoints.iter().find(|(at, _)| *at == partition);
            let seq = at.map_or(0, |(_, at)| at.seq);
            all_near &= seq >= near;
            folded_by_all = folded_by_all.min(seq);
            let since = self.ends.behind_since(seq);
            let mut lag = since.map_or(Duration::ZERO, |since| now - since);
            if since.is_some() && !self.caught_up {
                // What was behind before this process began has waited for longer than it knows.
                lag = lag.max(self.waits(&stream, partition, seq + 1).await);
            }
            let beyond = (seq > end_after).then_some((seq, end_after));
            if let Some(since) = self.beyond_since(partition, beyond.is_some(), now) {
                lag = now - since;
            }
            behind.push(Behind { lag, beyond });
            FOLD_LAG_MESSAGES
                .of([partition.0.to_string()])
                .set(end.saturating_sub(seq) as f64);
        }
        self.ends.forget(folded_by_all, now, NEAR);
        if all_near && !self.caught_up {
            self.caught_up = true;
            self.waiting.clear();
            self.readiness.set(CAUGHT_UP, Ok(()));
        }
        // Last: it may take long, and nothing depends on it.
        if self.count(&views).await.is_err() {
            debug!("what is kept in the views cannot be counted now");
        }
        Some(behind)
    }

    /// Since when a partition has folded more than the stream has, if it has.
    fn beyond_since(
        &mut self,
        partition: Partition,
        is_beyond: bool,
        now: Instant,
    ) -> Option<Instant> {
        if is_beyond {
            return Some(*self.beyond.entry(partition).or_insert(now));
        }
        self.beyond.remove(&partition);
        None
    }

    /// For how long a message of the stream, the first that a partition has not folded, has been
    /// there; 0 if that cannot be found out.
    async fn waits(&mut self, stream: &Stream, partition: Partition, seq: u64) -> Duration {
        let known = self.waiting.get(&partition).filter(|known| known.0 == seq);
        let since = match known {
            Some((_, since)) => *since,
            None => {
                let Ok(message) = stream.get_raw_message(seq).await else {
                    return Duration::ZERO;
                };
                let since = message.time.unix_timestamp_nanos() / 1_000_000;
                let since = i64::try_from(since).unwrap_or(i64::MAX);
                self.waiting.insert(partition, (seq, since));
                since
            }
        };
        let age = SystemClock.now().millis().saturating_sub(since).max(0);
        Duration::from_millis(age.unsigned_abs())
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

async fn stream_of(nats: &Nats, names: &StreamNames) -> Option<Stream> {
    nats.jetstream().get_stream(names.stream()).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(secs: u64) -> Behind {
        Behind {
            lag: Duration::from_secs(secs),
            beyond: None,
        }
    }

    #[test]
    fn views_that_are_ahead_of_the_stream_are_told_before_they_are_late() {
        let beyond = |secs| Behind {
            beyond: Some((1_000, 60)),
            ..waiting(secs)
        };
        assert_eq!(late(&[waiting(0), beyond(4)]), None);
        let told = late(&[waiting(20), beyond(6)]).expect("it cannot go on");
        assert!(told.starts_with("partition 1 "), "{told}");
        assert!(told.contains("1000") && told.contains(" 60 "), "{told}");
        assert!(told.contains("rebuild --accept"), "{told}");
    }

    #[test]
    fn the_partition_that_waits_longest_is_told_once_it_is_late() {
        let behind = [1, 29, 0].map(waiting);
        assert_eq!(late(&behind), None);
        assert_eq!(late(&[]), None);
        let behind = [31, 29, 75].map(waiting);
        let told = late(&behind).expect("it is late");
        assert!(told.starts_with("partition 2 "), "{told}");
        assert!(told.contains(" 75 s"), "{told}");
    }
}
