//! Whether something that is tried again and again fails at the moment: for one line when that
//! begins, one when it fails for another reason, one when it ends, and none for each attempt.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::error_chain::Chain;

/// Another reason is told after so long at the earliest: two may take turns.
const ANOTHER: Duration = Duration::from_secs(60);
/// What has not failed for so long does not fail any more: it may be tried by others meanwhile.
const OVER: Duration = Duration::from_secs(300);

/// Begins as working. Whoever tries the thing keeps one of these for it.
#[derive(Debug, Default)]
pub struct Failing(Mutex<Option<Failure>>);

#[derive(Debug)]
struct Failure {
    says: String,
    told: Instant,
    last: Instant,
}

impl Failing {
    fn state(&self) -> MutexGuard<'_, Option<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt has failed. Whether that is to be told: the attempt before it did not, or for
    /// another reason.
    #[must_use]
    pub fn begins(&self, why: &(dyn Error + 'static)) -> bool {
        self.begins_at(Instant::now(), Chain(why).to_string())
    }

    fn begins_at(&self, now: Instant, says: String) -> bool {
        let mut state = self.state();
        let known = state.as_mut().filter(|known| now < known.last + OVER);
        if let Some(known) = known {
            known.last = now;
            if known.says == says || now < known.told + ANOTHER {
                return false;
            }
        }
        *state = Some(Failure {
            says,
            told: now,
            last: now,
        });
        true
    }

    /// Whether the last attempt has failed, and not long ago.
    pub fn is_on(&self) -> bool {
        let state = self.state();
        state
            .as_ref()
            .is_some_and(|known| known.last.elapsed() < OVER)
    }

    /// An attempt has worked. Whether that is to be told: the attempt before it did not.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.state().take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_told_when_it_begins_when_it_changes_and_when_it_ends() {
        let (failing, begin) = (Failing::default(), Instant::now());
        let fails = |seconds, why: &str| {
            failing.begins_at(begin + Duration::from_secs(seconds), why.to_owned())
        };
        assert!(!failing.ends(), "it never failed");
        assert!(fails(0, "away"));
        assert!(!fails(1, "away") && failing.is_on(), "told already");
        assert!(!fails(2, "refused"), "two reasons may take turns");
        assert!(fails(62, "refused"), "another reason");
        assert!(!fails(63, "refused"));
        assert!(fails(400, "refused"), "it worked for others meanwhile");
        assert!(failing.ends());
        assert!(!failing.ends(), "told already");
        assert!(fails(401, "refused"), "anew");
    }
}
