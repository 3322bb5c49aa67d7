//! What one user sees and shows, read page by page as a client reads it.

use std::collections::{BTreeMap, BTreeSet};

use shared::contract::ids::{PostId, UserId};

use crate::reads::bodies::{Page, PostView, UserView};
use crate::reads::model::ReadModel;
use crate::reads::unanswered::Unanswered;

pub(super) const PAGE: usize = 100;

/// One of the lists around a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum List {
    Followers,
    Following,
    Mutuals,
    Home,
    Posts,
    /// To one of the user's own posts.
    Replies(PostId),
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    User(UserId),
    Post(Box<PostView>),
}

/// All that one user sees and shows.
#[derive(Debug, Default, PartialEq)]
pub struct Visible {
    pub profile: Option<UserView>,
    /// Pages of posts; users are one page, since theirs may end early.
    pub lists: BTreeMap<List, Vec<Vec<Line>>>,
    pub cuts: Cuts,
}

/// Where pages ended early, since so many rows were looked at for them or their budget was used
/// up: the ids they end with. What has a row and is not shown only the views know.
pub type Cuts = BTreeMap<List, BTreeSet<i64>>;

/// All pages of a list, as a client reads them.
#[derive(Debug, Default)]
pub struct Scroll {
    pub pages: Vec<Vec<Line>>,
    pub cuts: BTreeSet<i64>,
}

impl List {
    pub const OF_EVERYBODY: [List; 5] = [
        Self::Followers,
        Self::Following,
        Self::Mutuals,
        Self::Home,
        Self::Posts,
    ];

    fn is_of_users(self) -> bool {
        matches!(self, Self::Followers | Self::Following | Self::Mutuals)
    }

    /// One page, as a client reads it; an empty one where there is nothing.
    pub async fn page(
        self,
        views: &ReadModel,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<Line>, Unanswered> {
        Ok(match self {
            Self::Followers => users(views.followers(user, limit, cursor).await?),
            Self::Following => users(views.following(user, limit, cursor).await?),
            Self::Mutuals => users(views.mutuals(user, limit, cursor).await?),
            Self::Home => posts(Some(views.home(user, limit, cursor).await?)),
            Self::Posts => posts(views.posts_of(user, None, limit, cursor).await?),
            Self::Replies(post) => posts(views.replies_to(post, None, limit, cursor).await?),
        })
    }

    /// All pages, as a client reads them.
    pub async fn scroll(
        self,
        views: &ReadModel,
        user: UserId,
        limit: usize,
    ) -> Result<Scroll, Unanswered> {
        let (mut scroll, mut cursor) = (Scroll::default(), None);
        let mut follows_full = false;
        loop {
            let page = self
                .page(&views.afresh(), user, limit, cursor.as_deref())
                .await?;
            // Whether anything follows a full page, one whose budget was used up does not know.
            let nothing = page.items.is_empty() && page.next_cursor.is_none();
            if !(nothing && follows_full) {
                scroll.pages.push(page.items);
            }
            follows_full = page.cut.is_none();
            scroll.cuts.extend(page.cut);
            if page.next_cursor.is_none() {
                break;
            }
            cursor = page.next_cursor;
        }
        if self.is_of_users() {
            scroll.pages = vec![scroll.pages.concat()];
        }
        Ok(scroll)
    }
}

fn users(page: Option<Page<UserView>>) -> Page<Line> {
    lines(page, |user| Line::User(user.user_id))
}

fn posts(page: Option<Page<PostView>>) -> Page<Line> {
    lines(page, |post| Line::Post(Box::new(post)))
}

fn lines<T>(page: Option<Page<T>>, line: impl Fn(T) -> Line) -> Page<Line> {
    page.map_or_else(Page::default, |page| Page {
        items: page.items.into_iter().map(line).collect(),
        next_cursor: page.next_cursor,
        cut: page.cut,
    })
}

/// The replies to those of a user's posts that have any.
pub(super) fn answered<'a>(
    posts: impl IntoIterator<Item = &'a Line>,
) -> impl Iterator<Item = List> {
    posts.into_iter().filter_map(|line| match line {
        Line::Post(post) => {
            let own = post.reposted_by.is_none() && post.replies_count > 0;
            own.then_some(List::Replies(post.post_id))
        }
        Line::User(_) => None,
    })
}

impl Visible {
    /// Reads it page by page, as a client does.
    pub async fn of(views: &ReadModel, user: UserId) -> Result<Self, Unanswered> {
        let profile = views.user(user).await?;
        if profile.is_none() {
            return Ok(Self::default());
        }
        let mut visible = Self {
            profile,
            ..Self::default()
        };
        let mut lists = Vec::from(List::OF_EVERYBODY);
        while let Some(list) = lists.pop() {
            let scroll = list.scroll(views, user, PAGE).await?;
            if list == List::Posts {
                lists.extend(answered(scroll.pages.iter().flatten()));
            }
            visible.lists.insert(list, scroll.pages);
            visible.cuts.insert(list, scroll.cuts);
        }
        Ok(visible)
    }

    pub fn entries(&self) -> usize {
        let home = self.lists.get(&List::Home).into_iter().flatten();
        home.map(Vec::len).sum()
    }

    /// A line for each thing that is shown otherwise than expected.
    pub fn differences(&self, user: UserId, shown: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.profile != shown.profile {
            differences.push(format!(
                "user {user}: profile: expected {:?}, shown {:?}",
                self.profile, shown.profile
            ));
        }
        let lists: BTreeSet<&List> = self.lists.keys().chain(shown.lists.keys()).collect();
        for list in lists {
            let pages = |of: &Self| of.lists.get(list).cloned().unwrap_or_default();
            differences.extend(compare_pages(user, *list, &pages(self), &pages(shown)));
        }
        differences
    }
}

fn compare_pages(
    user: UserId,
    list: List,
    expected: &[Vec<Line>],
    shown: &[Vec<Line>],
) -> Vec<String> {
    let none = Vec::new();
    let pages = 0..expected.len().max(shown.len());
    let differing = pages.filter_map(|page| {
        let expected = expected.get(page).unwrap_or(&none);
        compare_page(user, list, page, expected, shown.get(page).unwrap_or(&none))
    });
    differing.collect()
}

/// The first line that differs: what follows has moved, so that it says enough.
pub(super) fn compare_page(
    user: UserId,
    list: List,
    page: usize,
    expected: &[Line],
    shown: &[Line],
) -> Option<String> {
    let mut lines = 0..expected.len().max(shown.len());
    let at = lines.find(|at| expected.get(*at) != shown.get(*at))?;
    let told = |line: Option<&Line>| match line {
        None => "nothing".to_owned(),
        Some(Line::User(user)) => format!("user {user}"),
        Some(Line::Post(post)) => {
            serde_json::to_string(post).unwrap_or_else(|_| format!("{post:?}"))
        }
    };
    Some(format!(
        "user {user}: {list:?}: page {page}, line {at}: expected {}, shown {}",
        told(expected.get(at)),
        told(shown.get(at))
    ))
}

impl Page<Line> {
    /// What of this page the other one must show as well: where that ended early, since other
    /// rows were looked at for it, what came before its end.
    pub(super) fn comparable(&self, other: &Self) -> &[Line] {
        let Some(cut) = other.cut.filter(|cut| self.cut < Some(*cut)) else {
            return &self.items;
        };
        let above = self.items.partition_point(|line| match line {
            Line::Post(post) => post.entry_id.get() >= cut,
            Line::User(user) => user.get() >= cut,
        });
        &self.items[..above]
    }
}
