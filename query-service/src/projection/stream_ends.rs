//! Where the stream ended at which time: what the fold's lag is measured against.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Looks that are kept. Beyond this every second one is given up, so that a fold that stands still
/// for days costs no more memory; its lag is then less fine.
const KEPT: usize = 4_096;

/// The ends of the stream, oldest first; each at the time when it was first seen.
#[derive(Default)]
pub struct StreamEnds {
    seen: VecDeque<(Instant, u64)>,
}

impl StreamEnds {
    pub fn observe(&mut self, now: Instant, end: u64) {
        let last = self.seen.back().map(|(_, last)| *last);
        if last.is_some_and(|last| end < last) {
            // Another stream, or one that was deleted and made anew: nothing of the old one waits.
            self.seen.clear();
        }
        if last != Some(end) {
            self.seen.push_back((now, end));
        }
        if self.seen.len() > KEPT {
            let mut keep = false;
            self.seen.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// The end as it was `ago` before `now`; the first that was seen if that is later.
    pub fn end_before(&self, now: Instant, ago: Duration) -> u64 {
        let is_old = |(at, _): &&(Instant, u64)| now.duration_since(*at) >= ago;
        let last_old = self.seen.iter().take_while(is_old).last();
        last_old.or(self.seen.front()).map_or(0, |(_, end)| *end)
    }

    /// Since when there is something behind `seq`; `None` if `seq` is the end.
    ///
    /// Under steady traffic there is nearly always something behind it; what counts is since when
    /// the oldest of that has been waiting.
    pub fn behind_since(&self, seq: u64) -> Option<Instant> {
        let mut seen = self.seen.iter();
        seen.find(|(_, end)| *end > seq).map(|(at, _)| *at)
    }

    /// Gives up what nobody asks about any more: ends up to `seq` that are older than `ago`.
    pub fn forget(&mut self, seq: u64, now: Instant, ago: Duration) {
        // The one before the last that is old enough still says what the end was then.
        while let Some((at, _)) = self.seen.get(1)
            && now.duration_since(*at) >= ago
            && self.seen[0].1 <= seq
        {
            self.seen.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(250);

    #[test]
    fn a_fold_that_is_one_step_behind_all_the_time_lags_one_step() {
        let (mut ends, begin) = (StreamEnds::default(), Instant::now());
        for n in 1..=400_u32 {
            let now = begin + STEP * n;
            ends.observe(now, u64::from(n) * 10);
            // It has folded everything but what came with the latest look.
            let seq = u64::from(n - 1) * 10;
            assert_eq!(ends.behind_since(seq), Some(now));
            ends.forget(seq, now, STEP * 20);
            assert!(ends.seen.len() < 30, "{}", ends.seen.len());
        }
    }

    #[test]
    fn a_fold_that_stands_still_lags_since_the_first_message_it_does_not_have() {
        let (mut ends, begin) = (StreamEnds::default(), Instant::now());
        for n in 0..100_000_u32 {
            ends.observe(begin + STEP * n, 5 + u64::from(n));
            ends.forget(5, begin + STEP * n, STEP * 20);
        }
        assert!(ends.seen.len() <= KEPT);
        let since = ends.behind_since(5).expect("it is behind");
        // As fine as the looks that were kept.
        assert!(
            since >= begin && since <= begin + STEP * 64,
            "{:?}",
            since - begin
        );
        assert_eq!(ends.behind_since(5 + 99_999), None);
    }

    #[test]
    fn a_stream_that_ends_earlier_than_before_is_another_one() {
        let (mut ends, begin) = (StreamEnds::default(), Instant::now());
        ends.observe(begin, 500);
        ends.observe(begin + STEP, 20);
        assert_eq!(ends.behind_since(20), None);
        assert_eq!(ends.behind_since(19), Some(begin + STEP));
    }

    #[test]
    fn the_end_some_time_ago_is_what_a_start_must_reach() {
        let (mut ends, begin) = (StreamEnds::default(), Instant::now());
        assert_eq!(ends.end_before(begin, STEP), 0);
        ends.observe(begin, 7);
        assert_eq!(ends.end_before(begin, STEP), 7);
        ends.observe(begin + STEP, 9);
        ends.observe(begin + STEP * 2, 12);
        assert_eq!(ends.end_before(begin + STEP * 2, STEP), 9);
        ends.forget(12, begin + STEP * 10, STEP);
        assert_eq!(ends.end_before(begin + STEP * 10, STEP), 12);
        assert_eq!(ends.behind_since(12), None);
    }
}
