//! Sessions: one document per family of refresh tokens. Expired ones are removed by the database.

use async_trait::async_trait;
use bson::{Binary, DateTime, Document, doc, spec::BinarySubtype};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use shared::contract::ids::UserId;
use shared::contract::sessions::{MOST_SESSIONS, PasswordMark, SESSIONS, SessionId};
use shared::contract::time::Timestamp;
use shared::runtime::error_chain::Chain;
use tracing::debug;

use super::calls::Calls;
use super::errors::{Fault, is_duplicate};
use crate::app::ports::{self, Owner, Renewal, Renewed, Result, Rotation, Session};

/// Sessions that are too many, closed together: more are closed when the next one is opened.
const CLOSED_AT_ONCE: i64 = 500;

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct Sessions {
    sessions: Collection<SessionDocument>,
    calls: Calls,
}

#[derive(Serialize, Deserialize)]
struct SessionDocument {
    #[serde(rename = "_id")]
    family: String,
    /// [`SessionId`] of the family. Not in documents that an earlier build wrote last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<Binary>,
    user: UserId,
    current: Binary,
    expires_at: DateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Binary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<DateTime>,
    /// The mark that the account's password had then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<i64>,
    /// The token before the current one, and what made the current one of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Binary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<Binary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewed_at: Option<DateTime>,
}

#[async_trait]
impl ports::Sessions for Sessions {
    async fn open(&self, session: &Session) -> Result<()> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_open(session)).await?;
        let bounded = self.calls.ask(|| self.try_bound(session.user)).await;
        if let Err(error) = bounded {
            // The next one to be opened does it.
            debug!(error = %Chain(&error), "sessions beyond the bound are not closed yet");
        }
        Ok(())
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Rotation> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_renew(renewal)).await
    }

    async fn has_from(&self, user: UserId, origins: &[[u8; 32]]) -> Result<bool> {
        self.calls.ask(|| self.try_has_from(user, origins)).await
    }

    async fn owner(&self, family: &str) -> Result<Option<Owner>> {
        // A client whose session is not found gives its token up.
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_owner(family)).await
    }

    async fn close(&self, family: &str) -> Result<()> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_close(family)).await
    }

    async fn close_own(&self, user: UserId, session: SessionId) -> Result<()> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_close_own(user, session)).await
    }

    async fn close_all(&self, user: UserId) -> Result<()> {
        self.calls.require_prepared()?;
        let own = doc! { "user": user.get() };
        self.calls.ask(|| self.try_close_those(&own)).await
    }

    async fn close_ended(
        &self,
        user: UserId,
        before: &PasswordMark,
        kept: Option<SessionId>,
    ) -> Result<()> {
        self.calls.require_prepared()?;
        let mut ended = before.replaced_filter(kept);
        ended.insert("user", user.get());
        self.calls.ask(|| self.try_close_those(&ended)).await
    }
}

impl Sessions {
    pub(super) fn new(database: &Database, calls: Calls) -> Self {
        Self {
            sessions: database.collection(SESSIONS),
            calls,
        }
    }

    async fn try_open(&self, session: &Session) -> Attempt<()> {
        let document = SessionDocument {
            family: session.family.clone(),
            sid: Some(SessionId::of(&session.family).bson()),
            user: session.user,
            current: binary(&session.current),
            expires_at: date(session.expires_at),
            origin: session.origin.as_ref().map(binary),
            created_at: Some(date(session.began.at)),
            mark: session.began.mark,
            previous: None,
            salt: None,
            renewed_at: None,
        };
        match self.sessions.insert_one(document).await {
            Ok(_) => Ok(()),
            // The family is random: it was written by an attempt whose answer was lost.
            Err(error) if is_duplicate(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// One update decides which of many uses at once makes the next token. All the others find
    /// what it stored, and so does this one asked again, should its answer be lost.
    async fn try_renew(&self, renewal: &Renewal) -> Attempt<Rotation> {
        let (used, next) = (binary(&renewal.used), &renewal.next);
        let newest = doc! {
            "_id": &next.family,
            "current": used.clone(),
            "expires_at": { "$gt": DateTime::now() },
        };
        let renew = doc! { "$set": {
            "current": binary(&next.current),
            "sid": SessionId::of(&next.family).bson(),
            "expires_at": date(next.expires_at),
            "origin": next.origin.as_ref().map(binary),
            "previous": used.clone(),
            "salt": binary(&renewal.salt),
            "renewed_at": date(renewal.at),
        } };
        let renewed = self.sessions.find_one_and_update(newest, renew).await?;
        if renewed.is_some() {
            return Ok(Rotation::Renewed(Renewed {
                salt: renewal.salt,
                at: renewal.at,
                current: next.current,
            }));
        }
        let Some(stored) = self.find(&next.family).await? else {
            return Ok(Rotation::Unknown);
        };
        if stored.expires_at <= DateTime::now() {
            return Ok(Rotation::Unknown);
        }
        // Somebody's update came first, and a majority does not have it yet.
        if stored.current == used {
            return Err(Fault::Unsettled);
        }
        Ok(match stored.renewed() {
            Some(renewed) if stored.previous == Some(used) => Rotation::Renewed(renewed),
            Some(_) | None => Rotation::Reused,
        })
    }

    async fn try_has_from(&self, user: UserId, origins: &[[u8; 32]]) -> Attempt<bool> {
        let origins: Vec<Binary> = origins.iter().map(binary).collect();
        let session = doc! {
            "user": user.get(),
            "origin": { "$in": origins },
            "expires_at": { "$gt": DateTime::now() },
        };
        Ok(self.sessions.find_one(session).await?.is_some())
    }

    async fn try_owner(&self, family: &str) -> Attempt<Option<Owner>> {
        Ok(self.find(family).await?.map(|session| Owner {
            user: session.user,
            mark: session.mark,
        }))
    }

    async fn try_close_own(&self, user: UserId, session: SessionId) -> Attempt<()> {
        let named = doc! { "user": user.get(), "sid": session.bson() };
        if self.sessions.delete_one(named).await?.deleted_count > 0 {
            return Ok(());
        }
        // One that an earlier build wrote last has no id: it is looked for by its family.
        let unnamed = doc! { "user": user.get(), "sid": null };
        let keys = self.sessions.clone_with_type::<Key>();
        let unnamed = keys.find(unnamed).projection(doc! { "expires_at": 1 });
        let unnamed = unnamed
            .sort(doc! { "expires_at": -1 })
            .limit(i64::from(MOST_SESSIONS));
        let families: Vec<Key> = unnamed.await?.try_collect().await?;
        let found = families.iter().map(|row| &row.family);
        for family in found.filter(|family| SessionId::of(family) == session) {
            self.sessions.delete_one(doc! { "_id": family }).await?;
        }
        Ok(())
    }

    async fn try_close(&self, family: &str) -> Attempt<()> {
        self.sessions.delete_one(doc! { "_id": family }).await?;
        Ok(())
    }

    async fn try_close_those(&self, which: &Document) -> Attempt<()> {
        self.sessions.delete_many(which.clone()).await?;
        Ok(())
    }

    /// Closes those that were used longest ago, beyond as many as a user may have.
    async fn try_bound(&self, user: UserId) -> Attempt<()> {
        let keys = self.sessions.clone_with_type::<Key>();
        let beyond = keys
            .find(doc! { "user": user.get() })
            .sort(doc! { "expires_at": -1 })
            .skip(u64::from(MOST_SESSIONS))
            .limit(CLOSED_AT_ONCE)
            .projection(doc! { "expires_at": 1 });
        let beyond: Vec<Key> = beyond.await?.try_collect().await?;
        let Some(last_used) = beyond.first() else {
            return Ok(());
        };
        let families: Vec<&String> = beyond.iter().map(|row| &row.family).collect();
        // One that is used meanwhile goes on.
        let unused = doc! { "$lte": last_used.expires_at };
        let unused = doc! { "_id": { "$in": families }, "expires_at": unused };
        self.try_close_those(&unused).await
    }

    async fn find(&self, family: &str) -> Attempt<Option<SessionDocument>> {
        Ok(self.sessions.find_one(doc! { "_id": family }).await?)
    }
}

impl SessionDocument {
    fn renewed(&self) -> Option<Renewed> {
        let at = self.renewed_at?.timestamp_millis();
        Some(Renewed {
            salt: bytes(self.salt.as_ref()?)?,
            at: Timestamp::from_millis(at),
            current: bytes(&self.current)?,
        })
    }
}

/// What finds a document, and when it was used last.
#[derive(Deserialize)]
struct Key {
    #[serde(rename = "_id")]
    family: String,
    expires_at: DateTime,
}

fn date(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.millis())
}

fn bytes(binary: &Binary) -> Option<[u8; 32]> {
    binary.bytes.as_slice().try_into().ok()
}

fn binary(bytes: &[u8; 32]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}
