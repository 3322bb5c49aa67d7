//! The metrics of this service: a part of the table in `shared`, which has those of both services.

use shared::contract::events::Payload;
use shared::metric_rows;
use shared::runtime::metric_table::{LATENCIES, Values};

const COMMANDS_KNOWN: Values = Values::Listed(&[
    "register",
    "edit_profile",
    "deactivate",
    "follow",
    "unfollow",
    "sign_in",
    "refresh",
    "sign_out",
    "change_password",
    "change_email",
    "end_session",
    "end_sessions",
    "create_post",
    "delete_post",
    "like",
    "unlike",
    "repost",
    "unrepost",
]);

metric_rows! {
    COMMANDS: Counter "command_service_commands_total" "commands"
        ["command": COMMANDS_KNOWN, "outcome": Values::Listed(&["accepted", "rejected", "refused", "failed"])]
        "Commands by outcome. rejected: the caller has to change something, what the request says or what they want; refused: overload or an open circuit.";
    QUOTA_REFUSALS: Counter "command_service_quota_refusals_total" "commands"
        ["limit": Values::Listed(&["posts", "edits", "logins"])]
        "Commands that were refused because their caller has used a limit up; they count as rejected, too.";
    LOG_APPENDS: Counter "log_appends_total" "events" ["type": Values::Listed(Payload::KINDS)]
        "Events that this process has appended to the log.";
    LOG_APPEND_DURATION: Histogram(LATENCIES) "log_append_duration_seconds" "seconds" []
        "How long the log took for an append, acknowledged by a majority or refused because somebody else was faster.";
    RELAY_ACTIVE: Gauge "relay_active" "1 or 0" []
        "1 while this process has the relay's lease; 0 as soon as the lease has run out without being renewed.";
    RELAY_LAG: Gauge "relay_lag_seconds" "seconds" []
        "Age of the oldest known event that is not on the stream, 0 if none is known. Every relay process tells it, also those that do not publish: alarm on the greatest.";
    RELAY_LAG_EVENTS: Gauge "relay_lag_events" "events" []
        "Events of the log that are not on the stream, as far as this process knows: those at hand, and once the lag is 3 s, those of the log, counted every 5 s up to 100,000. Every relay process tells it.";
    RELAY_PUBLISHED: Counter "relay_published_total" "events" []
        "Events put on the stream.";
    RELAY_FAILURES: Counter "relay_failures_total" "attempts" []
        "Attempts that ended in an error; after each, the relay begins again at the stream's last message. A connection that changes is none.";
    RELAY_REFUSALS: Counter "relay_refusals_total" "batches" []
        "Of these, batches that the fence refused.";
    RELAY_SCANS: Counter "relay_scans_total" "scans" []
        "Recovery scans begun.";
    RELAY_CORRUPT: Counter "relay_corrupt_total" "documents" []
        "Documents of the log that could not be published and are left out of the stream: somebody has to look.";
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_has_every_row_as_it_is_here() {
        let docs = include_str!("../../docs/metrics.md");
        shared::runtime::metric_table::assert_documented(docs, super::ROWS);
    }
}
