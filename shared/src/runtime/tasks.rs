//! Background tasks with owners: spawned through one door, stopped together, waited for.

#![expect(clippy::disallowed_methods, reason = "this is the door")]

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::runtime::telemetry;

/// Requests in flight have this long to end, and so have background tasks after them.
pub const GRACE: Duration = Duration::from_secs(10);

/// The tasks of one process. Cloning gives another handle on the same tasks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Shutdown does not wait for these.
    questions: TaskTracker,
    stop: CancellationToken,
    failed: CancellationToken,
}

impl Tasks {
    /// Fires at shutdown; tasks check it between two steps.
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Fires when a task ended that should have gone on, so that the process may end too.
    pub fn failure(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Spawns a task that runs until the stop signal. One that panics brings the process down:
    /// a service without its relay or its fold is worse than one that restarts.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(self.stop.clone(), name, task);
    }

    /// Spawns a task that runs until `stop`, a child of the stop signal.
    pub fn spawn_until(
        &self,
        stop: CancellationToken,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let failed = self.failed.clone();
        let inner = tokio::spawn(task);
        self.tracker.spawn(async move {
            match inner.await {
                Err(panic) => error!(task.name = name, error = %panic, "task {name} panicked"),
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => error!(task.name = name, "task {name} ended before it was stopped"),
            }
            failed.cancel();
        });
    }

    /// Runs a piece of work to its end even if the caller is dropped; shutdown waits for it.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn(work)
    }

    /// Asks something whose answer nobody needs once the process ends. It goes on if the caller is
    /// dropped, for a call of a driver that is dropped half way costs its connection; shutdown does
    /// not wait for it, for a server that stands still never answers.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.questions.spawn(question)
    }

    /// As [`Self::ask`], and waits for the answer at most `patience`: `None` if it takes longer, or
    /// panics.
    pub async fn ask_within<T: Send + 'static>(
        &self,
        patience: Duration,
        question: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        tokio::time::timeout(patience, self.ask(question))
            .await
            .ok()?
            .ok()
    }

    /// Stops all tasks and waits for them, at most `grace`.
    pub async fn stop_and_join(&self, grace: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_err()
        {
            warn!(
                tasks.left = self.tracker.len(),
                "background tasks did not finish in {grace:?}"
            );
        }
    }
}

/// For what a task does each second.
#[derive(Debug)]
pub struct EverySecond {
    ticks: Interval,
    stop: CancellationToken,
}

impl EverySecond {
    /// Seconds until `stop`.
    pub fn until(stop: CancellationToken) -> Self {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, stop }
    }

    /// Waits for the next second, the first time not at all. Whether to go on: not once stopped.
    pub async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.ticks.tick() => true,
            () = self.stop.cancelled() => false,
        }
    }
}

/// Fires on SIGTERM or SIGINT, so that the process can drain. A second signal ends it at once.
pub fn stop_on_signals() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let fired = stop.clone();
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            error!("signals cannot be caught");
            return;
        };
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
            if !first {
                telemetry::finish();
                // 128 + SIGINT, as shells report it.
                std::process::exit(130);
            }
            fired.cancel();
        }
    });
    stop
}
