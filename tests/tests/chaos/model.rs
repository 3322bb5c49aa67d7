//! The model: what was acknowledged, and what everybody must see because of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use system_tests::api::{Post, Session};
use system_tests::world::{PATIENCE, World};
use system_tests::{eventually, is_long, seed};

/// What was acknowledged: everybody's posts in the order of their ids, and who follows whom.
#[derive(Debug, Default)]
struct Model {
    posts: BTreeMap<u64, (String, String)>,
    edges: BTreeSet<(String, String)>,
}

impl Model {
    /// A home timeline, newest first: id and content of each post.
    fn timeline(&self, reader: &str) -> Vec<(u64, String)> {
        let shown = |author: &String| {
            author == reader || self.edges.contains(&(reader.to_owned(), author.clone()))
        };
        let posts = self
            .posts
            .iter()
            .rev()
            .filter(|(_, (author, _))| shown(author));
        posts
            .map(|(id, (_, content))| (*id, content.clone()))
            .collect()
    }

    fn posts_of(&self, author: &str) -> BTreeSet<u64> {
        let posts = self.posts.iter().filter(|(_, (by, _))| by == author);
        posts.map(|(id, _)| *id).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_unfollows_and_posts_in_any_interleaving_equal_the_model() {
    let seed = seed("interleavings");
    let (users, commands) = if is_long() { (24, 150) } else { (12, 25) };
    let mut rng = StdRng::seed_from_u64(seed);
    // With 4 a second follower in a partition makes an author hot there; with 100,000 nobody is.
    let threshold = if rng.random_bool(0.5) { "4" } else { "100000" };
    let world = World::start(&[("CELEBRITY_THRESHOLD", threshold)]).await;
    let sessions = world.sessions(&world.api(), "client", users).await;
    let model = Mutex::<Model>::default();
    let begun = Instant::now();
    let people = sessions.iter().enumerate().map(|(at, me)| {
        let person = Person {
            me,
            model: &model,
            rng: StdRng::seed_from_u64(seed ^ ((at as u64 + 1) << 32)),
            following: BTreeSet::new(),
            last: None,
        };
        person.run(at, &sessions, commands)
    });
    join_all(people).await;
    let acted = begun.elapsed();
    let model = model.into_inner().expect("no panic");
    for session in &sessions {
        let expected = model.timeline(&session.user_id);
        for limit in [7, 100] {
            let what = format!(
                "the timeline of {} by {limit} equals the model",
                session.username
            );
            let mut last = Vec::new();
            let found = tokio::time::timeout(
                PATIENCE,
                eventually(&what, PATIENCE * 2, async || {
                    last = lines(&session.scroll(limit, None).await);
                    (last == expected).then_some(())
                }),
            );
            if found.await.is_err() {
                panic!("{what}: expected {expected:#?}, shown {last:#?}");
            }
        }
    }
    println!(
        "{} commands of {users} people in {acted:.1?}, threshold {threshold}: {} posts, {} edges",
        users * commands,
        model.posts.len(),
        model.edges.len()
    );
    println!("{}", world.verify().await);
}

/// One person: one command after the other, among others who do the same.
struct Person<'a> {
    me: &'a Session,
    model: &'a Mutex<Model>,
    rng: StdRng,
    following: BTreeSet<&'a str>,
    /// The token of the last command that changed something, and the posts that it promises to
    /// show besides one's own.
    last: Option<(String, BTreeSet<u64>)>,
}

impl<'a> Person<'a> {
    async fn run(mut self, at: usize, sessions: &'a [Session], commands: usize) {
        for number in 0..commands {
            let other = (at + self.rng.random_range(1..sessions.len())) % sessions.len();
            let other = sessions[other].user_id.as_str();
            match self.rng.random_range(0..100) {
                0..40 => self.post(number).await,
                40..75 => self.follow(other).await,
                _ => self.unfollow(other).await,
            }
            self.read().await;
        }
    }

    fn edge(&self, other: &str) -> (String, String) {
        (self.me.user_id.clone(), other.to_owned())
    }

    async fn post(&mut self, number: usize) {
        let me = self.me;
        let content = format!("{} says {number}", me.username);
        let post = me.post(&content, &format!("key-{number}")).await.accepted();
        let id = post.value.parse().expect("an id is a number");
        let posted = (me.user_id.clone(), content);
        locked(self.model).posts.insert(id, posted);
        self.last = Some((post.consistency, BTreeSet::new()));
    }

    async fn follow(&mut self, other: &'a str) {
        // Its event comes after all that the followee has written by now.
        let written = locked(self.model).posts_of(other);
        let done = self.me.follow(other).await.accepted();
        locked(self.model).edges.insert(self.edge(other));
        // Who follows again changes nothing, and the token is that of long ago.
        if self.following.insert(other) {
            self.last = Some((done.consistency, written));
        }
    }

    /// Unfollows mostly a user who is followed, and else `other`.
    async fn unfollow(&mut self, other: &'a str) {
        let at = self.rng.random_range(0..=self.following.len());
        let other = self.following.iter().nth(at).copied().unwrap_or(other);
        let done = self.me.unfollow(other).await.accepted();
        locked(self.model).edges.remove(&self.edge(other));
        if self.following.remove(other) {
            self.last = Some((done.consistency, BTreeSet::new()));
        }
    }

    /// Now and then reads with the last token.
    async fn read(&mut self) {
        let Some((token, written)) = self.last.as_ref().filter(|_| self.rng.random_bool(0.15))
        else {
            return;
        };
        let limit = self.rng.random_range(4..20);
        let shown = self.me.scroll(limit, Some(token)).await;
        let mut promised = locked(self.model).posts_of(&self.me.user_id);
        promised.extend(written);
        check_own_view(self.me, &self.following, &promised, &shown);
    }
}

/// Checks a timeline that was read with the token of the reader's last command, while others go
/// on: it shows the reader's posts and those that the followee had written, only authors whom the
/// reader follows, newest first, each post once.
fn check_own_view(
    me: &Session,
    following: &BTreeSet<&str>,
    promised: &BTreeSet<u64>,
    shown: &[Post],
) {
    for post in shown {
        let author = post.user_id.as_str();
        assert!(
            author == me.user_id || following.contains(author),
            "{} is shown {post:?}",
            me.username
        );
    }
    let shown: Vec<u64> = lines(shown).into_iter().map(|(id, _)| id).collect();
    assert!(
        shown.windows(2).all(|pair| pair[0] > pair[1]),
        "{}: not newest first: {shown:?}",
        me.username
    );
    let missing: Vec<&u64> = promised.iter().filter(|id| !shown.contains(id)).collect();
    assert!(
        missing.is_empty(),
        "{} does not see {missing:?}",
        me.username
    );
}

fn lines(posts: &[Post]) -> Vec<(u64, String)> {
    let line = |post: &Post| {
        (
            post.entry_id.parse().expect("an id is a number"),
            post.content.clone(),
        )
    };
    posts.iter().map(line).collect()
}

fn locked(model: &Mutex<Model>) -> MutexGuard<'_, Model> {
    model.lock().expect("nobody panics while holding it")
}
