//! Writing a post, or an answer to one.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use shared::contract::events::{Event, LogStream, Payload, PostCreated};
use shared::contract::ids::{PostId, UserId};
use shared::contract::time::Timestamp;

use super::append::{Draft, Target};
use super::error::{Refusal, may_have_happened};
use super::load::FoundPost;
use super::ports::{Allowance, AppendOutcome, Key, Limited, PriorRequest};
use super::token::Own;
use super::{Accepted, App, CommandError};
use crate::domain::post::{CannotPost, create_post, reply};
use crate::domain::text::Content;
use crate::domain::user::User;

/// Keys that callers choose stay apart from our own.
const KEY_PREFIX: &str = "http:";

/// A post to be written.
#[derive(Clone, Debug)]
pub struct NewPost {
    pub content: Content,
    pub reply_to: Option<PostId>,
    /// The same key and post again gets the first answer again.
    pub key: Option<String>,
}

/// A post as written.
#[derive(Clone, Debug)]
pub struct Created {
    pub id: PostId,
    pub author: Arc<User>,
    pub content: String,
    pub reply_to: Option<PostId>,
    pub at: Timestamp,
    /// An earlier request with the same key wrote it.
    pub replayed: bool,
    /// How the author's quota stands, where that could be read.
    pub allowance: Option<Allowance>,
}

impl NewPost {
    /// The stored key: its hash tells another request with the same key from this one.
    fn stored_key(&self) -> Option<Key> {
        let key = self.key.as_ref()?;
        let mut hash = Sha256::new();
        hash.update(self.reply_to.map_or(0, PostId::get).to_be_bytes());
        hash.update(self.content.as_str());
        let digest: [u8; 32] = hash.finalize().into();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        Some(Key {
            text: format!("{KEY_PREFIX}{key}"),
            hash: i64::from_be_bytes(head),
        })
    }

    /// Whether this very post was written: an earlier build kept a text's line ends as they came,
    /// and made the key's hash of them.
    fn is_what_was_written(&self, written: &PostCreated) -> bool {
        self.content.is_made_of(&written.content)
            && written.reply_to.map(|parent| parent.post) == self.reply_to
    }
}

impl App {
    pub async fn create_post(
        &self,
        actor: UserId,
        new: NewPost,
    ) -> Result<Accepted<Created>, CommandError> {
        let author = self.actor(actor).await?;
        author.status.can_write()?;
        let key = new.stored_key();
        if let Some(key) = &key
            && let Some(prior_request) = self.store.log.prior_request(actor, &key.text).await?
        {
            return self.replay(&author, &new, key, prior_request).await;
        }
        let parent = match new.reply_to {
            Some(parent) => self.find_post(parent).await?,
            None => None,
        };
        let post = decide(&author, &new, parent.as_ref())?;
        let allowance = self.reserve(Limited::Posts, &author).await?;
        let draft = Draft {
            target: Target::NewPost,
            actor,
            payload: Payload::PostCreated(post.clone()),
            read: author.last.get().max(parent.map_or(0, |found| found.read)),
            key: key.clone(),
        };
        let appended = self.append(&draft).await;
        let is_written = |outcome: &AppendOutcome| matches!(outcome, AppendOutcome::Appended(_));
        if !may_have_happened(&appended, is_written) {
            self.release(actor, allowance).await;
        }
        match (appended?, key) {
            (AppendOutcome::Appended(event), _) => {
                if new.reply_to.is_some() && self.is_deactivated(actor).await? {
                    self.end_reply(actor, event.id.cast()).await?;
                    return Err(Refusal::NoActor.into());
                }
                self.created(&event, post, author, Some(allowance), false)
                    .await
            }
            (AppendOutcome::KeyTaken(prior_request), Some(key)) => {
                self.replay(&author, &new, &key, prior_request).await
            }
            (
                AppendOutcome::KeyTaken(_) | AppendOutcome::IdTaken | AppendOutcome::VersionTaken,
                _,
            ) => Err(Refusal::Conflict.into()),
        }
    }

    /// The first answer: with the author's profile as the first request read it, which is what
    /// events with smaller ids say. The quota is told as it stands now.
    async fn replay(
        &self,
        current: &User,
        new: &NewPost,
        key: &Key,
        prior_request: PriorRequest,
    ) -> Result<Accepted<Created>, CommandError> {
        let PriorRequest { event, hash } = prior_request;
        let Payload::PostCreated(written) = &event.payload else {
            return Err(Refusal::KeyReused.into());
        };
        if hash != key.hash && !new.is_what_was_written(written) {
            return Err(Refusal::KeyReused.into());
        }
        let (author, allowance) = tokio::join!(
            self.store.streams.user_before(current.id, event.id),
            self.allowance(Limited::Posts, current)
        );
        let author = Arc::new(author?.ok_or(Refusal::NoActor)?);
        self.created(&event, written.clone(), author, allowance, true)
            .await
    }

    /// The answer: `post` is what the event says.
    async fn created(
        &self,
        event: &Event,
        post: PostCreated,
        author: Arc<User>,
        allowance: Option<Allowance>,
        replayed: bool,
    ) -> Result<Accepted<Created>, CommandError> {
        let id: PostId = event.id.cast();
        let own = Own {
            stream: LogStream::Post(id),
            version: 1,
            actor: event.actor,
            owner: post.reply_to.map_or(event.actor, |parent| parent.author),
            changed: !replayed,
        };
        Ok(Accepted {
            token: self.token(own).await?,
            value: Created {
                id,
                author,
                content: post.content,
                reply_to: post.reply_to.map(|parent| parent.post),
                at: event.at,
                replayed,
                allowance,
            },
        })
    }
}

fn decide(
    author: &User,
    new: &NewPost,
    parent: Option<&FoundPost>,
) -> Result<PostCreated, CannotPost> {
    match new.reply_to {
        None => create_post(author.status, &new.content),
        Some(_) => reply(author.status, &new.content, parent.map(FoundPost::seen)),
    }
}
