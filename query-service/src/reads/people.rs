//! Users, their followers and followees, who reacted to a post, and how two users stand.

use std::collections::{HashMap, HashSet};

use bson::{Binary, Document, doc};
use shared::contract::ids::{PostId, UserId, UserKind};
use shared::contract::names;

use super::bodies::{Page, PostView, Relationship, RelationshipWith, UserView};
use super::cursor::CursorKind;
use super::model::ReadModel;
use super::posts::{MOST_EXAMINED, MOST_TOGETHER};
use super::scan::{List, Listed};
use super::unanswered::Unanswered;
use crate::cache::Lookup;
use crate::views::documents::{EdgeRow, UserRow};
use crate::views::generation::View;
use crate::views::keys::{Key, last_id};

/// Rows looked at together at the least: fewer cost as much.
const LEAST_TOGETHER: usize = 50;
/// Keys that are looked up with one query.
const MOST_KEYS: usize = 250;

/// An edge in the list of a user or of a post; one that ended may stay there.
#[derive(serde::Deserialize)]
struct ListedEdge {
    #[serde(rename = "_id")]
    id: Binary,
    #[serde(default = "first")]
    v: i64,
}

/// Of rows that are deleted when the edge ends.
fn first() -> i64 {
    1
}

impl ListedEdge {
    /// An edge's versions alternate: odd ones are on.
    fn stands(&self) -> bool {
        self.v % 2 == 1
    }
}

impl Listed for ListedEdge {
    fn listed_id(&self) -> Option<i64> {
        last_id::<UserKind>(&self.id).map(UserId::get)
    }
}

/// Which list is read for a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Walked {
    Following,
    Followers,
}

impl Walked {
    /// Mutuals are in both lists: the shorter one is read, and looked up in the other.
    fn of(kind: CursorKind, profile: &UserView) -> Self {
        let fewer_followers = profile.followers_count < profile.following_count;
        match kind {
            CursorKind::Followers => Self::Followers,
            CursorKind::Mutuals if fewer_followers => Self::Followers,
            CursorKind::Mutuals
            | CursorKind::Following
            | CursorKind::Home
            | CursorKind::Posts
            | CursorKind::Replies
            | CursorKind::Likes
            | CursorKind::Reposts => Self::Following,
        }
    }

    fn list(self, views: &ReadModel, user: UserId, profile: &UserView) -> List {
        let (view, prefixes, rows) = match self {
            Self::Following => (
                View::Following,
                vec![user.to_key().to_vec()],
                profile.following_count,
            ),
            Self::Followers => (
                View::Followers,
                views
                    .partitions()
                    .all()
                    .map(|partition| crate::views::keys::list_in(user, partition))
                    .collect(),
                profile.followers_count,
            ),
        };
        List {
            view,
            subject: user.get(),
            prefixes,
            // Who follows whom says nothing about whose account is older.
            floor: 0,
            rows,
        }
    }
}

/// A page of people being filled.
struct People {
    limit: usize,
    items: Vec<UserView>,
    examined: usize,
    /// Everything from here on was examined.
    position: i64,
}

impl People {
    fn new(limit: usize, position: i64) -> Self {
        Self {
            limit,
            items: Vec::new(),
            examined: 0,
            position,
        }
    }

    fn left(&self) -> usize {
        self.limit - self.items.len()
    }

    /// Takes the next row, which is shown or is not; true if the page ends with it or before it.
    fn offer(&mut self, id: i64, shown: Option<UserView>) -> bool {
        if let Some(view) = shown {
            if self.left() == 0 {
                return true;
            }
            self.items.push(view);
        }
        self.examined += 1;
        self.position = id;
        self.examined >= MOST_EXAMINED
    }
}

impl ReadModel {
    /// An active (or suspended) user.
    pub async fn user(&self, user: UserId) -> Result<Option<UserView>, Unanswered> {
        Ok(self.user_views(&[user]).await?.pop())
    }

    pub async fn user_by_name(&self, name: &str) -> Result<Option<UserView>, Unanswered> {
        match self.user_named(names::fold(name)).await? {
            Some(user) => self.user(user).await,
            None => Ok(None),
        }
    }

    async fn user_named(&self, name: String) -> Result<Option<UserId>, Unanswered> {
        let names = &self.caches().names;
        if let Some(user) = names.get(&name) {
            return Ok(Some(user));
        }
        self.may_load()?;
        let row = self
            .rows::<Document>(View::Users)
            .find_one(doc! { "username": &name })
            .projection(doc! { "_id": 1 })
            .await?;
        let user = row.and_then(|row| UserId::new(row.get_i64("_id").ok()?));
        if let Some(user) = user {
            names.insert(name, user);
        }
        Ok(user)
    }

    /// Every user there is, for comparing generations.
    pub async fn all_users(&self) -> Result<Vec<UserId>, Unanswered> {
        use futures_util::TryStreamExt;
        let rows = self.rows::<Document>(View::Users);
        let mut found = rows.find(doc! {}).projection(doc! { "_id": 1 }).await?;
        let mut users = Vec::new();
        while let Some(row) = found.try_next().await? {
            users.extend(row.get_i64("_id").ok().and_then(UserId::new));
        }
        Ok(users)
    }

    /// Whether a user is known to be deactivated.
    pub async fn is_deactivated(&self, user: UserId) -> Result<bool, Unanswered> {
        let rows = self.users_by_id(&[user].into()).await?;
        Ok(rows.get(&user).is_some_and(|row| row.has_left()))
    }

    /// Whether a user is deactivated, if that is remembered.
    pub fn remembered_as_deactivated(&self, user: UserId) -> Option<bool> {
        match self.look(&self.caches().users, &user) {
            Lookup::Hit(row) => Some(row.has_left()),
            Lookup::Miss(_) => None,
        }
    }

    /// How `viewer` and `user` stand; `None` if there is no such user.
    pub async fn relationship(
        &self,
        viewer: UserId,
        user: UserId,
    ) -> Result<Option<Relationship>, Unanswered> {
        if self.user(user).await?.is_none() {
            return Ok(None);
        }
        self.may_load()?;
        let (there, back) = (
            Key::pair(viewer, user).bson(),
            Key::pair(user, viewer).bson(),
        );
        let filter = doc! { "_id": { "$in": [there, back] }, "on": true };
        let rows: Vec<EdgeRow> = self.all(View::Following, filter).await?;
        let stands = |followee: UserId| rows.iter().any(|row| last_id(&row.id) == Some(followee));
        Ok(Some(Relationship {
            following: stands(user),
            followed_by: stands(viewer),
        }))
    }

    /// Whom a user follows, newest account first; `None` if there is no such user.
    pub async fn following(
        &self,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, Unanswered> {
        self.people(CursorKind::Following, user, limit, cursor)
            .await
    }

    /// Who follows a user, newest account first; `None` if there is no such user.
    pub async fn followers(
        &self,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, Unanswered> {
        self.people(CursorKind::Followers, user, limit, cursor)
            .await
    }

    /// Who follows a user and is followed back; `None` if there is no such user.
    pub async fn mutuals(
        &self,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, Unanswered> {
        self.people(CursorKind::Mutuals, user, limit, cursor).await
    }

    async fn people(
        &self,
        kind: CursorKind,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, Unanswered> {
        let before = self.position(kind, user.get(), cursor)?;
        let Some(profile) = self.user(user).await? else {
            return Ok(None);
        };
        self.may_load()?;
        let walked = Walked::of(kind, &profile);
        let list = walked.list(self, user, &profile);
        let back = (kind == CursorKind::Mutuals).then_some((walked, user));
        let page = self.listed_people(kind, list, back, People::new(limit, before));
        page.await.map(Some)
    }

    /// Who likes a post, newest account first; `None` if the post does not stand.
    pub async fn likers(
        &self,
        post: PostId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, Unanswered> {
        let counted = |post: &PostView| (View::Likes, post.likes_count);
        self.reacting(CursorKind::Likes, counted, post, limit, cursor)
            .await
    }

    /// Who reposted a post, newest account first; `None` if the post does not stand.
    pub async fn reposters(
        &self,
        post: PostId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, Unanswered> {
        let counted = |post: &PostView| (View::Reposts, post.reposts_count);
        self.reacting(CursorKind::Reposts, counted, post, limit, cursor)
            .await
    }

    /// `counted`: where the reactions are, and about how many.
    async fn reacting(
        &self,
        kind: CursorKind,
        counted: impl FnOnce(&PostView) -> (View, i64),
        post: PostId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, Unanswered> {
        let before = self.position(kind, post.get(), cursor)?;
        let Some(shown) = self.post(post, None).await? else {
            return Ok(None);
        };
        self.may_load()?;
        let (view, rows) = counted(&shown);
        let list = List {
            // Whoever reacts may be older than the post.
            floor: 0,
            ..List::of(view, post, rows)
        };
        let page = self.listed_people(kind, list, None, People::new(limit, before));
        page.await.map(Some)
    }

    /// Fills a page from one list of users, skipping who is not shown. `back`: whose list it is,
    /// where only those are shown who stand the other way round as well.
    async fn listed_people(
        &self,
        kind: CursorKind,
        list: List,
        back: Option<(Walked, UserId)>,
        mut page: People,
    ) -> Result<Page<UserView>, Unanswered> {
        let (limit, subject) = (page.limit, list.subject);
        let mut scan = self.scan(list, page.position);
        let mut most = LEAST_TOGETHER.max(limit + 1);
        loop {
            let look = self.read_window::<ListedEdge>(&mut scan, most).await?;
            let standing = look.rows.iter().filter(|(_, edge)| edge.stands());
            let mut ids: Vec<UserId> = standing.filter_map(|(id, _)| UserId::new(*id)).collect();
            if let Some((walked, user)) = back {
                ids = self.tied_back(walked, user, ids).await?;
            }
            let gained = page.items.len();
            let rows = look.rows.iter().map(|(id, _)| *id);
            let has_ended = self.fill_people(&mut page, rows, &ids).await?;
            let gained = page.items.len() - gained;
            let next = if has_ended {
                Some(page.position)
            } else if scan.is_done() {
                None
            } else {
                page.position = scan.before();
                if !self.is_used_up() {
                    if gained * 2 < look.rows.len() {
                        most = (most * 2).min(MOST_TOGETHER);
                    }
                    continue;
                }
                Some(page.position)
            };
            let cut = next.filter(|_| page.items.len() < limit);
            self.remember_reach(&scan, cut.is_some());
            let page = self.page(kind, subject, page.items, next)?;
            return Ok(Page { cut, ..page });
        }
    }

    /// Offers rows, newest first, of which `ids` may be shown, until the page ends: then true.
    async fn fill_people(
        &self,
        page: &mut People,
        rows: impl Iterator<Item = i64>,
        ids: &[UserId],
    ) -> Result<bool, Unanswered> {
        let (mut shown, mut asked): (HashMap<UserId, UserView>, _) = (HashMap::new(), 0);
        let mut together = page.left() + 1;
        for id in rows {
            let next = ids.get(asked).is_some_and(|next| next.get() == id);
            if next {
                if asked > 0 && self.is_used_up() {
                    return Ok(true);
                }
                let batch = &ids[asked..ids.len().min(asked + together)];
                let views = self.user_views(batch).await?;
                shown.extend(views.into_iter().map(|view| (view.user_id, view)));
                asked += batch.len();
                together = (together * 2).min(MOST_TOGETHER);
            }
            let view = UserId::new(id).and_then(|id| shown.remove(&id));
            if page.offer(id, view) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Of these users, those who stand the other way round as well, in this order.
    async fn tied_back(
        &self,
        walked: Walked,
        user: UserId,
        ids: Vec<UserId>,
    ) -> Result<Vec<UserId>, Unanswered> {
        let mut tied: HashSet<UserId> = HashSet::new();
        for some in ids.chunks(MOST_KEYS) {
            // Always in the user's own list: a bounded range, however a database looks keys up.
            let key = |id: &UserId| match walked {
                Walked::Following => Key::follower(user, self.partitions().of(*id), *id).bson(),
                Walked::Followers => Key::pair(user, *id).bson(),
            };
            let keys: Vec<_> = some.iter().map(key).collect();
            let filter = doc! { "_id": { "$in": keys } };
            let view = match walked {
                Walked::Following => View::Followers,
                Walked::Followers => View::Following,
            };
            let rows: Vec<ListedEdge> = self.all(view, filter).await?;
            let standing = rows.iter().filter(|edge| edge.stands());
            tied.extend(standing.filter_map(|edge| last_id::<UserKind>(&edge.id)));
        }
        Ok(ids.into_iter().filter(|id| tied.contains(id)).collect())
    }

    /// How `viewer` and each of these users stand, in this order, without those who are not there.
    pub async fn relationships(
        &self,
        viewer: UserId,
        users: &[UserId],
    ) -> Result<Vec<RelationshipWith>, Unanswered> {
        let rows = self.users_by_id(&users.iter().copied().collect()).await?;
        let is_active = |id: &UserId| rows.get(id).is_some_and(|row| !row.has_left());
        let users: Vec<UserId> = users.iter().copied().filter(is_active).collect();
        // Whom the viewer follows, and who follows them: each looked up in the viewer's own list.
        let following = self.tied_back(Walked::Followers, viewer, users.clone());
        let followers = self.tied_back(Walked::Following, viewer, users.clone());
        let (following, followers) = tokio::try_join!(following, followers)?;
        let (following, followers): (HashSet<UserId>, HashSet<UserId>) = (
            following.into_iter().collect(),
            followers.into_iter().collect(),
        );
        let with = users.into_iter().map(|user| RelationshipWith {
            user_id: user,
            following: following.contains(&user),
            followed_by: followers.contains(&user),
        });
        Ok(with.collect())
    }

    /// The users among these who are not deactivated, in this order.
    pub async fn user_views(&self, ids: &[UserId]) -> Result<Vec<UserView>, Unanswered> {
        let set: HashSet<UserId> = ids.iter().copied().collect();
        let counts = self.get_many(&self.caches().follower_counts, &set, async |users| {
            self.count_followers(&users).await
        });
        let (rows, followers) = tokio::try_join!(self.users_by_id(&set), counts)?;
        let followers = self.whole(&set, followers)?;
        let views = ids.iter().filter_map(|id| {
            let row: &UserRow = rows.get(id).filter(|row| !row.has_left())?;
            Some(UserView {
                user_id: row.id,
                username: row.username.clone(),
                display_name: row.display_name.clone(),
                bio: row.bio.clone(),
                verified: row.verified,
                created_at: row.at,
                followers_count: followers.get(id).map_or(0, |count| **count),
                following_count: row.following,
                posts_count: row.posts,
                email: None,
            })
        });
        Ok(views.collect())
    }

    /// Followers of each user, over all partitions.
    async fn count_followers(&self, users: &[UserId]) -> Result<Vec<(UserId, i64)>, Unanswered> {
        let keys: Vec<_> = users
            .iter()
            .flat_map(|user| {
                self.partitions()
                    .all()
                    .map(|partition| Key::user_in(*user, partition).bson())
            })
            .collect();
        let rows: Vec<Document> = self
            .all(View::FollowerCounts, doc! { "_id": { "$in": keys } })
            .await?;
        let mut counts: HashMap<UserId, i64> = users.iter().map(|user| (*user, 0)).collect();
        for row in &rows {
            let user = row
                .get_binary_generic("_id")
                .ok()
                .and_then(|key| crate::views::keys::first_of(key));
            if let Some(user) = user {
                *counts.entry(user).or_default() += row.get_i64("n").unwrap_or(0);
            }
        }
        Ok(counts.into_iter().collect())
    }
}
