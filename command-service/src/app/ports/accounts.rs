//! Who exists: names, addresses, credentials.

use std::collections::HashMap;

use async_trait::async_trait;
use shared::contract::events::Event;
use shared::contract::ids::UserId;
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
    async fn password_hash(&self, user: UserId) -> Result<Option<String>>;
    /// The e-mail address of a user, as they wrote it.
    async fn address(&self, user: UserId) -> Result<Option<String>>;
    /// Forgets the address and the credentials of a user who has left. The address is free again,
    /// the name is not.
    async fn forget(&self, user: UserId) -> Result<()>;
}
