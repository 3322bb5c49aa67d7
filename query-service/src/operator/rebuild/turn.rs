//! Whose turn it is to work on generations.

use std::time::Duration;

use shared::resilience::lease::{HeldLease, Lease};
use shared::runtime::tasks::Tasks;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::RebuildError;
use crate::views::error::ViewError;
use crate::views::generation::Catalog;

/// The right to make, switch and drop generations: two commands at once would drop what the other
/// builds.
pub struct Turn {
    lease: Lease,
    held: HeldLease,
    done: CancellationToken,
    /// Somebody else has taken the lease.
    pub lost: CancellationToken,
}

/// What a command that was killed leaves is free after this.
const TURN: Duration = Duration::from_secs(3);

impl Turn {
    pub async fn take(catalog: &Catalog, tasks: &Tasks) -> Result<Self, RebuildError> {
        let holder = format!("{:016x}", rand::random::<u64>());
        let lease = Lease::new(catalog.operators(), "rebuild", holder, TURN);
        let give_up = Instant::now() + TURN * 2;
        let held = loop {
            if let Some(held) = lease.acquire().await.map_err(ViewError::from)? {
                break held;
            }
            if Instant::now() > give_up {
                return Err(RebuildError::Busy);
            }
            tokio::time::sleep(TURN / 30).await;
        };
        let (done, lost) = (CancellationToken::new(), CancellationToken::new());
        tasks.run(lease.clone().keep(held, done.clone(), lost.clone()));
        Ok(Self {
            lease,
            held,
            done,
            lost,
        })
    }

    /// A turn that cannot be given back ends by itself.
    pub async fn end(self) {
        self.done.cancel();
        let _ = self.lease.release(self.held).await;
    }
}
