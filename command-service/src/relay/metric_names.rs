//! The relay's metrics.

/// 1 while this process is the one that publishes.
pub const ACTIVE: &str = "relay_active";
/// Age of the oldest event known that is not on the stream; 0 when there is none. Every relay
/// process tells it, whether it publishes or not.
pub const LAG: &str = "relay_lag_seconds";
/// Events put on the stream.
pub const PUBLISHED: &str = "relay_published_total";
/// Batches the stream refused because another message came first.
pub const REFUSALS: &str = "relay_refusals_total";
/// Attempts that ended in an error: an engine away, a refusal, a lost token.
pub const FAILURES: &str = "relay_failures_total";
/// Recovery scans begun.
pub const SCANS: &str = "relay_scans_total";
/// Documents of the log that cannot be published and were left out.
pub const CORRUPT: &str = "relay_corrupt_total";
