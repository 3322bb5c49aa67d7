//! What readers are shown.

use std::borrow::Cow;
use std::sync::Arc;

use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use shared::contract::ids::{EntryId, PostId, UserId};
use shared::contract::time::Timestamp;
use utoipa::ToSchema;

use crate::views::documents::PostRow;

/// A post, as an entry of a list shows it.
#[derive(Clone, Debug, PartialEq, ToSchema)]
#[schema(as = Post)]
pub struct PostView {
    /// The post's own id, or that of the repost.
    pub entry_id: EntryId,
    pub post_id: PostId,
    /// Its author.
    pub user_id: UserId,
    pub username: String,
    pub display_name: String,
    pub content: String,
    pub created_at: Timestamp,
    /// The post that it answers, or null.
    #[schema(required)]
    pub reply_to_post_id: Option<PostId>,
    pub likes_count: i64,
    pub reposts_count: i64,
    pub replies_count: i64,
    /// Whether the caller likes it; null without a token.
    #[schema(required)]
    pub liked: Option<bool>,
    /// Whether the caller has reposted it; null without a token.
    #[schema(required)]
    pub reposted: Option<bool>,
    /// Null, but on the entry of a repost.
    #[schema(required)]
    pub reposted_by: Option<Reposter>,
    /// The fields that all readers are sent alike, as JSON without braces, where they are known.
    #[schema(ignore)]
    pub rendered: Rendered,
}

/// Says nothing that the fields beside it do not say.
#[derive(Clone, Debug, Default)]
pub struct Rendered(pub(super) Option<Arc<str>>);

impl PartialEq for Rendered {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What all readers of a post are sent alike.
#[derive(Serialize)]
struct Alike<'a> {
    post_id: PostId,
    user_id: UserId,
    content: &'a str,
    created_at: Timestamp,
    reply_to_post_id: Option<PostId>,
    likes_count: i64,
    reposts_count: i64,
    replies_count: i64,
}

/// What depends on the entry, the reader, or a profile.
#[derive(Serialize)]
struct Own<'a> {
    entry_id: EntryId,
    username: &'a str,
    display_name: &'a str,
    liked: Option<bool>,
    reposted: Option<bool>,
    reposted_by: Option<&'a Reposter>,
}

/// The fields of a JSON object, without its braces.
fn fields(object: &impl Serialize) -> serde_json::Result<String> {
    let mut json = serde_json::to_string(object)?;
    json.pop();
    json.remove(0);
    Ok(json)
}

/// Serializes what all readers of a post are sent alike, once.
pub(super) fn render(post: &PostRow) -> Option<Arc<str>> {
    let alike = Alike {
        post_id: post.id,
        user_id: post.author,
        content: &post.content,
        created_at: post.at,
        reply_to_post_id: post.reply_to.map(|parent| parent.post),
        likes_count: post.likes,
        reposts_count: post.reposts,
        replies_count: post.replies,
    };
    fields(&alike).ok().map(Arc::from)
}

impl Serialize for PostView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let alike = match &self.rendered.0 {
            Some(rendered) => Cow::Borrowed(rendered.as_ref()),
            None => Cow::Owned(
                fields(&Alike {
                    post_id: self.post_id,
                    user_id: self.user_id,
                    content: &self.content,
                    created_at: self.created_at,
                    reply_to_post_id: self.reply_to_post_id,
                    likes_count: self.likes_count,
                    reposts_count: self.reposts_count,
                    replies_count: self.replies_count,
                })
                .map_err(S::Error::custom)?,
            ),
        };
        let own = fields(&Own {
            entry_id: self.entry_id,
            username: &self.username,
            display_name: &self.display_name,
            liked: self.liked,
            reposted: self.reposted,
            reposted_by: self.reposted_by.as_ref(),
        })
        .map_err(S::Error::custom)?;
        RawValue::from_string(format!("{{{own},{alike}}}"))
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// Who put a post into a timeline by reposting it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Reposter {
    pub user_id: UserId,
    pub username: String,
    pub reposted_at: Timestamp,
}

/// A user, as shown to others and to themselves.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserView {
    pub user_id: UserId,
    pub username: String,
    pub display_name: String,
    pub bio: String,
    pub verified: bool,
    pub created_at: Timestamp,
    pub followers_count: i64,
    pub following_count: i64,
    /// Without reposts.
    pub posts_count: i64,
    /// Shown to the user alone; left out while the accounts cannot be read.
    // No view holds it: it is asked for where the answer is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub email: Option<String>,
}

/// A page, and the cursor of the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
    /// The id down to which rows were looked at, where so many were, or the budget was used up, that
    /// the page ended before it was full. Not told to clients: their cursor holds it.
    pub cut: Option<i64>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            next_cursor: None,
            cut: None,
        }
    }
}

/// How the caller and a user stand to each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ToSchema)]
pub struct Relationship {
    pub following: bool,
    pub followed_by: bool,
}

/// How a reader and one of several users stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ToSchema)]
pub struct RelationshipWith {
    pub user_id: UserId,
    pub following: bool,
    pub followed_by: bool,
}

/// A post with what it answers, and a page of what answers it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Thread {
    /// Oldest first. One that is gone is left out: then the next one's `reply_to_post_id` is not
    /// the `post_id` before it.
    pub ancestors: Vec<PostView>,
    /// There are older ones, which were not looked at.
    pub more_ancestors: bool,
    pub post: PostView,
    /// Newest first.
    pub replies: Vec<PostView>,
    /// Where the next page of replies begins. Null on the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}
