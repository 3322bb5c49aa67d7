//! Lists of the many: a page costs the same whatever the length of its list, ends when its budget
//! is used up, and nothing is skipped. Rows are written as the fold writes them.

use std::time::{Duration, Instant};

use bson::{Document, doc};
use query_service::reads::ReadModel;
use query_service::reads::budget::{ReadBudget, ReadLimits};
use query_service::reads::posts::MOST_EXAMINED;
use query_service::views::generation::View;
use query_service::views::keys::Key;
use shared::contract::ids::{EntryId, Id, PostId, UserId};

use super::common::{World, hasty};
use super::is_long;

const PARTITIONS: u16 = 4;
/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// Writes rows past the fold.
struct Seed<'a> {
    views: &'a ReadModel,
    next: i64,
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_millis() as i64
}

impl Seed<'_> {
    async fn rows(&self, view: View, rows: Vec<Document>) {
        let collection = self.views.generation().collection::<Document>(view);
        for some in rows.chunks(5_000) {
            let inserted = collection.insert_many(some).ordered(false).await;
            inserted.expect("rows of their own");
        }
    }

    /// Accounts made at these times, in Unix milliseconds.
    async fn users(&mut self, times: impl IntoIterator<Item = i64>) -> Vec<UserId> {
        let mut rows = Vec::new();
        let users: Vec<UserId> = times
            .into_iter()
            .map(|at| {
                self.next += 1;
                let id = (at << 16) + self.next % (1 << 16);
                let name = format!("seed_{}", self.next);
                rows.push(doc! {
                    "_id": id, "username": &name, "email": "", "display_name": &name, "bio": "",
                    "at": bson::DateTime::from_millis(at), "standing": "active", "v": 1_i64,
                    "s": 1_i64,
                });
                Id::new(id).expect("a positive id")
            })
            .collect();
        self.rows(View::Users, rows).await;
        users
    }

    async fn follow(&self, edges: &[(UserId, UserId)]) {
        let of = self.views.partitions();
        let standing = |(follower, followee): &(UserId, UserId)| {
            let key = Key::pair(*follower, *followee).bson();
            doc! { "_id": key, "on": true, "v": 1_i64, "s": 1_i64 }
        };
        let back = |(follower, followee): &(UserId, UserId)| {
            let key = Key::follower(*followee, of.of(*follower), *follower);
            doc! { "_id": key.bson() }
        };
        self.rows(View::Following, edges.iter().map(standing).collect())
            .await;
        self.rows(View::Followers, edges.iter().map(back).collect())
            .await;
    }

    /// What profiles say: whom `user` follows, and who follows them.
    async fn count(&self, user: UserId, following: usize, followers: usize) {
        let users = self.views.generation().collection::<Document>(View::Users);
        let count = doc! { "$set": { "following": following as i64 } };
        let updated = users.update_one(doc! { "_id": user.get() }, count).await;
        updated.expect("a row");
        let partition = self.views.partitions().of(user);
        let row = doc! { "_id": Key::user_in(user, partition).bson(), "n": followers as i64 };
        self.rows(View::FollowerCounts, vec![row]).await;
    }

    /// A post at each of these times.
    async fn posts(&self, author: UserId, times: impl IntoIterator<Item = i64>) -> Vec<EntryId> {
        let (mut posts, mut feed, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for (n, at) in times.into_iter().enumerate() {
            // No two authors' posts share an id.
            let id: EntryId =
                Id::new((at << 16) + (author.get() + n as i64) % (1 << 16)).expect("an id");
            posts.push(doc! {
                "_id": id.get(), "author": author.get(), "content": "seed",
                "at": bson::DateTime::from_millis(at), "v": 1_i64, "s": 1_i64,
            });
            let key = Key::pair(author, id).bson();
            feed.push(doc! { "_id": key, "post": id.get(), "s": 1_i64 });
            ids.push(id);
        }
        let users = self.views.generation().collection::<Document>(View::Users);
        let count = doc! { "$inc": { "outbox": ids.len() as i64 } };
        let updated = users.update_one(doc! { "_id": author.get() }, count).await;
        updated.expect("a row");
        self.rows(View::Posts, posts).await;
        self.rows(View::AuthorFeed, feed).await;
        ids
    }
}

impl Seed<'_> {
    /// All of these users reacted to a post, and every third of them took it back.
    async fn react(&self, view: View, post: PostId, users: &[UserId]) {
        let row = |(n, user): (i64, &UserId)| {
            let version: i64 = if n % 3 > 0 { 3 } else { 2 };
            doc! { "_id": Key::pair(post, *user).bson(), "v": version, "s": 1_i64 }
        };
        self.rows(view, (0..).zip(users).map(row).collect()).await;
        let posts = self.views.generation().collection::<Document>(View::Posts);
        let count = doc! { "$set": { "likes": users.len() as i64 } };
        let updated = posts.update_one(doc! { "_id": post.get() }, count).await;
        updated.expect("a row");
    }
}

fn of_a_request(views: &ReadModel) -> ReadModel {
    views.within(ReadBudget::new(ReadLimits::OF_A_REQUEST, true))
}

/// What pages of one list cost: the quickest reads of each kind so far. The machine does other things
/// as well, so more reads come closer to what a read costs by itself.
struct Costs {
    famous: UserId,
    followers: usize,
    cursor: Option<String>,
    top: Duration,
    next: Duration,
    one: Duration,
}

impl Costs {
    async fn measure(&mut self, views: &ReadModel) {
        let famous = self.famous;
        let page = async |limit: usize, cursor: Option<&str>, quickest: &mut Duration| {
            let began = Instant::now();
            let page = of_a_request(views).followers(famous, limit, cursor).await;
            let page = page.expect("a read").expect("a user");
            assert_eq!(page.items.len(), limit);
            *quickest = (*quickest).min(began.elapsed());
        };
        for _ in 0..20 {
            page(20, None, &mut self.top).await;
            page(20, self.cursor.as_deref(), &mut self.next).await;
            page(1, None, &mut self.one).await;
        }
    }

    /// One costs as much as twenty, and twenty of many as much as twenty of few. All are a few
    /// milliseconds.
    fn are_as_of(&self, short: &Self) -> bool {
        let slack = Duration::from_millis(2);
        self.one < self.top * 2 + slack
            && self.top < short.top * 2 + slack
            && self.next < short.next * 2 + slack
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_costs_the_same_whatever_the_length_of_its_list() {
    let world = World::new("lists", PARTITIONS, 100_000, 1).await;
    let views = world.views().await;
    let mut seed = Seed {
        views: &views,
        next: 0,
    };
    let most = if is_long() { 300_000 } else { 30_000 };
    // As an import makes them: three in a millisecond, and then nobody for a year.
    let begin = now() - 365 * DAY;
    let crowd = seed.users((0..most).map(|n| begin + n / 3)).await;
    let latest = seed.users([now()]).await[0];
    let mut costs = Vec::new();
    for count in [300, 30_000, 300_000] {
        if count > crowd.len() {
            continue;
        }
        let famous = seed.users([now() - 400 * DAY]).await[0];
        let every = crowd.len() / count;
        let followers: Vec<UserId> = crowd.iter().step_by(every).take(count).copied().collect();
        let everybody = followers.iter().chain([&latest]);
        let edges: Vec<_> = everybody.map(|user| (*user, famous)).collect();
        seed.follow(&edges).await;
        seed.count(famous, 0, count).await;
        let began = Instant::now();
        let first = of_a_request(&views).followers(famous, 20, None).await;
        let first = first.expect("a read").expect("a user");
        let cold = began.elapsed();
        // The first page ever may be cut short, where the list is hard to find.
        let (mut first, mut pages) = (first, 1);
        while first.items.len() < 20 && pages < 20 {
            let again = of_a_request(&views).followers(famous, 20, None).await;
            first = again.expect("a read").expect("a user");
            pages += 1;
        }
        let newest = [latest].into_iter().chain(followers.iter().rev().copied());
        let newest: Vec<UserId> = newest.take(20).collect();
        let shown: Vec<UserId> = first.items.iter().map(|user| user.user_id).collect();
        assert_eq!(shown, newest);
        println!("20 of {count} followers: first ever {cold:?}");
        costs.push(Costs {
            famous,
            followers: count,
            cursor: first.next_cursor,
            top: Duration::MAX,
            next: Duration::MAX,
            one: Duration::MAX,
        });
    }
    for round in 1.. {
        // In turn, so that what disturbs one disturbs all.
        for list in &mut costs {
            list.measure(&views).await;
            println!(
                "20 of {} followers: top {:?}, next page {:?}, 1 of them {:?}",
                list.followers, list.top, list.next, list.one
            );
        }
        if costs.iter().all(|list| list.are_as_of(&costs[0])) {
            break;
        }
        assert!(round < 20, "longer lists cost more");
    }
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scroll_within_any_budget_shows_everybody_once() {
    let world = World::new("budgets", PARTITIONS, 100_000, 2).await;
    let views = world.views().await;
    let mut seed = Seed {
        views: &views,
        next: 0,
    };
    // A crowd in a second, one a day, one now: dense and thin.
    let begin = now() - 900 * DAY;
    let times = (0..1_200).map(|n| begin + n / 3);
    let times = times
        .chain((1..300).map(|n| begin + n * 2 * DAY))
        .chain([now()]);
    let crowd = seed.users(times).await;
    let user = seed.users([begin - DAY]).await[0];
    let mut following: Vec<_> = crowd.iter().map(|other| (user, *other)).collect();
    // Every hundredth follows back.
    following.extend(crowd.iter().step_by(100).map(|other| (*other, user)));
    seed.follow(&following).await;
    seed.count(user, crowd.len(), 15).await;
    let posts: Vec<EntryId> = seed.posts(user, (0..700).map(|n| begin + n * n)).await;
    // Everybody reacted to one of them; every third has taken it back.
    let liked = posts[0].cast();
    seed.react(View::Likes, liked, &crowd).await;
    let newest_first = |mut ids: Vec<i64>| {
        ids.sort_unstable();
        ids.reverse();
        ids
    };
    let all = newest_first(crowd.iter().map(|user| user.get()).collect());
    let back = newest_first(crowd.iter().step_by(100).map(|user| user.get()).collect());
    let kept = (0..).zip(&crowd).filter(|(n, _)| n % 3 > 0);
    let liking = newest_first(kept.map(|(_, user)| user.get()).collect());
    let written = newest_first(posts.iter().map(|post| post.get()).collect());
    let who = |page: query_service::reads::bodies::Page<query_service::reads::bodies::UserView>| {
        let ids = page.items.iter().map(|user| user.user_id.get()).collect();
        (ids, page.next_cursor)
    };
    for limit in [1, 20, 100] {
        for budgeted in [hasty, of_a_request] {
            let expected = [&all, &back, &back, &liking, &written];
            for (list, expected) in expected.into_iter().enumerate() {
                // One at a time through 1,500 shows nothing new.
                if limit == 1 && expected.len() > 100 {
                    continue;
                }
                let (mut shown, mut cursor, mut pages): (Vec<i64>, Option<String>, _) =
                    (Vec::new(), None, 0);
                loop {
                    let at = cursor.as_deref();
                    let views = budgeted(&views);
                    let (ids, next): (Vec<i64>, _) = match list {
                        0 => who(views.following(user, limit, at).await.unwrap().unwrap()),
                        1 => who(views.mutuals(user, limit, at).await.unwrap().unwrap()),
                        2 => who(views.followers(user, limit, at).await.unwrap().unwrap()),
                        3 => who(views.likers(liked, limit, at).await.unwrap().unwrap()),
                        _ => {
                            let page = views
                                .posts_of(user, None, limit, at)
                                .await
                                .unwrap()
                                .unwrap();
                            let ids = page.items.iter().map(|post| post.entry_id.get()).collect();
                            (ids, page.next_cursor)
                        }
                    };
                    assert!(ids.len() <= limit);
                    shown.extend(ids);
                    pages += 1;
                    assert!(pages < 2_000, "a cursor always advances");
                    if next.is_none() {
                        break;
                    }
                    assert_ne!(next, cursor);
                    cursor = next;
                }
                assert_eq!(&shown, expected, "list {list} by {limit}");
            }
        }
    }
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutuals_of_somebody_whom_nobody_follows_back_are_told_at_once() {
    let world = World::new("mutuals", PARTITIONS, 100_000, 3).await;
    let views = world.views().await;
    let mut seed = Seed {
        views: &views,
        next: 0,
    };
    let begin = now() - 30 * DAY;
    let crowd = seed.users((0..9_800).map(|n| begin + n)).await;
    let lonely = seed.users([begin - DAY]).await[0];
    let (followed, fans) = crowd.split_at(4_900);
    let edges = followed.iter().map(|other| (lonely, *other));
    let edges: Vec<_> = edges
        .chain(fans.iter().map(|other| (*other, lonely)))
        .collect();
    seed.follow(&edges).await;
    // The shorter list is walked; here nothing is to be gained by it.
    seed.count(lonely, followed.len(), fans.len()).await;
    for limit in [1, 20] {
        let (mut cursor, mut pages) = (None::<String>, 0);
        loop {
            let began = Instant::now();
            let page = of_a_request(&views)
                .mutuals(lonely, limit, cursor.as_deref())
                .await;
            let page = page.expect("a read").expect("a user");
            println!(
                "mutuals by {limit}: {} after {:?}",
                page.items.len(),
                began.elapsed()
            );
            assert!(page.items.is_empty());
            pages += 1;
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let full = followed.len().div_ceil(MOST_EXAMINED);
        assert!((full..full * 4).contains(&pages), "{pages} pages");
    }
    seed.count_again(lonely, 10).await;
    let page = of_a_request(&views).mutuals(lonely, 20, None).await;
    assert!(page.expect("a read").is_some());
    world.clean_up().await;
}

impl Seed<'_> {
    /// The other list is the shorter one now, as the counts say.
    async fn count_again(&self, user: UserId, followers: i64) {
        let counts = self
            .views
            .generation()
            .collection::<Document>(View::FollowerCounts);
        let key = Key::user_in(user, self.views.partitions().of(user)).bson();
        let change = doc! { "$set": { "n": followers } };
        let updated = counts.update_one(doc! { "_id": key }, change).await;
        updated.expect("a row");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_thousands_reads_below_the_stored_entries_exactly() {
    let world = World::new("below", PARTITIONS, 100_000, 4).await;
    let views = world.views().await;
    let mut seed = Seed {
        views: &views,
        next: 0,
    };
    let begin = now() - 300 * DAY;
    let people = if is_long() { 4_900 } else { 600 };
    let authors = seed.users((0..people).map(|n| begin - DAY + n)).await;
    let reader = seed.users([begin - 2 * DAY]).await[0];
    let edges: Vec<_> = authors.iter().map(|author| (reader, *author)).collect();
    seed.follow(&edges).await;
    let mut entries: Vec<i64> = Vec::new();
    for (n, author) in (0..).zip(&authors[..200]) {
        let times = (0..3).map(|k| begin + n * 60_000 + k * 40 * DAY);
        entries.extend(
            seed.posts(*author, times)
                .await
                .iter()
                .map(|entry| entry.get()),
        );
    }
    // One of them writes all day.
    let busy = seed
        .posts(authors[7], (0..1_000).map(|n| begin + 50 * DAY + n * 1_000))
        .await;
    entries.extend(busy.iter().map(|entry| entry.get()));
    entries.sort_unstable();
    entries.reverse();
    let row = doc! { "_id": reader.get(), "horizon": i64::MAX - 1 };
    seed.rows(View::Readers, vec![row]).await;
    for budgeted in [of_a_request, hasty] {
        let (mut shown, mut cursor, mut pages) = (Vec::new(), None::<String>, Vec::new());
        loop {
            let began = Instant::now();
            let page = budgeted(&views).home(reader, 100, cursor.as_deref()).await;
            let page = page.expect("a page");
            pages.push(began.elapsed());
            shown.extend(page.items.iter().map(|post| post.entry_id.get()));
            assert!(pages.len() < 500, "a cursor always advances");
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(shown.len(), entries.len());
        assert!(shown == entries, "newest first, each once");
        pages.sort_unstable();
        println!(
            "{people} followees: {} pages, median {:?}, slowest {:?}",
            pages.len(),
            pages[pages.len() / 2],
            pages[pages.len() - 1]
        );
    }
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_needs_more_permits_says_so_and_one_that_was_left_ends() {
    use query_service::reads::Unanswered;
    let world = World::new("dear", 1, 100_000, 5).await;
    let views = world.views().await;
    let mut seed = Seed {
        views: &views,
        next: 0,
    };
    let authors = seed.users((0..10).map(|n| now() - DAY + n)).await;
    let reader = seed.users([now() - 2 * DAY]).await[0];
    let edges: Vec<_> = authors.iter().map(|author| (reader, *author)).collect();
    seed.follow(&edges).await;
    let row = doc! { "_id": reader.get(), "horizon": i64::MAX - 1 };
    seed.rows(View::Readers, vec![row]).await;
    let budget = ReadBudget::new(ReadLimits::OF_A_REQUEST, false);
    let page = views.within(budget.clone()).home(reader, 20, None).await;
    assert!(matches!(page, Err(Unanswered::Expensive { permits: 1 })));
    drop(budget.abandon_on_drop());
    let page = views.within(budget).followers(reader, 20, None).await;
    assert!(matches!(page, Err(Unanswered::Abandoned)));
    world.clean_up().await;
}
