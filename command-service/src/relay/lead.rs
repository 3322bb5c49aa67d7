//! Who of several relays is the active one.
//!
//! A lease is for whoever can use it. Who is not connected to the broker does not ask for it; who
//! holds it and could not publish for [`Settings::give_up`](super::Settings) gives it up, and
//! stands back for longer than the others take to ask for it. A connection that is made anew is
//! reason to try at once.

use std::pin::pin;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bson::{Document, doc};
use shared::resilience::lease::{HeldLease, Lease};
use shared::runtime::error_chain::Chain;
use shared::runtime::failing::Failing;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::state::State;
use super::watch::PUBLISHED_NOTE;
use super::worker::{Ended, Relay};
use crate::metric_rows::RELAY_ACTIVE;

/// How long a stop waits for the database, after the batch in flight.
const LAST_TASKS: Duration = Duration::from_secs(2);

impl State {
    /// Says whether this process has the lease, unless `over` came first.
    fn tell_active(&self, active: bool, over: Option<&CancellationToken>) {
        let one_at_a_time = self.lease_gauge.lock();
        let _one_at_a_time = one_at_a_time.unwrap_or_else(PoisonError::into_inner);
        if over.is_none_or(|over| !over.is_cancelled()) {
            RELAY_ACTIVE.only().set(if active { 1.0 } else { 0.0 });
        }
    }
}

impl Relay {
    /// Relays whenever it holds the lease, until `stop`; then ends with the batch in flight and
    /// gives the lease up.
    pub async fn run(self, stop: CancellationToken) {
        self.state.tell_active(false, None);
        tokio::join!(self.lead(&stop), self.watch(&stop));
        // The lease is released and readers end. With the database away they take seconds, and
        // the lease runs out by itself: nothing depends on them.
        self.tasks.close();
        if tokio::time::timeout(LAST_TASKS, self.tasks.wait())
            .await
            .is_err()
        {
            warn!("relay: stopped while the database did not answer");
        }
    }

    async fn lead(&self, stop: &CancellationToken) {
        while let Some((held, asked)) = self.wait_for_lease(stop).await {
            info!(lease.epoch = held.epoch, "relay: active");
            self.recall_published();
            self.state.tell_active(true, None);
            self.state.active.store(true, Ordering::Relaxed);
            let (active, done) = (stop.child_token(), CancellationToken::new());
            // Should this future be dropped, the lease is not renewed for ever.
            let ends_with_us = done.clone().drop_guard();
            self.tasks
                .spawn(self.keep_lease(held, asked, active.clone(), done));
            let ended = self.work(&active).await;
            drop(ends_with_us);
            self.state.active.store(false, Ordering::Relaxed);
            self.state.tell_active(false, None);
            match ended {
                Ended::Stopped => info!("relay: no longer active"),
                Ended::Unable => {
                    info!("relay: no longer active: it cannot publish, another may be able to");
                    self.stand_back(stop).await;
                }
            }
        }
    }

    /// Learns how far the holder before has come, for the lag of what waits.
    fn recall_published(&self) {
        let (lease, state) = (self.lease.clone(), self.state.clone());
        self.tasks.spawn(async move {
            if let Ok(Some(row)) = lease.note().await
                && let Ok(published) = row.get_i64(PUBLISHED_NOTE)
            {
                state.last_id.fetch_max(published, Ordering::Relaxed);
            }
        });
    }

    /// Lets others take the lease that this process could not use.
    async fn stand_back(&self, stop: &CancellationToken) {
        let until = Instant::now() + 2 * self.lease.length();
        loop {
            let connection = self.nats.changed();
            let mut changed = pin!(connection.notified());
            changed.as_mut().enable();
            let was_connected = self.nats.is_connected();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(until) => return,
                () = changed => (),
            }
            if self.nats.is_connected() && !was_connected {
                return;
            }
        }
    }

    /// The lease, and when it was asked for.
    async fn wait_for_lease(&self, stop: &CancellationToken) -> Option<(HeldLease, Instant)> {
        let failing = Failing::default();
        while !stop.is_cancelled() {
            let connection = self.nats.changed();
            let mut changed = pin!(connection.notified());
            changed.as_mut().enable();
            let mut pause = self.lease.length() / 3;
            if self.nats.is_connected() {
                let (lease, asked) = (self.lease.clone(), Instant::now());
                let acquired = tokio::select! {
                    acquired = self.finish(async move { lease.acquire().await }) => acquired,
                    () = stop.cancelled() => return None,
                };
                if acquired.is_ok() && failing.ends() {
                    info!("relay: the lease can be asked for again");
                }
                match acquired {
                    Ok(Some(held)) => return Some((held, asked)),
                    // Whoever waits for what they have written waits for this too, where the
                    // holder was stopped, and only for a second in all.
                    Ok(None) => pause = self.lease.length() / 12,
                    Err(error) => {
                        if failing.begins(&error) {
                            warn!(error = %Chain(&error), "relay: the lease cannot be asked for");
                        }
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => (),
                () = changed => (),
                () = tokio::time::sleep(pause) => (),
            }
        }
        None
    }

    /// Renews the lease until `done`, then releases it; ends `active` when it is lost.
    fn keep_lease(
        &self,
        held: HeldLease,
        asked: Instant,
        active: CancellationToken,
        done: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (lease, state) = (self.lease.clone(), self.state.clone());
        async move {
            let (mut renewed, failing) = (asked, Failing::default());
            loop {
                tokio::select! {
                    () = done.cancelled() => break,
                    () = tokio::time::sleep(lease.length() / 3) => (),
                }
                state.tell_lag();
                let asked = Instant::now();
                match renew(&lease, held, &state, renewed + lease.length(), &done).await {
                    Ok(Some(_)) => {
                        renewed = asked;
                        if failing.ends() {
                            info!("relay: the lease is renewed again");
                        }
                        state.tell_active(true, Some(&done));
                    }
                    Ok(None) => {
                        warn!("relay: another has the lease");
                        state.tell_active(false, Some(&done));
                        active.cancel();
                        return;
                    }
                    // Whoever has it meanwhile, the fence keeps us apart.
                    Err(error) => {
                        if failing.begins(&error) {
                            warn!(error = %Chain(&error), "relay: the lease is not renewed");
                        }
                    }
                }
                if renewed.elapsed() >= lease.length() {
                    state.tell_active(false, Some(&done));
                }
            }
            if let Err(error) = lease.release(held).await {
                warn!(error = %Chain(&error), "relay: lease not released; it runs out by itself");
            }
        }
    }
}

/// Renews the lease, with a note of how far the stream is. While the answer takes longer than the
/// lease lasts, the process does not count as active: another may be.
async fn renew(
    lease: &Lease,
    held: HeldLease,
    state: &State,
    runs_out: Instant,
    done: &CancellationToken,
) -> mongodb::error::Result<Option<HeldLease>> {
    let published = state.last_id.load(Ordering::Relaxed);
    let note = match published {
        0 => Document::new(),
        published => doc! { PUBLISHED_NOTE: published },
    };
    let mut renewal = pin!(lease.renew_with(held, note));
    tokio::select! {
        renewed = &mut renewal => return renewed,
        () = tokio::time::sleep_until(runs_out) => state.tell_active(false, Some(done)),
    }
    // The driver's future is never dropped half way.
    renewal.await
}
