//! What all passes share: progress, patience with the database, and the way to the use cases.

use std::future::Future;
use std::time::{Duration, Instant};

use shared::resilience::Backoff;
use shared::runtime::error_chain::Chain;
use tokio_util::sync::CancellationToken;

use super::error::ImportError;
use super::people::People;
use super::report::{Report, Summary};
use super::source::{ItemKind, Items, Line};
use crate::app::App;
use crate::app::ports::{Store, StoreError};

/// Events per write: 1,000 of at most 1,120 bytes of content and 600 of everything else are
/// below 2 MB.
pub(super) const BATCH: usize = 1_000;
/// A database that is away this long will not be back soon.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
const SAY_AFTER: Duration = Duration::from_secs(3);

pub(super) struct Loader<'a> {
    pub(super) app: &'a App,
    pub(super) report: &'a mut Report,
    stop: &'a CancellationToken,
    pub(super) people: People,
}

impl<'a> Loader<'a> {
    pub(super) fn new(app: &'a App, report: &'a mut Report, stop: &'a CancellationToken) -> Self {
        Self {
            app,
            report,
            stop,
            people: People::new(),
        }
    }

    pub(super) fn store(&self) -> &'a Store {
        self.app.store()
    }

    pub(super) fn summary(&self) -> Summary {
        self.report.summary()
    }

    /// The next lines of a pass, at most `most`; none at its end. Faults are told here.
    pub(super) fn next_batch(
        &mut self,
        items: &mut Items<'_>,
        most: usize,
    ) -> Result<Vec<Line>, ImportError> {
        self.check_stop()?;
        let mut batch: Vec<Line> = Vec::with_capacity(most);
        while batch.len() < most {
            let Some(line) = items.read()? else { break };
            match &line.item {
                Ok(_) => batch.push(line),
                Err(fault) => self.report.refused(line.number, fault),
            }
        }
        Ok(batch)
    }

    /// Between two batches is where an import may end.
    pub(super) fn check_stop(&self) -> Result<(), ImportError> {
        if self.stop.is_cancelled() {
            return Err(ImportError::Interrupted);
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, items: &Items<'_>) {
        let what = match items.kind() {
            ItemKind::Users => "users",
            ItemKind::Follows => "follows",
            ItemKind::Posts => "posts",
            ItemKind::Reactions => "likes",
        };
        self.report.begin(what, items.size());
    }

    /// Asks the database until it answers, for minutes.
    pub(super) async fn with_retries<T, A, F>(&mut self, ask: A) -> Result<T, ImportError>
    where
        A: Fn() -> F,
        F: Future<Output = Result<T, StoreError>>,
    {
        let (started, mut said) = (Instant::now(), false);
        let mut backoff = Backoff::between_millis(50, 2_000);
        loop {
            let error = match ask().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.is_transient() || started.elapsed() >= PATIENCE {
                return Err(error.into());
            }
            if self.stop.is_cancelled() {
                return Err(ImportError::Interrupted);
            }
            if !said && started.elapsed() >= SAY_AFTER {
                said = true;
                self.report.say(&format!("waiting: {}", Chain(&error)));
            }
            backoff.wait().await;
        }
    }
}
