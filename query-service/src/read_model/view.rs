//! What readers are shown.

use serde::Serialize;
use shared::ids::{EntryId, PostId, UserId};
use shared::time::Timestamp;

/// A post as an entry shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PostView {
    pub entry_id: EntryId,
    pub post_id: PostId,
    pub user_id: UserId,
    pub username: String,
    pub display_name: String,
    pub content: String,
    pub created_at: Timestamp,
    pub reply_to_post_id: Option<PostId>,
    pub likes_count: i64,
    pub reposts_count: i64,
    pub replies_count: i64,
    /// Null without a token.
    pub liked: Option<bool>,
    pub reposted: Option<bool>,
    pub reposted_by: Option<Reposter>,
}

/// Who put a post into a timeline by reposting it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reposter {
    pub user_id: UserId,
    pub username: String,
    pub reposted_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UserView {
    pub user_id: UserId,
    pub username: String,
    pub display_name: String,
    pub bio: String,
    pub verified: bool,
    pub created_at: Timestamp,
    pub followers_count: i64,
    pub following_count: i64,
    pub posts_count: i64,
    /// Shown to the user alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// A page, and the cursor of the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Relationship {
    pub following: bool,
    pub followed_by: bool,
}
