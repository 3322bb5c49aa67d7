//! The metrics of this service: a part of the table in `shared`, which has those of both services.

use shared::metric_rows;
use shared::runtime::metric_table::{DELAYS, SIZES, Values};

const PARTITIONS: Values = Values::Partitions;
const CACHES: Values = Values::Listed(&[
    "posts",
    "users",
    "follower_counts",
    "reactions",
    "outboxes",
    "reposts",
    "timelines",
    "edges",
    "pulled",
    "merges",
]);

metric_rows! {
    FOLD_LAG_MESSAGES: Gauge "query_service_fold_lag_messages" "messages" ["partition": PARTITIONS]
        "How far the views that readers see are behind the stream's end, as of the last look.";
    FOLD_LAG_SECONDS: Gauge "query_service_fold_lag_seconds" "seconds" ["partition": PARTITIONS]
        "For how long the views that readers see have been behind the stream's end: the age of the oldest message that a partition has not folded. While that cannot be measured it grows: they are known to be complete only as of the last measurement. Each process measures all partitions: alarm on the least.";
    FOLD_LAG_MEASURED: Gauge "query_service_fold_lag_measured_timestamp_seconds" "seconds since 1970" []
        "When this process last measured the lag.";
    PARTITIONS_ALL: Gauge "query_service_partitions" "partitions" []
        "Partitions of the views that readers see: so many have to be held, by all processes together.";
    PARTITIONS_HELD: Gauge "query_service_partitions_held" "partitions" ["generation": Values::Listed(&["shown", "other"])]
        "Partitions that this process folds, of the generation that readers see and of others (a rebuild, or the one before).";
    POST_TO_VISIBLE: Histogram(DELAYS) "query_service_post_to_visible_seconds" "seconds" []
        "From a post's own time until a partition's readers can see it; once for each partition, when it has committed the post. What a fan-out in steps inserts is seen later.";
    FAN_OUT: Histogram(SIZES) "query_service_fan_out_entries" "entries" []
        "Entries inserted into the timelines of one partition for one post or repost, before those of a fan-out in steps. 0: nobody there follows the author, or all of them pull.";
    PULLED: Counter "query_service_pulled_posts_total" "posts" []
        "Posts and reposts of authors with so many followers in a partition that its readers pull them; once for each partition.";
    CELEBRITIES: Gauge "query_service_celebrity_authors" "authors" ["partition": PARTITIONS]
        "Authors of whom a partition has so many followers (CELEBRITY_THRESHOLD / PARTITIONS) that its readers pull them, as counted every 10 s. Each process counts all partitions.";
    DEAD_LETTERS_KEPT: Gauge "query_service_dead_letters_kept" "rows" []
        "Dead letters that are kept of the views that readers see, a row for each message and partition, as counted every 10 s by each process up to 10,000: somebody has to look until there are none.";
    CHECKPOINT: Gauge "query_service_checkpoint_sequence" "a sequence" ["partition": PARTITIONS]
        "The last sequence of the stream that a partition has applied to what readers see, told by whoever folds it and by whoever folded it last: ask for the greatest.";
    MESSAGES: Counter "query_service_messages_total" "messages" ["partition": PARTITIONS]
        "Messages folded here.";
    DEAD_LETTERS: Counter "query_service_dead_letters_total" "messages" ["partition": PARTITIONS]
        "Messages that a partition of the views that readers see did not understand and keeps as dead letters: somebody has to look.";
    NOTICES_DROPPED: Counter "query_service_notices_dropped_total" "messages" []
        "Invalidation messages dropped because too many were waiting.";
    TIMELINE_ENTRIES: Counter "query_service_timeline_entries_total" "entries" []
        "Entries inserted into timelines, those of every generation.";
    TRIMS: Counter "query_service_trims_total" "timelines" []
        "Timelines trimmed, those of every generation.";
    INACTIVE_READERS: Gauge "query_service_parked_readers" "readers" ["partition": PARTITIONS]
        "Inactive readers of a partition that is folded here, as of the last change; 0 once somebody else folds it.";
    READS_ABANDONED: Counter "query_service_reads_abandoned_total" "reads" []
        "Reads that ended before their last query because their client had gone or their time limit had passed.";
    CACHE_LOOKUPS: Counter "query_service_cache_looks_total" "look-ups"
        ["cache": CACHES, "outcome": Values::Listed(&["hit", "miss"])]
        "Cache look-ups.";
    LIVE_STREAMS: Gauge "query_service_live_streams" "streams" []
        "Live streams that are open.";
    LIVE_EVENTS: Counter "query_service_live_events_total" "events" []
        "Events sent on live streams.";
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_has_every_row_as_it_is_here() {
        let docs = include_str!("../../docs/metrics.md");
        shared::runtime::metric_table::assert_documented(docs, super::ROWS);
    }
}
