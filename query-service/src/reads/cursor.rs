//! Opaque, tamper-evident cursors.
//!
//! A cursor names the last entry examined and what it was examined for; a MAC over both keeps
//! callers from making their own. base64url of `kind ‖ subject ‖ position ‖ mac`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bson::{Document, doc};
use hmac::{Hmac, KeyInit, Mac};
use mongodb::Database;
use sha2::Sha256;

use super::unanswered::Unanswered;
use crate::views::error::ViewError;
use crate::views::keys::binary;

/// What a cursor pages through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum CursorKind {
    Home = 1,
    Posts = 2,
    Replies = 3,
    Followers = 4,
    Following = 5,
    Mutuals = 6,
    Likes = 7,
    Reposts = 8,
}

const PLAIN: usize = 1 + 8 + 8;
const MAC: usize = 10;

/// Signs and checks cursors.
#[derive(Clone)]
pub struct CursorKey([u8; 32]);

impl CursorKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The key that signs cursors: made once, shared by all replicas through the views' database.
    pub async fn of(db: &Database) -> Result<Self, ViewError> {
        let secrets = db.collection::<Document>("secrets");
        let made: [u8; 32] = rand::random();
        let row = doc! { "_id": "cursor_key", "key": binary(made.to_vec()) };
        match secrets.insert_one(row).await {
            Err(error) if !shared::runtime::mongo_errors::is_duplicate(&error) => {
                return Err(error.into());
            }
            Ok(_) | Err(_) => (),
        }
        let row = secrets.find_one(doc! { "_id": "cursor_key" }).await?;
        let key = row.and_then(|row| row.get_binary_generic("key").ok().cloned());
        let key = key
            .and_then(|key| key.try_into().ok())
            .ok_or(ViewError::Corrupt("the cursor key"))?;
        Ok(Self::new(key))
    }

    fn mac(&self, plain: &[u8]) -> Result<Hmac<Sha256>, ViewError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .map_err(|_| ViewError::Corrupt("the cursor key"))?;
        mac.update(plain);
        Ok(mac)
    }

    pub fn encode(
        &self,
        kind: CursorKind,
        subject: i64,
        position: i64,
    ) -> Result<String, ViewError> {
        let mut bytes = vec![kind as u8];
        bytes.extend(subject.to_be_bytes());
        bytes.extend(position.to_be_bytes());
        let mac = self.mac(&bytes)?.finalize().into_bytes();
        bytes.extend(&mac[..MAC]);
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The position in a cursor of this kind and subject.
    pub fn decode(&self, kind: CursorKind, subject: i64, text: &str) -> Result<i64, Unanswered> {
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| Unanswered::BadCursor)?;
        if bytes.len() != PLAIN + MAC {
            return Err(Unanswered::BadCursor);
        }
        let (plain, mac) = bytes.split_at(PLAIN);
        self.mac(plain)?
            .verify_truncated_left(mac)
            .map_err(|_| Unanswered::BadCursor)?;
        if plain[0] != kind as u8 || plain[1..9] != subject.to_be_bytes() {
            return Err(Unanswered::BadCursor);
        }
        let position: [u8; 8] = plain[9..].try_into().map_err(|_| Unanswered::BadCursor)?;
        Ok(i64::from_be_bytes(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_round_trips_and_fits_nothing_else(subject in any::<i64>(), position in any::<i64>(), flip in 0usize..27, bit in 0u8..8) {
            let key = CursorKey::new([7; 32]);
            let text = key.encode(CursorKind::Home, subject, position).unwrap();
            prop_assert_eq!(key.decode(CursorKind::Home, subject, &text).unwrap(), position);
            prop_assert!(key.decode(CursorKind::Posts, subject, &text).is_err());
            prop_assert!(key.decode(CursorKind::Home, subject.wrapping_add(1), &text).is_err());
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            bytes[flip] ^= 1 << bit;
            prop_assert!(key.decode(CursorKind::Home, subject, &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }

        #[test]
        fn any_text_is_refused(text in "\\PC{0,60}") {
            prop_assert!(CursorKey::new([7; 32]).decode(CursorKind::Home, 1, &text).is_err());
        }
    }
}
