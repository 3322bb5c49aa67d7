//! How every question reaches the database: asked again while that may help, and its outcome told to
//! the breaker.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::resilience::Breaker;

use super::errors::{Fault, retry};
use crate::app::ports::{Result, StoreError};

#[derive(Clone)]
pub(super) struct Calls {
    /// Uniqueness holds only once the indexes are there.
    prepared: Arc<AtomicBool>,
    /// Told of every answer, asked by nobody here: commands pass it on their way in.
    breaker: Arc<Breaker>,
}

impl Calls {
    pub(super) fn new(breaker: Arc<Breaker>) -> Self {
        Self {
            prepared: Arc::default(),
            breaker,
        }
    }

    pub(super) fn set_prepared(&self) {
        self.prepared.store(true, Ordering::Release);
    }

    pub(super) fn require_prepared(&self) -> Result<()> {
        let prepared = self.prepared.load(Ordering::Acquire);
        prepared.then_some(()).ok_or(StoreError::NotPrepared)
    }

    /// [`retry`], with the outcome told to the breaker.
    pub(super) async fn ask<T, F, A>(&self, attempt: F) -> Result<T>
    where
        F: Fn() -> A,
        A: Future<Output = std::result::Result<T, Fault>>,
    {
        self.record(retry(attempt).await)
    }

    pub(super) fn record<T>(&self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Err(StoreError::Unavailable(_)) => self.breaker.record_failure(),
            Ok(_)
            | Err(StoreError::NotPrepared | StoreError::Corrupt(_) | StoreError::Unexpected(_)) => {
                self.breaker.record_success();
            }
        }
        outcome
    }
}
