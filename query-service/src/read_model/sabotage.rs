//! Deliberate faults, so that tests can show that they would notice.
//!
//! For tests alone: there is no setting, variable or argument that leads here.

use super::{ViewError, Views};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sabotage {
    /// A follow brings no older entries.
    NoBackfill,
    /// Every batch is written again, as after a lost answer, and no checkpoint refuses it.
    NoGuard,
    /// A page is not filled up past what is not shown.
    NoRefill,
    /// All partitions but the first are folded by a build that does not know of likes.
    Older,
    /// Some commits fail, before they are written or after. Nobody may notice this one.
    Crashes,
}

impl Views {
    #[must_use]
    pub fn sabotaged(mut self, sabotage: Option<Sabotage>) -> Self {
        self.sabotage = sabotage;
        self
    }

    pub(crate) fn is_sabotaged(&self, by: Sabotage) -> bool {
        self.sabotage == Some(by)
    }

    pub(super) fn crash_sometimes(&self) -> Result<(), ViewError> {
        const ONE_IN: u8 = 8;
        if self.is_sabotaged(Sabotage::Crashes) && rand::random_range(0..ONE_IN) == 0 {
            return Err(ViewError::Refused("sabotage".to_owned()));
        }
        Ok(())
    }
}
