//! The metrics of both services: a part of the table ([`super::metric_table`]).

use super::metric_table::{LATENCIES, Values};

const METHODS: Values = Values::Listed(&[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other",
]);
/// Each client of MongoDB has a pool for each server. That of the log is also that of the views where
/// they have no URI of their own.
const POOLS: Values = Values::Listed(&["log", "views", "fold", "probe"]);
/// `away`: it does not answer, or the connection cannot be made.
const REASONS: Values = Values::Listed(&[
    "away",
    "sign_in",
    "refused",
    "jetstream_off",
    "no_room",
    "failing",
    "wrong_stream",
]);
/// What is sent by OTLP.
const SIGNALS: Values = Values::Listed(&["traces", "logs"]);
const ROLES: Values = Values::Listed(&["all", "api", "relay", "projector"]);
const DEPENDENCIES: Values = Values::Listed(&["mongodb", "nats"]);

crate::metric_rows! {
    HTTP_REQUESTS: Counter "http_requests_total" "requests"
        ["route": Values::Routes, "method": METHODS, "status": Values::Statuses]
        "Requests that were answered.";
    HTTP_DURATION: Histogram(LATENCIES) "http_request_duration_seconds" "seconds"
        ["route": Values::Routes, "method": METHODS]
        "From the head of a request to the head of its answer; of a live stream, until it begins.";
    HTTP_IN_FLIGHT: Gauge "http_requests_in_flight" "requests" []
        "Requests that are not answered yet. An open live stream is answered.";
    HTTP_ABANDONED: Counter "http_requests_abandoned_total" "requests" []
        "Requests whose client closed the connection before the answer; they have no status.";
    LOG_LEFT_OUT: Counter "http_log_lines_left_out_total" "requests" []
        "Requests without an account that have no line in the log, because there were too many of them.";
    LOG_LOST: Counter "log_lines_lost_total" "lines" []
        "Lines of JSON that were not written, because whoever reads standard error was too slow for them, or took none: its disk was full, for example.";
    CIRCUIT_OPEN: Gauge "circuit_open" "1 or 0" ["dependency": DEPENDENCIES]
        "1 while nobody is sent to the dependency: MongoDB does not answer; NATS is not connected, or takes no events.";
    NOT_USED: Gauge "dependency_not_used" "1 or 0" ["dependency": DEPENDENCIES, "reason": REASONS]
        "1 at the reason why the dependency is not used; the log and /readyz have the sentence. away: it does not answer, or no connection can be made; sign_in: it refuses our credentials; refused: it or we refuse, by a certificate for instance; jetstream_off, no_room, failing, wrong_stream: NATS is connected and the relay cannot use its stream.";
    CIRCUIT_OPENED: Counter "circuit_opened_total" "openings" ["dependency": Values::Listed(&["mongodb"])]
        "How often the circuit of the dependency has opened.";
    NATS_DISCONNECTIONS: Counter "nats_disconnections_total" "disconnections" []
        "Connections to NATS that were lost; a process has one, and a projector one more for each partition.";
    POOL_OPEN: Gauge "mongodb_pool_connections" "connections" ["pool": POOLS]
        "Open connections of a pool to MongoDB, used or not.";
    POOL_USED: Gauge "mongodb_pool_connections_in_use" "connections" ["pool": POOLS]
        "Connections of a pool that are at work.";
    POOL_WAIT: Histogram(LATENCIES) "mongodb_pool_wait_seconds" "seconds" ["pool": POOLS]
        "How long operations waited for a connection of a pool, those that got none included.";
    POOL_FAILURES: Counter "mongodb_pool_checkout_failures_total" "operations" ["pool": POOLS]
        "Operations that got no connection of a pool.";
    OTLP_EXPORTS: Counter "otlp_exports_total" "requests"
        ["signal": SIGNALS, "outcome": Values::Listed(&["ok", "failed"])]
        "Batches of spans or log lines that were sent by OTLP. failed: the receiver is away, took too long, or refused; the batch is lost.";
    OTLP_DROPPED: Counter "otlp_dropped_total" "spans or lines" ["signal": SIGNALS]
        "Spans or log lines that will never arrive: they did not fit into the queue, or the receiver did not take them.";
    READY: Gauge "service_ready" "1 or 0" []
        "1 while /readyz says that this process is ready, degraded or not.";
    BUILD: Gauge "build_info" "always 1"
        ["service": Values::Build, "role": ROLES, "version": Values::Build, "revision": Values::Build]
        "Which build this process is, and what it does of its service. The revision is unknown where the build was not told (MICROBLOG_REVISION).";
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_has_every_row_as_it_is_here() {
        let docs = include_str!("../../../docs/metrics.md");
        crate::runtime::metric_table::assert_documented(docs, super::ROWS);
    }
}
