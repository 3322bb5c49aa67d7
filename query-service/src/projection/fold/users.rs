//! Users: owned by their own partition.

use bson::doc;
use shared::events::{Event, ProfileEdited, UserRegistered};

use super::{Batch, Fold, stored};
use crate::views::generation::View;
use crate::views::keys::Key;

impl Fold {
    pub(super) fn registered(
        &self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        user: &UserRegistered,
    ) {
        if !self.is_ours(event.actor) {
            return;
        }
        let row = doc! {
            // Builds that showed it from here want the field; it has held nothing since.
            "username": &user.username, "email": "",
            "display_name": &user.display_name, "bio": &user.bio,
            "at": bson::DateTime::from_millis(event.at.millis()),
            "verified": false, "standing": "active",
            "following": 0_i64, "posts": 0_i64, "outbox": 0_i64,
            "v": event.version, "s": stored(seq),
        };
        batch.changes.insert(View::Users, Key::id(event.actor), row);
        // Who registers is taken to read; away is counted from here.
        let reader =
            doc! { "p": i32::from(self.partition.0), "horizon": 0_i64, "seen": event.at.millis() };
        batch
            .changes
            .insert(View::Readers, Key::id(event.actor), reader);
        batch.new_readers.push(event.actor);
    }

    pub(super) fn profile_edited(
        &self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        profile: &ProfileEdited,
    ) {
        let fields = doc! { "display_name": &profile.display_name, "bio": &profile.bio };
        self.user_changed(batch, seq, event, fields);
    }

    pub(super) fn standing_changed(
        &self,
        batch: &mut Batch,
        seq: u64,
        event: &Event,
        standing: &str,
    ) {
        self.user_changed(batch, seq, event, doc! { "standing": standing });
    }

    pub(super) fn verified(&self, batch: &mut Batch, seq: u64, event: &Event) {
        self.user_changed(batch, seq, event, doc! { "verified": true });
    }

    fn user_changed(&self, batch: &mut Batch, seq: u64, event: &Event, mut fields: bson::Document) {
        if self.is_ours(event.actor) {
            fields.extend(doc! { "v": event.version, "s": stored(seq) });
            batch.changes.set(View::Users, Key::id(event.actor), fields);
        }
    }
}
