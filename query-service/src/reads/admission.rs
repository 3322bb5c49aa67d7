//! Which reads are begun, and how many at once.
//!
//! There are two classes of permits. *Cheap* reads, of single things and first pages, have most of
//! them; *expensive* ones, of lists and of what is not stored for its reader, have their own, so
//! that however many there are they keep nothing from the others. Of each class one caller holds a
//! share at most, and waits behind themselves, not before others. So does one address, whoever
//! asks from there: accounts cost nothing.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use shared::contract::ids::UserId;
use shared::resilience::{AdmissionControl, Breaker, Limits, Permit, Rejected};
use shared::runtime::tasks::Tasks;
use shared::web::rate_limit::customer;
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
enum Who {
    User(UserId),
    /// Everybody without an access token, by address.
    Address(IpAddr),
    /// Behind a connection that has no address.
    Unknown,
}

/// Who asks, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    who: Who,
    address: Option<IpAddr>,
}

impl Asker {
    /// `address` as proxies that are trusted say it; none behind a connection that has none.
    pub fn new(user: Option<UserId>, address: Option<IpAddr>) -> Self {
        let address = address.map(customer);
        let who = match (user, address) {
            (Some(user), _) => Who::User(user),
            (None, Some(address)) => Who::Address(address),
            (None, None) => Who::Unknown,
        };
        Self { who, address }
    }
}

/// Cloning gives another handle.
#[derive(Clone)]
pub struct Admission {
    cheap: Class,
    expensive: Class,
    tasks: Tasks,
}

#[derive(Clone)]
struct Class {
    gate: AdmissionControl,
    callers: Shares<Who>,
    /// `None`: an address may have what there is.
    addresses: Option<Shares<IpAddr>>,
}

/// What each has of a class.
#[derive(Clone)]
struct Shares<K> {
    shares: moka::sync::Cache<K, Arc<Share>>,
    each: Each,
}

/// What one caller, or one address, may have of a class.
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
pub struct ReadPermit {
    _permit: Permit,
    _share: OwnedSemaphorePermit,
    _of_address: Option<OwnedSemaphorePermit>,
}

/// Together twice the pool: that keeps every connection busy, and more reads at once only make
/// each other late. The wait for a write to be visible (1 s) is within the deadline.
const CHEAP: Limits = Limits {
    max_in_flight: 48,
    max_queued: 512,
    queue_timeout: PATIENCE,
    request_timeout: DEADLINE,
};
const EXPENSIVE: Limits = Limits {
    max_in_flight: 16,
    max_queued: 256,
    queue_timeout: PATIENCE,
    request_timeout: DEADLINE,
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
/// Many may share an address: more than a caller's, and less than all.
const CHEAP_OF_ADDRESS: Each = Each {
    permits: 32,
    waiting: 256,
};
const EXPENSIVE_OF_ADDRESS: Each = Each {
    permits: 8,
    waiting: 64,
};
/// Callers remembered. Whoever is forgotten, long after their last read, has a whole share again.
const REMEMBERED: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

impl Admission {
    /// `limit_addresses`: whether an address has a share, too, as it has a rate.
    pub fn new(breaker: &Arc<Breaker>, limit_addresses: bool) -> Self {
        let class = |limits, caller, address| Class {
            gate: AdmissionControl::new(breaker.clone(), limits),
            callers: Shares::new(caller),
            addresses: limit_addresses.then(|| Shares::new(address)),
        };
        Self {
            cheap: class(CHEAP, CHEAP_EACH, CHEAP_OF_ADDRESS),
            expensive: class(EXPENSIVE, EXPENSIVE_EACH, EXPENSIVE_OF_ADDRESS),
            tasks: Tasks::default(),
        }
    }

    /// The same for reads that are among these tasks.
    #[must_use]
    pub fn with_tasks(mut self, tasks: &Tasks) -> Self {
        self.tasks = tasks.clone();
        self
    }

    /// The tasks that reads run in.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The gate that the cheap reads pass.
    pub fn gate(&self) -> &AdmissionControl {
        &self.cheap.gate
    }

    /// A permit, soon or not at all. Whoever goes away while waiting leaves nothing behind.
    pub async fn acquire(&self, cost: Cost, asker: Asker) -> Result<ReadPermit, Rejected> {
        match cost {
            Cost::Cheap => self.cheap.acquire(1, asker).await,
            Cost::Expensive(permits) => self.expensive.acquire(permits, asker).await,
        }
    }
}

impl Class {
    /// First within the caller's share, then within their address's, then among all: at most a
    /// share of a queue is theirs, so that those who share an address do not wait behind one of
    /// them.
    async fn acquire(&self, permits: u32, asker: Asker) -> Result<ReadPermit, Rejected> {
        let until = Instant::now() + self.gate.queue_timeout();
        let most = u32::try_from(self.callers.each.permits).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, most);
        let own = self.callers.of(asker.who);
        let own = own.acquire(&self.gate, permits, until).await?;
        let of_address = match self.addresses.as_ref().zip(asker.address) {
            Some((addresses, address)) => {
                let share = addresses.of(address);
                Some(share.acquire(&self.gate, permits, until).await?)
            }
            None => None,
        };
        let left = until.saturating_duration_since(Instant::now());
        let permit = self.gate.acquire_many(permits, left).await?;
        Ok(ReadPermit {
            _permit: permit,
            _share: own,
            _of_address: of_address,
        })
    }
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Shares<K> {
    fn new(each: Each) -> Self {
        let shares = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_idle(FORGOTTEN_AFTER);
        Self {
            shares: shares.build(),
            each,
        }
    }

    fn of(&self, whose: K) -> Arc<Share> {
        let whole = || Arc::new(Share::new(self.each));
        self.shares.get_with(whose, whole)
    }
}

impl Share {
    fn new(each: Each) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(each.permits)),
            waiting: Semaphore::new(each.waiting),
        }
    }

    async fn acquire(
        &self,
        gate: &AdmissionControl,
        permits: u32,
        until: Instant,
    ) -> Result<OwnedSemaphorePermit, Rejected> {
        if let Ok(own) = self.permits.clone().try_acquire_many_owned(permits) {
            return Ok(own);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(gate.reject().await);
        };
        let turn = self.permits.clone().acquire_many_owned(permits);
        match gate
            .unless_open(tokio::time::timeout_at(until, turn))
            .await?
        {
            Ok(Ok(own)) => Ok(own),
            Ok(Err(_)) | Err(_) => Err(Rejected::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    fn caller(n: u8) -> Asker {
        Asker::new(None, Some(IpAddr::from([10, 0, 0, n])))
    }

    /// A user who asks from the same address as the others.
    fn neighbour(user: i64) -> Asker {
        Asker::new(UserId::new(user), Some(IpAddr::from([10, 0, 0, 1])))
    }

    fn admission() -> Admission {
        Admission::new(&Arc::new(Breaker::new("mongodb")), true)
    }

    async fn entered(admission: &Admission, cost: Cost, askers: Vec<Asker>) -> Vec<ReadPermit> {
        let all = askers
            .into_iter()
            .map(|asker| admission.acquire(cost, asker));
        join_all(all).await.into_iter().flatten().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_accounts_of_one_address_share_what_it_may_have() {
        for (cost, most, all) in [
            (Cost::Expensive(1), EXPENSIVE_OF_ADDRESS, EXPENSIVE),
            (Cost::Cheap, CHEAP_OF_ADDRESS, CHEAP),
        ] {
            let many = || (1..=200).map(neighbour).collect::<Vec<_>>();
            let admission = admission();
            let theirs = entered(&admission, cost, many()).await;
            assert_eq!(theirs.len(), most.permits);
            let began = Instant::now();
            let rest = u8::try_from(all.max_in_flight - most.permits).unwrap();
            let others = (0..rest).map(|n| caller(n + 2)).collect();
            let others = entered(&admission, cost, others).await;
            assert_eq!(others.len(), usize::from(rest));
            assert!(began.elapsed().is_zero());
            drop(theirs);
            assert!(admission.acquire(cost, neighbour(1)).await.is_ok());

            let unlimited = Admission::new(&Arc::new(Breaker::new("mongodb")), false);
            let theirs = entered(&unlimited, cost, many()).await;
            assert_eq!(
                theirs.len(),
                all.max_in_flight,
                "the address limits are off"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_shares_an_address_does_not_wait_behind_one_of_them() {
        let admission = admission();
        let greedy = (0..100).map(|_| admission.acquire(Cost::Expensive(1), neighbour(1)));
        let mut greedy = Box::pin(join_all(greedy));
        assert!(futures_util::poll!(&mut greedy).is_pending());
        let began = Instant::now();
        let other = admission
            .acquire(Cost::Expensive(1), neighbour(2))
            .await
            .ok();
        assert!(other.is_some() && began.elapsed().is_zero());
        let unknown = Asker::new(UserId::new(3), None);
        assert!(admission.acquire(Cost::Expensive(1), unknown).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_has_a_share_and_others_theirs() {
        let admission = admission();
        let expensive = |who| admission.acquire(Cost::Expensive(1), who);
        let all = join_all((0..100).map(|_| expensive(caller(1)))).await;
        let mine: Vec<ReadPermit> = all.into_iter().flatten().collect();
        assert_eq!(mine.len(), EXPENSIVE_EACH.permits);
        let began = Instant::now();
        let other = expensive(caller(2)).await.ok();
        assert!(other.is_some() && began.elapsed().is_zero());
        let cheap = admission.acquire(Cost::Cheap, caller(1)).await.ok();
        assert!(cheap.is_some() && began.elapsed().is_zero());
        drop(mine);
        assert!(expensive(caller(1)).await.is_ok(), "a share comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn expensive_reads_of_many_callers_take_no_cheap_permit() {
        let admission = admission();
        let callers = (0..200).map(|n| admission.acquire(Cost::Expensive(1), caller(n)));
        let permits: Vec<ReadPermit> = join_all(callers).await.into_iter().flatten().collect();
        assert_eq!(permits.len(), EXPENSIVE.max_in_flight);
        let began = Instant::now();
        let cheap = (0..48).map(|n| admission.acquire(Cost::Cheap, caller(n)));
        assert!(join_all(cheap).await.iter().all(Result::is_ok));
        assert!(began.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn what_costs_more_takes_more_permits_and_is_let_in_all_the_same() {
        let admission = admission();
        let most = u32::try_from(EXPENSIVE_EACH.permits).unwrap();
        let dear = admission
            .acquire(Cost::Expensive(u32::MAX), caller(1))
            .await;
        assert!(dear.is_ok());
        let callers = (2..200).map(|n| admission.acquire(Cost::Expensive(most), caller(n)));
        let others: Vec<ReadPermit> = join_all(callers).await.into_iter().flatten().collect();
        assert_eq!(
            others.len(),
            EXPENSIVE.max_in_flight / EXPENSIVE_EACH.permits - 1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_while_waiting_leaves_nothing_behind() {
        let admission = admission();
        let expensive = || admission.acquire(Cost::Expensive(4), caller(1));
        let held = expensive().await.ok();
        let waits = tokio::time::timeout(PATIENCE / 2, expensive()).await;
        assert!(waits.is_err() && held.is_some());
        drop(held);
        assert!(expensive().await.is_ok());
    }
}
