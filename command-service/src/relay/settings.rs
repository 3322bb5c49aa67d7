//! What can be set.

use std::time::Duration;

use shared::contract::event_stream::StreamNames;

/// How often long work tells how far it is.
pub(super) const PROGRESS: Duration = Duration::from_secs(3);
/// The names and replicas by operators, the rest by tests.
#[derive(Clone, Debug)]
pub struct Settings {
    pub names: StreamNames,
    /// Copies of the stream the broker keeps, if the relay creates it.
    pub replicas: usize,
    /// Begin with a scan whatever the tail says, to publish what was once left out.
    pub rescan: bool,
    pub lease: Duration,
    /// Who could not publish for so long gives the lease up.
    pub give_up: Duration,
    /// How often to look at what waits, and who does not publish at the stream.
    pub watch: Duration,
    /// How long the log may be idle before a tick is published.
    pub tick_after: Duration,
    /// How long to wait for an answer of the broker.
    pub patience: Duration,
    /// How long the server waits for a change before it answers that there is none. Readers end
    /// within it.
    pub max_await: Duration,
    /// Atomic batches may have a thousand messages.
    pub batch_events: usize,
    pub batch_bytes: usize,
    /// Ids compared with the stream at once in a scan; 9 bytes of memory each.
    pub scan_window: usize,
}

impl Settings {
    pub fn new(names: StreamNames, replicas: usize) -> Self {
        Self {
            names,
            replicas,
            rescan: false,
            lease: Duration::from_secs(3),
            give_up: Duration::from_secs(5),
            watch: Duration::from_secs(1),
            tick_after: Duration::from_secs(3 * 60),
            patience: Duration::from_secs(5),
            max_await: Duration::from_millis(250),
            batch_events: 500,
            batch_bytes: 1 << 20,
            scan_window: 2_000_000,
        }
    }
}
