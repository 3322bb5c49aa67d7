//! The metrics of both services: a part of the table ([`super::metric_table`]).

use super::metric_table::{LATENCIES, Values};

const METHODS: Values = Values::Listed(&[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other",
]);
const DEPENDENCIES: Values = Values::Listed(&["mongodb", "nats"]);

crate::metric_rows! {
    HTTP_REQUESTS: Counter "http_requests_total" "requests"
        ["route": Values::Routes, "method": METHODS, "status": Values::Statuses]
        "Requests that were answered.";
    HTTP_DURATION: Histogram(LATENCIES) "http_request_duration_seconds" "seconds"
        ["route": Values::Routes, "method": METHODS, "status": Values::Statuses]
        "From the head of a request to the head of its answer; of a live stream, until it begins.";
    HTTP_IN_FLIGHT: Gauge "http_requests_in_flight" "requests" []
        "Requests that are not answered yet. An open live stream is answered.";
    HTTP_ABANDONED: Counter "http_requests_abandoned_total" "requests" []
        "Requests whose client closed the connection before the answer; they have no status.";
    CIRCUIT_OPEN: Gauge "circuit_open" "1 or 0" ["dependency": DEPENDENCIES]
        "1 while nobody is sent to the dependency: MongoDB does not answer; NATS is not connected, or takes no events.";
    CIRCUIT_OPENED: Counter "circuit_opened_total" "openings" ["dependency": Values::Listed(&["mongodb"])]
        "How often the circuit of the dependency has opened.";
    BUILD: Gauge "build_info" "always 1"
        ["service": Values::Build, "version": Values::Build, "revision": Values::Build]
        "Which build this process is. The revision is unknown where the build was not told (MICROBLOG_REVISION).";
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_has_every_row_as_it_is_here() {
        let docs = include_str!("../../../docs/metrics.md");
        crate::runtime::metric_table::assert_documented(docs, super::ROWS);
    }
}
