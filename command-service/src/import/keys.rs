//! Keys of imported events: the same input makes the same key.

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::app::ports::Key;

pub(super) fn key(parts: &[&str]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths first: no two lists of parts make the same bytes.
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let text = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
    Key {
        text: format!("import:{}", text.collect::<String>()),
        hash: 0,
    }
}

/// A hash that tells two posts, or two users, by the same name apart. It is stored beside the key
/// of a post with a name; imports of before stored 0.
pub(super) fn fingerprint(parts: &[&str]) -> i64 {
    let hash = xxh3_64(key(parts).text.as_bytes());
    i64::from_be_bytes(hash.to_be_bytes()) | 1
}
