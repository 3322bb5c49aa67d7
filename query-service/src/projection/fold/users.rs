//! Users: owned by their own partition.

use shared::contract::events::{Event, UserRegistered};

use super::{Batch, Fold};
use crate::views::changes::Stamp;
use crate::views::documents::AccountStatus;

impl Fold {
    pub(super) fn registered(
        &self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        user: &UserRegistered,
    ) {
        if !self.is_ours(event.actor) {
            return;
        }
        batch
            .changes
            .user_registered(event.actor, self.partition, event.at, user, stamp);
        batch.new_readers.push(event.actor);
    }

    pub(super) fn status_changed(
        &self,
        batch: &mut Batch,
        stamp: Stamp,
        event: &Event,
        standing: AccountStatus,
    ) {
        if self.is_ours(event.actor) {
            batch.changes.status_changed(event.actor, standing, stamp);
        }
    }
}
