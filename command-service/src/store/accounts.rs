//! Who exists: names, addresses, credentials, and the transaction that registers.

use std::collections::HashMap;
use std::time::Instant;

use bson::doc;
use futures_util::TryStreamExt;
use mongodb::error::{Error, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{Acknowledgment, ReadConcern, WriteConcern};
use mongodb::{ClientSession, Collection, Database};
use serde::{Deserialize, Serialize};
use shared::ids::UserId;
use shared::log::LogDocument;
use shared::resilience;

use super::errors::{Fault, INTERACTIVE, is_duplicate, is_transient, translate};
use crate::app::store::{AccountName, NewAccount, Registered, Result, StoreError};

const USERNAMES: &str = "usernames";
const EMAILS: &str = "emails";
const CREDENTIALS: &str = "credentials";

/// The collections in which a user is found by `user`.
pub(super) const COLLECTIONS: [&str; 2] = [USERNAMES, EMAILS];

type Attempt<T> = std::result::Result<T, Fault>;

pub(super) struct Accounts {
    usernames: Collection<Reservation>,
    emails: Collection<Reservation>,
    credentials: Collection<Credentials>,
    events: Collection<LogDocument>,
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
}

/// All that a registration writes.
struct Documents {
    usernames: Vec<Reservation>,
    emails: Vec<Reservation>,
    credentials: Vec<Credentials>,
    events: Vec<LogDocument>,
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

impl Accounts {
    pub(super) fn new(database: &Database, events: Collection<LogDocument>) -> Self {
        Self {
            usernames: database.collection(USERNAMES),
            emails: database.collection(EMAILS),
            credentials: database.collection(CREDENTIALS),
            events,
        }
    }

    /// Registers all accounts in one transaction, or none.
    pub(super) async fn register(&self, accounts: &[NewAccount]) -> Result<Registered> {
        let Some(first) = accounts.first() else {
            return Ok(Registered::Done);
        };
        let documents = Documents::new(accounts)?;
        let (started, mut backoff) = (Instant::now(), resilience::interactive());
        let mut doubtful = false;
        loop {
            let error = match self.try_register(&documents, started).await {
                Ok(()) => return Ok(Registered::Done),
                // A name may be taken by this very registration, whose answer was lost.
                Err(Ended::Taken(_)) if doubtful && self.is_registered(first).await? => {
                    return Ok(Registered::Done);
                }
                Err(Ended::Taken(taken)) => return Ok(taken),
                Err(Ended::Failed(error)) => return Err(translate(error)),
                Err(Ended::Again(error)) => error,
                Err(Ended::Unknown(error)) => {
                    doubtful = true;
                    if self.is_registered(first).await? {
                        return Ok(Registered::Done);
                    }
                    error
                }
            };
            if started.elapsed() >= INTERACTIVE {
                return Err(StoreError::Unavailable(Box::new(error)));
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

    /// Whether the reservation with this registration's nonce is there; all of it is, then.
    async fn is_registered(&self, account: &NewAccount) -> Result<bool> {
        let found = self.usernames.find_one(doc! { "_id": &account.username });
        let found = found.await.map_err(translate)?;
        Ok(found.is_some_and(|found| found.nonce == account.nonce))
    }

    pub(super) async fn find(&self, name: &AccountName) -> Attempt<Option<UserId>> {
        let (reservations, name) = match name {
            AccountName::Username(name) => (&self.usernames, name),
            AccountName::Email(name) => (&self.emails, name),
        };
        let found = reservations.find_one(doc! { "_id": name }).await?;
        Ok(found.map(|found| found.user))
    }

    pub(super) async fn users_named(&self, names: &[String]) -> Attempt<HashMap<String, UserId>> {
        owners(&self.usernames, names).await
    }

    pub(super) async fn users_at(&self, emails: &[String]) -> Attempt<HashMap<String, UserId>> {
        owners(&self.emails, emails).await
    }

    pub(super) async fn password_hash(&self, user: UserId) -> Attempt<Option<String>> {
        let found = self
            .credentials
            .find_one(doc! { "_id": user.get() })
            .await?;
        Ok(found.map(|found| found.password_hash))
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
            let reserve = |name: &str| Reservation {
                name: name.to_owned(),
                user,
                nonce: account.nonce,
            };
            documents.usernames.push(reserve(&account.username));
            documents.emails.push(reserve(&account.email));
            if let Some(hash) = &account.password_hash {
                documents.credentials.push(Credentials {
                    user,
                    password_hash: hash.expose().to_owned(),
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

async fn owners(
    reservations: &Collection<Reservation>,
    names: &[String],
) -> Attempt<HashMap<String, UserId>> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<Reservation> = reservations
        .find(doc! { "_id": { "$in": names } })
        .await?
        .try_collect()
        .await?;
    Ok(found
        .into_iter()
        .map(|found| (found.name, found.user))
        .collect())
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

/// Commits, and asks again while the answer is unknown: a commit may be repeated.
async fn commit(session: &mut ClientSession, started: Instant) -> std::result::Result<(), Ended> {
    let mut backoff = resilience::interactive();
    loop {
        let error = match session.commit_transaction().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let unknown = error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT);
        if unknown && started.elapsed() < INTERACTIVE {
            backoff.wait().await;
        } else if unknown {
            return Err(Ended::Unknown(error));
        } else {
            return Err(not_begun(error));
        }
    }
}
