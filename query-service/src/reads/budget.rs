//! What one read may cost, and whether somebody still waits for it.
//!
//! A read checks its budget itself: before every query whether it was abandoned, and after every
//! step whether the budget is used up; then it ends with a short page and a cursor. Its first step
//! is always made, so that every page gets ahead. Nothing is ever dropped within a query: that
//! would cost the connection it runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::unanswered::Unanswered;

/// How much one read may use before its page ends early.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Rows that the database returned.
    pub rows: usize,
    pub queries: usize,
    /// From the beginning of the read on.
    pub time: Duration,
}

impl ReadLimits {
    /// What a request gets. The time is a third of what its client waits for at most.
    pub const OF_A_REQUEST: Self = Self {
        rows: 20_000,
        queries: 200,
        time: Duration::from_secs(1),
    };

    /// What a look for a live stream gets: no bound, as nobody waits for a page. It ends when the
    /// stream does.
    pub const OF_A_LOOK: Self = Self {
        rows: usize::MAX,
        queries: usize::MAX,
        time: Duration::MAX,
    };
}

/// The budget of one read. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct ReadBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: ReadLimits,
    began: Instant,
    rows: AtomicUsize,
    queries: AtomicUsize,
    abandoned: AtomicBool,
    /// Whether the read holds permits for what is expensive.
    may_be_expensive: bool,
}

/// Abandons the read when it is dropped: nobody waits any more.
#[derive(Debug)]
pub struct AbandonOnDrop(ReadBudget);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.0.abandoned.store(true, Ordering::Relaxed);
    }
}

impl ReadBudget {
    pub fn new(limits: ReadLimits, may_be_expensive: bool) -> Self {
        Self(Arc::new(Inner {
            limits,
            began: Instant::now(),
            rows: AtomicUsize::new(0),
            queries: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            may_be_expensive,
        }))
    }

    /// The same limits, with nothing used.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self::new(self.0.limits, self.0.may_be_expensive)
    }

    /// To be kept by whoever waits for the read.
    pub fn abandon_on_drop(&self) -> AbandonOnDrop {
        AbandonOnDrop(self.clone())
    }

    /// Before every query.
    ///
    /// # Errors
    /// `Abandoned` if nobody waits for the read any more.
    pub(super) fn begin_query(&self) -> Result<(), Unanswered> {
        if self.0.abandoned.load(Ordering::Relaxed) {
            return Err(Unanswered::Abandoned);
        }
        self.0.queries.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// After every query.
    pub(super) fn has_read(&self, rows: usize) {
        self.0.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Whether the read holds permits for what is expensive.
    pub(super) fn may_be_expensive(&self) -> bool {
        self.0.may_be_expensive
    }

    /// After every step of a loop: whether the page must end here.
    pub(super) fn is_used_up(&self) -> bool {
        let Inner { limits, began, .. } = &*self.0;
        self.0.queries.load(Ordering::Relaxed) >= limits.queries
            || self.0.rows.load(Ordering::Relaxed) >= limits.rows
            || began.elapsed() >= limits.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: ReadLimits = ReadLimits {
        rows: 10,
        queries: 2,
        time: Duration::from_secs(3_600),
    };

    #[test]
    fn a_budget_is_used_up_by_queries_by_rows_or_by_time() {
        let budget = ReadBudget::new(SOME, false);
        budget.begin_query().unwrap();
        assert!(!budget.is_used_up());
        budget.begin_query().unwrap();
        assert!(budget.is_used_up());
        assert!(!budget.afresh().is_used_up());
        let rows = budget.afresh();
        rows.has_read(SOME.rows);
        assert!(rows.is_used_up());
        let none = ReadLimits {
            time: Duration::ZERO,
            ..SOME
        };
        assert!(ReadBudget::new(none, false).is_used_up());
    }

    #[test]
    fn a_read_that_nobody_waits_for_begins_no_query() {
        let budget = ReadBudget::new(SOME, false);
        let waiting = budget.abandon_on_drop();
        budget.begin_query().unwrap();
        drop(waiting);
        assert!(matches!(budget.begin_query(), Err(Unanswered::Abandoned)));
        assert!(budget.afresh().begin_query().is_ok());
    }
}
