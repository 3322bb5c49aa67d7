//! MongoDB's clock, as a process knows it between two readings of it.
//!
//! Ids, and the times of events, are made by this clock: replicas agree on it whatever their own
//! machines' clocks say, also when those are set. Between two readings it is carried on by the
//! monotonic clock, which cannot be set.

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use bson::{Document, doc};
use mongodb::Database;

use crate::contract::time::{Clock, SystemClock, Timestamp};

/// The condition of readiness that [`ClockReading::agreement`] is about.
pub const AGREES: &str = "the clock agrees with MongoDB's";
/// A process whose own clock is further off, in milliseconds, is not ready: access tokens and
/// positions in timelines are judged by it.
pub const MAX_SKEW_MS: i64 = 1_000;

/// One reading of the database's clock. It read it at some moment between question and answer.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    asked: (Instant, Timestamp),
    time: Timestamp,
    answered: (Instant, Timestamp),
}

impl ClockReading {
    /// Asks the database for its time.
    pub async fn at(database: &Database) -> mongodb::error::Result<Self> {
        let now = || (Instant::now(), SystemClock.now());
        let asked = now();
        let hello: Document = database.run_command(doc! { "hello": 1 }).await?;
        let answered = now();
        let time = hello
            .get_datetime("localTime")
            .map_err(mongodb::error::Error::custom)?;
        Ok(Self {
            asked,
            time: Timestamp::from_millis(time.timestamp_millis()),
            answered,
        })
    }

    /// Whether this machine's clock is within [`MAX_SKEW_MS`] of the database's; if not, by how
    /// much they differ at least, in words.
    pub fn agreement(&self) -> Result<(), String> {
        let behind = self.asked.1.millis() - self.time.millis();
        let ahead = self.time.millis() - self.answered.1.millis();
        let skew = behind.max(ahead);
        if skew <= MAX_SKEW_MS {
            Ok(())
        } else {
            Err(format!("they differ by {skew} ms"))
        }
    }
}

/// A moment of the monotonic clock, and what the database's said then, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: Instant,
    micros: i64,
}

impl Anchor {
    fn micros_at(&self, moment: Instant) -> i64 {
        let passed = moment.saturating_duration_since(self.at);
        let passed = i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
        self.micros.saturating_add(passed)
    }
}

/// The database's clock. Before the first reading it is this machine's own.
#[derive(Debug, Default)]
pub struct DatabaseClock {
    anchor: RwLock<Option<Anchor>>,
}

impl DatabaseClock {
    /// Learns from a reading. What was known is kept where it agrees with it, for a reading that took
    /// long says little; else it is moved to the nearest time that does.
    pub fn learn(&self, reading: &ClockReading) {
        let took = reading
            .answered
            .0
            .saturating_duration_since(reading.asked.0);
        let took = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        // The database answers in whole milliseconds.
        let earliest = reading.time.millis().saturating_mul(1_000);
        let latest = earliest.saturating_add(1_000).saturating_add(took);
        let mut anchor = self.anchor.write().unwrap_or_else(PoisonError::into_inner);
        let micros = match *anchor {
            Some(known) => known.micros_at(reading.answered.0).clamp(earliest, latest),
            None => earliest + (latest - earliest) / 2,
        };
        let at = reading.answered.0;
        *anchor = Some(Anchor { at, micros });
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        let anchor = self.anchor.read().unwrap_or_else(PoisonError::into_inner);
        match *anchor {
            Some(anchor) => Timestamp::from_millis(anchor.micros_at(Instant::now()) / 1_000),
            None => SystemClock.now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A reading that begins now, takes `took` ms, by a machine that says `wall`.
    fn reading_of(begin: Instant, took: u64, wall: i64, time: i64) -> ClockReading {
        let took_ms = i64::try_from(took).unwrap();
        ClockReading {
            asked: (begin, Timestamp::from_millis(wall)),
            time: Timestamp::from_millis(time),
            answered: (
                begin + Duration::from_millis(took),
                Timestamp::from_millis(wall + took_ms),
            ),
        }
    }

    fn known(clock: &DatabaseClock, at: Instant) -> i64 {
        let anchor = clock.anchor.read().unwrap().unwrap();
        anchor.micros_at(at) / 1_000
    }

    #[test]
    fn a_machine_s_clock_may_be_a_second_off() {
        let now = Instant::now();
        for (wall, agrees) in [
            (9_000, true),
            (11_000, true),
            (11_005, false),
            (8_990, false),
        ] {
            let reading = reading_of(now, 5, wall, 10_000);
            assert_eq!(reading.agreement().is_ok(), agrees, "{wall}");
        }
        let glitch = reading_of(now, 5, 610_000, 10_000).agreement().unwrap_err();
        assert_eq!(glitch, "they differ by 600000 ms");
    }

    #[test]
    fn the_clock_goes_by_the_database_whatever_the_machine_s_own_says() {
        let (clock, now) = (DatabaseClock::default(), Instant::now());
        clock.learn(&reading_of(now, 10, 610_000, 10_000));
        let later = now + Duration::from_millis(510);
        assert!((10_499..=10_511).contains(&known(&clock, later)));
        // A quick reading makes it more exact, a slow one that agrees changes nothing.
        clock.learn(&reading_of(later, 0, 5, 10_510));
        let exact = known(&clock, later);
        assert!((10_510..=10_511).contains(&exact));
        clock.learn(&reading_of(later, 800, 5, 10_600));
        assert_eq!(
            known(&clock, later + Duration::from_millis(800)),
            exact + 800
        );
    }

    #[test]
    fn a_database_whose_clock_is_set_takes_this_one_along() {
        let (clock, now) = (DatabaseClock::default(), Instant::now());
        clock.learn(&reading_of(now, 0, 0, 700_000));
        clock.learn(&reading_of(now, 4, 0, 100_000));
        let moment = now + Duration::from_millis(4);
        assert!((100_000..=100_005).contains(&known(&clock, moment)));
    }
}
