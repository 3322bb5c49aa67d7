//! Users, their followers and followees, and how two of them stand.

use std::collections::{BTreeSet, HashMap, HashSet};

use bson::{Document, doc};
use shared::ids::UserId;
use shared::names;

use super::cache::Look;
use super::cursor::CursorKind;
use super::generation::View;
use super::keys::{Key, between, last_id};
use super::rows::{EdgeRow, KeyRow, Standing, UserRow};
use super::view::{Page, Relationship, UserView};
use super::{ViewError, Views};

impl Views {
    /// An active (or suspended) user. `viewer` sees their own e-mail.
    pub async fn user(
        &self,
        user: UserId,
        viewer: Option<UserId>,
    ) -> Result<Option<UserView>, ViewError> {
        Ok(self.user_views(&[user], viewer).await?.pop())
    }

    pub async fn user_by_name(
        &self,
        name: &str,
        viewer: Option<UserId>,
    ) -> Result<Option<UserView>, ViewError> {
        match self.user_named(names::fold(name)).await? {
            Some(user) => self.user(user, viewer).await,
            None => Ok(None),
        }
    }

    async fn user_named(&self, name: String) -> Result<Option<UserId>, ViewError> {
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
    pub async fn all_users(&self) -> Result<Vec<UserId>, ViewError> {
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
    pub async fn is_deactivated(&self, user: UserId) -> Result<bool, ViewError> {
        let rows = self.users_by_id(&[user].into()).await?;
        let row = rows.get(&user);
        Ok(row.is_some_and(|row| row.standing == Standing::Deactivated))
    }

    /// Whether a user is deactivated, if that is remembered.
    pub fn remembered_as_deactivated(&self, user: UserId) -> Option<bool> {
        match self.look(&self.caches().users, &user) {
            Look::Hit(row) => Some(row.standing == Standing::Deactivated),
            Look::Miss(_) => None,
        }
    }

    /// How `viewer` and `user` stand; `None` if there is no such user.
    pub async fn relationship(
        &self,
        viewer: UserId,
        user: UserId,
    ) -> Result<Option<Relationship>, ViewError> {
        if self.user(user, None).await?.is_none() {
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
    ) -> Result<Option<Page<UserView>>, ViewError> {
        self.people(CursorKind::Following, user, limit, cursor)
            .await
    }

    /// Who follows a user, newest account first; `None` if there is no such user.
    pub async fn followers(
        &self,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, ViewError> {
        self.people(CursorKind::Followers, user, limit, cursor)
            .await
    }

    /// Who follows a user and is followed back; `None` if there is no such user.
    pub async fn mutuals(
        &self,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, ViewError> {
        self.people(CursorKind::Mutuals, user, limit, cursor).await
    }

    async fn people(
        &self,
        kind: CursorKind,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<UserView>>, ViewError> {
        let mut before = self.position(kind, user.get(), cursor)?;
        if self.user(user, None).await?.is_none() {
            return Ok(None);
        }
        self.may_load()?;
        let (mut items, mut examined) = (Vec::new(), 0);
        loop {
            let want = limit + 1;
            let ids = match kind {
                CursorKind::Followers => self.followers_before(user, before, want).await?,
                CursorKind::Home
                | CursorKind::Posts
                | CursorKind::Replies
                | CursorKind::Following
                | CursorKind::Mutuals => self.followees_before(user, before, want).await?,
            };
            let last = ids.len() < want;
            let mut shown: HashMap<UserId, UserView> = self
                .user_views(&ids, None)
                .await?
                .into_iter()
                .map(|view| (view.user_id, view))
                .collect();
            if kind == CursorKind::Mutuals {
                let back = self.followed_back(user, &ids).await?;
                shown.retain(|id, _| back.contains(id));
            }
            for id in &ids {
                let Some(view) = shown.remove(id) else {
                    examined += 1;
                    before = id.get();
                    continue;
                };
                if items.len() == limit || examined >= super::posts::MOST_EXAMINED {
                    return Ok(Some(self.page(kind, user.get(), items, Some(before))?));
                }
                items.push(view);
                examined += 1;
                before = id.get();
            }
            if last {
                return Ok(Some(self.page(kind, user.get(), items, None)?));
            }
        }
    }

    async fn followees_before(
        &self,
        user: UserId,
        before: i64,
        want: usize,
    ) -> Result<Vec<UserId>, ViewError> {
        let mut range = between(&user.to_key(), 0, before);
        range.insert("on", true);
        let rows: Vec<KeyRow> = self.newest(View::Following, range, want).await?;
        Ok(rows.iter().filter_map(|row| last_id(&row.id)).collect())
    }

    async fn followers_before(
        &self,
        user: UserId,
        before: i64,
        want: usize,
    ) -> Result<Vec<UserId>, ViewError> {
        let mut all = BTreeSet::new();
        for partition in self.partitions().all() {
            let Key::Bytes(prefix) = Key::user_in(user, partition) else {
                unreachable!("user_in makes bytes")
            };
            let range = between(&prefix, 0, before);
            let rows: Vec<KeyRow> = self.newest(View::Followers, range, want).await?;
            all.extend(
                rows.iter()
                    .filter_map(|row| last_id::<shared::ids::UserKind>(&row.id)),
            );
        }
        Ok(all.into_iter().rev().take(want).collect())
    }

    async fn followed_back(
        &self,
        user: UserId,
        ids: &[UserId],
    ) -> Result<HashSet<UserId>, ViewError> {
        let keys: Vec<_> = ids.iter().map(|id| Key::pair(*id, user).bson()).collect();
        let filter = doc! { "_id": { "$in": keys }, "on": true };
        let rows: Vec<EdgeRow> = self.all(View::Following, filter).await?;
        Ok(rows
            .iter()
            .filter_map(|row| super::keys::first_id(&row.id))
            .collect())
    }

    /// The users among these who are not deactivated, in this order.
    async fn user_views(
        &self,
        ids: &[UserId],
        viewer: Option<UserId>,
    ) -> Result<Vec<UserView>, ViewError> {
        let set: HashSet<UserId> = ids.iter().copied().collect();
        let counts = self.remembered(&self.caches().follower_counts, &set, async |users| {
            self.count_followers(&users).await
        });
        let (rows, followers) = tokio::try_join!(self.users_by_id(&set), counts)?;
        let followers = self.whole(&set, followers)?;
        let views = ids.iter().filter_map(|id| {
            let row: &UserRow = rows
                .get(id)
                .filter(|row| row.standing != Standing::Deactivated)?;
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
                email: (viewer == Some(*id)).then(|| row.email.clone()),
            })
        });
        Ok(views.collect())
    }

    /// Followers of each user, over all partitions.
    async fn count_followers(&self, users: &[UserId]) -> Result<Vec<(UserId, i64)>, ViewError> {
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
                .and_then(|key| super::keys::first_of(key));
            if let Some(user) = user {
                *counts.entry(user).or_default() += row.get_i64("n").unwrap_or(0);
            }
        }
        Ok(counts.into_iter().collect())
    }
}
