//! Edges: who follows whom, who likes or reposts what.
//!
//! An edge is a toggle. The events of its stream alternate, on and off, so that its version
//! alone says how it stands: odd is on. Asking for what already holds appends nothing.

use shared::contract::events::{self, Event, Payload, Unreposted};
use shared::contract::ids::{EventId, UserId};
use shared::contract::time::Timestamp;

use super::post::Post;
use super::user::{AccountStatus, NotAllowed};

/// Past this many a reader's timeline is no longer put together in reasonable time.
pub const FOLLOW_LIMIT: u32 = 5_000;

/// How an edge stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Edge {
    pub version: i64,
    /// The event that made it so, and when.
    pub last: Option<(EventId, Timestamp)>,
}

impl Edge {
    /// The edge whose stream ends with this event.
    pub fn after(event: &Event) -> Self {
        Self {
            version: event.version,
            last: Some((event.id, event.at)),
        }
    }

    pub fn is_on(&self) -> bool {
        self.version % 2 == 1
    }
}

/// A follow is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CannotFollow {
    #[error(transparent)]
    Actor(#[from] NotAllowed),
    #[error("nobody follows themselves")]
    Oneself,
    #[error("the user to follow does not exist")]
    NoSuchUser,
    #[error("at most {FOLLOW_LIMIT} people can be followed")]
    Limit,
}

/// A like or repost is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CannotReact {
    #[error(transparent)]
    Actor(#[from] NotAllowed),
    #[error("the post does not exist")]
    NoSuchPost,
}

/// `followee` is the status of the user to follow, `None` if there is no such user;
/// `following` is how many the follower follows already, this edge not counted.
pub fn follow(
    edge: &Edge,
    ends: events::Edge,
    actor: AccountStatus,
    followee: Option<AccountStatus>,
    following: u32,
) -> Result<Option<Payload>, CannotFollow> {
    actor.can_write()?;
    if ends.follower == ends.followee {
        return Err(CannotFollow::Oneself);
    }
    if !followee.is_some_and(AccountStatus::is_visible) {
        return Err(CannotFollow::NoSuchUser);
    }
    if edge.is_on() {
        return Ok(None);
    }
    if following >= FOLLOW_LIMIT {
        return Err(CannotFollow::Limit);
    }
    Ok(Some(Payload::Followed(ends)))
}

/// A user who exists, gone or not, can be unfollowed.
pub fn unfollow(
    edge: &Edge,
    ends: events::Edge,
    actor: AccountStatus,
    followee_exists: bool,
) -> Result<Option<Payload>, CannotFollow> {
    actor.can_write()?;
    if ends.follower == ends.followee {
        return Err(CannotFollow::Oneself);
    }
    if !followee_exists {
        return Err(CannotFollow::NoSuchUser);
    }
    Ok(end_follow(edge, ends))
}

/// Ends an edge because one of its ends is gone: nobody's status matters.
pub fn end_follow(edge: &Edge, ends: events::Edge) -> Option<Payload> {
    edge.is_on().then_some(Payload::Unfollowed(ends))
}

/// The post that is to be liked or reposted, with its author's status.
fn visible(
    actor: AccountStatus,
    post: Option<(&Post, AccountStatus)>,
) -> Result<&Post, CannotReact> {
    actor.can_write()?;
    post.filter(|(post, author)| post.is_visible(*author))
        .map(|(post, _)| post)
        .ok_or(CannotReact::NoSuchPost)
}

pub fn like(
    edge: &Edge,
    actor: AccountStatus,
    post: Option<(&Post, AccountStatus)>,
) -> Result<Option<Payload>, CannotReact> {
    let post = visible(actor, post)?;
    Ok((!edge.is_on()).then(|| Payload::Liked(post.reference())))
}

pub fn unlike(
    edge: &Edge,
    actor: AccountStatus,
    post: Option<(&Post, AccountStatus)>,
) -> Result<Option<Payload>, CannotReact> {
    let post = visible(actor, post)?;
    Ok(edge.is_on().then(|| Payload::Unliked(post.reference())))
}

pub fn repost(
    edge: &Edge,
    actor: AccountStatus,
    post: Option<(&Post, AccountStatus)>,
) -> Result<Option<Payload>, CannotReact> {
    let post = visible(actor, post)?;
    Ok((!edge.is_on()).then(|| Payload::Reposted(post.reference())))
}

pub fn unrepost(
    edge: &Edge,
    actor: AccountStatus,
    post: Option<(&Post, AccountStatus)>,
) -> Result<Option<Payload>, CannotReact> {
    let post = visible(actor, post)?;
    Ok(end_repost(edge, post))
}

/// Ends a repost because the reposter is gone: nobody's status matters.
pub fn end_repost(edge: &Edge, post: &Post) -> Option<Payload> {
    let standing = edge.last.filter(|_| edge.is_on());
    // The entry in timelines has the id of the repost that made it.
    standing.map(|(reposted, _)| {
        Payload::Unreposted(Unreposted {
            post: post.id,
            author: post.author,
            entry: reposted.cast(),
        })
    })
}

/// Whose an edge's stream is: the follower's, the one's who likes or reposts.
pub fn follow_stream(ends: events::Edge) -> (UserId, shared::contract::events::LogStream) {
    let stream = shared::contract::events::LogStream::Follow {
        follower: ends.follower,
        followee: ends.followee,
    };
    (ends.follower, stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::contract::ids::Id;

    const ACTIVE: Option<AccountStatus> = Some(AccountStatus::Active);

    fn ends(follower: i64, followee: i64) -> events::Edge {
        events::Edge {
            follower: Id::new(follower).unwrap(),
            followee: Id::new(followee).unwrap(),
        }
    }

    fn at(version: i64) -> Edge {
        let last =
            (version > 0).then(|| (Id::new(900 + version).unwrap(), Timestamp::from_millis(0)));
        Edge { version, last }
    }

    fn post() -> Post {
        Post {
            id: Id::new(7).unwrap(),
            author: Id::new(3).unwrap(),
            reply_to: None,
            deleted: false,
        }
    }

    #[test]
    fn following_twice_appends_once() {
        let decided = follow(&at(0), ends(1, 2), AccountStatus::Active, ACTIVE, 0);
        assert_eq!(decided, Ok(Some(Payload::Followed(ends(1, 2)))));
        assert_eq!(
            follow(&at(1), ends(1, 2), AccountStatus::Active, ACTIVE, 0),
            Ok(None)
        );
    }

    #[test]
    fn nobody_follows_themselves() {
        let decided = follow(&at(0), ends(1, 1), AccountStatus::Active, ACTIVE, 0);
        assert_eq!(decided, Err(CannotFollow::Oneself));
    }

    #[test]
    fn only_who_is_there_can_be_followed() {
        for followee in [None, Some(AccountStatus::Deactivated)] {
            let decided = follow(&at(0), ends(1, 2), AccountStatus::Active, followee, 0);
            assert_eq!(decided, Err(CannotFollow::NoSuchUser));
        }
        let suspended = Some(AccountStatus::Suspended);
        assert!(follow(&at(0), ends(1, 2), AccountStatus::Active, suspended, 0).is_ok());
    }

    #[test]
    fn the_limit_holds_for_new_edges_only() {
        let decided = follow(
            &at(2),
            ends(1, 2),
            AccountStatus::Active,
            ACTIVE,
            FOLLOW_LIMIT,
        );
        assert_eq!(decided, Err(CannotFollow::Limit));
        let standing = follow(
            &at(3),
            ends(1, 2),
            AccountStatus::Active,
            ACTIVE,
            FOLLOW_LIMIT,
        );
        assert_eq!(standing, Ok(None));
        let last = follow(
            &at(2),
            ends(1, 2),
            AccountStatus::Active,
            ACTIVE,
            FOLLOW_LIMIT - 1,
        );
        assert!(matches!(last, Ok(Some(_))));
    }

    #[test]
    fn who_is_gone_can_still_be_unfollowed() {
        let decided = unfollow(&at(1), ends(1, 2), AccountStatus::Active, true);
        assert_eq!(decided, Ok(Some(Payload::Unfollowed(ends(1, 2)))));
        let unknown = unfollow(&at(1), ends(1, 2), AccountStatus::Active, false);
        assert_eq!(unknown, Err(CannotFollow::NoSuchUser));
    }

    #[test]
    fn an_unrepost_names_the_entry_it_withdraws() {
        let decided = unrepost(
            &at(3),
            AccountStatus::Active,
            Some((&post(), AccountStatus::Active)),
        );
        let Ok(Some(Payload::Unreposted(data))) = decided else {
            panic!("a standing repost can be withdrawn");
        };
        assert_eq!(data.entry.get(), 903);
    }

    #[test]
    fn what_cannot_be_seen_can_be_neither_liked_nor_reposted() {
        let deleted = Post {
            deleted: true,
            ..post()
        };
        for post in [
            None,
            Some((&deleted, AccountStatus::Active)),
            Some((&post(), AccountStatus::Deactivated)),
        ] {
            for decide in [like, unlike, repost, unrepost] {
                assert_eq!(
                    decide(&at(1), AccountStatus::Active, post),
                    Err(CannotReact::NoSuchPost)
                );
            }
        }
    }

    #[test]
    fn the_suspended_change_no_edge() {
        let refused = NotAllowed::Suspended;
        let seen = post();
        for decide in [like, unlike, repost, unrepost] {
            let decided = decide(
                &at(0),
                AccountStatus::Suspended,
                Some((&seen, AccountStatus::Active)),
            );
            assert_eq!(decided, Err(CannotReact::Actor(refused)));
        }
        let decided = follow(&at(0), ends(1, 2), AccountStatus::Suspended, ACTIVE, 0);
        assert_eq!(decided, Err(CannotFollow::Actor(refused)));
        let decided = unfollow(&at(1), ends(1, 2), AccountStatus::Suspended, true);
        assert_eq!(decided, Err(CannotFollow::Actor(refused)));
    }

    proptest! {
        #[test]
        fn any_run_of_likes_and_unlikes_alternates(wishes in proptest::collection::vec(any::<bool>(), 0..50)) {
            let (seen, mut version) = (post(), 0);
            for on in wishes {
                let decide = if on { like } else { unlike };
                let decided = decide(&at(version), AccountStatus::Active, Some((&seen, AccountStatus::Active)));
                match decided.unwrap() {
                    Some(Payload::Liked(_)) => prop_assert_eq!(version % 2, 0),
                    Some(_) => prop_assert_eq!(version % 2, 1),
                    None => { prop_assert_eq!(at(version).is_on(), on); continue; }
                }
                version += 1;
                prop_assert_eq!(at(version).is_on(), on);
            }
        }
    }
}
