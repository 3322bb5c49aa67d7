//! Single posts, a user's posts, the replies to a post.

use shared::ids::{EntryId, PostId, UserId};

use super::cursor::CursorKind;
use super::generation::View;
use super::keys::last_id;
use super::rows::{OutboxRow, Standing};
use super::view::{Page, PostView};
use super::visibility::Candidate;
use super::{ViewError, Views};

/// Rows looked at for one page at the most.
pub const MOST_EXAMINED: usize = 2_000;

impl Views {
    /// A post that stands, by an active author.
    pub async fn post(
        &self,
        post: PostId,
        viewer: Option<UserId>,
    ) -> Result<Option<PostView>, ViewError> {
        // The author is looked up with the post: `by` only matters for reposts.
        let Some(by) = UserId::new(post.get()) else {
            return Ok(None);
        };
        let candidate = Candidate {
            entry: post.cast(),
            post,
            by,
            proven: true,
        };
        Ok(self.show(&[candidate], viewer).await?.pop().flatten())
    }

    /// What a user posted and reposted, newest first; `None` if there is no such user.
    pub async fn posts_of(
        &self,
        user: UserId,
        viewer: Option<UserId>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<PostView>>, ViewError> {
        let before = self.position(CursorKind::Posts, user.get(), cursor)?;
        let users = self.users_by_id(&[user].into()).await?;
        if users
            .get(&user)
            .is_none_or(|row| row.standing == Standing::Deactivated)
        {
            return Ok(None);
        }
        self.may_load()?;
        let page = self.range_page(
            View::Outbox,
            user.get(),
            before,
            limit,
            viewer,
            |row, entry| Candidate {
                entry,
                post: row.post,
                by: user,
                proven: true,
            },
        );
        let (items, next) = page.await?;
        Ok(Some(self.page(
            CursorKind::Posts,
            user.get(),
            items,
            next,
        )?))
    }

    /// The replies to a post, newest first; `None` if the post does not stand.
    pub async fn replies_to(
        &self,
        post: PostId,
        viewer: Option<UserId>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<PostView>>, ViewError> {
        let before = self.position(CursorKind::Replies, post.get(), cursor)?;
        if self.post(post, None).await?.is_none() {
            return Ok(None);
        }
        self.may_load()?;
        let page = self.range_page(
            View::Replies,
            post.get(),
            before,
            limit,
            viewer,
            |row, entry| Candidate {
                entry,
                post: row.post,
                by: entry.cast(),
                proven: true,
            },
        );
        let (items, next) = page.await?;
        Ok(Some(self.page(
            CursorKind::Replies,
            post.get(),
            items,
            next,
        )?))
    }

    /// Where a page begins: before this id.
    pub(super) fn position(
        &self,
        kind: CursorKind,
        subject: i64,
        cursor: Option<&str>,
    ) -> Result<i64, ViewError> {
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
    ) -> Result<Page<T>, ViewError> {
        let next_cursor = next
            .map(|position| self.cursors().encode(kind, subject, position))
            .transpose()?;
        Ok(Page { items, next_cursor })
    }

    /// Fills a page from one range of rows keyed `subject ‖ entry`, skipping what is not shown.
    async fn range_page(
        &self,
        view: View,
        subject: i64,
        mut before: i64,
        limit: usize,
        viewer: Option<UserId>,
        candidate: impl Fn(&OutboxRow, EntryId) -> Candidate,
    ) -> Result<(Vec<PostView>, Option<i64>), ViewError> {
        let mut filling = Filling::new(limit);
        loop {
            let want = limit + 1;
            let range = super::keys::between(&subject.to_be_bytes(), 0, before);
            let rows: Vec<OutboxRow> = self.newest(view, range, want).await?;
            let last = rows.len() < want;
            let candidates: Vec<_> = rows
                .iter()
                .filter_map(|row| Some(candidate(row, last_id(&row.id)?)))
                .collect();
            let shown = self.show(&candidates, viewer).await?;
            for (candidate, shown) in candidates.iter().zip(shown) {
                if filling.offer(candidate.entry.get(), shown).is_full() {
                    return Ok(filling.finish());
                }
            }
            let Some(lowest) = candidates.last().filter(|_| !last) else {
                return Ok(filling.end());
            };
            before = lowest.entry.get();
        }
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
    /// Full, and one more was seen: there is a next page.
    more: bool,
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

    /// Takes the next candidate; `is_full` says to stop.
    pub fn offer(&mut self, entry: i64, shown: Option<PostView>) -> &Self {
        let full = self.items.len() == self.limit;
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

    pub fn is_full(&self) -> bool {
        self.more
    }

    /// The page, with where the next one begins.
    pub fn finish(self) -> (Vec<PostView>, Option<i64>) {
        let next = self.last_examined.filter(|_| self.more);
        (self.items, next)
    }

    /// The last page: nothing is left.
    pub fn end(self) -> (Vec<PostView>, Option<i64>) {
        (self.items, None)
    }
}
