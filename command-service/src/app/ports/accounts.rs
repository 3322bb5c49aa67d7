//! Who exists: names, addresses, credentials.

use std::collections::HashMap;

use async_trait::async_trait;
use shared::contract::events::Event;
use shared::contract::ids::UserId;
use shared::contract::sessions::{PasswordMark, SessionId};
use shared::runtime::settings::Secret;

use super::error::Result;

/// A user to register: the event, the names to reserve, the credentials.
#[derive(Clone, Debug)]
pub struct NewAccount {
    pub event: Event,
    pub username: String,
    /// Folded: two addresses that differ in case are one.
    pub email: String,
    /// The address as it was written.
    pub address: String,
    /// An imported user may have none.
    pub password_hash: Option<Secret>,
    pub trace: Option<String>,
    /// Random: tells this registration's own lost answer from another's.
    pub nonce: i64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Registered {
    Done,
    IdTaken,
    UsernameTaken,
    EmailTaken,
}

/// What an account is signed in with.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub password_hash: Secret,
    /// Which sessions go on.
    pub mark: PasswordMark,
}

/// A new password for an account.
#[derive(Clone, Debug)]
pub struct NewPassword {
    pub user: UserId,
    /// The hash that it replaces, and no other.
    pub from: Secret,
    pub to: Secret,
    /// Random: tells this change's own lost answer from another's, and the sessions of before from
    /// those that begin after it.
    pub mark: i64,
    /// The one session of before that goes on.
    pub kept: Option<SessionId>,
}

/// Another e-mail address for an account.
#[derive(Clone, Debug)]
pub struct NewAddress {
    pub user: UserId,
    pub folded: String,
    /// The address as it was written.
    pub address: String,
    pub nonce: i64,
}

/// Whether something of an account was replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Replaced {
    Done,
    /// What was to be replaced is another now; or somebody else has what is to be put there.
    Taken,
    /// The account has been forgotten.
    Gone,
}

/// How somebody names an account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AccountName {
    Username(String),
    /// Folded.
    Email(String),
}

/// Names and addresses are unique over all users.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Reserves the names, keeps the credentials and appends the event, or none of it.
    async fn register(&self, account: &NewAccount) -> Result<Registered>;
    /// Registers all of them or none: `false` if any name or id is taken.
    async fn register_all(&self, accounts: &[NewAccount]) -> Result<bool>;
    async fn find(&self, name: &AccountName) -> Result<Option<UserId>>;
    /// Who has these usernames.
    async fn users_named(&self, usernames: &[String]) -> Result<HashMap<String, UserId>>;
    /// Who has these (folded) addresses.
    async fn users_at(&self, emails: &[String]) -> Result<HashMap<String, UserId>>;
    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>>;
    /// Replaces the password and the mark that goes with it, or neither. `Taken` if the hash is
    /// another by now.
    async fn change_password(&self, change: &NewPassword) -> Result<Replaced>;
    /// Reserves the new address for the user and frees the old one, or neither. `Taken` if it is
    /// somebody else's. An account without an address is `Gone`: it gets none back.
    async fn change_address(&self, change: &NewAddress) -> Result<Replaced>;
    /// The e-mail address of a user, as they wrote it.
    async fn address(&self, user: UserId) -> Result<Option<String>>;
    /// Forgets the address and the credentials of a user who has left. The address is free again,
    /// the name is not.
    async fn forget(&self, user: UserId) -> Result<()>;
}
