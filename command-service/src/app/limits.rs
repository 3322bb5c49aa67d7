//! How much one account may do: posts and edits over all replicas, attempts to sign in on each.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use shared::error_chain::Chain;
use shared::ids::UserId;
use tracing::warn;

use super::store::{Limited, Quota, QuotaState, StoreError};
use super::{App, CommandError};
use crate::domain::user::User;

/// Verified users write this many times as much.
const VERIFIED_FACTOR: u32 = 3;

const LOGINS_PER_PAIR: u32 = 10;
const PAIR_WINDOW: Duration = Duration::from_secs(60);
const LOGINS_PER_ACCOUNT: u32 = 100;
const ACCOUNT_WINDOW: Duration = Duration::from_secs(60 * 60);
/// Pairs and accounts remembered; the least recently seen is forgotten first.
const REMEMBERED: u64 = 100_000;

/// How a user's quota stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allowance {
    pub of: Limited,
    pub quota: Quota,
    pub state: QuotaState,
}

/// The quotas of posts and of edits: as many of either. The counts are in the store, so that they
/// hold over all replicas.
pub struct Limits {
    quota: Quota,
}

impl Limits {
    pub fn new(quota: Quota) -> Self {
        Self { quota }
    }

    fn of(&self, author: &User) -> Quota {
        let factor = if author.verified { VERIFIED_FACTOR } else { 1 };
        Quota {
            posts: self.quota.posts.saturating_mul(factor),
            window: self.quota.window,
        }
    }
}

impl App {
    /// Takes one from the user's quota.
    pub(super) async fn reserve(
        &self,
        of: Limited,
        user: &User,
    ) -> Result<Allowance, CommandError> {
        let quota = self.limits.of(user);
        let state = self.store.reserve(of, user.id, quota).await?;
        let allowance = Allowance { of, quota, state };
        if state.granted {
            Ok(allowance)
        } else {
            Err(CommandError::Quota(allowance))
        }
    }

    /// How the user's quota stands; what is only told is not worth a failure.
    pub(super) async fn allowance(&self, of: Limited, user: &User) -> Option<Allowance> {
        let quota = self.limits.of(user);
        let state = self.store.quota(of, user.id, quota).await.ok()?;
        Some(Allowance { of, quota, state })
    }

    /// Gives a reservation back after a definite failure.
    pub(super) async fn release(&self, user: UserId, allowance: Allowance) {
        let window = allowance.state.window_start;
        let released: Result<(), StoreError> = self.store.release(allowance.of, user, window).await;
        if let Err(error) = released {
            let what = allowance.of.name();
            warn!(error = %Chain(&error), what, "what was not written stays counted");
        }
    }
}

/// Attempts in a window that begins with the first.
#[derive(Clone, Copy)]
struct Window {
    began: Instant,
    attempts: u32,
}

type Windows<K> = Cache<K, Arc<Mutex<Window>>>;
/// What somebody calls an account may be as long as a body; its hash is not.
type Account = [u8; 32];
type Pair = (Account, Option<IpAddr>);

/// Counts attempts to sign in, successful or not, on this replica.
pub struct LoginLimits {
    enabled: bool,
    pairs: Windows<Pair>,
    accounts: Windows<Account>,
}

impl LoginLimits {
    pub fn new(enabled: bool) -> Self {
        fn windows<K: std::hash::Hash + Eq + Send + Sync + 'static>(of: Duration) -> Windows<K> {
            Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(of)
                .build()
        }
        Self {
            enabled,
            pairs: windows(PAIR_WINDOW),
            accounts: windows(ACCOUNT_WINDOW),
        }
    }

    /// Counts one attempt at this account, or refuses it.
    pub fn check(&self, account: &str, address: Option<IpAddr>) -> Result<(), CommandError> {
        if !self.enabled {
            return Ok(());
        }
        let now = Instant::now();
        let account: Account = Sha256::digest(account).into();
        let pair = (account, address);
        count(&self.pairs, pair, LOGINS_PER_PAIR, PAIR_WINDOW, now)?;
        count(
            &self.accounts,
            account,
            LOGINS_PER_ACCOUNT,
            ACCOUNT_WINDOW,
            now,
        )
    }
}

fn count<K: std::hash::Hash + Eq + Send + Sync + 'static>(
    windows: &Windows<K>,
    key: K,
    most: u32,
    length: Duration,
    now: Instant,
) -> Result<(), CommandError> {
    let fresh = Window {
        began: now,
        attempts: 0,
    };
    let window = windows.get_with(key, || Arc::new(Mutex::new(fresh)));
    let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
    let passed = now.saturating_duration_since(window.began);
    if passed >= length {
        *window = fresh;
    }
    if window.attempts >= most {
        return Err(CommandError::LoginLimit {
            most,
            window: length,
            retry_after: length.saturating_sub(passed),
        });
    }
    window.attempts += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(limits: &LoginLimits, last: u8) -> Result<(), CommandError> {
        limits.check("ada", Some(IpAddr::from([10, 0, 0, last])))
    }

    #[test]
    fn the_eleventh_attempt_in_a_minute_from_one_address_is_refused() {
        let limits = LoginLimits::new(true);
        for _ in 0..LOGINS_PER_PAIR {
            attempt(&limits, 1).unwrap();
        }
        let refused = attempt(&limits, 1).unwrap_err();
        assert!(
            matches!(refused, CommandError::LoginLimit { retry_after, .. } if retry_after <= PAIR_WINDOW)
        );
        assert!(
            attempt(&limits, 2).is_ok(),
            "another address is another pair"
        );
    }

    #[test]
    fn many_addresses_together_get_a_hundred_attempts_an_hour() {
        let limits = LoginLimits::new(true);
        for address in 0..10 {
            for _ in 0..LOGINS_PER_PAIR {
                attempt(&limits, address).unwrap();
            }
        }
        assert!(attempt(&limits, 200).is_err());
    }

    #[test]
    fn switched_off_nothing_is_counted() {
        let limits = LoginLimits::new(false);
        assert!((0..1_000).all(|_| attempt(&limits, 1).is_ok()));
    }
}
