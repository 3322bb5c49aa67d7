//! Where tests have the relay fail.

use std::sync::Arc;

/// Where a test may have the relay fail.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailPoint {
    /// The stream has the batch; the relay does not know.
    BatchStored,
    ScanBegun,
    ScanWindowRead,
    ScanCompared,
    ScanBatch,
    ScanPublished,
}

/// Asks whether to fail; never does, outside tests.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct FailPoints(Option<Arc<dyn Fn(FailPoint) -> bool + Send + Sync>>);

impl FailPoints {
    pub(super) fn at(fails: impl Fn(FailPoint) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(fails)))
    }

    pub(super) fn reached(&self, point: FailPoint) -> Result<(), FailPoint> {
        match &self.0 {
            Some(fails) if fails(point) => Err(point),
            _ => Ok(()),
        }
    }
}
