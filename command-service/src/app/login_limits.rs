//! How often one account's password may be guessed, counted on each replica.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use shared::web::rate_limit::customer;

use super::error::Limit;

const LOGINS_PER_PAIR: u32 = 10;
const PAIR_WINDOW: Duration = Duration::from_secs(60);
const LOGINS_PER_ACCOUNT: u32 = 100;
const ACCOUNT_WINDOW: Duration = Duration::from_secs(60 * 60);
/// Pairs and accounts remembered; the least recently seen is forgotten first.
const REMEMBERED: u64 = 100_000;
/// How long an address is known that is not seen again: as long as a session lasts.
const KNOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

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

/// What somebody guesses a password for. Each has an allowance of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    SignIn,
    /// Somebody who is signed in leaves, or changes their password or address. Takes an access token:
    /// who only knows a name cannot use this up.
    Confirm,
}

/// Whether an attempt may go on.
#[derive(Debug)]
pub enum Checked {
    Granted,
    Refused(Limit),
    /// Others have used up what strangers may try at the account; who is known here may go on.
    Stranger(Limit),
}

/// Counts guesses at passwords, right or not, on this replica: ten a minute by account and
/// address, and a hundred an hour by account.
///
/// An address from which an account was signed in or a session carried on is *known*: it has a
/// hundred an hour of its own. All others share one hundred. So nobody who knows a name can keep
/// its owner out from where they usually are, and guesses at one account stay few.
pub struct LoginLimits {
    enabled: bool,
    pairs: Windows<Pair>,
    strangers: Windows<Account>,
    own: Windows<Pair>,
    known: Cache<Pair, ()>,
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
            strangers: windows(ACCOUNT_WINDOW),
            own: windows(ACCOUNT_WINDOW),
            known: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_idle(KNOWN)
                .build(),
        }
    }

    /// Remembers that the account's user is at this address.
    pub fn learn(&self, account: &str, address: Option<IpAddr>) {
        if self.enabled && address.is_some() {
            self.known.insert(pair(account, address), ());
        }
    }

    /// Counts one attempt at this account, or refuses it.
    pub fn check(&self, purpose: Purpose, account: &str, address: Option<IpAddr>) -> Checked {
        if !self.enabled {
            return Checked::Granted;
        }
        let (now, counted) = (Instant::now(), counted(purpose, account, address));
        let short = count(&self.pairs, counted, LOGINS_PER_PAIR, PAIR_WINDOW, now);
        if let Err(refusal) = short {
            return Checked::Refused(refusal);
        }
        if self.known.get(&pair(account, address)).is_some() {
            let own = self.check_known(purpose, account, address);
            return own.map_or_else(Checked::Refused, |()| Checked::Granted);
        }
        let (most, window) = (LOGINS_PER_ACCOUNT, ACCOUNT_WINDOW);
        let shared = count(&self.strangers, counted.0, most, window, now);
        shared.map_or_else(Checked::Stranger, |()| Checked::Granted)
    }

    /// Counts one attempt from an address that is known.
    pub fn check_known(
        &self,
        purpose: Purpose,
        account: &str,
        address: Option<IpAddr>,
    ) -> Result<(), Limit> {
        let (now, counted) = (Instant::now(), counted(purpose, account, address));
        count(&self.own, counted, LOGINS_PER_ACCOUNT, ACCOUNT_WINDOW, now)
    }
}

/// An IPv6 customer has many addresses: a /64 counts as one.
fn pair(account: &str, address: Option<IpAddr>) -> Pair {
    (Sha256::digest(account).into(), address.map(customer))
}

/// What an attempt is counted by.
fn counted(purpose: Purpose, account: &str, address: Option<IpAddr>) -> Pair {
    match purpose {
        Purpose::SignIn => pair(account, address),
        Purpose::Confirm => pair(&format!("confirm {account}"), address),
    }
}

fn count<K: std::hash::Hash + Eq + Send + Sync + 'static>(
    windows: &Windows<K>,
    key: K,
    most: u32,
    length: Duration,
    now: Instant,
) -> Result<(), Limit> {
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
        return Err(Limit::Logins {
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

    fn at(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn attempt(limits: &LoginLimits, last: u8) -> Result<(), Limit> {
        granted(limits.check(Purpose::SignIn, "ada", at(last)))
    }

    fn granted(checked: Checked) -> Result<(), Limit> {
        match checked {
            Checked::Granted => Ok(()),
            Checked::Refused(refusal) | Checked::Stranger(refusal) => Err(refusal),
        }
    }

    #[test]
    fn the_eleventh_attempt_in_a_minute_from_one_address_is_refused() {
        let limits = LoginLimits::new(true);
        for _ in 0..LOGINS_PER_PAIR {
            attempt(&limits, 1).unwrap();
        }
        let refused = attempt(&limits, 1).unwrap_err();
        assert!(matches!(refused, Limit::Logins { retry_after, .. } if retry_after <= PAIR_WINDOW));
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
        let elsewhere = limits.check(Purpose::SignIn, "eve", at(0));
        assert!(granted(elsewhere).is_ok(), "another account is another");
    }

    #[test]
    fn what_strangers_use_up_is_not_the_owner_s() {
        let limits = LoginLimits::new(true);
        limits.learn("ada", at(1));
        for address in 10..30 {
            for _ in 0..LOGINS_PER_PAIR {
                let _ = attempt(&limits, address);
            }
        }
        assert!(
            attempt(&limits, 100).is_err(),
            "strangers have had their hundred"
        );
        for _ in 0..LOGINS_PER_PAIR {
            attempt(&limits, 1).unwrap();
        }
        assert!(
            attempt(&limits, 1).is_err(),
            "ten a minute, also from there"
        );
        let confirm = |last| granted(limits.check(Purpose::Confirm, "ada", at(last)));
        assert!(
            confirm(1).is_ok() && confirm(100).is_ok(),
            "who is signed in is counted by themselves"
        );
        // Known are an account and an address together.
        let other = limits.check(Purpose::SignIn, "eve", at(1));
        assert!(limits.known.get(&pair("eve", at(1))).is_none() && granted(other).is_ok());
    }

    #[test]
    fn a_known_address_has_a_hundred_an_hour_and_a_network_is_one_address() {
        let limits = LoginLimits::new(true);
        let home: IpAddr = "2001:db8:1:2::7".parse().unwrap();
        limits.learn("ada", Some(home));
        for _ in 0..LOGINS_PER_ACCOUNT {
            limits
                .check_known(Purpose::SignIn, "ada", Some(home))
                .unwrap();
        }
        let neighbour = "2001:db8:1:2:3:4:5:6".parse().ok();
        let checked = limits.check(Purpose::SignIn, "ada", neighbour);
        assert!(matches!(checked, Checked::Refused(_)), "{checked:?}");
        assert!(attempt(&limits, 1).is_ok(), "and takes nothing from others");
    }

    #[test]
    fn switched_off_nothing_is_counted() {
        let limits = LoginLimits::new(false);
        assert!((0..1_000).all(|_| attempt(&limits, 1).is_ok()));
    }
}
