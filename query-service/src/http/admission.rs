//! Which reads are begun, and how many at once.
//!
//! There are two classes of permits. *Cheap* reads, of single things and first pages, have most of
//! them; *expensive* ones, of lists and of what is not stored for its reader, have their own, so
//! that however many there are they keep nothing from the others. Of each class one caller holds a
//! share at most, and waits behind themselves, not before others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use shared::ids::UserId;
use shared::resilience::{Bounds, Breaker, Gate, Place, Refused};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What a read costs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cost {
    Cheap,
    /// As much as so many expensive reads.
    Expensive(u32),
}

/// Whose permits are counted together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Who {
    User(UserId),
    /// Everybody without an access token, by address.
    Address(IpAddr),
    /// Behind a connection that has no address.
    Unknown,
}

/// Cloning gives another handle.
#[derive(Clone)]
pub struct Admission {
    cheap: Class,
    expensive: Class,
}

#[derive(Clone)]
struct Class {
    gate: Gate,
    shares: moka::sync::Cache<Who, Arc<Share>>,
    each: Each,
}

/// What one caller may have of a class.
#[derive(Clone, Copy, Debug)]
struct Each {
    permits: usize,
    waiting: usize,
}

struct Share {
    permits: Arc<Semaphore>,
    waiting: Semaphore,
}

/// Leave to read; belongs to the work, not to whoever waits for it.
pub struct Permit {
    _place: Place,
    _share: OwnedSemaphorePermit,
}

/// Together twice the pool: that keeps every connection busy, and more reads at once only make
/// each other late. The wait for a write to be visible (1 s) is within the deadline.
const CHEAP: Bounds = Bounds {
    places: 48,
    waiting: 512,
    patience: PATIENCE,
    deadline: DEADLINE,
};
const EXPENSIVE: Bounds = Bounds {
    places: 16,
    waiting: 256,
    patience: PATIENCE,
    deadline: DEADLINE,
};
const PATIENCE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(3);
const CHEAP_EACH: Each = Each {
    permits: 16,
    waiting: 128,
};
const EXPENSIVE_EACH: Each = Each {
    permits: 4,
    waiting: 32,
};
/// Callers remembered. Whoever is forgotten, long after their last read, has a whole share again.
const REMEMBERED: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

impl Admission {
    pub fn new(breaker: &Arc<Breaker>) -> Self {
        Self {
            cheap: Class::new(breaker, CHEAP, CHEAP_EACH),
            expensive: Class::new(breaker, EXPENSIVE, EXPENSIVE_EACH),
        }
    }

    /// The gate that the cheap reads pass.
    pub fn gate(&self) -> &Gate {
        &self.cheap.gate
    }

    /// A permit, soon or not at all. Whoever goes away while waiting leaves nothing behind.
    pub async fn enter(&self, cost: Cost, who: Who) -> Result<Permit, Refused> {
        match cost {
            Cost::Cheap => self.cheap.enter(1, who).await,
            Cost::Expensive(permits) => self.expensive.enter(permits, who).await,
        }
    }
}

impl Class {
    fn new(breaker: &Arc<Breaker>, bounds: Bounds, each: Each) -> Self {
        let shares = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_idle(FORGOTTEN_AFTER);
        Self {
            gate: Gate::new(breaker.clone(), bounds),
            shares: shares.build(),
            each,
        }
    }

    /// First within the caller's share, then among all: at most a share of the queue is theirs.
    async fn enter(&self, permits: u32, who: Who) -> Result<Permit, Refused> {
        let until = Instant::now() + self.gate.patience();
        let most = u32::try_from(self.each.permits).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, most);
        let share = self
            .shares
            .get_with(who, || Arc::new(Share::new(self.each)));
        let own = match share.permits.clone().try_acquire_many_owned(permits) {
            Ok(own) => own,
            Err(_) => {
                let Ok(_waiting) = share.waiting.try_acquire() else {
                    return Err(self.gate.refuse().await);
                };
                let turn = share.permits.clone().acquire_many_owned(permits);
                let turn = tokio::time::timeout_at(until, turn);
                match self.gate.unless_open(turn).await? {
                    Ok(Ok(own)) => own,
                    Ok(Err(_)) | Err(_) => return Err(Refused::Full),
                }
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        let place = self.gate.enter_with(permits, left).await?;
        Ok(Permit {
            _place: place,
            _share: own,
        })
    }
}

impl Share {
    fn new(each: Each) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(each.permits)),
            waiting: Semaphore::new(each.waiting),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    fn caller(n: u8) -> Who {
        Who::Address(IpAddr::from([10, 0, 0, n]))
    }

    fn admission() -> Admission {
        Admission::new(&Arc::new(Breaker::new("test")))
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_has_a_share_and_others_theirs() {
        let admission = admission();
        let expensive = |who| admission.enter(Cost::Expensive(1), who);
        let all = join_all((0..100).map(|_| expensive(caller(1)))).await;
        let mine: Vec<Permit> = all.into_iter().flatten().collect();
        assert_eq!(mine.len(), EXPENSIVE_EACH.permits);
        let began = Instant::now();
        let other = expensive(caller(2)).await.ok();
        assert!(other.is_some() && began.elapsed().is_zero());
        let cheap = admission.enter(Cost::Cheap, caller(1)).await.ok();
        assert!(cheap.is_some() && began.elapsed().is_zero());
        drop(mine);
        assert!(expensive(caller(1)).await.is_ok(), "a share comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn expensive_reads_of_many_callers_take_no_cheap_permit() {
        let admission = admission();
        let callers = (0..200).map(|n| admission.enter(Cost::Expensive(1), caller(n)));
        let permits: Vec<Permit> = join_all(callers).await.into_iter().flatten().collect();
        assert_eq!(permits.len(), EXPENSIVE.places);
        let began = Instant::now();
        let cheap = (0..48).map(|n| admission.enter(Cost::Cheap, caller(n)));
        assert!(join_all(cheap).await.iter().all(Result::is_ok));
        assert!(began.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn what_costs_more_takes_more_permits_and_is_let_in_all_the_same() {
        let admission = admission();
        let most = u32::try_from(EXPENSIVE_EACH.permits).unwrap();
        let dear = admission.enter(Cost::Expensive(u32::MAX), caller(1)).await;
        assert!(dear.is_ok());
        let callers = (2..200).map(|n| admission.enter(Cost::Expensive(most), caller(n)));
        let others: Vec<Permit> = join_all(callers).await.into_iter().flatten().collect();
        assert_eq!(others.len(), EXPENSIVE.places / EXPENSIVE_EACH.permits - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_while_waiting_leaves_nothing_behind() {
        let admission = admission();
        let expensive = || admission.enter(Cost::Expensive(4), caller(1));
        let held = expensive().await.ok();
        let waits = tokio::time::timeout(PATIENCE / 2, expensive()).await;
        assert!(waits.is_err() && held.is_some());
        drop(held);
        assert!(expensive().await.is_ok());
    }
}
