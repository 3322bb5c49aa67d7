//! Who exists: names, addresses, credentials, the transaction that registers, and what is
//! forgotten of who leaves.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use async_trait::async_trait;
use bson::{Binary, doc};
use futures_util::TryStreamExt;
use mongodb::error::{Error, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{Acknowledgment, ReadConcern, WriteConcern};
use mongodb::{ClientSession, Collection, Database};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::contract::accounts::{ADDRESSES, AddressDocument, Addresses};
use shared::contract::ids::UserId;
use shared::contract::log::LogDocument;
use shared::contract::sessions::{CREDENTIALS, PasswordMark, SessionId};
use shared::resilience;
use shared::runtime::settings::Secret;
use shared::runtime::trace::{self, Kind};

use super::calls::Calls;
use super::errors::{Fault, INTERACTIVE, is_duplicate, is_transient, translate};
use crate::app::ports::{
    self, AccountName, NewAccount, NewAddress, NewPassword, Registered, Replaced, Result,
    StoreError,
};

mod addresses;

const USERNAMES: &str = "usernames";

/// The collections in which a user is found by `user`.
pub(super) const COLLECTIONS: [&str; 2] = [USERNAMES, ADDRESSES];

type Attempt<T> = std::result::Result<T, Fault>;
type Source = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Accounts {
    usernames: Collection<Reservation>,
    emails: Collection<AddressDocument>,
    addresses: Addresses,
    credentials: Collection<Credentials>,
    events: Collection<LogDocument>,
    calls: Calls,
}

/// A name and who has it.
#[derive(Serialize, Deserialize)]
struct Reservation {
    #[serde(rename = "_id")]
    name: String,
    user: UserId,
    /// Of the registration: tells its own lost answer from another's reservation.
    nonce: i64,
}

#[derive(Serialize, Deserialize)]
struct Credentials {
    #[serde(rename = "_id")]
    user: UserId,
    password_hash: String,
    /// As [`PasswordMark`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<Binary>,
}

/// All that a registration writes.
struct Documents {
    usernames: Vec<Reservation>,
    emails: Vec<AddressDocument>,
    credentials: Vec<Credentials>,
    events: Vec<LogDocument>,
}

#[derive(Deserialize)]
struct Nonce {
    nonce: i64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    Mine,
    Other,
}

/// Why a transaction ended without a commit.
enum Ended {
    Taken(Registered),
    /// Nothing was written: begin again.
    Again(Error),
    /// It may have been written: find out.
    Unknown(Error),
    Failed(Error),
}

#[async_trait]
impl ports::Accounts for Accounts {
    async fn register(&self, account: &NewAccount) -> Result<Registered> {
        self.calls.require_prepared()?;
        let together = self.register_together(std::slice::from_ref(account));
        let registered = trace::part(Kind::Client, "transaction", together).await;
        self.calls.record(registered)
    }

    async fn register_all(&self, accounts: &[NewAccount]) -> Result<bool> {
        self.calls.require_prepared()?;
        let registered = self.calls.record(self.register_together(accounts).await);
        Ok(registered? == Registered::Done)
    }

    async fn find(&self, name: &AccountName) -> Result<Option<UserId>> {
        // Whose account is not found is told that the password is wrong.
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_find(name)).await
    }

    async fn users_named(&self, usernames: &[String]) -> Result<HashMap<String, UserId>> {
        self.calls.ask(|| self.try_users_named(usernames)).await
    }

    async fn users_at(&self, emails: &[String]) -> Result<HashMap<String, UserId>> {
        self.calls.ask(|| self.try_users_at(emails)).await
    }

    async fn credentials(&self, user: UserId) -> Result<Option<ports::Credentials>> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_credentials(user)).await
    }

    async fn change_password(&self, change: &NewPassword) -> Result<Replaced> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_change_password(change)).await
    }

    async fn change_address(&self, change: &NewAddress) -> Result<Replaced> {
        self.calls.require_prepared()?;
        let together = self.change_together(change);
        let changed = trace::part(Kind::Client, "transaction", together).await;
        self.calls.record(changed)
    }

    async fn address(&self, user: UserId) -> Result<Option<String>> {
        self.calls.ask(|| self.try_address(user)).await
    }

    async fn forget(&self, user: UserId) -> Result<()> {
        self.calls.require_prepared()?;
        self.calls.ask(|| self.try_forget(user)).await
    }
}

impl Accounts {
    pub(super) fn new(database: &Database, events: Collection<LogDocument>, calls: Calls) -> Self {
        Self {
            usernames: database.collection(USERNAMES),
            emails: database.collection(ADDRESSES),
            addresses: Addresses::new(database),
            credentials: database.collection(CREDENTIALS),
            events,
            calls,
        }
    }

    /// Registers all accounts in one transaction, or none.
    async fn register_together(&self, accounts: &[NewAccount]) -> Result<Registered> {
        let Some(first) = accounts.first() else {
            return Ok(Registered::Done);
        };
        let documents = Documents::new(accounts)?;
        let (started, mut backoff) = (Instant::now(), resilience::interactive());
        // Whether an attempt may have been written although its answer says nothing of it.
        let mut doubtful = false;
        loop {
            let error: Source = match self.try_register(&documents, started).await {
                Ok(()) => return Ok(Registered::Done),
                Err(Ended::Taken(taken)) if !doubtful => return Ok(taken),
                // By an earlier attempt of this very registration, or by another. As long as
                // neither is seen by a majority, nobody knows: ask again.
                Err(Ended::Taken(taken)) => match self.whose(&documents, taken).await? {
                    Some(Owner::Mine) => return Ok(Registered::Done),
                    Some(Owner::Other) => return Ok(taken),
                    None => "the outcome is not settled yet".into(),
                },
                Err(Ended::Failed(error)) if !doubtful => return Err(translate(error)),
                Err(Ended::Failed(error) | Ended::Again(error)) => Box::new(error),
                Err(Ended::Unknown(error)) => {
                    doubtful = true;
                    if self.is_registered(first).await? {
                        return Ok(Registered::Done);
                    }
                    Box::new(error)
                }
            };
            if started.elapsed() >= INTERACTIVE {
                return Err(StoreError::Unavailable(error));
            }
            backoff.wait().await;
        }
    }

    async fn try_register(
        &self,
        documents: &Documents,
        started: Instant,
    ) -> std::result::Result<(), Ended> {
        let mut session = self.begin().await.map_err(not_begun)?;
        if let Err(ended) = self.write(&mut session, documents).await {
            // The server forgets it in time, should this not reach it.
            let _ = session.abort_transaction().await;
            return Err(ended);
        }
        commit(&mut session, started).await
    }

    async fn begin(&self) -> mongodb::error::Result<ClientSession> {
        let mut session = self.events.client().start_session().await?;
        let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
        session
            .start_transaction()
            .write_concern(majority)
            .read_concern(ReadConcern::snapshot())
            .await?;
        Ok(session)
    }

    /// The names first: they are what rivals contend for.
    async fn write(
        &self,
        session: &mut ClientSession,
        documents: &Documents,
    ) -> std::result::Result<(), Ended> {
        let usernames = self.usernames.insert_many(&documents.usernames);
        let written = usernames.session(&mut *session).await;
        written.map_err(|error| refused(error, Registered::UsernameTaken))?;
        let emails = self.emails.insert_many(&documents.emails);
        let written = emails.session(&mut *session).await;
        written.map_err(|error| refused(error, Registered::EmailTaken))?;
        if !documents.credentials.is_empty() {
            let credentials = self.credentials.insert_many(&documents.credentials);
            let written = credentials.session(&mut *session).await;
            written.map_err(|error| refused(error, Registered::IdTaken))?;
        }
        let events = self.events.insert_many(&documents.events);
        let written = events.session(&mut *session).await;
        written.map_err(|error| refused(error, Registered::IdTaken))?;
        Ok(())
    }

    /// Who has what a unique index refused, as far as a majority knows.
    async fn whose(&self, documents: &Documents, taken: Registered) -> Result<Option<Owner>> {
        let found = match taken {
            Registered::Done => return Ok(Some(Owner::Mine)),
            Registered::UsernameTaken => {
                let names = documents.usernames.iter().map(|it| &it.name).collect();
                nonces::<_, &String>(&self.usernames, names).await
            }
            Registered::EmailTaken => {
                let names = documents.emails.iter().map(|it| &it.folded).collect();
                nonces::<_, &String>(&self.emails, names).await
            }
            Registered::IdTaken => {
                let ids = documents.events.iter().map(|it| it.id.get()).collect();
                nonces::<_, i64>(&self.events, ids).await
            }
        };
        let mine: HashSet<i64> = documents.usernames.iter().map(|it| it.nonce).collect();
        Ok(owner(&mine, &found.map_err(translate)?))
    }

    /// Whether the reservation with this registration's nonce is there; all of it is, then.
    async fn is_registered(&self, account: &NewAccount) -> Result<bool> {
        let found = self.usernames.find_one(doc! { "_id": &account.username });
        let found = found.await.map_err(translate)?;
        Ok(found.is_some_and(|found| found.nonce == account.nonce))
    }

    async fn try_find(&self, name: &AccountName) -> Attempt<Option<UserId>> {
        let names = |name: &String| std::slice::from_ref(name).to_vec();
        let found = match name {
            AccountName::Username(name) => self.try_users_named(&names(name)).await?,
            AccountName::Email(name) => self.try_users_at(&names(name)).await?,
        };
        Ok(found.into_values().next())
    }

    async fn try_users_named(&self, names: &[String]) -> Attempt<HashMap<String, UserId>> {
        let row = |row: Reservation| (row.name, row.user);
        owners(&self.usernames, names, row).await
    }

    async fn try_users_at(&self, emails: &[String]) -> Attempt<HashMap<String, UserId>> {
        let row = |row: AddressDocument| (row.folded, row.user);
        owners(&self.emails, emails, row).await
    }

    async fn try_address(&self, user: UserId) -> Attempt<Option<String>> {
        Ok(self.addresses.of(user).await?)
    }

    /// Forgets the address and the password of a user who has left; the name stays reserved.
    async fn try_forget(&self, user: UserId) -> Attempt<()> {
        self.forget_address(user).await?;
        let credentials = doc! { "_id": user.get() };
        self.credentials.delete_one(credentials).await?;
        Ok(())
    }

    async fn try_credentials(&self, user: UserId) -> Attempt<Option<ports::Credentials>> {
        let found = self.credentials.find_one(doc! { "_id": user.get() });
        Ok(found.await?.map(|found| ports::Credentials {
            mark: PasswordMark::stored(found.mark, found.kept.as_ref()),
            password_hash: Secret::new(found.password_hash),
        }))
    }

    /// One update decides. Asked again, since its answer was lost, it finds its own mark.
    async fn try_change_password(&self, change: &NewPassword) -> Attempt<Replaced> {
        let from = doc! { "_id": change.user.get(), "password_hash": change.from.expose() };
        let to = doc! { "$set": {
            "password_hash": change.to.expose(),
            "mark": change.mark,
            "kept": change.kept.map(SessionId::bson),
        } };
        let replaced = self.credentials.find_one_and_update(from, to).await?;
        if replaced.is_some() {
            return Ok(Replaced::Done);
        }
        let Some(found) = self.try_credentials(change.user).await? else {
            return Ok(Replaced::Gone);
        };
        if found.mark.mark == Some(change.mark) {
            return Ok(Replaced::Done);
        }
        // Somebody's update came first, and a majority does not have it yet.
        if found.password_hash.expose() == change.from.expose() {
            return Err(Fault::Unsettled);
        }
        Ok(Replaced::Taken)
    }
}

impl Documents {
    fn new(accounts: &[NewAccount]) -> Result<Self> {
        let mut documents = Self {
            usernames: Vec::with_capacity(accounts.len()),
            emails: Vec::with_capacity(accounts.len()),
            credentials: Vec::new(),
            events: Vec::with_capacity(accounts.len()),
        };
        for account in accounts {
            let user: UserId = account.event.id.cast();
            documents.usernames.push(Reservation {
                name: account.username.clone(),
                user,
                nonce: account.nonce,
            });
            documents.emails.push(AddressDocument {
                folded: account.email.clone(),
                user,
                nonce: account.nonce,
                address: Some(account.address.clone()),
            });
            if let Some(hash) = &account.password_hash {
                documents.credentials.push(Credentials {
                    user,
                    password_hash: hash.expose().to_owned(),
                    mark: None,
                    kept: None,
                });
            }
            let event = LogDocument::new(&account.event, user, account.nonce);
            let mut event = event.map_err(|error| StoreError::Unexpected(Box::new(error)))?;
            event.trace.clone_from(&account.trace);
            documents.events.push(event);
        }
        Ok(documents)
    }
}

async fn owners<T: DeserializeOwned + Send + Sync>(
    reservations: &Collection<T>,
    names: &[String],
    row: impl Fn(T) -> (String, UserId),
) -> Attempt<HashMap<String, UserId>> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<T> = reservations
        .find(doc! { "_id": { "$in": names } })
        .await?
        .try_collect()
        .await?;
    Ok(found.into_iter().map(row).collect())
}

/// The nonces of the documents that have these ids.
async fn nonces<T: Send + Sync, I: Into<bson::Bson>>(
    documents: &Collection<T>,
    ids: Vec<I>,
) -> mongodb::error::Result<Vec<i64>> {
    let found: Vec<Nonce> = documents
        .clone_with_type::<Nonce>()
        .find(doc! { "_id": { "$in": ids } })
        .projection(doc! { "_id": 0, "nonce": 1 })
        .await?
        .try_collect()
        .await?;
    Ok(found.into_iter().map(|found| found.nonce).collect())
}

/// Whose the documents are that a unique index has found in the way; `None` where a majority sees
/// none of them. One transaction writes them all, so one of ours is all of ours.
fn owner(mine: &HashSet<i64>, found: &[i64]) -> Option<Owner> {
    if found.iter().any(|nonce| mine.contains(nonce)) {
        Some(Owner::Mine)
    } else {
        found.first().map(|_| Owner::Other)
    }
}

fn not_begun(error: Error) -> Ended {
    if is_transient(&error) {
        Ended::Again(error)
    } else {
        Ended::Failed(error)
    }
}

/// A statement of the transaction was refused: nothing of it is written.
fn refused(error: Error, on_duplicate: Registered) -> Ended {
    if is_duplicate(&error) {
        Ended::Taken(on_duplicate)
    } else {
        not_begun(error)
    }
}

/// Commits, and asks again while the answer is unknown: a commit may be repeated. Once one of them
/// was left without an answer, what a later one is refused with says nothing of the first.
async fn commit(session: &mut ClientSession, started: Instant) -> std::result::Result<(), Ended> {
    let mut backoff = resilience::interactive();
    let mut doubtful = false;
    loop {
        let error = match session.commit_transaction().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let unknown = error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT);
        doubtful |= unknown;
        if unknown && started.elapsed() < INTERACTIVE {
            backoff.wait().await;
        } else if doubtful {
            return Err(Ended::Unknown(error));
        } else {
            return Err(not_begun(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_is_seen_to_have_is_not_yet_another_s() {
        let mine = HashSet::from([1, 2]);
        assert_eq!(owner(&mine, &[]), None, "not by a majority yet");
        assert_eq!(owner(&mine, &[2]), Some(Owner::Mine));
        assert_eq!(owner(&mine, &[7, 1]), Some(Owner::Mine));
        assert_eq!(owner(&mine, &[7]), Some(Owner::Other));
    }
}
