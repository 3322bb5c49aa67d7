//! Folds every generation of views there is, and follows which one readers are shown.
//!
//! A rebuild makes a generation beside the current one; processes that fold find it within a
//! second and fold it too, so that it stays as fresh as the other after the switch and back.

use std::collections::HashMap;
use std::time::Duration;

use shared::runtime::error_chain::Chain;
use shared::runtime::failing::Failing;
use shared::runtime::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::projector::Projector;
use super::settings::FoldSettings;
use crate::reads::model::ReadModel;
use crate::views::error::ViewError;
use crate::views::generation::Catalog;
use crate::views::writer::ViewWriter;

/// How soon a new, a switched or a dropped generation is noticed.
pub const EVERY: Duration = Duration::from_secs(1);

/// Watches the catalog of generations.
pub struct Generations {
    pub catalog: Catalog,
    /// The same database over the connections of those who read: the fold waits for none of them.
    pub readers: mongodb::Database,
    /// Tells what readers are shown.
    pub switch: watch::Sender<ReadModel>,
    /// `None` for a process that only serves.
    pub folds: Option<FoldSettings>,
    pub tasks: Tasks,
}

impl Generations {
    pub async fn run(self) {
        let stop = self.tasks.stop_signal();
        let mut folded: HashMap<i64, CancellationToken> = HashMap::new();
        let failing = Failing::default();
        loop {
            match self.look(&mut folded).await {
                Ok(()) => {
                    if failing.ends() {
                        info!("the generations of views can be looked up again");
                    }
                }
                Err(error) => {
                    if failing.begins(&error) {
                        warn!(error = %Chain(&error), "the generations of views cannot be looked up");
                    }
                }
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
                let views = ViewWriter::of(generation.clone()).await?;
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
            self.switch.send_replace(ReadModel::of(shown).await?);
        }
        Ok(())
    }
}
