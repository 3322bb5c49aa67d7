//! Sessions: one document per family of refresh tokens. Expired ones are removed by the database.

use bson::{Binary, DateTime, doc, spec::BinarySubtype};
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use shared::ids::UserId;

use super::errors::{Fault, is_duplicate};
use crate::app::store::{Rotation, Session};

pub(super) const COLLECTION: &str = "sessions";

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct Sessions {
    sessions: Collection<SessionDocument>,
}

#[derive(Serialize, Deserialize)]
struct SessionDocument {
    #[serde(rename = "_id")]
    family: String,
    user: UserId,
    current: Binary,
    expires_at: DateTime,
}

impl Sessions {
    pub(super) fn new(database: &Database) -> Self {
        Self {
            sessions: database.collection(COLLECTION),
        }
    }

    pub(super) async fn open(&self, session: &Session) -> Attempt<()> {
        let document = SessionDocument {
            family: session.family.clone(),
            user: session.user,
            current: binary(&session.current),
            expires_at: DateTime::from_millis(session.expires_at.millis()),
        };
        match self.sessions.insert_one(document).await {
            Ok(_) => Ok(()),
            // The family is random: it was written by an attempt whose answer was lost.
            Err(error) if is_duplicate(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn rotate(&self, current: &[u8; 32], next: &Session) -> Attempt<Rotation> {
        let newest = doc! {
            "_id": &next.family,
            "current": binary(current),
            "expires_at": { "$gt": DateTime::now() },
        };
        let rotate = doc! { "$set": {
            "current": binary(&next.current),
            "expires_at": DateTime::from_millis(next.expires_at.millis()),
        } };
        let rotated = self.sessions.find_one_and_update(newest, rotate).await?;
        if rotated.is_some() {
            return Ok(Rotation::Rotated);
        }
        let stored = self.find(&next.family).await?;
        Ok(match stored {
            // An attempt whose answer was lost did it: nobody else knows this secret.
            Some(session) if session.current == binary(&next.current) => Rotation::Rotated,
            Some(session) if session.expires_at <= DateTime::now() => Rotation::Unknown,
            Some(_) => Rotation::Reused,
            None => Rotation::Unknown,
        })
    }

    pub(super) async fn user(&self, family: &str) -> Attempt<Option<UserId>> {
        Ok(self.find(family).await?.map(|session| session.user))
    }

    pub(super) async fn close(&self, family: &str) -> Attempt<()> {
        self.sessions.delete_one(doc! { "_id": family }).await?;
        Ok(())
    }

    pub(super) async fn close_all(&self, user: UserId) -> Attempt<()> {
        self.sessions
            .delete_many(doc! { "user": user.get() })
            .await?;
        Ok(())
    }

    async fn find(&self, family: &str) -> Attempt<Option<SessionDocument>> {
        Ok(self.sessions.find_one(doc! { "_id": family }).await?)
    }
}

fn binary(bytes: &[u8; 32]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}
