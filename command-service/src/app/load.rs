//! What decisions are made on: users and posts as they are now, or were a moment ago.

use std::sync::Arc;

use shared::contract::events::LogStream;
use shared::contract::ids::{PostId, UserId};
use shared::runtime::trace::{self, Kind};

use super::error::Refusal;
use super::ports::Result as StoreResult;
use super::{App, CommandError};
use crate::domain::post::Post;
use crate::domain::user::{AccountStatus, User};

/// A post as loaded for a decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundPost {
    pub(super) post: Post,
    pub(super) author: AccountStatus,
    pub(super) version: i64,
    /// The greatest event id that was read.
    pub(super) read: i64,
}

impl FoundPost {
    pub(super) fn seen(&self) -> (&Post, AccountStatus) {
        (&self.post, self.author)
    }
}

impl App {
    /// The user as known at most `STATUS_TTL` ago, or as decided here since. However many ask at
    /// once, one asks the store.
    pub(super) async fn find_user(&self, user: UserId) -> StoreResult<Option<Arc<User>>> {
        let load = async {
            match self.load_user(user).await {
                Ok(Some(loaded)) => Ok(Arc::new(loaded)),
                Ok(None) => Err(None),
                Err(error) => Err(Some(error)),
            }
        };
        let found = match self.users.try_get_with(user, load).await {
            Ok(found) => found,
            Err(failed) => {
                return match failed.as_ref() {
                    None => Ok(None),
                    Some(error) => Err(error.again()),
                };
            }
        };
        // A look that began before a decision may be remembered after it.
        let decided = self.decided.get(&user).await;
        let newer = decided.filter(|decided| decided.version > found.version);
        Ok(Some(newer.unwrap_or(found)))
    }

    /// The user as of now.
    pub(super) async fn load_user(&self, user: UserId) -> StoreResult<Option<User>> {
        self.store.streams.user(user).await
    }

    /// The user as of now, unless they have left.
    pub(super) async fn find_active(&self, user: UserId) -> StoreResult<Option<User>> {
        let user = self.load_user(user).await?;
        Ok(user.filter(|user| user.status.is_visible()))
    }

    /// The user behind an access token. A token outlives the user's registration only if the
    /// user left, or if the token is of another deployment.
    pub(super) async fn actor(&self, actor: UserId) -> Result<Arc<User>, CommandError> {
        let found = trace::part(Kind::Internal, "load actor", self.find_user(actor));
        Ok(found.await?.ok_or(Refusal::NoActor)?)
    }

    /// A post with its author's status; the event ids read on the way bound the new event's.
    pub(super) async fn find_post(&self, post: PostId) -> StoreResult<Option<FoundPost>> {
        trace::part(Kind::Internal, "load post", self.read_post(post)).await
    }

    async fn read_post(&self, post: PostId) -> StoreResult<Option<FoundPost>> {
        let Some(created) = self.created_post(post).await? else {
            return Ok(None);
        };
        let stream = LogStream::Post(post);
        let (last, author) = tokio::join!(
            self.store.streams.last(created.author, stream),
            self.find_user(created.author)
        );
        let last = last?;
        let version = last.as_ref().map_or(1, |event| event.version);
        let author = author?.map_or(AccountStatus::Deactivated, |author| author.status);
        Ok(Some(FoundPost {
            post: Post {
                deleted: version > 1,
                ..created
            },
            author,
            version,
            read: last.map_or(post.get(), |event| event.id.get()),
        }))
    }

    pub(super) async fn created_post(&self, post: PostId) -> StoreResult<Option<Post>> {
        if let Some(known) = self.posts.get(&post).await {
            return Ok(Some(known));
        }
        let event = self.store.log.post_created(post).await?;
        let found = event.as_ref().and_then(Post::created);
        if let Some(found) = found {
            self.posts.insert(post, found).await;
        }
        Ok(found)
    }
}
