//! What people are promised while nothing is broken: a write is read back at once, live streams
//! and scrolls show everything once and in order, and a crowd slows nobody down.
//!
//! Every test has engines and services of its own, and times are measured in some: so they run
//! one after the other. The short form runs with all tests; the long one, `make chaos`, has more
//! of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use system_tests::api::{Accepted, Answer, Session};
use system_tests::world::{PATIENCE, Service, World};
use system_tests::{eventually, is_long, quantile, seed};
use tokio::sync::MutexGuard;

/// One test at a time: they measure, and two cores are few.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {value}"))
}

fn posts(page: &Value) -> &[Value] {
    page["posts"].as_array().map_or(&[], Vec::as_slice)
}

// ---- reading one's writes ---------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_read_back_with_its_token_through_either_process() {
    const WRITERS: usize = 8;
    let _alone = alone().await;
    let seed = seed("read your writes");
    let writes = if is_long() { 1_000 } else { 200 };
    let world = World::start(&[("CELEBRITY_THRESHOLD", "12")]).await;
    let other = world.another(&world.query);
    other.start().await;
    let sessions = world.sessions(&world.api(), "writer", WRITERS).await;
    let keepers = Keepers::default();
    let begun = Instant::now();
    let writers = sessions.iter().enumerate().map(|(at, me)| {
        Writer::new(at, me, &sessions, [&world.query, &other], &keepers, seed).run(writes / WRITERS)
    });
    let seen: Vec<Seen> = join_all(writers).await;
    let took = begun.elapsed();
    let failures: Vec<&String> = seen.iter().flat_map(|seen| &seen.failures).collect();
    let waits: Vec<Duration> = seen.iter().flat_map(|seen| &seen.waits).copied().collect();
    let reflected: usize = seen.iter().map(|seen| seen.reflected).sum();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for kind in seen.iter().flat_map(|seen| &seen.kinds) {
        *kinds.entry(kind).or_default() += 1;
    }
    println!(
        "read your writes: {reflected} of {writes} reflected, two processes in turn, {WRITERS} writers, {took:.1?}: {kinds:?}"
    );
    println!(
        "first read with a token: median {:.1?}, 99 % {:.1?}, slowest {:.1?}",
        quantile(&waits, 0.5),
        quantile(&waits, 0.99),
        quantile(&waits, 1.0)
    );
    assert_eq!(failures, Vec::<&String>::new());
    assert_eq!(reflected, writes);
    println!("{}", world.verify().await);
    // What was read on the way is still in the caches of the two; a third has none.
    let fresh = world.another(&world.query);
    fresh.start().await;
    for me in &sessions {
        let expected = everything(&me.through(&fresh)).await;
        for warm in [&world.query, &other] {
            let shown = everything(&me.through(warm)).await;
            assert_eq!(shown, expected, "{}", me.username);
        }
    }
}

/// All that a user can ask for.
async fn everything(me: &Session) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        format!("/users/{}", me.user_id),
        format!("/users/{}/followers?limit=100", me.user_id),
        format!("/users/{}/following?limit=100", me.user_id),
        format!("/users/{}/mutuals?limit=100", me.user_id),
    ] {
        all.push(me.get(&path, None).await.expect("an answer").body);
    }
    for path in [
        "/timeline".to_owned(),
        format!("/users/{}/posts", me.user_id),
    ] {
        all.extend(scroll(me, &path, 20, None).await.expect("every page"));
    }
    all
}

/// Every entry of a list, page by page, each asked for once.
async fn scroll(
    me: &Session,
    path: &str,
    limit: usize,
    after: Option<&str>,
) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    let mut at = String::new();
    loop {
        let answer = me.get(&format!("{path}?limit={limit}{at}"), after).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("{path}: {answer:?}"));
        }
        all.extend_from_slice(posts(&answer.body));
        match answer.body["next_cursor"].as_str() {
            Some(cursor) => at = format!("&cursor={cursor}"),
            None => return Ok(all),
        }
    }
}

/// Posts that are never deleted, with their authors: others like, repost and answer them.
type Keepers = Arc<Mutex<Vec<(String, String)>>>;

/// What one writer found.
#[derive(Default)]
struct Seen {
    reflected: usize,
    failures: Vec<String>,
    /// How long each first read took.
    waits: Vec<Duration>,
    kinds: Vec<&'static str>,
}

/// Somebody who reads back whatever they write.
struct Writer<'a> {
    number: usize,
    me: &'a Session,
    others: Vec<&'a Session>,
    /// The same user at two processes.
    reads: [Session; 2],
    keepers: &'a Keepers,
    rng: StdRng,
    following: BTreeSet<String>,
    liked: BTreeSet<String>,
    reposted: BTreeSet<String>,
    /// Own posts to be deleted one day.
    loose: Vec<String>,
    seen: Seen,
}

/// What to look at after a write, and what must be true of it.
struct Expected {
    path: String,
    holds: Box<dyn Fn(&Answer) -> bool + Send>,
}

fn expect(path: impl Into<String>, holds: impl Fn(&Answer) -> bool + Send + 'static) -> Expected {
    Expected {
        path: path.into(),
        holds: Box::new(holds),
    }
}

fn shows(post: &str) -> impl Fn(&Answer) -> bool + Send + 'static {
    let post = post.to_owned();
    move |page| {
        page.status == StatusCode::OK
            && posts(&page.body)
                .iter()
                .any(|shown| shown["post_id"] == *post)
    }
}

fn shows_none(hidden: impl Fn(&Value) -> bool + Send + 'static) -> impl Fn(&Answer) -> bool + Send {
    move |page| page.status == StatusCode::OK && !posts(&page.body).iter().any(&hidden)
}

impl<'a> Writer<'a> {
    fn new(
        number: usize,
        me: &'a Session,
        all: &'a [Session],
        processes: [&Service; 2],
        keepers: &'a Keepers,
        seed: u64,
    ) -> Self {
        let others = all.iter().filter(|other| other.user_id != me.user_id);
        Self {
            number,
            me,
            others: others.collect(),
            reads: processes.map(|process| me.through(process)),
            keepers,
            rng: StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 32)),
            following: BTreeSet::new(),
            liked: BTreeSet::new(),
            reposted: BTreeSet::new(),
            loose: Vec::new(),
            seen: Seen::default(),
        }
    }

    async fn run(mut self, writes: usize) -> Seen {
        for n in 0..writes {
            let (kind, token, expected) = self.write(n).await;
            // In turn, and no two writers in step.
            let reader = &self.reads[(n + self.number) % 2];
            let mut reflected = true;
            for (at, Expected { path, holds }) in expected.into_iter().enumerate() {
                let asked = Instant::now();
                let answer = if path == "/timeline" {
                    // All of it: what is looked for may be far down.
                    let limit = self.rng.random_range(20..=100);
                    let all = scroll(reader, &path, limit, Some(&token)).await;
                    all.map(|all| Answer {
                        status: StatusCode::OK,
                        retry_after: None,
                        body: json!({ "posts": all }),
                    })
                } else {
                    reader.get(&path, Some(&token)).await
                };
                if at == 0 {
                    self.seen.waits.push(asked.elapsed());
                }
                if !answer.as_ref().is_ok_and(&holds) {
                    reflected = false;
                    let who = &self.me.username;
                    let mut shown = format!("{answer:?}");
                    shown.truncate(2_000);
                    let failure = format!("{who}, {kind}, write {n}: {path}: {shown}");
                    self.seen.failures.push(failure);
                }
            }
            self.seen.reflected += usize::from(reflected);
            self.seen.kinds.push(kind);
        }
        self.seen
    }

    /// Writes something; says what it was, its token, and how it shows.
    async fn write(&mut self, n: usize) -> (&'static str, String, Vec<Expected>) {
        let me = self.me.user_id.clone();
        let keeper = {
            let keepers = self.keepers.lock().expect("nobody panics holding it");
            keepers.choose(&mut self.rng).cloned()
        };
        match (self.rng.random_range(0..100), keeper) {
            (0..18, Some((post, _))) => {
                let on = self.liked.insert(post.clone());
                let done = if on {
                    self.me.like(&post).await
                } else {
                    self.liked.remove(&post);
                    self.me.unlike(&post).await
                };
                let kind = if on { "like" } else { "unlike" };
                let single = expect(format!("/posts/{post}"), move |post| {
                    post.body["liked"] == on
                });
                (kind, done.accepted().consistency, vec![single])
            }
            (18..34, Some((post, _))) => {
                let on = self.reposted.insert(post.clone());
                let done = if on {
                    self.me.repost(&post).await
                } else {
                    self.reposted.remove(&post);
                    self.me.unrepost(&post).await
                };
                let single = expect(format!("/posts/{post}"), move |post| {
                    post.body["reposted"] == on
                });
                let mine = move |shown: &Value| {
                    shown["post_id"] == *post && shown["reposted_by"]["user_id"] == *me
                };
                let path = format!("/users/{}/posts?limit=100", self.me.user_id);
                let list = expect(path, move |page| {
                    page.status == StatusCode::OK && posts(&page.body).iter().any(&mine) == on
                });
                let kind = if on { "repost" } else { "unrepost" };
                (kind, done.accepted().consistency, vec![list, single])
            }
            (34..56, _) => self.switch_follow().await,
            (56..64, Some((post, _))) => {
                let reply = self
                    .me
                    .reply(&post, &format!("answer {n}"))
                    .await
                    .accepted();
                let id = reply.value;
                let replies = expect(format!("/posts/{post}/replies?limit=100"), shows(&id));
                let home = expect("/timeline", shows(&id));
                ("reply", reply.consistency, vec![replies, home])
            }
            (64..72, _) if !self.loose.is_empty() => {
                let at = self.rng.random_range(0..self.loose.len());
                let post = self.loose.swap_remove(at);
                let token = self.me.delete(&post).await.accepted().consistency;
                let gone = expect(format!("/posts/{post}"), |post| {
                    post.status == StatusCode::NOT_FOUND
                });
                let home = expect(
                    "/timeline",
                    shows_none(move |shown| shown["post_id"] == *post),
                );
                ("delete", token, vec![home, gone])
            }
            (72..78, _) => {
                let name = format!("{} {n}", self.me.username);
                let token = self.me.rename(&name).await.accepted().consistency;
                let expected = name.clone();
                let profile = expect(format!("/users/{me}"), move |user| {
                    user.body["display_name"] == *expected
                });
                // On every post of theirs, too.
                let home = expect(
                    "/timeline",
                    shows_none(move |shown| {
                        shown["user_id"] == *me && shown["display_name"] != *name
                    }),
                );
                ("profile", token, vec![profile, home])
            }
            _ => {
                let content = format!("{} says {n}", self.me.username);
                let posted = self.me.post(&content, &format!("key-{n}")).await;
                let Accepted { value, consistency } = posted.accepted();
                if self.rng.random_bool(0.5) {
                    self.loose.push(value.clone());
                } else {
                    let mut keepers = self.keepers.lock().expect("nobody panics holding it");
                    keepers.push((value.clone(), me.clone()));
                }
                let home = expect("/timeline", shows(&value));
                let own = expect(format!("/users/{me}/posts?limit=1"), shows(&value));
                let single = expect(format!("/posts/{value}"), move |post| {
                    post.body["content"] == *content
                });
                ("post", consistency, vec![home, own, single])
            }
        }
    }

    async fn switch_follow(&mut self) -> (&'static str, String, Vec<Expected>) {
        let other = self.others.choose(&mut self.rng).expect("there are others");
        let id = other.user_id.clone();
        let on = self.following.insert(id.clone());
        let done = if on {
            self.me.follow(&id).await
        } else {
            self.following.remove(&id);
            self.me.unfollow(&id).await
        };
        let token = done.accepted().consistency;
        let between = expect(format!("/users/{id}/relationship"), move |with| {
            with.body["following"] == on
        });
        let followee = id.clone();
        let list = expect(
            format!("/users/{}/following?limit=100", self.me.user_id),
            move |page| {
                let users = page.body["users"].as_array().map_or(&[][..], Vec::as_slice);
                users.iter().any(|user| user["user_id"] == *followee) == on
            },
        );
        // What they wrote themselves: others may repost it to the reader.
        let theirs = move |shown: &Value| shown["user_id"] == *id && shown["reposted_by"].is_null();
        let first = {
            let keepers = self.keepers.lock().expect("nobody panics holding it");
            let newest = keepers.iter().rev();
            newest
                .clone()
                .find(|(_, author)| *author == other.user_id)
                .map(|(post, _)| post.clone())
        };
        let home = match first.filter(|_| on) {
            Some(post) => expect("/timeline", shows(&post)),
            None if on => expect("/timeline", |page| page.status == StatusCode::OK),
            None => expect("/timeline", shows_none(theirs)),
        };
        let kind = if on { "follow" } else { "unfollow" };
        (kind, token, vec![home, between, list])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_nobody_has_folded_yet_is_told_to_be_asked_for_again() {
    let _alone = alone().await;
    let world = World::start(&[]).await;
    let reader = world.another_with(&world.query, &["--role", "api"]);
    reader.start().await;
    let sessions = world.sessions(&world.api(), "writer", 2).await;
    let [me, other] = &sessions[..] else {
        panic!("two were asked for")
    };
    let me = me.through(&reader);
    world.query.process.terminate();
    let stopped = world.query.process.wait(PATIENCE).await;
    assert!(
        stopped.is_some_and(|status| status.success()),
        "{stopped:?}"
    );
    let post = me.post("nobody folds this", "key").await.accepted();
    let follow = me.follow(&other.user_id).await.accepted();
    for (path, token) in [
        ("/timeline", &post.consistency),
        (&*format!("/posts/{}", post.value), &post.consistency),
        ("/timeline", &follow.consistency),
        (
            &*format!("/users/{}/relationship", other.user_id),
            &follow.consistency,
        ),
    ] {
        let asked = Instant::now();
        let answer = me.get(path, Some(token)).await.expect("an answer");
        let took = asked.elapsed();
        println!(
            "without a fold, GET {path}: {} after {took:.2?}",
            answer.status
        );
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(&answer.body, "code"), "not_yet_visible");
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
        assert!(
            took > Duration::from_millis(900),
            "given up too early: {took:?}"
        );
        assert!(
            took < Duration::from_millis(1_500),
            "given up too late: {took:?}"
        );
        // Who does not insist is served what there is.
        let answer = me.get("/timeline", None).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
    }
    world.query.start().await;
    eventually("the write can be read", PATIENCE, async || {
        let answer = me.get("/timeline", Some(&post.consistency)).await.ok()?;
        shows(&post.value)(&answer).then_some(())
    })
    .await;
}
