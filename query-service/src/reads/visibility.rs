//! Which candidates a reader may see, and what they look like.
//!
//! Entries, author feed rows and reply rows are candidates. One is shown exactly when the post stands,
//! its author and reposter are active, and, for a repost, its author feed row stands.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use bson::{Bson, doc};
use shared::contract::ids::{EntryId, PostId, UserId};

use super::bodies::{PostView, Rendered, Reposter, render};
use super::model::ReadModel;
use super::unanswered::Unanswered;
use crate::cache::{CacheSlots, Lookup, Post, Reactions, Remembered};
use crate::views::documents::{KeyRow, PostRow, ReactionRow, UserRow};
use crate::views::entry::TimelineItem;
use crate::views::generation::View;
use crate::views::keys::{Key, first_id, last_id};

/// Something that may be shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    pub item: TimelineItem,
    /// Whether the author feed row was read just now, so that it need not be looked up.
    pub proven: bool,
}

impl Candidate {
    pub fn new(item: TimelineItem, proven: bool) -> Self {
        Self { item, proven }
    }
}

/// The rows by which candidates are judged.
struct Rows {
    posts: HashMap<PostId, Arc<Post>>,
    users: HashMap<UserId, Arc<UserRow>>,
    /// Of the reposts that were not proven, the entries whose author feed row stands.
    standing_reposts: HashSet<EntryId>,
    /// What the viewer did to each post.
    reactions: HashMap<PostId, Reactions>,
}

impl Rows {
    fn active(&self, user: UserId) -> Option<&UserRow> {
        let row = self.users.get(&user)?.as_ref();
        (!row.has_left()).then_some(row)
    }

    /// What a candidate looks like; `None` if it is not shown.
    fn view_of(&self, candidate: &Candidate) -> Option<PostView> {
        let item = &candidate.item;
        let Post {
            row: post,
            rendered,
        } = self.posts.get(&item.post)?.as_ref();
        if post.deleted {
            return None;
        }
        let author = self.active(post.author)?;
        let reposted_by = if item.is_repost() {
            let stands = candidate.proven || self.standing_reposts.contains(&item.entry);
            let reposter = self.active(item.by).filter(|_| stands)?;
            Some(Reposter {
                user_id: reposter.id,
                username: reposter.username.clone(),
                reposted_at: item.entry.timestamp(),
            })
        } else {
            None
        };
        let reactions = self.reactions.get(&post.id);
        Some(PostView {
            entry_id: item.entry,
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
            liked: reactions.map(|it| it.liked),
            reposted: reactions.map(|it| it.reposted),
            reposted_by,
            rendered: Rendered(rendered.clone()),
        })
    }
}

impl ReadModel {
    /// What each candidate looks like to `viewer`; `None` for one that is not shown.
    pub(super) async fn show(
        &self,
        candidates: &[Candidate],
        viewer: Option<UserId>,
    ) -> Result<Vec<Option<PostView>>, Unanswered> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let ids: HashSet<PostId> = candidates.iter().map(|it| it.item.post).collect();
        let reposts = || candidates.iter().filter(|it| it.item.is_repost());
        let unproven = reposts().filter(|candidate| !candidate.proven);
        let (posts, standing_reposts, reactions) = tokio::try_join!(
            self.posts_by_id(&ids),
            self.standing_reposts(unproven),
            self.reactions(&ids, viewer),
        )?;
        let posts = self.whole(&ids, posts)?;
        let reposters = reposts().map(|candidate| candidate.item.by);
        let people: HashSet<UserId> = posts
            .values()
            .map(|post| post.row.author)
            .chain(reposters)
            .collect();
        let users = self.users_by_id(&people).await?;
        let rows = Rows {
            posts,
            users,
            standing_reposts,
            reactions,
        };
        Ok(candidates.iter().map(|it| rows.view_of(it)).collect())
    }

    /// Of these candidates, newest first, `most` in a row that can be shown from memory, or the
    /// first row of fewer. Those above them may never have been read: it is the page as it was.
    pub(super) fn remembered_run<'a>(
        &self,
        candidates: &'a [Candidate],
        most: usize,
    ) -> &'a [Candidate] {
        let known = |it: &Candidate| {
            matches!(
                self.look(&self.caches().posts, &it.item.post),
                Lookup::Hit(_)
            )
        };
        let known: Vec<bool> = candidates.iter().map(known).collect();
        let mut runs = Vec::new();
        let mut begin = 0;
        for run in known.chunk_by(|one, other| one == other) {
            let end = begin + run.len();
            if run[0] {
                runs.push(&candidates[begin..end]);
            }
            begin = end;
        }
        let enough = runs.iter().find(|run| run.len() >= most);
        enough.or(runs.first()).copied().unwrap_or_default()
    }

    pub(super) async fn posts_by_id(
        &self,
        ids: &HashSet<PostId>,
    ) -> Result<HashMap<PostId, Arc<Post>>, Unanswered> {
        // What is not there yet is not remembered: the author's partition may be behind.
        self.get_many(&self.caches().posts, ids, async |ids| {
            let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
            let rows: Vec<PostRow> = self
                .all(View::Posts, doc! { "_id": { "$in": ids } })
                .await?;
            let posts = rows.into_iter().map(|row| {
                let rendered = render(&row);
                (row.id, Post { row, rendered })
            });
            Ok(posts.collect())
        })
        .await
    }

    pub(super) async fn users_by_id(
        &self,
        ids: &HashSet<UserId>,
    ) -> Result<HashMap<UserId, Arc<UserRow>>, Unanswered> {
        let found = self.get_many(&self.caches().users, ids, async |ids| {
            let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
            let rows: Vec<UserRow> = self
                .all(View::Users, doc! { "_id": { "$in": ids } })
                .await?;
            Ok(rows.into_iter().map(|row| (row.id, row)).collect())
        });
        self.whole(ids, found.await?)
    }

    /// Rather no answer than one with holes: what is absent while the database is away may stand.
    pub(super) fn whole<K, V>(
        &self,
        asked: &HashSet<K>,
        found: HashMap<K, V>,
    ) -> Result<HashMap<K, V>, Unanswered> {
        if found.len() < asked.len() {
            self.may_load()?;
        }
        Ok(found)
    }

    /// Of these repost candidates, the entries whose author feed row stands.
    async fn standing_reposts(
        &self,
        reposts: impl Iterator<Item = &Candidate>,
    ) -> Result<HashSet<EntryId>, Unanswered> {
        let by: HashMap<EntryId, UserId> = reposts
            .map(|repost| (repost.item.entry, repost.item.by))
            .collect();
        let entries = by.keys().copied().collect();
        let standing = self.get_many(&self.caches().standing, &entries, async |entries| {
            let keys: Vec<Bson> = entries
                .iter()
                .map(|entry| Key::pair(by[entry], *entry).bson())
                .collect();
            let rows: Vec<KeyRow> = self
                .all(View::AuthorFeed, doc! { "_id": { "$in": keys } })
                .await?;
            Ok(rows
                .iter()
                .filter_map(|row| Some((last_id(&row.id)?, ())))
                .collect())
        });
        Ok(standing.await?.into_keys().collect())
    }

    /// What `viewer` did to each of these posts; nothing without one.
    async fn reactions(
        &self,
        posts: &HashSet<PostId>,
        viewer: Option<UserId>,
    ) -> Result<HashMap<PostId, Reactions>, Unanswered> {
        let Some(viewer) = viewer else {
            return Ok(HashMap::new());
        };
        let keys = posts.iter().map(|post| (*post, viewer)).collect();
        let found = self.get_many(&self.caches().reactions, &keys, async |missing| {
            let keys: Vec<Bson> = missing
                .iter()
                .map(|(post, viewer)| Key::pair(*post, *viewer).bson())
                .collect();
            let filter = doc! { "_id": { "$in": keys } };
            let standing = |rows: Vec<ReactionRow>| -> HashSet<PostId> {
                rows.iter()
                    .filter(|row| row.v % 2 == 1)
                    .filter_map(|row| first_id(&row.id))
                    .collect()
            };
            let (likes, reposts) = tokio::try_join!(
                self.all(View::Likes, filter.clone()),
                self.all(View::Reposts, filter),
            )?;
            let (likes, reposts) = (standing(likes), standing(reposts));
            let reactions = missing.iter().map(|key| {
                let reactions = Reactions {
                    liked: likes.contains(&key.0),
                    reposted: reposts.contains(&key.0),
                };
                (*key, reactions)
            });
            Ok(reactions.collect())
        });
        let found = found.await?;
        Ok(found.into_iter().map(|(key, it)| (key.0, *it)).collect())
    }

    /// What is remembered of these keys, with what `load` finds of the others; that alone while
    /// the database is away.
    pub(super) async fn get_many<K, V, F>(
        &self,
        slots: &CacheSlots<K, V>,
        keys: &HashSet<K>,
        load: impl FnOnce(Vec<K>) -> F,
    ) -> Result<HashMap<K, Arc<V>>, Unanswered>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Remembered,
        F: Future<Output = Result<Vec<(K, V)>, Unanswered>>,
    {
        let (mut found, mut loading) = (HashMap::with_capacity(keys.len()), HashMap::new());
        for key in keys {
            match self.look(slots, key) {
                Lookup::Hit(value) => drop(found.insert(*key, value)),
                Lookup::Miss(miss) => drop(loading.insert(*key, miss)),
            }
        }
        if loading.is_empty() || self.is_stale() {
            return Ok(found);
        }
        self.may_load()?;
        for (key, value) in load(loading.keys().copied().collect()).await? {
            let value = Arc::new(value);
            if let Some(loading) = loading.remove(&key) {
                loading.store(value.clone());
            }
            found.insert(key, value);
        }
        Ok(found)
    }
}
