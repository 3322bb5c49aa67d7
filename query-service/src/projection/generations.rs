//! Folds every generation of views there is, and follows which one readers are shown.
//!
//! A rebuild makes a generation beside the current one; processes that fold find it within a
//! second and fold it too, so that it stays as fresh as the other after the switch and back.

use std::collections::HashMap;
use std::time::Duration;

use shared::error_chain::Chain;
use shared::event_stream::Names;
use shared::settings::{NatsSettings, Settings};
use shared::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Projector;
use super::memory::Memory;
use super::stream_check::StreamCheck;
use crate::read_model::generation::Catalog;
use crate::read_model::{ViewError, Views};

/// How soon a new, a switched or a dropped generation is noticed.
pub const EVERY: Duration = Duration::from_secs(1);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What folding needs to know, whatever the generation.
#[derive(Clone)]
pub struct FoldSettings {
    pub nats: NatsSettings,
    pub names: Names,
    pub stream_replicas: usize,
    pub celebrity_threshold: u64,
    /// Readers who have not read for this long are parked; `None`: never.
    pub idle_after: Option<Duration>,
    /// What the fold of a generation may keep in memory.
    pub memory: Memory,
    /// Names this process among the holders of leases.
    pub holder: String,
    /// Whether a stream is this deployment's.
    pub check: StreamCheck,
}

impl FoldSettings {
    pub fn of(settings: &Settings, check: StreamCheck) -> Self {
        Self {
            nats: settings.nats.clone(),
            names: settings.names.clone(),
            stream_replicas: settings.stream_replicas,
            celebrity_threshold: settings.celebrity_threshold,
            idle_after: (settings.idle_days > 0).then(|| DAY * settings.idle_days),
            memory: Memory::default(),
            holder: format!("{:016x}", rand::random::<u64>()),
            check,
        }
    }
}

/// Watches the catalog of generations.
pub struct Generations {
    pub catalog: Catalog,
    /// The same database over the connections of those who read: the fold waits for none of them.
    pub readers: mongodb::Database,
    /// Tells what readers are shown.
    pub switch: watch::Sender<Views>,
    /// `None` for a process that only serves.
    pub folds: Option<FoldSettings>,
    pub tasks: Tasks,
}

impl Generations {
    pub async fn run(self) {
        let stop = self.tasks.stop_signal();
        let mut folded: HashMap<i64, CancellationToken> = HashMap::new();
        loop {
            if let Err(error) = self.look(&mut folded).await {
                warn!(error = %Chain(&error), "the generations of views cannot be looked up");
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => (),
                () = stop.cancelled() => return,
            }
        }
    }

    async fn look(&self, folded: &mut HashMap<i64, CancellationToken>) -> Result<(), ViewError> {
        let all = self.catalog.all().await?;
        if let Some(settings) = &self.folds {
            for generation in &all {
                if folded.contains_key(&generation.number) || !generation.is_for_this_build() {
                    continue;
                }
                let stop = self.tasks.stop_signal().child_token();
                let views = Views::of(generation.clone()).await?;
                info!(
                    generation = generation.number,
                    "folding generation {}", generation.number
                );
                let projector = Projector {
                    views,
                    current: self.switch.subscribe(),
                    settings: settings.clone(),
                };
                projector.spawn(&self.tasks, &stop);
                folded.insert(generation.number, stop);
            }
            folded.retain(|number, stop| {
                let stays = all.iter().any(|generation| generation.number == *number);
                if !stays {
                    info!(generation = number, "generation {number} was dropped");
                    stop.cancel();
                }
                stays
            });
        }
        let shown = self.switch.borrow().generation().number;
        if let Some(current) = self
            .catalog
            .current()
            .await?
            .filter(|current| current.number != shown)
        {
            info!(
                generation = current.number,
                "readers are shown generation {}", current.number
            );
            let shown = current.over(&self.readers);
            self.switch.send_replace(Views::of(shown).await?);
        }
        Ok(())
    }
}
