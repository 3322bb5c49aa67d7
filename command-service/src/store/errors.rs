//! What the driver's errors mean, and when asking again may help.

use std::future::Future;
use std::time::{Duration, Instant};

use mongodb::error::Error;
use shared::resilience;
pub(super) use shared::runtime::mongo_errors::{is_duplicate, is_transient};

use crate::app::ports::{Result, StoreError};

/// A person waits: no new attempt after this long.
pub(super) const INTERACTIVE: Duration = Duration::from_secs(1);

/// An attempt's error: the driver's, or a document that cannot be read.
pub(super) enum Fault {
    Driver(Error),
    /// The answer is not known yet: look again.
    Unsettled,
    Store(StoreError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Driver(error) => translate(error),
            Fault::Unsettled => Self::Unavailable("the outcome is not settled yet".into()),
            Fault::Store(error) => error,
        }
    }
}

/// What a driver's error means where nothing particular was expected.
pub(super) fn translate(error: Error) -> StoreError {
    if is_transient(&error) {
        StoreError::Unavailable(Box::new(error))
    } else {
        StoreError::Unexpected(Box::new(error))
    }
}

pub(super) fn corrupt(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Corrupt(error.into())
}

/// Tries until it works, a person would not wait any longer, or there is no point. Whatever is
/// tried must bear being done twice.
///
/// An attempt without an answer may have done it. Whatever a later one is told, the outcome stays
/// unknown then: nothing that was reserved for it is to be given back.
pub(super) async fn retry<T, F, A>(attempt: F) -> Result<T>
where
    F: Fn() -> A,
    A: Future<Output = std::result::Result<T, Fault>>,
{
    let (started, mut backoff) = (Instant::now(), resilience::interactive());
    let mut unknown = false;
    loop {
        let fault = match attempt().await {
            Ok(value) => return Ok(value),
            Err(fault) => fault,
        };
        let again = match &fault {
            Fault::Driver(error) => is_transient(error),
            Fault::Unsettled => true,
            Fault::Store(_) => false,
        };
        if !again || started.elapsed() >= INTERACTIVE {
            let error = StoreError::from(fault);
            return Err(if unknown { in_doubt(error) } else { error });
        }
        unknown |= matches!(fault, Fault::Driver(_));
        backoff.wait().await;
    }
}

/// The same, as what it means after an attempt whose outcome is not known.
fn in_doubt(error: StoreError) -> StoreError {
    if error.is_transient() {
        error
    } else {
        StoreError::Unavailable(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn lost() -> Fault {
        Fault::Driver(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
    }

    fn refused() -> Fault {
        Fault::Driver(Error::custom("refused"))
    }

    /// What comes of attempts that end like this, one after the other.
    async fn outcome(mut attempts: Vec<Fault>) -> StoreError {
        attempts.reverse();
        let attempts = RefCell::new(attempts);
        let attempt = || async { Err::<(), _>(attempts.borrow_mut().pop().unwrap()) };
        retry(attempt).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_refusal_after_a_lost_answer_leaves_the_outcome_unknown() {
        for last in [refused(), Fault::Store(corrupt("unreadable"))] {
            let error = outcome(vec![lost(), last]).await;
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_of_the_only_attempt_that_was_sent_is_definite() {
        let error = outcome(vec![refused()]).await;
        assert!(matches!(error, StoreError::Unexpected(_)), "{error:?}");
        let error = outcome(vec![Fault::Unsettled, refused()]).await;
        assert!(matches!(error, StoreError::Unexpected(_)), "{error:?}");
    }
}
