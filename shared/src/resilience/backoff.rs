//! Waits between tries.

use std::time::Duration;

/// Exponential backoff with full jitter, between two bounds.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    pub const fn between_millis(first: u64, most: u64) -> Self {
        Self {
            first: Duration::from_millis(first),
            most: Duration::from_millis(most),
            attempt: 0,
        }
    }

    /// Something worked: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next wait: half fixed, half random, doubling up to the bound.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self
            .first
            .saturating_mul(1 << self.attempt.min(16))
            .min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

/// For background work that goes on until it succeeds: the relay, the fold.
pub fn background() -> Backoff {
    Backoff::between_millis(20, 1_000)
}

/// For requests: a person waits, so there are a few quick tries, then an error.
pub fn interactive() -> Backoff {
    Backoff::between_millis(10, 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_bound_and_start_over() {
        let mut backoff = Backoff::between_millis(10, 100);
        let waits: Vec<_> = (0..40).map(|_| backoff.next_delay()).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(100)));
        assert!(waits[0] <= Duration::from_millis(10));
        assert!(waits[39] >= Duration::from_millis(50));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(10));
    }
}
