//! How every question reaches the database: asked again while that may help, and its outcome told to
//! the breaker.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::resilience::Breaker;
use shared::runtime::trace::{Kind, Span};

use super::errors::{Fault, retry};
use crate::app::ports::{Result, StoreError};

/// A call that is traced, as the conventions for databases name it.
pub(super) struct Call {
    /// Operation and collection.
    pub(super) span: &'static str,
    pub(super) operation: &'static str,
    pub(super) collection: &'static str,
}

#[derive(Clone)]
pub(super) struct Calls {
    /// Uniqueness holds only once the indexes are there, and a log that is being restored is not to
    /// be written to.
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

    /// From here on nothing is written.
    pub(super) fn set_replaced(&self) {
        self.prepared.store(false, Ordering::Release);
    }

    pub(super) fn is_prepared(&self) -> bool {
        self.prepared.load(Ordering::Acquire)
    }

    pub(super) fn require_prepared(&self) -> Result<()> {
        let prepared = self.is_prepared();
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

    /// [`Self::ask`] as a span of the command at work: it waits for this.
    pub(super) async fn ask_traced<T, F, A>(&self, call: &Call, attempt: F) -> Result<T>
    where
        F: Fn() -> A,
        A: Future<Output = std::result::Result<T, Fault>>,
    {
        let span = Span::part(Kind::Client, call.span);
        span.says("db.system.name", "mongodb");
        span.says("db.operation.name", call.operation);
        span.says("db.collection.name", call.collection);
        let outcome = span.around(self.ask(attempt)).await;
        if outcome.is_err() {
            span.fails("failed");
        }
        outcome
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
