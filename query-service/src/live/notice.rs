//! What a partition tells the read replicas after each batch, on core NATS.
//!
//! A notice says what to look at, never what is there: readers of it ask the views. It may be
//! lost; heartbeats and short lives of cached values heal that.

use serde::{Deserialize, Serialize};
use shared::ids::UserId;

/// Ids in one notice at the most; past this it says `all`.
const MOST: usize = 10_000;

/// One batch of one partition, after it was committed.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The generation of views.
    pub g: i64,
    /// The partition.
    pub p: u16,
    /// The batch began after this sequence: a gap to the last notice says that one was lost.
    pub from: u64,
    /// The partition has applied everything up to here.
    pub to: u64,
    /// Too much to name: look at everything of this partition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Readers with a new entry, and its sequence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<(UserId, u64)>,
    /// Pulled authors with something new: every reader of this partition may be concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulled: Vec<(UserId, u64)>,
}

impl Notice {
    pub fn encode(mut self) -> Vec<u8> {
        if self.readers.len() + self.pulled.len() > MOST {
            self.all = true;
            self.readers.clear();
            self.pulled.clear();
        }
        serde_json::to_vec(&self).unwrap_or_default()
    }

    pub fn decode(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::ids::Id;

    #[test]
    fn a_notice_of_too_much_names_nothing_and_stays_small() {
        let reader = Id::new(7).unwrap();
        let notice = Notice {
            readers: vec![(reader, 1); MOST + 1],
            ..Notice::default()
        };
        let body = notice.encode();
        let back = Notice::decode(&body).unwrap();
        assert!(back.all && back.readers.is_empty() && body.len() < 200);
    }
}
