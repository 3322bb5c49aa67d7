//! A post with its thread: what it answers, up to the first post, and a page of what answers it.

use shared::contract::ids::{PostId, UserId};

use super::bodies::Thread;
use super::cursor::CursorKind;
use super::model::ReadModel;
use super::unanswered::Unanswered;

/// Posts above one that are looked at for its thread at the most. Each is found by the one below it,
/// so that what is not in the cache costs a query.
pub const MOST_ANCESTORS: usize = 40;

impl ReadModel {
    /// A post, what it answers, and a page of the replies to it, newest first; `None` if the post does
    /// not stand. The cursor is one of its replies.
    pub async fn thread(
        &self,
        post: PostId,
        viewer: Option<UserId>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Thread>, Unanswered> {
        let before = self.position(CursorKind::Replies, post.get(), cursor)?;
        let Some(post) = self.post(post, viewer).await? else {
            return Ok(None);
        };
        self.may_load()?;
        let (mut above, more_ancestors) = self.chain_above(post.reply_to_post_id).await?;
        above.reverse();
        let ancestors = self.posts(&above, viewer).await?;
        let replies = self.replies_before(&post, before, viewer, limit).await?;
        Ok(Some(Thread {
            ancestors,
            more_ancestors,
            post,
            replies: replies.items,
            next_cursor: replies.next_cursor,
        }))
    }

    /// The posts from this one up to the first, whether they are shown or not, and whether there are
    /// more of them. A deleted post still says what it answered.
    async fn chain_above(
        &self,
        mut next: Option<PostId>,
    ) -> Result<(Vec<PostId>, bool), Unanswered> {
        let mut above = Vec::new();
        while let Some(post) = next {
            let goes_on = above.is_empty() || !self.is_used_up();
            if !goes_on || above.len() == MOST_ANCESTORS {
                return Ok((above, true));
            }
            let found = self.posts_by_id(&[post].into()).await?;
            let Some(found) = found.get(&post) else {
                // Its author's partition has not folded it yet.
                return Ok((above, true));
            };
            above.push(post);
            next = found.row.reply_to.map(|parent| parent.post);
        }
        Ok((above, false))
    }
}
