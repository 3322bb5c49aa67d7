//! The token that lets a read reflect earlier writes, across services and replicas.
//!
//! Tokens are monotone: one covers everything that its user had accepted before it was given,
//! also where its own command changed nothing. So it names, beside what its command was about,
//! the latest events of its user: those that may stand behind each other on the stream, because
//! commands ran at once. Whatever is older stands before one of them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::contract::events::LogStream;
use crate::contract::ids::{Id, UserId};

/// The header that carries it, both ways.
pub const HEADER: &str = "x-consistency-token";

/// Events that a token names beside its command's, at most.
pub const MOST_LATEST: usize = 32;

/// An event, by its place in its log stream. Version 0 is what holds before the first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    pub stream: LogStream,
    pub version: i64,
}

/// Names what a read is to reflect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsistencyToken {
    /// What the command was about.
    pub stream: LogStream,
    pub version: i64,
    pub actor: UserId,
    /// The owner of what was acted upon: the followee, the post's author, the parent's author.
    pub owner: UserId,
    /// What the actor had accepted besides, at most [`MOST_LATEST`].
    pub latest: Vec<Position>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a consistency token")]
pub struct InvalidToken;

/// The first byte of a token of this build. One of an older build begins with the digit 1.
const VERSION: u8 = 2;
/// Bytes of the longest token there is: two users, and positions of 28 bytes.
const LONGEST: usize = 18 + (MOST_LATEST + 1) * 28;
/// In the byte before a position: its first id is the actor's, and left out.
const OF_ACTOR: u8 = 0x10;

impl ConsistencyToken {
    /// Everything that is to be reflected.
    pub fn positions(&self) -> impl Iterator<Item = Position> {
        let own = Position {
            stream: self.stream,
            version: self.version,
        };
        std::iter::once(own).chain(self.latest.iter().copied())
    }

    /// URL-safe text, opaque to clients.
    pub fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.actor.to_key());
        bytes.extend(self.owner.to_key());
        for position in self.positions().take(MOST_LATEST + 1) {
            write_position(&mut bytes, &position, self.actor);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn decode(text: &str) -> Result<Self, InvalidToken> {
        if text.len() > LONGEST.div_ceil(3) * 4 {
            return Err(InvalidToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidToken)?;
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Self::decode_first(bytes);
        };
        let mut rest = rest;
        let (actor, owner) = (read_id(&mut rest)?, read_id(&mut rest)?);
        let own = read_position(&mut rest, actor)?;
        let mut latest = Vec::new();
        while !rest.is_empty() {
            latest.push(read_position(&mut rest, actor)?);
        }
        if latest.len() > MOST_LATEST {
            return Err(InvalidToken);
        }
        Ok(Self {
            stream: own.stream,
            version: own.version,
            actor,
            owner,
            latest,
        })
    }

    /// One of the first version: it names its command's write alone.
    fn decode_first(bytes: Vec<u8>) -> Result<Self, InvalidToken> {
        let plain = String::from_utf8(bytes).map_err(|_| InvalidToken)?;
        let parts: Vec<&str> = plain.split('|').collect();
        let ["1", stream, version, actor, owner] = parts[..] else {
            return Err(InvalidToken);
        };
        let version = version.parse().ok().filter(|&version: &i64| version >= 0);
        Ok(Self {
            stream: stream.parse().map_err(|_| InvalidToken)?,
            version: version.ok_or(InvalidToken)?,
            actor: actor.parse().map_err(|_| InvalidToken)?,
            owner: owner.parse().map_err(|_| InvalidToken)?,
            latest: Vec::new(),
        })
    }
}

/// A byte that says which kind of stream it is and whether the actor is its first id, the ids
/// that are left, the version.
fn write_position(bytes: &mut Vec<u8>, position: &Position, actor: UserId) {
    let (kind, first, second) = match position.stream {
        LogStream::User(user) => (0, user.get(), None),
        LogStream::Post(post) => (1, post.get(), None),
        LogStream::Follow { follower, followee } => (2, follower.get(), Some(followee.get())),
        LogStream::Like { user, post } => (3, user.get(), Some(post.get())),
        LogStream::Repost { user, post } => (4, user.get(), Some(post.get())),
    };
    if first == actor.get() {
        bytes.push(kind | OF_ACTOR);
    } else {
        bytes.push(kind);
        bytes.extend(first.to_be_bytes());
    }
    bytes.extend(second.into_iter().flat_map(i64::to_be_bytes));
    // Seven bits a byte, the lowest first; all but the last have the eighth set.
    let mut version = position.version.unsigned_abs();
    while version > 0x7f {
        bytes.push(low_bits(version) | 0x80);
        version >>= 7;
    }
    bytes.push(low_bits(version));
}

fn low_bits(number: u64) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or_default()
}

fn read_position(rest: &mut &[u8], actor: UserId) -> Result<Position, InvalidToken> {
    let kind = read_byte(rest)?;
    let first = if kind & OF_ACTOR == 0 {
        read_id(rest)?
    } else {
        actor
    };
    let stream = match kind & !OF_ACTOR {
        0 => LogStream::User(first),
        1 => LogStream::Post(first.cast()),
        2 => LogStream::Follow {
            follower: first,
            followee: read_id(rest)?,
        },
        3 => LogStream::Like {
            user: first,
            post: read_id(rest)?,
        },
        4 => LogStream::Repost {
            user: first,
            post: read_id(rest)?,
        },
        _ => return Err(InvalidToken),
    };
    let (mut version, mut shift) = (0_i64, 0);
    loop {
        let byte = read_byte(rest)?;
        let bits = i64::from(byte & 0x7f);
        if shift > 56 {
            return Err(InvalidToken);
        }
        version |= bits << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(Position { stream, version });
        }
    }
}

fn read_byte(rest: &mut &[u8]) -> Result<u8, InvalidToken> {
    let (byte, behind) = rest.split_first().ok_or(InvalidToken)?;
    *rest = behind;
    Ok(*byte)
}

fn read_id<K>(rest: &mut &[u8]) -> Result<Id<K>, InvalidToken> {
    let (key, behind) = rest.split_first_chunk::<8>().ok_or(InvalidToken)?;
    *rest = behind;
    Id::new(i64::from_be_bytes(*key)).ok_or(InvalidToken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id<K>(number: i64) -> Id<K> {
        Id::new(number).unwrap()
    }

    fn streams(a: i64, b: i64) -> [LogStream; 5] {
        [
            LogStream::User(id(a)),
            LogStream::Post(id(b)),
            LogStream::Follow {
                follower: id(a),
                followee: id(b),
            },
            LogStream::Like {
                user: id(a),
                post: id(b),
            },
            LogStream::Repost {
                user: id(b),
                post: id(a),
            },
        ]
    }

    #[test]
    fn tokens_of_the_first_version_still_read() {
        let plain = "1|follow:7:8|3|7|8";
        let token = ConsistencyToken::decode(&URL_SAFE_NO_PAD.encode(plain)).unwrap();
        let expected = ConsistencyToken {
            stream: LogStream::Follow {
                follower: id(7),
                followee: id(8),
            },
            version: 3,
            actor: id(7),
            owner: id(8),
            latest: Vec::new(),
        };
        assert_eq!(token, expected);
        assert_eq!(ConsistencyToken::decode(&token.encode()), Ok(expected));
    }

    #[test]
    fn a_token_stays_small_enough_for_a_header() {
        let (actor, owner) = (id(i64::MAX), id(i64::MAX - 1));
        let most = Position {
            stream: LogStream::Like {
                user: owner,
                post: id(i64::MAX),
            },
            version: 1 << 40,
        };
        let token = ConsistencyToken {
            stream: most.stream,
            version: most.version,
            actor,
            owner,
            latest: vec![most; MOST_LATEST],
        };
        let text = token.encode();
        assert!(text.len() < 1_400, "{}", text.len());
        assert_eq!(ConsistencyToken::decode(&text), Ok(token.clone()));
        let longer = ConsistencyToken {
            latest: vec![most; MOST_LATEST + 1],
            ..token.clone()
        };
        assert_eq!(ConsistencyToken::decode(&longer.encode()), Ok(token));
    }

    proptest! {
        #[test]
        fn tokens_round_trip(a in 1i64.., b in 1i64.., version in 0i64..(1 << 56), n in 0usize..8) {
            let (actor, owner) = (id(a), id(b));
            for stream in streams(a, b) {
                let latest = streams(a, b)
                    .into_iter()
                    .cycle()
                    .take(n)
                    .map(|stream| Position { stream, version: version / 3 })
                    .collect();
                let token = ConsistencyToken { stream, version, actor, owner, latest };
                let text = token.encode();
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
                prop_assert_eq!(ConsistencyToken::decode(&text), Ok(token));
            }
        }

        #[test]
        fn any_text_is_a_token_or_refused(text in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ConsistencyToken::decode(&text);
            let mut bytes = bytes;
            bytes.insert(0, VERSION);
            let _ = ConsistencyToken::decode(&URL_SAFE_NO_PAD.encode(bytes));
        }
    }
}
