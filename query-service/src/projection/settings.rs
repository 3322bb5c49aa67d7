//! What folding needs to know, whatever the generation and the partition.

use std::time::Duration;

use shared::contract::event_stream::StreamNames;
use shared::runtime::settings::{NatsSettings, Settings};
use shared::runtime::tasks::Tasks;

use super::memory::Memory;
use super::stream_check::StreamCheck;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What folding needs to know, whatever the generation.
#[derive(Clone)]
pub struct FoldSettings {
    pub nats: NatsSettings,
    pub names: StreamNames,
    pub stream_replicas: usize,
    pub celebrity_threshold: u64,
    /// Readers who have not read for this long are inactive; `None`: never.
    pub idle_after: Option<Duration>,
    /// What the fold of a generation may keep in memory.
    pub memory: Memory,
    /// Names this process among the holders of leases.
    pub holder: String,
    /// Whether a stream is this deployment's.
    pub check: StreamCheck,
    /// What is asked of the database runs among these.
    pub tasks: Tasks,
}

impl FoldSettings {
    pub fn of(settings: &Settings, check: StreamCheck, tasks: &Tasks) -> Self {
        Self {
            nats: settings.nats.clone(),
            names: settings.names.clone(),
            stream_replicas: settings.stream_replicas,
            celebrity_threshold: settings.celebrity_threshold,
            idle_after: (settings.idle_days > 0).then(|| DAY * settings.idle_days),
            memory: Memory::default(),
            holder: format!("{:016x}", rand::random::<u64>()),
            check,
            tasks: tasks.clone(),
        }
    }
}
