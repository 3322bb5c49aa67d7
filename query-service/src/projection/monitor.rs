//! How far the fold is behind the stream: for readiness and for metrics.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use shared::connections::Nats;
use shared::contract::event_stream::StreamNames;
use shared::web::ops::Readiness;
use tokio_util::sync::CancellationToken;

use super::stream_check::{StreamCheck, Teller};
use super::stream_ends::StreamEnds;
use crate::metric_rows::{FOLD_LAG_MESSAGES, FOLD_LAG_SECONDS};
use crate::reads::model::CurrentViews;

const EVERY: Duration = Duration::from_millis(250);
/// How often to look whether the stream holds this log.
const JUDGE: Duration = Duration::from_secs(1);
/// A start is ready when the fold is at most this far behind.
const NEAR: Duration = Duration::from_secs(5);

pub const CAUGHT_UP: &str = "the fold has caught up";

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
    let (mut teller, mut judged) = (Teller::default(), None::<Instant>);
    let (mut ends, mut caught_up) = (StreamEnds::default(), false);
    loop {
        let views = views.borrow().generation().clone();
        let stream = stream(&nats, &names).await;
        if let (Some(stream), Some(check)) = (&stream, &check)
            && judged.is_none_or(|at| at.elapsed() >= JUDGE)
        {
            teller.look(check, &names, &views, stream, &readiness).await;
            judged = Some(Instant::now());
        }
        if let Some(stream) = stream
            && let end = stream.cached_info().state.last_sequence
            && let Ok(checkpoints) = views.checkpoints().await
        {
            let now = Instant::now();
            ends.observe(now, end);
            let near = ends.end_before(now, NEAR);
            let mut folded_by_all = end;
            let mut all_near = true;
            for partition in views.partitions.all() {
                let seq = checkpoints
                    .iter()
                    .find(|(at, _)| *at == partition)
                    .map_or(0, |(_, at)| at.seq);
                all_near &= seq >= near;
                folded_by_all = folded_by_all.min(seq);
                let lag = ends
                    .behind_since(seq)
                    .map_or(0.0, |since| (now - since).as_secs_f64());
                let label = partition.0.to_string();
                FOLD_LAG_MESSAGES
                    .of([label.clone()])
                    .set(end.saturating_sub(seq) as f64);
                FOLD_LAG_SECONDS.of([label]).set(lag);
            }
            ends.forget(folded_by_all, now, NEAR);
            if all_near && !caught_up {
                caught_up = true;
                readiness.set(CAUGHT_UP, Ok(()));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => (),
            () = stop.cancelled() => return,
        }
    }
}

async fn stream(nats: &Nats, names: &StreamNames) -> Option<Stream> {
    nats.jetstream().get_stream(names.stream()).await.ok()
}
