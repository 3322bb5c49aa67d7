//! Whether something that is tried again and again fails at the moment: for one line when that
//! begins and one when it ends, and none for each attempt.

use std::sync::atomic::{AtomicBool, Ordering};

/// Begins as working. Whoever tries the thing keeps one of these for it.
#[derive(Debug, Default)]
pub struct Failing(AtomicBool);

impl Failing {
    /// An attempt has failed. Whether that is to be told: the attempt before it did not.
    #[must_use]
    pub fn begins(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether the last attempt has failed.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An attempt has worked. Whether that is to be told: the attempt before it did not.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::Failing;

    #[test]
    fn a_state_is_told_when_it_begins_and_when_it_ends() {
        let failing = Failing::default();
        assert!(!failing.ends(), "it never failed");
        assert!(failing.begins());
        assert!(!failing.begins() && failing.is_on(), "told already");
        assert!(failing.ends());
        assert!(!failing.ends(), "told already");
        assert!(failing.begins(), "anew");
    }
}
