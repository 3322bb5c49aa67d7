//! How old a message is when it comes.
//!
//! A message carries its sender's time, which is compared with ours. Clocks differ: a replica whose
//! clock is more than a second off the database's is not ready, so that two may be two seconds
//! apart. So age is judged twice, and the greater counts: by how much more this message was under
//! way than the quickest one lately, whatever the clocks; and by what is left of the difference
//! when the clocks are as far apart as they may be.

use std::time::{Duration, Instant};

/// A partition speaks at least each second; nothing is a hit while one has been silent for longer.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How far the clocks of a sender and a receiver may be apart, both within a second of the
/// database's.
pub const CLOCKS: Duration = Duration::from_secs(2);
/// The quickest way is believed to get longer by a twentieth of the time since: a clock that was
/// set is forgiven after a while.
const FORGIVEN: i64 = 20;

/// The quickest way of one sender's messages.
#[derive(Clone, Copy, Debug)]
pub struct Quickest {
    /// Our time of receipt less the sender's time, in milliseconds.
    way: i64,
    seen: Instant,
}

impl Quickest {
    /// Counts a message that was sent at `sent` by the sender's clock and came at `came` by ours,
    /// both in milliseconds. Says how old it was.
    pub fn count(before: Option<Self>, sent: i64, came: i64) -> (Self, Duration) {
        let way = came.saturating_sub(sent);
        let least = before.map_or(way, |before| {
            let since = i64::try_from(before.seen.elapsed().as_millis()).unwrap_or(i64::MAX);
            way.min(before.way.saturating_add(since / FORGIVEN))
        });
        let allowed = i64::try_from(CLOCKS.as_millis()).unwrap_or(i64::MAX);
        let late = way.saturating_sub(least).max(way.saturating_sub(allowed));
        let quickest = Self {
            way: least,
            seen: Instant::now(),
        };
        let late = u64::try_from(late).unwrap_or(0);
        (quickest, Duration::from_millis(late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How late each of some messages is, by the time it was sent and the time it came.
    fn late<const N: usize>(messages: [(i64, i64); N]) -> [u64; N] {
        let mut quickest = None;
        messages.map(|(sent, came)| {
            let (now, late) = Quickest::count(quickest, sent, came);
            quickest = Some(now);
            late.as_millis() as u64
        })
    }

    #[test]
    fn clocks_that_differ_within_what_is_allowed_make_nothing_late() {
        for skew in [-2_000, -900, 0, 900, 2_000] {
            let messages = [1_000, 2_000, 3_000].map(|sent| (sent, sent + 5 + skew));
            assert!(late(messages).iter().all(|late| *late <= 5), "{skew}");
        }
    }

    #[test]
    fn what_was_longer_under_way_than_others_is_late_whatever_the_clocks() {
        for skew in [-2_000, 0, 1_500] {
            let [first, held, next] = late([
                (1_000, 1_002 + skew),
                (2_000, 7_000 + skew),
                (9_000, 9_003 + skew),
            ]);
            assert!(first <= 2 && next <= 3, "{skew}");
            assert_eq!(held, 4_998, "{skew}");
        }
    }

    #[test]
    fn what_always_comes_late_is_late_where_clocks_do_not_explain_it() {
        assert_eq!(late([(0, 5_000), (1_000, 6_000)]), [3_000, 3_000]);
    }

    #[test]
    fn a_clock_that_was_set_is_forgiven() {
        let (mut quickest, _) = Quickest::count(None, 0, 0);
        let (after, late) = Quickest::count(Some(quickest), 1_000, 2_800);
        assert_eq!(late.as_millis(), 1_800);
        quickest = Quickest {
            seen: Instant::now().checked_sub(Duration::from_secs(36)).unwrap(),
            ..after
        };
        let (_, late) = Quickest::count(Some(quickest), 40_000, 41_800);
        assert_eq!(late.as_millis(), 0);
    }
}
