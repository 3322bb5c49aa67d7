//! The token that lets a read reflect an earlier write, across services and replicas.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::events::LogStream;
use crate::ids::UserId;

/// The header that carries it, both ways.
pub const HEADER: &str = "x-consistency-token";

/// Names a write: the log stream's version, and the users whose partitions show it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConsistencyToken {
    pub stream: LogStream,
    pub version: i64,
    pub actor: UserId,
    /// The owner of what was acted upon: the followee, the post's author, the parent's author.
    pub owner: UserId,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a consistency token")]
pub struct InvalidToken;

impl ConsistencyToken {
    pub fn encode(&self) -> String {
        let plain = format!(
            "1|{}|{}|{}|{}",
            self.stream, self.version, self.actor, self.owner
        );
        URL_SAFE_NO_PAD.encode(plain)
    }

    pub fn decode(text: &str) -> Result<Self, InvalidToken> {
        if text.len() > 256 {
            return Err(InvalidToken);
        }
        let plain = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidToken)?;
        let plain = String::from_utf8(plain).map_err(|_| InvalidToken)?;
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Id;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_round_trip(a in 1i64.., b in 1i64.., version in 0i64..) {
            let (actor, owner) = (Id::new(a).unwrap(), Id::new(b).unwrap());
            let stream = LogStream::Follow { follower: actor, followee: owner };
            let token = ConsistencyToken { stream, version, actor, owner };
            prop_assert_eq!(ConsistencyToken::decode(&token.encode()), Ok(token));
        }

        #[test]
        fn any_text_is_a_token_or_refused(text in "\\PC{0,80}") {
            let _ = ConsistencyToken::decode(&text);
        }
    }
}
