//! Where a user's e-mail address is: with the account, in the log's database, and nowhere else.
//!
//! The command service writes it, and removes it when the user leaves. The query service reads
//! one to show a user their own. No event carries one: see [`crate::contract::events::UserRegistered`].

use bson::{Document, doc};
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};

use crate::contract::ids::UserId;
use crate::contract::names;

/// The collection of addresses; index `user`.
pub const ADDRESSES: &str = "emails";

/// An e-mail address and its user. Unique: `_id`, so that two users never have the same one.
#[derive(Clone, Serialize, Deserialize)]
pub struct AddressDocument {
    /// As it is compared: [`names::fold`].
    #[serde(rename = "_id")]
    pub folded: String,
    pub user: UserId,
    /// Of the registration: tells its own lost answer from another's reservation.
    pub nonce: i64,
    /// As it was written. Earlier builds did not keep it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Reads users' addresses.
#[derive(Clone)]
pub struct Addresses {
    addresses: Collection<AddressDocument>,
    events: Collection<Document>,
}

impl Addresses {
    /// Those of the log in this database.
    pub fn new(log: &Database) -> Self {
        Self {
            addresses: log.collection(ADDRESSES),
            events: log.collection(crate::contract::log::COLLECTION),
        }
    }

    /// A user's address as they wrote it; `None` if they have none: they have left, or never were.
    pub async fn of(&self, user: UserId) -> mongodb::error::Result<Option<String>> {
        let found = self.addresses.find_one(doc! { "user": user.get() }).await?;
        let Some(AddressDocument {
            folded, address, ..
        }) = found
        else {
            return Ok(None);
        };
        if address.is_some() {
            return Ok(address);
        }
        // Registered by an earlier build: as it was written, it is in the event that registered,
        // whose id is the user's.
        let event = self.events.find_one(doc! { "_id": user.get() });
        let event = event.projection(doc! { "data.email": 1 }).await?;
        let data = event.as_ref().and_then(|it| it.get_document("data").ok());
        let written = data.and_then(|data| data.get_str("email").ok());
        let written = written.filter(|written| names::fold(written) == folded);
        Ok(Some(written.map_or(folded.clone(), str::to_owned)))
    }
}
