//! People who do everything that depends on a secret, without a break: sign in, carry their sessions on,
//! post, read, scroll with cursors that they keep, and follow each other's live streams.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::Value;
use system_tests::api::{Answer, Api, Outcome, Session, Tokens};
use system_tests::eventually;
use system_tests::requests::Requests;
use system_tests::world::PATIENCE;
use tokio::task::JoinHandle;

use super::comings::Follower;

const PEOPLE: usize = 3;
/// What each waits after a request: a load, and not a wait for something.
const PACE: Duration = Duration::from_millis(60);
/// Every so many rounds a session is carried on, and somebody signs in anew.
const REFRESHES: u32 = 2;
const SIGNS_IN: u32 = 5;

pub struct People {
    pub requests: Arc<Requests>,
    /// What was acknowledged: ids and contents.
    posts: Arc<Mutex<Vec<(String, String)>>>,
    sessions: Vec<Arc<Mutex<Session>>>,
    followers: Vec<Follower>,
    rounds: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    at_work: Vec<JoinHandle<()>>,
}

impl People {
    /// Everybody follows everybody, and has posted enough to scroll through.
    pub async fn start(api: &Api) -> Self {
        let mut sessions = Vec::new();
        for number in 0..PEOPLE {
            sessions.push(register(api, &format!("person_{number}")).await);
        }
        for (one, other) in sessions
            .iter()
            .flat_map(|one| sessions.iter().map(move |other| (one, other)))
            .filter(|(one, other)| one.user_id != other.user_id)
        {
            eventually("a follow is accepted", PATIENCE, async || {
                let followed = one.follow(&other.user_id).await;
                matches!(followed, Outcome::Accepted(_)).then_some(())
            })
            .await;
        }
        let sessions: Vec<_> = sessions
            .into_iter()
            .map(|it| Arc::new(Mutex::new(it)))
            .collect();
        let followers = sessions.iter().cloned().map(Follower::of_current);
        let followers: Vec<Follower> = followers.collect();
        for follower in &followers {
            eventually("the live stream is open", PATIENCE, async || {
                (follower.heard().opened > 0).then_some(())
            })
            .await;
        }
        let mut people = Self {
            requests: Arc::default(),
            posts: Arc::default(),
            sessions,
            followers,
            rounds: Arc::default(),
            stop: Arc::default(),
            at_work: Vec::new(),
        };
        for session in people.sessions.clone() {
            let name = lock(&session).username.clone();
            let person = Person {
                api: api.clone(),
                name,
                session,
                refresh: String::new(),
                requests: people.requests.clone(),
                posts: people.posts.clone(),
                cursors: None,
                rounds: people.rounds.clone(),
            };
            let stop = people.stop.clone();
            people.at_work.push(tokio::spawn(person.live(stop)));
        }
        people.are_at_it().await;
        people
    }

    /// Waits until everybody has done everything at least once more.
    pub async fn are_at_it(&self) {
        let so_far = self.rounds.load(Ordering::Relaxed);
        let wanted = so_far + SIGNS_IN * u32::try_from(PEOPLE + 1).expect("a few");
        eventually("everything is done once more", PATIENCE, async || {
            (self.rounds.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// Waits until everybody's access token is of this key.
    pub async fn have_tokens_of(&self, key: &str) {
        eventually("all have tokens of the key", PATIENCE, async || {
            let mut tokens = self.sessions.iter();
            let all = tokens.all(|session| key_of(lock(session).token()) == key);
            all.then_some(())
        })
        .await;
    }

    /// An access token that somebody has now.
    pub fn some_token(&self) -> String {
        lock(&self.sessions[0]).token().to_owned()
    }

    /// Somebody, as they are now.
    pub fn somebody(&self) -> Session {
        lock(&self.sessions[0]).clone()
    }

    /// How often the live streams were opened, all together.
    pub fn streams_opened(&self) -> usize {
        let opened = self
            .followers
            .iter()
            .map(|follower| follower.heard().opened);
        opened.sum()
    }

    /// Stops everybody, each after a round. What was acknowledged.
    pub async fn stop(&mut self) -> Vec<(String, String)> {
        self.stop.store(true, Ordering::Relaxed);
        for one in join_all(self.at_work.drain(..)).await {
            one.expect("nobody panics");
        }
        self.posts().clone()
    }

    /// Waits until every live stream has told of every post of others, and stops them.
    pub async fn have_heard_of(self, posts: &[(String, String)]) {
        for (follower, session) in self.followers.into_iter().zip(self.sessions) {
            let me = lock(&session).username.clone();
            let mine = format!("{me} says ");
            let others = posts
                .iter()
                .filter(|(_, content)| !content.starts_with(&mine));
            let others: Vec<&String> = others.map(|(id, _)| id).collect();
            eventually("the reader has heard of all posts", PATIENCE, async || {
                let heard = follower.heard();
                let all = others.iter().all(|id| heard.posts.contains_key(*id));
                all.then_some(())
            })
            .await;
            println!("live stream of {me}: {}", follower.stop().await);
        }
    }

    fn posts(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        lock(&self.posts)
    }
}

/// A new user, however often that has to be asked for.
async fn register(api: &Api, name: &str) -> Session {
    let tokens = eventually("somebody registers and signs in", PATIENCE, async || {
        let email = format!("{name}@example.com");
        api.register_at(name, &email).await;
        api.sign_in(name).await.ok()
    })
    .await;
    api.session(name, &tokens.access_token).await
}

/// The id of the key that signed a token.
pub fn key_of(token: &str) -> String {
    let head = token.split('.').next().expect("a token has a head");
    let head = URL_SAFE_NO_PAD.decode(head).expect("base64url");
    let head: Value = serde_json::from_slice(&head).expect("JSON");
    head["kid"].as_str().expect("it names its key").to_owned()
}

struct Person {
    api: Api,
    name: String,
    session: Arc<Mutex<Session>>,
    refresh: String,
    requests: Arc<Requests>,
    posts: Arc<Mutex<Vec<(String, String)>>>,
    /// The first that this person ever got, and the newest.
    cursors: Option<(String, Option<String>)>,
    rounds: Arc<AtomicU32>,
}

impl Person {
    async fn live(mut self, stop: Arc<AtomicBool>) {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            if round % SIGNS_IN == 0 {
                let tokens = self.api.sign_in(&self.name).await;
                self.take("sign in", tokens);
            } else if round % REFRESHES == 0 {
                let tokens = self.api.refresh(&self.refresh).await;
                self.take("refresh", tokens);
            }
            let written = self.post(round).await;
            self.read("read a timeline", "/timeline", None).await;
            if let Some((id, token)) = written {
                let path = format!("/posts/{id}");
                self.read("read one's own", &path, Some(&token)).await;
            }
            self.scroll().await;
            round += 1;
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&mut self, kind: &'static str, tokens: Result<Tokens, String>) {
        match tokens {
            Ok(tokens) => {
                let mut session = lock(&self.session);
                *session = session.with_token(&tokens.access_token);
                self.refresh = tokens.refresh_token;
                self.requests.done(kind);
            }
            Err(said) => self.requests.failed(kind, &said),
        }
    }

    /// The id, and the token of the write.
    async fn post(&self, round: u32) -> Option<(String, String)> {
        let session = lock(&self.session).clone();
        let content = format!("{} says {round}", self.name);
        let posted = session.post(&content, &format!("post-{round}")).await;
        tokio::time::sleep(PACE).await;
        match posted {
            Outcome::Accepted(accepted) => {
                self.requests.done("post");
                lock(&self.posts).push((accepted.value.clone(), content));
                Some((accepted.value, accepted.consistency))
            }
            Outcome::Refused(why) | Outcome::NotSent(why) | Outcome::Unknown(why) => {
                self.requests.failed("post", &why);
                None
            }
        }
    }

    async fn read(&self, kind: &'static str, path: &str, after: Option<&str>) -> Option<Value> {
        let session = lock(&self.session).clone();
        let read = session.get(path, after).await;
        tokio::time::sleep(PACE).await;
        let said = match read {
            Ok(Answer { status, body, .. }) if status == 200 => {
                self.requests.done(kind);
                return Some(body);
            }
            Ok(Answer { body, .. }) if body["code"] == "not_yet_visible" => {
                self.requests.not_yet(kind);
                return None;
            }
            Ok(Answer { status, body, .. }) => format!("{status}: {body}"),
            Err(error) => error,
        };
        self.requests.failed(kind, &said);
        None
    }

    /// A page further down; at the end once more from behind the first page that this person ever saw.
    async fn scroll(&mut self) {
        let at = match &self.cursors {
            Some((first, newest)) => format!("&cursor={}", newest.as_ref().unwrap_or(first)),
            None => String::new(),
        };
        let path = format!("/timeline?limit=3{at}");
        let Some(page) = self.read("scroll", &path, None).await else {
            return;
        };
        let next = page["next_cursor"].as_str().map(str::to_owned);
        match (&mut self.cursors, next) {
            (Some((_, newest)), next) => *newest = next,
            (first @ None, Some(next)) => *first = Some((next, None)),
            (None, None) => (),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
