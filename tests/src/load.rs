//! Clients that send commands, retry or give up when the outcome is unknown, and record every
//! outcome.
//!
//! A command whose outcome is unknown may take effect later than the next one. So a client either
//! sends *the same* again until it is told (a post under its key, an edge's switch as it was), or
//! leaves it: that post is never sent again, that edge never touched again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use tokio::task::JoinHandle;

use crate::api::{Answer, Api, Outcome, Session};
use crate::history::{Action, Edge, History, Observed, Told, Verdict};
use crate::requests::Requests;

/// Clients at work, and what they recorded.
pub struct Load {
    pub history: Arc<History>,
    /// Each request of the clients.
    pub requests: Arc<Requests>,
    sessions: Vec<Session>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// How often a client asks again, and how long before it gives up for good.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const GIVE_UP: Duration = Duration::from_secs(60);
const READS_AT_ONCE: usize = 8;
/// Of clients that read too: reads for each command, and how many posts all of them talk of.
const READS: usize = 3;
const POSTS: usize = 50;
/// How often a client asks for what it has just written, with its token.
const ASKS_FOR_ITS_OWN: f64 = 0.1;

impl Load {
    /// Starts a client for each session. They post, and follow and unfollow each other and
    /// `followees`, with a pause of about `pace` after each command: a load, not a wait.
    pub fn start(sessions: Vec<Session>, followees: &[String], pace: Duration, seed: u64) -> Self {
        Self::begin(sessions, followees, pace, seed, None)
    }

    /// The same for clients that also like each other's posts, and read three times as often.
    pub fn start_mixed(sessions: Vec<Session>, pace: Duration, seed: u64) -> Self {
        Self::begin(sessions, &[], pace, seed, Some(Posts::default()))
    }

    fn begin(
        sessions: Vec<Session>,
        followees: &[String],
        pace: Duration,
        seed: u64,
        posts: Option<Posts>,
    ) -> Self {
        let (history, stop) = (Arc::<History>::default(), Arc::<AtomicBool>::default());
        let requests = Arc::<Requests>::default();
        let mut clients = Vec::new();
        for (session, number) in sessions.iter().zip(0_u64..) {
            let others = sessions
                .iter()
                .map(|other| &other.user_id)
                .filter(|id| **id != session.user_id);
            let client = Client {
                session: session.clone(),
                history: history.clone(),
                requests: requests.clone(),
                seen: posts.clone(),
                likes: BTreeMap::new(),
                edges: others
                    .chain(followees)
                    .map(|id| (id.clone(), false))
                    .collect(),
                rng: StdRng::seed_from_u64(seed ^ (number << 32)),
                pace,
                posts: 0,
            };
            clients.push(tokio::spawn(client.run(stop.clone())));
        }
        Self {
            history,
            requests,
            sessions,
            stop,
            clients,
        }
    }

    /// Waits until this many more commands were acknowledged.
    pub async fn acknowledged(&self, more: usize) {
        let wanted = self.history.acknowledged() + more;
        crate::eventually("commands are acknowledged", GIVE_UP, async || {
            (self.history.acknowledged() >= wanted).then_some(())
        })
        .await;
    }

    /// Stops the clients, each after its command.
    pub async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.await.expect("a client does not panic");
        }
    }

    /// Judges what the clients were told against the log and against what readers get. Everything
    /// must have caught up.
    pub async fn judge(&self, api: &Api, events: &mongodb::Collection<Document>) -> Verdict {
        let records = self.history.records().clone();
        let mut observed = Observed::default();
        let posts = doc! { "type": "post.created" };
        let mut posts = events
            .find(posts)
            .projection(doc! { "data.content": 1 })
            .await
            .expect("the log");
        while let Some(post) = posts.try_next().await.expect("the log") {
            let content = post
                .get_document("data")
                .and_then(|data| data.get_str("content"));
            let content = content.expect("a post has a content").to_owned();
            *observed.contents.entry(content).or_default() += 1;
        }
        let ids = records.iter().filter_map(|record| match &record.told {
            Told::Accepted(id) => id.clone(),
            Told::Refused | Told::Unknown => None,
        });
        let read = ids.map(|id| async move { api.post(&id).await.map(|post| (id, post.content)) });
        let read = stream::iter(read).buffer_unordered(READS_AT_ONCE);
        observed.readable = read.filter_map(std::future::ready).collect().await;
        for session in &self.sessions {
            let mine = records
                .iter()
                .filter(|record| record.client == session.user_id);
            let stand = mine.filter_map(|record| switched(&record.action));
            let stand: BTreeSet<(&str, bool)> = stand.collect();
            let stand = stand.into_iter().map(|switch| standing(session, switch));
            let stand = stream::iter(stand).buffer_unordered(READS_AT_ONCE);
            let stand = stand.filter_map(std::future::ready);
            observed.edges.extend(stand.collect::<Vec<_>>().await);
        }
        Verdict::of(&records, &observed)
    }
}

/// Where a command's edge leads, and whether that is a post.
fn switched(action: &Action) -> Option<(&str, bool)> {
    let is_post = matches!(action, Action::Like { .. } | Action::Unlike { .. });
    action.edge().map(|(to, _)| (to.as_str(), is_post))
}

/// The edge, if it stands.
async fn standing(session: &Session, (to, is_post): (&str, bool)) -> Option<Edge> {
    let stands = if is_post {
        session.likes(to).await
    } else {
        session.relationship(to).await.following
    };
    stands.then(|| (session.user_id.clone(), to.to_owned()))
}

/// The latest posts that clients were told of, for all of them to read and like.
#[derive(Clone, Default)]
struct Posts(Arc<Mutex<Vec<String>>>);

impl Posts {
    fn all(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: &str) {
        let mut all = self.all();
        if all.len() == POSTS {
            all.remove(0);
        }
        all.push(id.to_owned());
    }

    fn one(&self, rng: &mut StdRng) -> Option<String> {
        let all = self.all();
        let at = rng.random_range(0..all.len().max(1));
        all.get(at).cloned()
    }
}

struct Client {
    session: Session,
    history: Arc<History>,
    requests: Arc<Requests>,
    /// Of clients that read and like.
    seen: Option<Posts>,
    /// Whether this client likes them; `None` where it does not know, and leaves them alone.
    likes: BTreeMap<String, Option<bool>>,
    /// Whether this client follows them, of those that it may touch.
    edges: BTreeMap<String, bool>,
    rng: StdRng,
    pace: Duration,
    posts: u32,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let action = self.next_action();
            let command = self.history.invoke(&self.session.user_id, action.clone());
            let told = self.carry_out(&action).await;
            self.remember(&action, &told);
            self.history.told(command, told);
            self.pause().await;
            if let Some(seen) = self.seen.clone() {
                self.read(&seen).await;
            }
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.pace.mul_f64(self.rng.random_range(0.5..1.5))).await;
    }

    /// What people look at. Nothing is asked for again: the next read is another one.
    async fn read(&mut self, seen: &Posts) {
        for _ in 0..READS {
            let post = seen.one(&mut self.rng);
            let (kind, path) = match (self.rng.random_range(0..3), post) {
                (0, Some(post)) => ("read a post", format!("/posts/{post}")),
                (1, _) => {
                    let me = &self.session.user_id;
                    ("read a user's posts", format!("/users/{me}/posts"))
                }
                _ => ("read a timeline", "/timeline".to_owned()),
            };
            self.ask(kind, &path, None).await;
            self.pause().await;
        }
    }

    /// One query, counted. Done is what shows what is there.
    async fn ask(&self, kind: &'static str, path: &str, after: Option<&str>) -> bool {
        let said = match self.session.get(path, after).await {
            Ok(Answer { status, .. }) if status == StatusCode::OK => {
                self.requests.done(kind);
                return true;
            }
            // A post that somebody was told of a moment ago need not be visible yet.
            Ok(Answer { status, .. }) if status == StatusCode::NOT_FOUND && after.is_none() => {
                self.requests.done(kind);
                return true;
            }
            Ok(Answer { body, .. }) if body["code"] == "not_yet_visible" => {
                self.requests.not_yet(kind);
                return false;
            }
            Ok(Answer { status, body, .. }) => {
                // With a token it is there, or the answer is that it cannot be told yet.
                assert_ne!(status, StatusCode::NOT_FOUND, "{path} after its own token");
                format!("{status}: {body}")
            }
            Err(error) => error,
        };
        self.requests.failed(kind, &said);
        false
    }

    /// What this client has just written, until it can be read: it must be there then.
    async fn ask_for_own(&self, post: &str, token: &str) {
        let path = format!("/posts/{post}");
        let give_up = Instant::now() + GIVE_UP;
        while !self.ask("read one's own", &path, Some(token)).await && Instant::now() < give_up {
            // As `Retry-After` says.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn next_like(&mut self) -> Option<Action> {
        let post = self.seen.as_ref()?.one(&mut self.rng)?;
        match self.likes.get(&post) {
            Some(None) => None,
            Some(Some(true)) => Some(Action::Unlike { post }),
            Some(Some(false)) | None => Some(Action::Like { post }),
        }
    }

    fn next_action(&mut self) -> Action {
        if self.rng.random_bool(0.4)
            && let Some(like) = self.next_like()
        {
            return like;
        }
        let switch = self.rng.random_bool(0.5) && !self.edges.is_empty();
        if switch {
            let at = self.rng.random_range(0..self.edges.len());
            let (followee, on) = self.edges.iter().nth(at).expect("below the length");
            let followee = followee.clone();
            return if *on {
                Action::Unfollow { followee }
            } else {
                Action::Follow { followee }
            };
        }
        self.posts += 1;
        Action::Post {
            content: format!("{} says {}", self.session.username, self.posts),
        }
    }

    /// Sends it, and again where the outcome is unknown and this client wants to know.
    async fn carry_out(&mut self, action: &Action) -> Told {
        let give_up = Instant::now() + GIVE_UP;
        let mut doubtful = false;
        loop {
            let outcome = self.send(action).await;
            self.count(action, &outcome);
            match outcome {
                Outcome::Accepted(accepted) => {
                    if doubtful {
                        self.history.resolved_by_asking_again();
                    }
                    self.look_at(accepted.value.as_deref(), &accepted.consistency)
                        .await;
                    return Told::Accepted(accepted.value);
                }
                // What was unknown before may have happened whatever is said now.
                Outcome::Refused(why) if doubtful => panic!("asking again was refused: {why}"),
                Outcome::Refused(why) => panic!("nobody should refuse {action:?}: {why}"),
                Outcome::NotSent(_) if !doubtful => return Told::Refused,
                Outcome::NotSent(_) => (),
                Outcome::Unknown(_) => {
                    if !doubtful && self.rng.random_bool(0.3) {
                        return Told::Unknown;
                    }
                    doubtful = true;
                }
            }
            if Instant::now() > give_up {
                return Told::Unknown;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The value is the post's id, for a post.
    async fn send(&self, action: &Action) -> Outcome<Option<String>> {
        match action {
            // Its content names it: a key that two clients may well share, each has its own.
            Action::Post { content } => {
                let key = format!("post-{}", self.posts);
                self.session.post(content, &key).await.map(Some)
            }
            Action::Follow { followee } => self.session.follow(followee).await.map(|()| None),
            Action::Unfollow { followee } => self.session.unfollow(followee).await.map(|()| None),
            Action::Like { post } => self.session.like(post).await.map(|()| None),
            Action::Unlike { post } => self.session.unlike(post).await.map(|()| None),
        }
    }

    fn count(&self, action: &Action, outcome: &Outcome<Option<String>>) {
        match outcome {
            Outcome::Accepted(_) => self.requests.done(action.kind()),
            Outcome::Refused(why) | Outcome::NotSent(why) | Outcome::Unknown(why) => {
                self.requests.failed(action.kind(), why);
            }
        }
    }

    /// A new post, for others to see, and now and then for its author at once.
    async fn look_at(&mut self, post: Option<&str>, token: &str) {
        let (Some(seen), Some(post)) = (&self.seen, post) else {
            return;
        };
        seen.add(post);
        if self.rng.random_bool(ASKS_FOR_ITS_OWN) {
            self.ask_for_own(post, token).await;
        }
    }

    fn remember(&mut self, action: &Action, told: &Told) {
        let Some((to, on)) = action.edge() else {
            return;
        };
        let is_like = switched(action).is_some_and(|(_, is_post)| is_post);
        match told {
            Told::Accepted(_) if is_like => {
                self.likes.insert(to.clone(), Some(on));
            }
            Told::Accepted(_) => {
                self.edges.insert(to.clone(), on);
            }
            Told::Refused => (),
            Told::Unknown if is_like => {
                self.likes.insert(to.clone(), None);
            }
            Told::Unknown => {
                self.edges.remove(to);
            }
        }
    }
}
