//! Posts by their ids, a user's posts, the replies to a post.

use std::collections::HashMap;

use shared::contract::ids::{EntryId, EntryKind, PostId, UserId};

use super::bodies::{Page, PostView};
use super::cursor::CursorKind;
use super::model::ReadModel;
use super::scan::{List, Listed};
use super::unanswered::Unanswered;
use super::visibility::Candidate;
use crate::views::documents::AuthorFeedRow;
use crate::views::entry::TimelineItem;
use crate::views::generation::View;
use crate::views::keys::last_id;

/// Rows looked at for one page at the most.
pub const MOST_EXAMINED: usize = 2_000;
/// Rows looked at together at the most: where few are shown, more are looked at the next time.
pub(super) const MOST_TOGETHER: usize = 500;
/// And at the least: a short page costs as much as one of the usual length, not more.
const LEAST_TOGETHER: usize = 21;

impl Listed for AuthorFeedRow {
    fn listed_id(&self) -> Option<i64> {
        last_id::<EntryKind>(&self.id).map(EntryId::get)
    }
}

/// A post as its author posted it. The author is looked up with the post: `by` only matters for
/// reposts.
fn own_entry(post: PostId) -> Candidate {
    let item = TimelineItem {
        entry: post.cast(),
        post,
        by: post.cast(),
    };
    Candidate::new(item, true)
}

impl ReadModel {
    /// A post that stands, by an active author.
    pub async fn post(
        &self,
        post: PostId,
        viewer: Option<UserId>,
    ) -> Result<Option<PostView>, Unanswered> {
        let found = self.show(&[own_entry(post)], viewer).await?.pop();
        Ok(found.flatten())
    }

    /// The posts among these that stand, by active authors, in this order.
    pub async fn posts(
        &self,
        posts: &[PostId],
        viewer: Option<UserId>,
    ) -> Result<Vec<PostView>, Unanswered> {
        let candidates: Vec<_> = posts.iter().copied().map(own_entry).collect();
        let found = self.show(&candidates, viewer).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// What a user posted and reposted, newest first; `None` if there is no such user.
    pub async fn posts_of(
        &self,
        user: UserId,
        viewer: Option<UserId>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<PostView>>, Unanswered> {
        let before = self.position(CursorKind::Posts, user.get(), cursor)?;
        let users = self.users_by_id(&[user].into()).await?;
        if users.get(&user).is_none_or(|row| row.has_left()) {
            return Ok(None);
        }
        self.may_load()?;
        let rows = users.get(&user).map_or(0, |row| row.outbox);
        let page = self.range_page(
            List::of(View::AuthorFeed, user, rows),
            before,
            limit,
            viewer,
            |row, entry| TimelineItem {
                entry,
                post: row.post,
                by: user,
            },
        );
        let filled = page.await?;
        let page = self.filled_page(CursorKind::Posts, user.get(), filled);
        page.map(Some)
    }

    /// The replies to a post, newest first; `None` if the post does not stand.
    pub async fn replies_to(
        &self,
        post: PostId,
        viewer: Option<UserId>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<PostView>>, Unanswered> {
        let before = self.position(CursorKind::Replies, post.get(), cursor)?;
        let Some(parent) = self.post(post, None).await? else {
            return Ok(None);
        };
        self.may_load()?;
        let page = self.replies_before(&parent, before, viewer, limit);
        page.await.map(Some)
    }

    /// A page of the replies to a post that stands, newest first, below an id.
    pub(super) async fn replies_before(
        &self,
        parent: &PostView,
        before: i64,
        viewer: Option<UserId>,
        limit: usize,
    ) -> Result<Page<PostView>, Unanswered> {
        let post = parent.post_id;
        let page = self.range_page(
            List::of(View::Replies, post, parent.replies_count),
            before,
            limit,
            viewer,
            |row, entry| TimelineItem {
                entry,
                post: row.post,
                by: entry.cast(),
            },
        );
        let filled = page.await?;
        self.filled_page(CursorKind::Replies, post.get(), filled)
    }

    /// Where a page begins: before this id.
    pub(super) fn position(
        &self,
        kind: CursorKind,
        subject: i64,
        cursor: Option<&str>,
    ) -> Result<i64, Unanswered> {
        cursor.map_or(Ok(i64::MAX), |text| {
            self.cursors().decode(kind, subject, text)
        })
    }

    pub(super) fn page<T>(
        &self,
        kind: CursorKind,
        subject: i64,
        items: Vec<T>,
        next: Option<i64>,
    ) -> Result<Page<T>, Unanswered> {
        let next_cursor = next
            .map(|position| self.cursors().encode(kind, subject, position))
            .transpose()?;
        Ok(Page {
            items,
            next_cursor,
            cut: None,
        })
    }

    pub(super) fn filled_page(
        &self,
        kind: CursorKind,
        subject: i64,
        filled: Filled,
    ) -> Result<Page<PostView>, Unanswered> {
        let page = self.page(kind, subject, filled.items, filled.next)?;
        Ok(Page {
            cut: filled.cut,
            ..page
        })
    }

    /// Fills a page from one list, skipping what is not shown.
    async fn range_page(
        &self,
        list: List,
        before: i64,
        limit: usize,
        viewer: Option<UserId>,
        item: impl Fn(&AuthorFeedRow, EntryId) -> TimelineItem,
    ) -> Result<Filled, Unanswered> {
        let (mut filling, mut most) = (Filling::new(limit), LEAST_TOGETHER.max(limit + 1));
        let mut scan = self.scan(list, before);
        loop {
            let look = self.read_window::<AuthorFeedRow>(&mut scan, most).await?;
            let items = look.rows.iter();
            let items = items.filter_map(|(id, row)| Some(item(row, EntryId::new(*id)?)));
            let candidates: Vec<_> = items.map(|item| Candidate::new(item, true)).collect();
            let ended = self.fill(&mut filling, &candidates, viewer).await?;
            let filled = if ended.is_some() {
                filling.finish()
            } else if scan.is_done() {
                filling.end()
            } else if self.is_used_up() {
                filling.cut_at(scan.before())
            } else {
                most = (most * 2).min(MOST_TOGETHER);
                continue;
            };
            self.remember_reach(&scan, filled.cut.is_some());
            return Ok(filled);
        }
    }

    /// Offers candidates, newest first, until the page ends: then it says at which. A post that
    /// is on the page already is not loaded again.
    pub(super) async fn fill(
        &self,
        filling: &mut Filling,
        mut candidates: &[Candidate],
        viewer: Option<UserId>,
    ) -> Result<Option<EntryId>, Unanswered> {
        let mut together = filling.left() + 1;
        while !candidates.is_empty() {
            let before = filling.items.len();
            let batch = &candidates[..together.min(candidates.len())];
            // Whether a full page is the last depends on whether the next one is seen at all.
            let all = filling.is_full();
            let news = |it: &&Candidate| all || !filling.posts.contains(&it.item.post);
            let asked: Vec<Candidate> = batch.iter().filter(news).copied().collect();
            let shown = self.show(&asked, viewer).await?;
            let entries = asked.iter().map(|candidate| candidate.item.entry);
            let mut shown: HashMap<EntryId, Option<PostView>> = entries.zip(shown).collect();
            let mut offered = 0;
            for candidate in batch {
                let entry = candidate.item.entry;
                let post = shown.remove(&entry);
                if post.is_none() && filling.is_full() {
                    break;
                }
                offered += 1;
                if filling.offer(entry.get(), post.flatten()).has_ended() {
                    return Ok(Some(entry));
                }
            }
            candidates = &candidates[offered..];
            if let Some(last) = batch.get(offered.saturating_sub(1))
                && !candidates.is_empty()
                && self.is_used_up()
            {
                filling.more = true;
                return Ok(Some(last.item.entry));
            }
            let gained = filling.items.len() - before;
            together = if gained * 2 < offered {
                (together * 2).min(MOST_TOGETHER)
            } else {
                filling.left() + 1
            };
        }
        Ok(None)
    }
}

/// A page being filled: newest first, each post once, at most so many looked at.
#[derive(Debug)]
pub(super) struct Filling {
    limit: usize,
    items: Vec<PostView>,
    posts: std::collections::HashSet<PostId>,
    examined: usize,
    last_examined: Option<i64>,
    /// There is a next page: this one is full and one more was seen, or enough was looked at.
    more: bool,
}

/// A page that has ended.
pub(super) struct Filled {
    pub items: Vec<PostView>,
    /// Where the next page begins, if there is one.
    pub next: Option<i64>,
    /// As [`Page::cut`].
    pub cut: Option<i64>,
}

impl Filling {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            items: Vec::new(),
            posts: Default::default(),
            examined: 0,
            last_examined: None,
            more: false,
        }
    }

    fn left(&self) -> usize {
        self.limit - self.items.len()
    }

    fn is_full(&self) -> bool {
        self.left() == 0
    }

    /// Takes the next candidate; `has_ended` says to stop.
    fn offer(&mut self, entry: i64, shown: Option<PostView>) -> &Self {
        let full = self.is_full();
        if full && shown.is_some() {
            self.more = true;
            return self;
        }
        if let Some(post) = shown.filter(|post| self.posts.insert(post.post_id)) {
            self.items.push(post);
        }
        if !full {
            self.last_examined = Some(entry);
        }
        self.examined += 1;
        if self.examined >= MOST_EXAMINED {
            self.more = true;
        }
        self
    }

    fn has_ended(&self) -> bool {
        self.more
    }

    /// The page, with where the next one begins.
    pub fn finish(self) -> Filled {
        let next = self.last_examined.filter(|_| self.more);
        let cut = next.filter(|_| !self.is_full());
        Filled {
            items: self.items,
            next,
            cut,
        }
    }

    /// The page as far as its budget went: everything from `position` on was looked at.
    pub fn cut_at(self, position: i64) -> Filled {
        let cut = Some(position).filter(|_| !self.is_full());
        Filled {
            items: self.items,
            next: Some(position),
            cut,
        }
    }

    /// The last page: nothing is left.
    pub fn end(self) -> Filled {
        Filled {
            items: self.items,
            next: None,
            cut: None,
        }
    }
}
