//! Which partitions this process folds: for metrics.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::contract::partition::Partition;

use crate::metric_rows::PARTITIONS_HELD;

/// Generation and partition.
static HELD: Mutex<BTreeSet<(i64, u16)>> = Mutex::new(BTreeSet::new());

fn held() -> MutexGuard<'static, BTreeSet<(i64, u16)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A partition that is held, as long as this lives.
pub struct Held(i64, u16);

impl Held {
    pub fn begin(generation: i64, partition: Partition) -> Self {
        held().insert((generation, partition.0));
        Self(generation, partition.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        held().remove(&(self.0, self.1));
    }
}

/// Says how many partitions this process holds of the generation that readers are shown, and of
/// others.
pub fn tell(shown: i64) {
    let held = held();
    let of_shown = held.iter().filter(|(number, _)| *number == shown).count();
    for (which, count) in [("shown", of_shown), ("other", held.len() - of_shown)] {
        PARTITIONS_HELD.of([which]).set(count as f64);
    }
}
