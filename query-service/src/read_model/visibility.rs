//! Which candidates a reader may see, and what they look like.
//!
//! Entries, outbox rows and reply rows are candidates. One is shown exactly when the post stands,
//! its author and reposter are active, and, for a repost, its outbox row stands.

use std::collections::{HashMap, HashSet};

use bson::{Bson, doc};
use shared::ids::{EntryId, PostId, UserId};

use super::generation::View;
use super::keys::{Key, first_id};
use super::rows::{KeyRow, PostRow, ReactionRow, Standing, UserRow};
use super::view::{PostView, Reposter};
use super::{ViewError, Views};

/// Something that may be shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    pub entry: EntryId,
    pub post: PostId,
    /// The author, or who reposted.
    pub by: UserId,
    /// Whether the outbox row was read just now, so that it need not be looked up.
    pub proven: bool,
}

impl Candidate {
    fn is_repost(&self) -> bool {
        self.entry.get() != self.post.get()
    }
}

impl Views {
    /// What each candidate looks like to `viewer`; `None` for one that is not shown.
    pub(super) async fn show(
        &self,
        candidates: &[Candidate],
        viewer: Option<UserId>,
    ) -> Result<Vec<Option<PostView>>, ViewError> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let ids: HashSet<PostId> = candidates.iter().map(|candidate| candidate.post).collect();
        let unproven = candidates
            .iter()
            .filter(|candidate| candidate.is_repost() && !candidate.proven);
        let (posts, standing_reposts, reactions) = tokio::try_join!(
            self.posts_by_id(&ids),
            self.standing_reposts(unproven),
            self.reactions(&ids, viewer),
        )?;
        let reposters = candidates.iter().map(|candidate| candidate.by);
        let people: HashSet<UserId> = posts
            .values()
            .map(|post| post.author)
            .chain(reposters)
            .collect();
        let users = self.users_by_id(&people).await?;
        let active = |user: UserId| {
            users
                .get(&user)
                .filter(|row| row.standing != Standing::Deactivated)
        };
        let (liked, reposted) = reactions;
        let shown = candidates.iter().map(|candidate| {
            let post = posts.get(&candidate.post).filter(|post| !post.deleted)?;
            let author = active(post.author)?;
            let reposted_by = if candidate.is_repost() {
                let stands = candidate.proven || standing_reposts.contains(&candidate.entry);
                let reposter = active(candidate.by).filter(|_| stands)?;
                Some(Reposter {
                    user_id: reposter.id,
                    username: reposter.username.clone(),
                    reposted_at: candidate.entry.timestamp(),
                })
            } else {
                None
            };
            Some(PostView {
                entry_id: candidate.entry,
                post_id: post.id,
                user_id: author.id,
                username: author.username.clone(),
                display_name: author.display_name.clone(),
                content: post.content.clone(),
                created_at: post.at,
                reply_to_post_id: post.reply_to.map(|parent| parent.post),
                likes_count: post.likes,
                reposts_count: post.reposts,
                replies_count: post.replies,
                liked: viewer.map(|_| liked.contains(&post.id)),
                reposted: viewer.map(|_| reposted.contains(&post.id)),
                reposted_by,
            })
        });
        Ok(shown.collect())
    }

    async fn posts_by_id(
        &self,
        ids: &HashSet<PostId>,
    ) -> Result<HashMap<PostId, PostRow>, ViewError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
        let rows: Vec<PostRow> = self
            .all(View::Posts, doc! { "_id": { "$in": ids } })
            .await?;
        Ok(rows.into_iter().map(|row| (row.id, row)).collect())
    }

    pub(super) async fn users_by_id(
        &self,
        ids: &HashSet<UserId>,
    ) -> Result<HashMap<UserId, UserRow>, ViewError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
        let rows: Vec<UserRow> = self
            .all(View::Users, doc! { "_id": { "$in": ids } })
            .await?;
        Ok(rows.into_iter().map(|row| (row.id, row)).collect())
    }

    /// Of these repost candidates, the entries whose outbox row stands.
    async fn standing_reposts(
        &self,
        reposts: impl Iterator<Item = &Candidate>,
    ) -> Result<HashSet<EntryId>, ViewError> {
        let keys: Vec<Bson> = reposts
            .map(|repost| Key::pair(repost.by, repost.entry).bson())
            .collect();
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        let rows: Vec<KeyRow> = self
            .all(View::Outbox, doc! { "_id": { "$in": keys } })
            .await?;
        Ok(rows
            .iter()
            .filter_map(|row| super::keys::last_id(&row.id))
            .collect())
    }

    /// Which of these posts `viewer` likes, and which they have reposted.
    async fn reactions(
        &self,
        posts: &HashSet<PostId>,
        viewer: Option<UserId>,
    ) -> Result<(HashSet<PostId>, HashSet<PostId>), ViewError> {
        let Some(viewer) = viewer else {
            return Ok(Default::default());
        };
        let keys: Vec<Bson> = posts
            .iter()
            .map(|post| Key::pair(*post, viewer).bson())
            .collect();
        let filter = doc! { "_id": { "$in": keys } };
        let standing = |rows: Vec<ReactionRow>| {
            rows.iter()
                .filter(|row| row.v % 2 == 1)
                .filter_map(|row| first_id(&row.id))
                .collect()
        };
        let (likes, reposts) = tokio::try_join!(
            self.all(View::Likes, filter.clone()),
            self.all(View::Reposts, filter),
        )?;
        Ok((standing(likes), standing(reposts)))
    }
}
