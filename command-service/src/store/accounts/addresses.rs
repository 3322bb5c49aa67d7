//! The transactions that give an account another e-mail address, or none any more.

use std::time::Instant;

use bson::doc;
use mongodb::ClientSession;
use shared::contract::accounts::AddressDocument;
use shared::contract::ids::UserId;
use shared::resilience;

use super::super::errors::{INTERACTIVE, translate};
use super::{Accounts, Attempt, Ended, Source, commit, not_begun, refused};
use crate::app::ports::{NewAddress, Registered, Replaced, Result, StoreError};

impl Accounts {
    /// Reserves the new address and frees the old one, in one transaction. To begin it again changes
    /// nothing more, so that it does not matter whether an attempt without an answer was carried out.
    pub(super) async fn change_together(&self, change: &NewAddress) -> Result<Replaced> {
        let (started, mut backoff) = (Instant::now(), resilience::interactive());
        loop {
            let error: Source = match self.try_change(change, started).await {
                Ok(replaced) => return Ok(replaced),
                Err(Ended::Taken(_)) => return Ok(Replaced::Taken),
                Err(Ended::Failed(error)) => return Err(translate(error)),
                Err(Ended::Again(error) | Ended::Unknown(error)) => Box::new(error),
            };
            if started.elapsed() >= INTERACTIVE {
                return Err(StoreError::Unavailable(error));
            }
            backoff.wait().await;
        }
    }

    async fn try_change(
        &self,
        change: &NewAddress,
        started: Instant,
    ) -> std::result::Result<Replaced, Ended> {
        let mut session = self.begin().await.map_err(not_begun)?;
        let written = self.replace(&mut session, change).await;
        if !matches!(written, Ok(Replaced::Done)) {
            // The server forgets it in time, should this not reach it.
            let _ = session.abort_transaction().await;
            return written;
        }
        commit(&mut session, started).await?;
        written
    }

    /// The old one first: two changes of one account, or a change and its user's leaving, contend for
    /// it, so that one of them finds what the other has made of it.
    async fn replace(
        &self,
        session: &mut ClientSession,
        change: &NewAddress,
    ) -> std::result::Result<Replaced, Ended> {
        let user = change.user.get();
        let old = doc! { "user": user, "_id": { "$ne": &change.folded } };
        let old = self.emails.delete_many(old).session(&mut *session);
        let old = old.await.map_err(not_begun)?.deleted_count;
        let same = doc! { "user": user, "_id": &change.folded };
        let written = doc! { "$set": { "address": &change.address } };
        let same = self.emails.update_one(same, written).session(&mut *session);
        let same = same.await.map_err(not_begun)?.matched_count > 0;
        if !same && old == 0 {
            return Ok(Replaced::Gone);
        }
        if !same {
            self.reserve(session, change).await?;
        }
        self.empty_event(session, change.user)
            .await
            .map_err(not_begun)?;
        Ok(Replaced::Done)
    }

    async fn reserve(
        &self,
        session: &mut ClientSession,
        change: &NewAddress,
    ) -> std::result::Result<(), Ended> {
        let new = AddressDocument {
            folded: change.folded.clone(),
            user: change.user,
            nonce: change.nonce,
            address: Some(change.address.clone()),
        };
        let written = self.emails.insert_one(new).session(session).await;
        written.map_err(|error| refused(error, Registered::EmailTaken))?;
        Ok(())
    }

    /// In a transaction: beside a change of the address it is refused at once, and asked again.
    /// Outside of one it waits for the change, and the embedded engine (0.5.3-beta.196) was seen to
    /// hang when the two met.
    pub(super) async fn forget_address(&self, user: UserId) -> Attempt<()> {
        let mut session = self.begin().await?;
        if let Err(error) = self.delete_address(&mut session, user).await {
            // The server forgets it in time, should this not reach it.
            let _ = session.abort_transaction().await;
            return Err(error.into());
        }
        // Without an answer it is asked for again: whoever has left gets no new address.
        Ok(session.commit_transaction().await?)
    }

    async fn delete_address(
        &self,
        session: &mut ClientSession,
        user: UserId,
    ) -> mongodb::error::Result<()> {
        let of_user = doc! { "user": user.get() };
        self.emails
            .delete_many(of_user)
            .session(&mut *session)
            .await?;
        self.empty_event(session, user).await
    }

    /// The event that registered a user has their address too, where an earlier build has written it.
    /// Emptying it there is the one change that an event ever sees: it leaves what the event says to
    /// everybody else, and the stream, as they are.
    async fn empty_event(
        &self,
        session: &mut ClientSession,
        user: UserId,
    ) -> mongodb::error::Result<()> {
        let event =
            doc! { "_id": user.get(), "type": "user.registered", "data.email": { "$gt": "" } };
        let empty = doc! { "$set": { "data.email": "" } };
        self.events
            .update_one(event, empty)
            .session(session)
            .await?;
        Ok(())
    }
}
