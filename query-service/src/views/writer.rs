//! The handle that writes the views. The projection alone has one, and operators' commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mongodb::{Client, Collection, Database};
use shared::contract::partition::{Partition, Partitions};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ViewError;
use super::fail_point::FailPoint;
use super::generation::{Catalog, Generation, View};

/// Writes one generation of views. Cloning gives another handle.
#[derive(Clone)]
pub struct ViewWriter {
    inner: Arc<Inner>,
    fail_point: Option<FailPoint>,
}

struct Inner {
    generation: Generation,
    /// Names the database of views in messages.
    views_id: i64,
    passed: Passed,
}

/// The sequence that each partition has passed, as of a moment ago.
type Passed = Mutex<Option<(Instant, Arc<HashMap<Partition, u64>>)>>;

/// All partitions of a process look at all checkpoints: one look is for all of them.
const PASSED_AGAIN: Duration = Duration::from_millis(20);

impl ViewWriter {
    /// Opens one generation, and makes the collections and indexes that are missing.
    pub async fn of(generation: Generation) -> Result<Self, ViewError> {
        generation.prepare().await?;
        let views_id = Catalog::new(generation.database()).views_id().await?;
        let inner = Inner {
            generation,
            views_id,
            passed: Passed::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            fail_point: None,
        })
    }

    /// Names these views, whatever their generation: other deployments may use the same broker.
    pub fn id(&self) -> i64 {
        self.inner.views_id
    }

    pub fn generation(&self) -> &Generation {
        &self.inner.generation
    }

    pub fn partitions(&self) -> Partitions {
        self.inner.generation.partitions
    }

    pub(super) fn client(&self) -> &Client {
        self.database().client()
    }

    pub(super) fn database(&self) -> &Database {
        self.inner.generation.database()
    }

    pub(super) fn name(&self, view: View) -> String {
        self.inner.generation.name(view)
    }

    pub(super) fn rows<T: Send + Sync>(&self, view: View) -> Collection<T> {
        self.inner.generation.collection(view)
    }

    /// What each partition has passed; sequences only rise, so that an older look promises less.
    pub async fn passed(&self) -> Result<Arc<HashMap<Partition, u64>>, ViewError> {
        let mut passed = self.inner.passed.lock().await;
        if let Some((at, passed)) = &*passed
            && at.elapsed() < PASSED_AGAIN
        {
            return Ok(passed.clone());
        }
        let now = self.generation().checkpoints().await?.into_iter();
        let now = Arc::new(now.map(|(partition, at)| (partition, at.seq)).collect());
        *passed = Some((Instant::now(), Arc::clone(&now)));
        Ok(now)
    }

    #[must_use]
    pub fn with_fail_point(mut self, fail_point: Option<FailPoint>) -> Self {
        self.fail_point = fail_point;
        self
    }

    pub(crate) fn fails_at(&self, by: FailPoint) -> bool {
        self.fail_point == Some(by)
    }

    pub(super) fn crash_sometimes(&self) -> Result<(), ViewError> {
        const ONE_IN: u8 = 8;
        if self.fails_at(FailPoint::Crashes) && rand::random_range(0..ONE_IN) == 0 {
            return Err(ViewError::Refused("fail point".to_owned()));
        }
        Ok(())
    }
}
