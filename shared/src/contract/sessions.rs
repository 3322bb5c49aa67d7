//! Where sessions are: with the account, in the log's database.
//!
//! The command service writes them. The query service reads a user's own, to list them. What is
//! secret in one, it neither reads nor could use.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::contract::ids::UserId;
use crate::contract::time::Timestamp;

/// The collection of sessions: one document for each family of refresh tokens; indexes
/// `(user, expires_at)` and `(user, sid)`.
pub const SESSIONS: &str = "sessions";
/// The collection of what accounts are signed in with, by user.
pub const CREDENTIALS: &str = "credentials";
/// How long a session lasts without being used, in milliseconds.
pub const SESSION_LIFETIME_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// An account has so many sessions at the most: one more ends the one that was used longest ago. So
/// what is asked of all of them is small, whoever signs in how often.
pub const MOST_SESSIONS: u32 = 100;

/// Keeps what is hashed here apart from everything else that is hashed.
const TAG: &[u8] = b"microblog session";
const BYTES: usize = 16;

/// Names a session to its user, and in their access tokens. It says nothing of the session's refresh
/// tokens, and nobody can end the session with it alone.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SessionId([u8; BYTES]);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a session's id has 22 letters, digits, - and _")]
pub struct InvalidSessionId;

impl SessionId {
    /// The id of the session with this family of refresh tokens.
    pub fn of(family: &str) -> Self {
        let digest = Sha256::new().chain_update(TAG).chain_update(family);
        let digest: [u8; 32] = digest.finalize().into();
        let mut id = [0; BYTES];
        id.copy_from_slice(&digest[..BYTES]);
        Self(id)
    }

    /// As it is stored.
    pub fn bson(self) -> Binary {
        Binary {
            subtype: BinarySubtype::Generic,
            bytes: self.0.to_vec(),
        }
    }

    /// As [`Self::bson`] stores it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, InvalidSessionId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidSessionId)?;
        Self::from_bytes(&bytes).ok_or(InvalidSessionId)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which sessions of an account go on: those that began under the password that it has now, and the
/// one in which that password was set. So one write to the account ends all others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PasswordMark {
    /// Random, made anew by each change of the password; none before the first.
    pub mark: Option<i64>,
    /// The session that made the change.
    pub kept: Option<SessionId>,
}

impl PasswordMark {
    /// As a document of [`CREDENTIALS`] has it.
    pub fn stored(mark: Option<i64>, kept: Option<&Binary>) -> Self {
        Self {
            mark,
            kept: kept.and_then(|kept| SessionId::from_bytes(&kept.bytes)),
        }
    }

    /// Whether a session goes on that began while the account had the mark `began`.
    pub fn keeps(&self, session: SessionId, began: Option<i64>) -> bool {
        self.mark == began || self.kept == Some(session)
    }

    /// Those that go on, as a filter of [`SESSIONS`].
    pub fn kept_filter(&self) -> Document {
        // Where there is no mark yet, null stands for a field that is not there.
        let began = doc! { "mark": self.mark };
        match self.kept {
            Some(kept) => doc! { "$or": [began, { "sid": kept.bson() }] },
            None => began,
        }
    }

    /// Those that end when another mark takes the place of this one and keeps `kept`, as a filter of
    /// [`SESSIONS`]. It has none that began later, however late it is used. One without an id, as an
    /// earlier build writes them, may be the one that is kept.
    pub fn replaced_filter(&self, kept: Option<SessionId>) -> Document {
        let mut ended = self.kept_filter();
        if let Some(kept) = kept {
            ended.insert("sid", doc! { "$exists": true, "$ne": kept.bson() });
        }
        ended
    }
}

/// What a document of [`CREDENTIALS`] says of sessions.
#[derive(Default, Deserialize)]
struct StoredMark {
    #[serde(default)]
    mark: Option<i64>,
    #[serde(default)]
    kept: Option<Binary>,
}

/// A session as its user is shown it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnSession {
    pub id: SessionId,
    /// Not known of one that an earlier build began.
    pub created_at: Option<Timestamp>,
    pub last_used_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Reads users' sessions.
#[derive(Clone)]
pub struct Sessions {
    sessions: Collection<Listed>,
    credentials: Collection<StoredMark>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "_id")]
    family: String,
    expires_at: DateTime,
    #[serde(default)]
    created_at: Option<DateTime>,
}

impl Sessions {
    /// Those of the log in this database.
    pub fn new(log: &Database) -> Self {
        Self {
            sessions: log.collection(SESSIONS),
            credentials: log.collection(CREDENTIALS),
        }
    }

    /// The sessions of a user that can be carried on, the one used last first, at most
    /// [`MOST_SESSIONS`].
    pub async fn of(&self, user: UserId) -> mongodb::error::Result<Vec<OwnSession>> {
        let account = self.credentials.find_one(doc! { "_id": user.get() });
        let account = account.projection(doc! { "_id": 0, "mark": 1, "kept": 1 });
        let StoredMark { mark, kept } = account.await?.unwrap_or_default();
        let mut own = PasswordMark::stored(mark, kept.as_ref()).kept_filter();
        own.insert("user", user.get());
        own.insert("expires_at", doc! { "$gt": DateTime::now() });
        let found = self.sessions.find(own).sort(doc! { "expires_at": -1 });
        let found = found.limit(i64::from(MOST_SESSIONS));
        let found = found.projection(doc! { "expires_at": 1, "created_at": 1 });
        let found: Vec<Listed> = found.await?.try_collect().await?;
        Ok(found.iter().map(Listed::shown).collect())
    }
}

impl Listed {
    fn shown(&self) -> OwnSession {
        let expires_at = self.expires_at.timestamp_millis();
        let time = |date: DateTime| Timestamp::from_millis(date.timestamp_millis());
        OwnSession {
            id: SessionId::of(&self.family),
            created_at: self.created_at.map(time),
            // Each use begins its lifetime anew.
            last_used_at: Timestamp::from_millis(expires_at - SESSION_LIFETIME_MS),
            expires_at: Timestamp::from_millis(expires_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_id_of_a_session_is_always_the_same_and_says_nothing_of_its_family() {
        let id = SessionId::of("AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(id.to_string(), "Jxu--2oce4bC7V6RSN60EA");
        assert_ne!(id, SessionId::of("AAAAAAAAAAAAAAAAAAAAAB"));
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<SessionId>(&json).unwrap(), id);
    }

    #[test]
    fn a_change_of_the_password_keeps_the_session_that_made_it_and_those_that_began_since() {
        let [own, other] = ["own", "other"].map(SessionId::of);
        let before = PasswordMark::default();
        assert!(before.keeps(own, None) && before.keeps(other, None));
        let changed = PasswordMark {
            mark: Some(7),
            kept: Some(own),
        };
        assert!(changed.keeps(own, None) && changed.keeps(other, Some(7)));
        assert!(!changed.keeps(other, None) && !changed.keeps(other, Some(6)));
        let by_nobody = PasswordMark {
            kept: None,
            ..changed
        };
        assert!(!by_nobody.keeps(own, None) && by_nobody.keeps(own, Some(7)));
    }

    proptest! {
        #[test]
        fn any_text_is_an_id_or_refused(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<SessionId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
