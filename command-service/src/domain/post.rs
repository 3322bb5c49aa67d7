//! Posts: writing, answering, deleting.

use shared::contract::events::{Event, Payload, PostCreated, PostDeleted, PostRef};
use shared::contract::ids::{PostId, UserId};

use super::text::Content;
use super::user::{AccountStatus, NotAllowed};

/// A post, as far as a decision needs it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Post {
    pub id: PostId,
    pub author: UserId,
    pub reply_to: Option<PostRef>,
    pub deleted: bool,
}

impl Post {
    /// The post that this event made; `None` for an event that makes none.
    pub fn created(event: &Event) -> Option<Self> {
        let Payload::PostCreated(data) = &event.payload else {
            return None;
        };
        Some(Self {
            id: event.id.cast(),
            author: event.actor,
            reply_to: data.reply_to,
            deleted: false,
        })
    }

    /// How an event names the post.
    pub fn reference(&self) -> PostRef {
        PostRef {
            post: self.id,
            author: self.author,
        }
    }

    /// Whether it can be seen, and so be answered, liked, reposted.
    pub fn is_visible(&self, author: AccountStatus) -> bool {
        !self.deleted && author.is_visible()
    }
}

/// A post cannot be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CannotPost {
    #[error(transparent)]
    Actor(#[from] NotAllowed),
    #[error("the post to reply to does not exist")]
    NoParent,
}

/// A post that answers none.
pub fn create_post(author: AccountStatus, content: &Content) -> Result<PostCreated, CannotPost> {
    author.can_write()?;
    Ok(PostCreated {
        content: content.as_str().to_owned(),
        reply_to: None,
    })
}

/// An answer to `parent`, whose author has the status `parent_author`.
pub fn reply(
    author: AccountStatus,
    content: &Content,
    parent: Option<(&Post, AccountStatus)>,
) -> Result<PostCreated, CannotPost> {
    author.can_write()?;
    let (parent, _) = parent
        .filter(|(parent, status)| parent.is_visible(*status))
        .ok_or(CannotPost::NoParent)?;
    Ok(PostCreated {
        content: content.as_str().to_owned(),
        reply_to: Some(parent.reference()),
    })
}

/// A post cannot be deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CannotDelete {
    #[error(transparent)]
    Actor(#[from] NotAllowed),
    #[error("the post belongs to somebody else")]
    NotYours,
}

pub fn delete_post(
    actor: UserId,
    status: AccountStatus,
    post: &Post,
) -> Result<Option<Payload>, CannotDelete> {
    status.can_write()?;
    if post.author != actor {
        return Err(CannotDelete::NotYours);
    }
    Ok(end_post(post))
}

/// Deletes a post because its author is gone: nobody's status matters.
pub fn end_post(post: &Post) -> Option<Payload> {
    let deleted = PostDeleted {
        post: post.id,
        reply_to: post.reply_to,
    };
    (!post.deleted).then_some(Payload::PostDeleted(deleted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::contract::ids::Id;

    fn post() -> Post {
        Post {
            id: Id::new(7).unwrap(),
            author: Id::new(1).unwrap(),
            reply_to: None,
            deleted: false,
        }
    }

    fn hello() -> Content {
        Content::parse("hello").unwrap()
    }

    #[test]
    fn a_suspended_user_cannot_post_or_reply() {
        let refused = Err(CannotPost::Actor(NotAllowed::Suspended));
        assert_eq!(create_post(AccountStatus::Suspended, &hello()), refused);
        let parent = Some((&post(), AccountStatus::Active));
        assert_eq!(
            reply(AccountStatus::Suspended, &hello(), parent.as_ref().copied()),
            refused
        );
    }

    #[test]
    fn a_reply_names_the_parent_and_its_author() {
        let Ok(created) = reply(
            AccountStatus::Active,
            &hello(),
            Some((&post(), AccountStatus::Suspended)),
        ) else {
            panic!("a visible post can be answered");
        };
        assert_eq!(created.reply_to, Some(post().reference()));
    }

    #[test]
    fn what_is_unknown_deleted_or_of_a_gone_author_cannot_be_answered() {
        let deleted = Post {
            deleted: true,
            ..post()
        };
        for parent in [
            None,
            Some((&deleted, AccountStatus::Active)),
            Some((&post(), AccountStatus::Deactivated)),
        ] {
            assert_eq!(
                reply(AccountStatus::Active, &hello(), parent),
                Err(CannotPost::NoParent)
            );
        }
    }

    #[test]
    fn only_the_author_deletes_a_post() {
        let other = Id::new(2).unwrap();
        assert_eq!(
            delete_post(other, AccountStatus::Active, &post()),
            Err(CannotDelete::NotYours)
        );
    }

    #[test]
    fn deleting_twice_appends_once() {
        let author = post().author;
        assert!(matches!(
            delete_post(author, AccountStatus::Active, &post()),
            Ok(Some(Payload::PostDeleted(_)))
        ));
        let deleted = Post {
            deleted: true,
            ..post()
        };
        assert_eq!(
            delete_post(author, AccountStatus::Active, &deleted),
            Ok(None)
        );
    }

    #[test]
    fn a_suspended_author_cannot_delete() {
        assert_eq!(
            delete_post(post().author, AccountStatus::Suspended, &post()),
            Err(CannotDelete::Actor(NotAllowed::Suspended))
        );
    }
}
