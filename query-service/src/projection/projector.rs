//! Takes the partitions of one generation whenever they are free.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use shared::connections::{self, Nats};
use shared::contract::partition::Partition;
use shared::resilience::lease::{HeldLease, Lease, free_leases};
use shared::resilience::{self, Backoff};
use shared::runtime::error_chain::Chain;
use shared::runtime::failing::Failing;
use shared::runtime::tasks::Tasks;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::partition_worker::{Ended, Failures, PartitionWorker, stopped_while};
use super::settings::FoldSettings;
use crate::reads::model::CurrentViews;
use crate::views::writer::ViewWriter;

/// How long a partition is held without being renewed.
const LEASE: Duration = Duration::from_secs(3);
/// How soon a lease that was released is noticed. Whoever waits for a write that was accepted
/// meanwhile waits for this too, and only for a second in all.
const LOOK: Duration = Duration::from_millis(250);

/// What every partition needs.
#[derive(Clone)]
pub struct Projector {
    pub views: ViewWriter,
    /// What readers are shown: only its fold sends messages.
    pub current: CurrentViews,
    pub settings: FoldSettings,
}

impl Projector {
    /// Folds every partition that this process can hold, until `stop`.
    pub fn spawn(&self, tasks: &Tasks, stop: &CancellationToken) {
        let mut told = HashMap::new();
        for partition in self.views.partitions().all() {
            let free = Arc::new(Notify::new());
            told.insert(lease_of(partition), free.clone());
            let (projector, until) = (self.clone(), stop.clone());
            tasks.spawn_until(stop.clone(), "projector", async move {
                projector.run(partition, &free, until).await;
            });
        }
        let (projector, until, asking) = (self.clone(), stop.clone(), tasks.clone());
        tasks.spawn_until(stop.clone(), "free partitions", async move {
            projector.look_for_free(&told, &asking, &until).await;
        });
    }

    /// Tells those partitions that are free. Each asking for its own so often would be as many
    /// questions as there are partitions.
    async fn look_for_free(
        &self,
        told: &HashMap<String, Arc<Notify>>,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) {
        while !stopped_while(stop, tokio::time::sleep(LOOK)).await {
            let leases = self.views.generation().leases();
            let asked = tasks.ask(async move { free_leases(&leases).await });
            let answer = tokio::select! {
                answer = asked => answer,
                () = stop.cancelled() => return,
            };
            // Where the leases are out of reach, those who hold or want one say so.
            let free = answer.ok().and_then(Result::ok).unwrap_or_default();
            for name in free {
                if let Some(partition) = told.get(&name) {
                    // Not for later: what a process has let go itself it leaves to its backoff.
                    partition.notify_waiters();
                }
            }
        }
    }

    /// Takes the partition whenever it is free, and folds it while the lease lasts.
    async fn run(&self, partition: Partition, free: &Notify, stop: CancellationToken) {
        let lease = Lease::new(
            self.views.generation().leases(),
            lease_of(partition),
            self.settings.holder.clone(),
            LEASE,
        );
        let mut backoff = resilience::background();
        let Some(nats) = self.connect(partition, &mut backoff, &stop).await else {
            return;
        };
        let failures = Failures::default();
        while !stop.is_cancelled() {
            let asked = lease.acquire().await;
            if asked.is_ok() && failures.lease.ends() {
                info!(
                    partition = partition.0,
                    "the lease of partition {} can be asked for again", partition.0
                );
            }
            match asked {
                Ok(Some(held)) => {
                    let held = self.hold(partition, &lease, held, &nats, &stop, &failures);
                    if held.await.is_break() {
                        return;
                    }
                }
                Ok(None) => (),
                Err(error) => {
                    if failures.lease.begins(&error) {
                        warn!(partition = partition.0, error = %Chain(&error), "the lease of partition {} cannot be asked for", partition.0);
                    }
                }
            }
            let until_next = async {
                tokio::select! {
                    () = backoff.wait() => (),
                    () = free.notified() => (),
                }
            };
            if stopped_while(&stop, until_next).await {
                return;
            }
        }
    }

    /// One connection per partition: they read several times faster than through one. `None` if
    /// it is time to stop.
    async fn connect(
        &self,
        partition: Partition,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Option<Nats> {
        let name = format!("query-service partition {}", partition.0);
        let failing = Failing::default();
        loop {
            match connections::nats(&self.settings.nats, &name).await {
                Ok(nats) => return Some(nats),
                Err(error) => {
                    if failing.begins(&error) {
                        warn!(partition = partition.0, error = %Chain(&error), "partition {} cannot connect", partition.0);
                    }
                }
            }
            if stopped_while(stop, backoff.wait()).await {
                return None;
            }
        }
    }

    /// Folds while the lease lasts. Breaks when it is time to stop.
    async fn hold(
        &self,
        partition: Partition,
        lease: &Lease,
        held: HeldLease,
        nats: &Nats,
        stop: &CancellationToken,
        failures: &Failures,
    ) -> ControlFlow<()> {
        let (number, epoch) = (partition.0, held.epoch);
        // Until what fails is over, each holding would be told.
        if failures.stream.is_on() || failures.fold.is_on() {
            debug!(partition = number, epoch, "partition {number} taken again");
        } else {
            info!(partition = number, epoch, "partition {number} taken");
        }
        let (views, current, settings) = (&self.views, &self.current, &self.settings);
        let worker =
            PartitionWorker::acquire(views, current, settings, partition, lease, held, nats).await;
        let ended = match worker {
            Ok(Some(worker)) => worker.run(stop, failures).await,
            Ok(None) => Ok(Ended::LeaseLost),
            Err(error) => Err(error),
        };
        match ended {
            Ok(Ended::Stopped) => {
                release(partition, lease, held).await;
                return ControlFlow::Break(());
            }
            Ok(Ended::Stuck) => {
                debug!(
                    partition = number,
                    "partition {number} is let go: the stream cannot be read here"
                );
                release(partition, lease, held).await;
                // Others first.
                if stopped_while(stop, tokio::time::sleep(LEASE)).await {
                    return ControlFlow::Break(());
                }
            }
            Ok(Ended::LeaseLost) => {
                warn!(partition = number, "partition {number} was taken over");
            }
            Err(error) => {
                if failures.fold.begins(&error) {
                    warn!(partition = number, error = %Chain(&error), "partition {number} starts again from its checkpoint, until it can go on");
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn lease_of(partition: Partition) -> String {
    format!("partition-{}", partition.0)
}

async fn release(partition: Partition, lease: &Lease, held: HeldLease) {
    if let Err(error) = lease.release(held).await {
        warn!(error = %Chain(&error), "partition {} not released: it is free in {LEASE:?}", partition.0);
    }
}
