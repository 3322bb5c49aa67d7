//! Clients that send commands, retry or give up when the outcome is unknown, and record every
//! outcome.
//!
//! A command whose outcome is unknown may take effect later than the next one. So a client either
//! sends *the same* again until it is told (a post under its key, an edge's switch as it was), or
//! leaves it: that post is never sent again, that edge never touched again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use crate::api::{Api, Outcome, Session};
use crate::history::{Action, History, Observed, Told, Verdict};

/// Clients at work, and what they recorded.
pub struct Load {
    pub history: Arc<History>,
    sessions: Vec<Session>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// How often a client asks again, and how long before it gives up for good.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const GIVE_UP: Duration = Duration::from_secs(60);
const READS_AT_ONCE: usize = 8;

impl Load {
    /// Starts a client for each session. They post, and follow and unfollow each other and
    /// `followees`, with a pause of about `pace` after each command: a load, not a wait.
    pub fn start(sessions: Vec<Session>, followees: &[String], pace: Duration, seed: u64) -> Self {
        let (history, stop) = (Arc::<History>::default(), Arc::<AtomicBool>::default());
        let mut clients = Vec::new();
        for (session, number) in sessions.iter().zip(0_u64..) {
            let others = sessions
                .iter()
                .map(|other| &other.user_id)
                .filter(|id| **id != session.user_id);
            let client = Client {
                session: session.clone(),
                history: history.clone(),
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
            let followees = mine.filter_map(|record| match &record.action {
                Action::Follow { followee } | Action::Unfollow { followee } => Some(followee),
                Action::Post { .. } => None,
            });
            let followees: BTreeSet<&String> = followees.collect();
            for followee in followees {
                if session.relationship(followee).await.following {
                    observed
                        .edges
                        .insert((session.user_id.clone(), followee.clone()));
                }
            }
        }
        Verdict::of(&records, &observed)
    }
}

struct Client {
    session: Session,
    history: Arc<History>,
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
            tokio::time::sleep(self.pace.mul_f64(self.rng.random_range(0.5..1.5))).await;
        }
    }

    fn next_action(&mut self) -> Action {
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
            match self.send(action).await {
                Outcome::Accepted(accepted) => {
                    if doubtful {
                        self.history.resolved_by_asking_again();
                    }
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
        }
    }

    fn remember(&mut self, action: &Action, told: &Told) {
        let (followee, on) = match action {
            Action::Post { .. } => return,
            Action::Follow { followee } => (followee, true),
            Action::Unfollow { followee } => (followee, false),
        };
        match told {
            Told::Accepted(_) => {
                self.edges.insert(followee.clone(), on);
            }
            Told::Refused => (),
            Told::Unknown => {
                self.edges.remove(followee);
            }
        }
    }
}
