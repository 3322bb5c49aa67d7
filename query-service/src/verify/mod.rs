//! `query-service verify`: does every reader see what the log says?
//!
//! Recomputes all users, lists and timelines from the log, reads them as clients do, page by
//! page, and compares. While others write, the views lag the log for a moment; so a difference
//! counts only if it is still there once the fold has passed all that the log held.

pub mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::jetstream;
use bson::doc;
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use shared::engines;
use shared::error_chain::Chain;
use shared::events::Event;
use shared::ids::{PostId, UserId};
use shared::log::LogDocument;
use shared::settings::Settings;
use tokio::time::Instant;

use crate::read_model::generation::Catalog;
use crate::read_model::view::{Page, PostView, UserView};
use crate::read_model::{ViewError, Views};
use model::Model;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long the views may take to catch up with the log, in seconds.
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Connect(#[from] engines::ConnectError),
    #[error("read the log")]
    Log(#[from] mongodb::error::Error),
    #[error("the log is corrupt")]
    Corrupt(#[from] shared::log::CorruptLog),
    #[error("event {0} is not of the stream it is in")]
    Misplaced(shared::ids::EventId),
    #[error("read the views")]
    Views(#[from] ViewError),
    #[error("there are no views yet: start a query-service")]
    NoViews,
    #[error("ask NATS for the stream's end")]
    Nats(#[source] async_nats::Error),
    #[error("the fold has not caught up within {0:?}: is a query-service running?")]
    NotCaughtUp(Duration),
}

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub struct Report {
    pub users: usize,
    pub posts: usize,
    pub follows: usize,
    pub entries: usize,
    /// A line per difference, by user.
    pub differences: BTreeMap<UserId, Vec<String>>,
}

const COULD_NOT: u8 = 2;
/// Differences printed at the most.
const SHOWN: usize = 100;
const PAGE: usize = 100;
pub const AT_ONCE: usize = 8;
/// Looks at what differs again, each time with a newer copy of the log.
pub const ROUNDS: usize = 5;

/// Runs the command.
pub async fn main(settings: &Settings, arguments: &Arguments) -> ExitCode {
    match verify(settings, Duration::from_secs(arguments.patience)).await {
        Ok(report) => {
            let lines: Vec<&String> = report.differences.values().flatten().collect();
            for line in lines.iter().take(SHOWN) {
                println!("{line}");
            }
            if lines.len() > SHOWN {
                println!("… and {} more", lines.len() - SHOWN);
            }
            println!(
                "verify: {} users, {} posts, {} follows, {} timeline entries: {} differences",
                report.users,
                report.posts,
                report.follows,
                report.entries,
                lines.len()
            );
            if lines.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("query-service verify: {}", Chain(&error));
            ExitCode::from(COULD_NOT)
        }
    }
}

/// Compares all that readers can see with the log.
pub async fn verify(settings: &Settings, patience: Duration) -> Result<Report, VerifyError> {
    const POOL: u32 = 16;
    let log = engines::open_log(settings, "query-service verify", POOL).await?;
    let database = engines::open_views(settings, "query-service verify", POOL).await?;
    let current = Catalog::new(&database)
        .current()
        .await?
        .ok_or(VerifyError::NoViews)?;
    let views = Views::of(current).await?;
    let nats = engines::nats(&settings.nats, "query-service verify").await?;
    let jetstream = nats.jetstream();
    let stream = settings.names.stream();
    let caught_up = || catch_up(&jetstream, &stream, &views, patience);

    let mut report = Report::default();
    for round in 0..ROUNDS {
        let model = read_log(&log).await?;
        caught_up().await?;
        let suspects: Vec<UserId> = if round == 0 {
            model.users().collect()
        } else {
            report.differences.keys().copied().collect()
        };
        let (users, entries) = (report.users, report.entries);
        report = compare(&model, &views, &suspects).await?;
        report.users = report.users.max(users);
        report.entries = report.entries.max(entries);
        if report.differences.is_empty() {
            break;
        }
    }
    Ok(report)
}

/// What the log says now.
pub async fn read_log(log: &mongodb::Database) -> Result<Model, VerifyError> {
    let collection = log.collection::<LogDocument>(shared::log::COLLECTION);
    let bar = progress(
        "reading the log",
        collection.estimated_document_count().await?,
    );
    let mut documents = collection.find(doc! {}).batch_size(5_000).await?;
    let mut events: Vec<Event> = Vec::new();
    while let Some(document) = documents.try_next().await? {
        let event = document.to_event()?;
        if !model::is_consistent(&event) {
            return Err(VerifyError::Misplaced(event.id));
        }
        events.push(event);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Model::of(events))
}

/// Waits until every partition has passed what the stream holds now. The relay may still have
/// something to publish; the rounds of [`verify`] cover that.
pub async fn catch_up(
    jetstream: &jetstream::Context,
    stream: &str,
    views: &Views,
    patience: Duration,
) -> Result<(), VerifyError> {
    let mut stream = jetstream
        .get_stream(stream)
        .await
        .map_err(|error| VerifyError::Nats(error.into()))?;
    let mut last_end = 0;
    let give_up = Instant::now() + patience;
    loop {
        let end = stream
            .info()
            .await
            .map_err(|error| VerifyError::Nats(error.into()))?
            .state
            .last_sequence;
        let checkpoints = views.checkpoints().await?;
        let behind = |partition| {
            checkpoints
                .iter()
                .find(|(at, _)| *at == partition)
                .is_none_or(|(_, at)| at.seq < end)
        };
        let settled = end == last_end && !views.partitions().all().any(behind);
        if settled {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(VerifyError::NotCaughtUp(patience));
        }
        last_end = end;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn compare(model: &Model, views: &Views, users: &[UserId]) -> Result<Report, VerifyError> {
    let bar = progress("comparing users", users.len() as u64);
    let mut report = Report {
        users: users.len(),
        posts: model.posts_len(),
        follows: model.follows_len(),
        ..Report::default()
    };
    let mut compared = stream::iter(users.iter().copied())
        .map(|user| async move {
            compare_user(model, views, user)
                .await
                .map(|found| (user, found))
        })
        .buffer_unordered(AT_ONCE);
    while let Some((user, (entries, differences))) = compared.try_next().await? {
        report.entries += entries;
        if !differences.is_empty() {
            report.differences.insert(user, differences);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Everything that one user sees and shows: how many entries, and what differs.
async fn compare_user(
    model: &Model,
    views: &Views,
    user: UserId,
) -> Result<(usize, Vec<String>), ViewError> {
    let shown = Visible::of(views, user).await?;
    let expected = model.visible(user, &shown.cuts);
    Ok((shown.entries(), expected.differences(user, &shown)))
}

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
        views: &Views,
        user: UserId,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<Line>, ViewError> {
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
        views: &Views,
        user: UserId,
        limit: usize,
    ) -> Result<Scroll, ViewError> {
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
fn answered<'a>(posts: impl IntoIterator<Item = &'a Line>) -> impl Iterator<Item = List> {
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
    pub async fn of(views: &Views, user: UserId) -> Result<Self, ViewError> {
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
fn compare_page(
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

/// What a user sees otherwise in another generation of views: a line for each page.
///
/// While others write, two generations are at the same position only for moments. So both are
/// asked for the same page at once, and again while they differ: only what stays different counts.
/// Whole timelines, read one after the other, would differ for as long as people write.
pub async fn compare_generations(
    old: &Views,
    new: &Views,
    user: UserId,
) -> Result<Vec<String>, ViewError> {
    let profiles = settled(
        async || tokio::try_join!(old.user(user), new.user(user)),
        |(before, after)| before == after,
    );
    let (before, after) = profiles.await?;
    let mut differences = Vec::new();
    if before != after {
        differences.push(format!(
            "user {user}: profile: expected {before:?}, shown {after:?}"
        ));
    }
    let mut lists = Vec::from(List::OF_EVERYBODY);
    while let Some(list) = lists.pop() {
        let (mut page, mut cursor) = (0, None::<String>);
        loop {
            let at = cursor.as_deref();
            let pages = settled(
                async || {
                    let (before, after) = (
                        list.page(old, user, PAGE, at),
                        list.page(new, user, PAGE, at),
                    );
                    tokio::try_join!(before, after)
                },
                |(before, after)| {
                    let (before, after) = (before.comparable(after), after.comparable(before));
                    before == after
                },
            );
            let (before, after) = pages.await?;
            let (shown, again) = (before.comparable(&after), after.comparable(&before));
            differences.extend(compare_page(user, list, page, shown, again));
            if list == List::Posts {
                lists.extend(answered(shown));
            }
            // The cursors are made with the same key, so that one fits both. The shorter page's;
            // where only one goes on, the other shows nothing more.
            let (first, other) = if after.cut > before.cut {
                (after, before)
            } else {
                (before, after)
            };
            let Some(next) = first.next_cursor.or(other.next_cursor) else {
                break;
            };
            (page, cursor) = (page + 1, Some(next));
        }
    }
    Ok(differences)
}

/// Looks until two answers agree, or have not for a good while: then the last ones.
async fn settled<T>(
    look: impl AsyncFn() -> Result<(T, T), ViewError>,
    agree: impl Fn(&(T, T)) -> bool,
) -> Result<(T, T), ViewError> {
    const LOOKS: u32 = 30;
    let mut answers = look().await?;
    for again in 1..LOOKS {
        if agree(&answers) {
            break;
        }
        // Not in step with whoever writes.
        let pause = Duration::from_millis(u64::from(again) * 7 % 40);
        tokio::time::sleep(pause).await;
        answers = look().await?;
    }
    Ok(answers)
}

impl Page<Line> {
    /// What of this page the other one must show as well: where that ended early, since other
    /// rows were looked at for it, what came before its end.
    fn comparable(&self, other: &Self) -> &[Line] {
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

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            next_cursor: None,
            cut: None,
        }
    }
}

/// A progress bar on a terminal, nothing elsewhere.
pub fn progress(what: &'static str, len: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {human_pos}/{human_len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(len), target)
        .with_style(style)
        .with_message(what)
}
