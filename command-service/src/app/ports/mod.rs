//! What the use cases need kept: the doors to the database, one for each owner of data.
//!
//! An append is the only way to change what others see. Everything else here guards it (names,
//! counts, quotas) or serves its author alone (credentials, sessions). `crate::store` keeps all of
//! it in MongoDB. In unit tests `memory` does, so that a use case runs in milliseconds;
//! `tests/store/conformance.rs` holds both to the same promises
//! (`docs/decisions/16-ports-and-an-in-memory-twin.md`).

mod accounts;
mod cleanups;
mod error;
mod event_log;
#[cfg(test)]
pub mod memory;
mod projections;
mod quotas;
mod sessions;

use std::sync::Arc;

pub use accounts::{
    AccountName, Accounts, Credentials, NewAccount, NewAddress, NewPassword, Registered, Replaced,
};
pub use cleanups::{Cleanups, DeactivationCleanup, Relation};
pub use error::{Result, StoreError};
pub use event_log::{
    AppendOutcome, EventLog, Key, NewEvent, OVERLAP_MS, PriorRequest, PriorRequests, Streams,
};
pub use projections::{Counts, Projected, Projections, Reaction};
pub use quotas::{Allowance, FOLLOW_COUNT_RESTS, FollowCounts, Limited, Quota, QuotaState, Quotas};
pub use sessions::{Began, Owner, Renewal, Renewed, Rotation, Session, Sessions};

/// All doors to one database.
#[derive(Clone)]
pub struct Store {
    pub log: Arc<dyn EventLog>,
    pub streams: Arc<dyn Streams>,
    pub accounts: Arc<dyn Accounts>,
    pub sessions: Arc<dyn Sessions>,
    pub quotas: Arc<dyn Quotas>,
    pub follows: Arc<dyn FollowCounts>,
    pub cleanups: Arc<dyn Cleanups>,
    pub projections: Arc<dyn Projections>,
}
