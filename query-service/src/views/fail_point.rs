//! Deliberate faults, so that tests can show that they would message.
//!
//! For tests alone: there is no setting, variable or argument that leads here.

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailPoint {
    /// A follow brings no older entries.
    NoBackfill,
    /// Every batch is written again, as after a lost answer, and no checkpoint refuses it.
    NoGuard,
    /// A page is not filled up past what is not shown.
    NoRefill,
    /// All partitions but the first are folded by a build that does not know of likes.
    Older,
    /// Some commits fail, before they are written or after. Nobody may message this one.
    Crashes,
}
