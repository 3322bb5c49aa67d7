//! So many a second, and so many at once after a quiet time; what is left out is counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A token bucket for all callers together.
pub(super) struct Bound {
    per_second: u32,
    burst: u32,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
    left_out: u64,
}

impl Bound {
    /// A full one.
    pub(super) const fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second,
            burst,
            bucket: Mutex::new(Bucket {
                tokens: burst as f64,
                filled: None,
                left_out: 0,
            }),
        }
    }

    /// How many were left out since the last one that was not; `None` if this one is left out.
    pub(super) fn turn(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let since = bucket.filled.replace(now).map_or(Duration::ZERO, |before| {
            now.saturating_duration_since(before)
        });
        let more = since.as_secs_f64() * f64::from(self.per_second);
        bucket.tokens = (bucket.tokens + more).min(f64::from(self.burst));
        if bucket.tokens < 1.0 {
            bucket.left_out += 1;
            return None;
        }
        bucket.tokens -= 1.0;
        Some(std::mem::take(&mut bucket.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_passes_as_far_as_the_bound_goes_and_what_is_left_out_is_counted() {
        const PER_SECOND: u32 = 20;
        const BURST: u32 = 200;
        let (bound, begin) = (Bound::new(PER_SECOND, BURST), Instant::now());
        let (mut passed, mut left_out) = (0, 0);
        // 10,000 in ten seconds.
        for millis in 0..10_000 {
            let now = begin + Duration::from_millis(millis);
            if let Some(missing) = bound.turn(now) {
                passed += 1;
                left_out += missing;
            }
        }
        let most = u64::from(BURST + 10 * PER_SECOND);
        assert!((most - 2..=most).contains(&passed), "{passed}");
        let later = begin + Duration::from_secs(60);
        left_out += bound.turn(later).expect("there is room again");
        assert_eq!(passed + left_out, 10_000);
    }
}
