//! Tokens are monotone: whatever two commands a user sends one after the other, a read with the
//! token of the second shows the first; also where the second changes nothing, signs in, or asks
//! again under the same key, and through whichever processes they go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use shared::contract::consistency::{self, ConsistencyToken};
use system_tests::api::PASSWORD;
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually, http_client, is_long, seed};

use super::text;

/// The processes, each answering for all.
struct Places {
    http: reqwest::Client,
    commands: [String; 2],
    queries: [String; 2],
}

/// What a command is promised to have done, as a read shows it.
#[derive(Clone, Debug, PartialEq)]
enum Effect {
    Nothing,
    Post { id: String, there: bool },
    Liked { post: String, on: bool },
    Reposted { post: String, on: bool },
    Following { whom: String, on: bool },
    Name(String),
}

impl Effect {
    /// Whether another effect may have undone it.
    fn concerns_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Post { id, .. }, Self::Post { id: other, .. }) => id == other,
            (Self::Liked { post, .. }, Self::Liked { post: other, .. })
            | (Self::Reposted { post, .. }, Self::Reposted { post: other, .. }) => post == other,
            (Self::Following { whom, .. }, Self::Following { whom: other, .. }) => whom == other,
            (Self::Name(_), Self::Name(_)) => true,
            _ => false,
        }
    }
}

/// Whether an answer shows an effect.
type IsRight = Box<dyn Fn(StatusCode, &Value) -> bool + Send>;

/// A command that was accepted.
struct Done {
    kind: &'static str,
    effect: Effect,
    token: String,
}

/// A user, and what they have done so far.
struct Actor {
    places: Arc<Places>,
    rng: StdRng,
    id: String,
    username: String,
    access: String,
    refresh: String,
    /// Posts that are never deleted.
    keepers: Arc<Vec<String>>,
    others: Vec<String>,
    /// Own posts with their keys and contents.
    posts: Vec<(String, String)>,
    deleted: Vec<String>,
    likes: BTreeMap<String, bool>,
    reposts: BTreeMap<String, bool>,
    follows: BTreeMap<String, bool>,
    name: String,
    number: usize,
}

#[derive(Default)]
struct Found {
    pairs: usize,
    kinds: BTreeMap<(&'static str, &'static str), usize>,
    misses: Vec<String>,
    /// Reads whose token named its own command alone, and those that missed the other.
    controls: usize,
    controls_missed: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_shows_what_its_user_had_accepted_before_whatever_the_two_commands() {
    const ACTORS: usize = 8;
    let _alone = alone().await;
    let seed = seed("pairs");
    let pairs = if is_long() { 10_000 } else { 240 };
    let world = World::start(&[("CELEBRITY_THRESHOLD", "12")]).await;
    let (command, query) = (world.another(&world.command), world.another(&world.query));
    tokio::join!(command.start(), query.start());
    let base = |address: &str| format!("{address}/api/v1");
    let places = Arc::new(Places {
        http: http_client(None),
        commands: [base(&world.command.api), base(&command.api)],
        queries: [base(&world.query.api), base(&query.api)],
    });
    let mut actors = Vec::new();
    for number in 0..ACTORS {
        actors.push(Actor::register(places.clone(), number, seed).await);
    }
    let keepers: Vec<String> = join_all(actors.iter_mut().map(Actor::keeper)).await;
    let keepers = Arc::new(keepers);
    let ids: Vec<String> = actors.iter().map(|actor| actor.id.clone()).collect();
    for actor in &mut actors {
        actor.keepers = keepers.clone();
        actor.others = ids.iter().filter(|id| **id != actor.id).cloned().collect();
    }
    let begun = Instant::now();
    let found = join_all(actors.into_iter().map(|actor| actor.run(pairs / ACTORS))).await;
    let took = begun.elapsed();
    let mut all = Found::default();
    for found in found {
        all.pairs += found.pairs;
        all.misses.extend(found.misses);
        all.controls += found.controls;
        all.controls_missed += found.controls_missed;
        for (kind, count) in found.kinds {
            *all.kinds.entry(kind).or_default() += count;
        }
    }
    println!(
        "{} pairs of commands, {} different ones, two processes of each service, {took:.1?}: {} misses",
        all.pairs,
        all.kinds.len(),
        all.misses.len()
    );
    println!(
        "with tokens that name their own command alone: {} of {} missed",
        all.controls_missed, all.controls
    );
    assert_eq!(all.misses, Vec::<String>::new());
    assert_eq!(all.pairs, pairs / ACTORS * ACTORS);
    assert!(all.controls_missed > 0, "the control finds nothing");
    println!("{}", world.verify().await);
}

impl Actor {
    async fn register(places: Arc<Places>, number: usize, seed: u64) -> Self {
        let username = format!("actor_{number}");
        let mut actor = Self {
            places,
            rng: StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 32)),
            id: String::new(),
            username: username.clone(),
            access: String::new(),
            refresh: String::new(),
            keepers: Arc::default(),
            others: Vec::new(),
            posts: Vec::new(),
            deleted: Vec::new(),
            likes: BTreeMap::new(),
            reposts: BTreeMap::new(),
            follows: BTreeMap::new(),
            name: username.clone(),
            number: 0,
        };
        let body = json!({ "username": username, "email": format!("{username}@example.com"),
            "password": PASSWORD });
        let (user, _) = actor.send(Method::POST, "/users", Some(body), None).await;
        text(&user, "user_id").clone_into(&mut actor.id);
        actor.login().await;
        actor
    }

    async fn keeper(&mut self) -> String {
        let body = json!({ "content": "stays" });
        let (post, _) = self.send(Method::POST, "/posts", Some(body), None).await;
        text(&post, "post_id").to_owned()
    }

    async fn login(&mut self) -> String {
        let body = json!({ "username": self.username, "password": PASSWORD });
        let (tokens, token) = self
            .send(Method::POST, "/auth/login", Some(body), None)
            .await;
        self.take(&tokens);
        token
    }

    fn take(&mut self, tokens: &Value) {
        text(tokens, "access_token").clone_into(&mut self.access);
        text(tokens, "refresh_token").clone_into(&mut self.refresh);
    }

    /// Sends a command to one of the two processes: what it answers, and the token.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> (Value, String) {
        let base = &self.places.commands[self.rng.random_range(0..2)];
        let url = format!("{base}{path}");
        let mut request = self.places.http.request(method, &url);
        if !self.access.is_empty() {
            request = request.bearer_auth(&self.access);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let token = answer.headers().get(consistency::HEADER).cloned();
        let value: Value = answer.json().await.unwrap_or_default();
        assert!(status.is_success(), "{path}: {status}: {value}");
        let token = token.expect("every accepted command has a token");
        (value, token.to_str().expect("text").to_owned())
    }

    async fn run(mut self, pairs: usize) -> Found {
        let mut found = Found::default();
        for _ in 0..pairs {
            let first = self.act().await;
            let second = self.act().await;
            found.pairs += 1;
            *found.kinds.entry((first.kind, second.kind)).or_default() += 1;
            if second.effect == Effect::Nothing {
                self.control(&first, &second, &mut found).await;
            }
            for (done, undone_by) in [(&first, Some(&second)), (&second, None)] {
                if undone_by.is_some_and(|later| later.effect.concerns_the_same(&done.effect)) {
                    continue;
                }
                if let Some(shown) = self.contradiction(&done.effect, &second.token).await {
                    found.misses.push(format!(
                        "{} then {}: {:?} of {} is not shown: {shown}",
                        first.kind, second.kind, done.effect, done.kind
                    ));
                }
            }
        }
        found
    }

    /// The same read with what the second command was about alone: mostly it comes too early.
    async fn control(&mut self, first: &Done, second: &Done, found: &mut Found) {
        let Effect::Post { id, there: true } = &first.effect else {
            return;
        };
        let mut token = ConsistencyToken::decode(&second.token).expect("a token");
        token.latest.clear();
        let answer = self.read(&format!("/posts/{id}"), &token.encode()).await;
        found.controls += 1;
        found.controls_missed += usize::from(answer.0 == StatusCode::NOT_FOUND);
    }

    /// One of the two processes' answer, once it can reflect the token.
    async fn read(&mut self, path: &str, token: &str) -> (StatusCode, Value) {
        let base = self.places.queries[self.rng.random_range(0..2)].clone();
        let (url, places) = (format!("{base}{path}"), self.places.clone());
        eventually("the write is visible", PATIENCE, async || {
            let request = places.http.get(&url).bearer_auth(&self.access);
            let request = request.header(consistency::HEADER, token);
            let answer = request.send().await.expect("an answer");
            let status = answer.status();
            let body = answer.json().await.unwrap_or_default();
            (status != StatusCode::SERVICE_UNAVAILABLE).then_some((status, body))
        })
        .await
    }

    /// What a read with this token shows instead of the effect; nothing if it shows that.
    async fn contradiction(&mut self, effect: &Effect, token: &str) -> Option<String> {
        let (path, is_right): (String, IsRight) = match effect.clone() {
            Effect::Nothing => return None,
            Effect::Post { id, there } => {
                let is_right = move |status, _: &Value| (status == StatusCode::OK) == there;
                (format!("/posts/{id}"), Box::new(is_right))
            }
            Effect::Liked { post, on } => (
                format!("/posts/{post}"),
                Box::new(move |_, body| body["liked"] == on),
            ),
            Effect::Reposted { post, on } => (
                format!("/posts/{post}"),
                Box::new(move |_, body| body["reposted"] == on),
            ),
            Effect::Following { whom, on } => (
                format!("/users/{whom}/relationship"),
                Box::new(move |_, body| body["following"] == on),
            ),
            Effect::Name(name) => (
                format!("/users/{}", self.id),
                Box::new(move |_, body| body["display_name"] == name),
            ),
        };
        let (status, body) = self.read(&path, token).await;
        (!is_right(status, &body)).then(|| format!("{status} {body}"))
    }

    /// A random command; about half of them change nothing.
    async fn act(&mut self) -> Done {
        self.number += 1;
        let again = self.rng.random_bool(0.4);
        match self.rng.random_range(0..100) {
            0..20 => self.post(again).await,
            20..28 => self.answer().await,
            28..38 => self.delete(again).await,
            38..54 => self.react(again, true).await,
            54..66 => self.react(again, false).await,
            66..84 => self.follow(again).await,
            84..92 => self.rename(again).await,
            92..95 => {
                let token = self.login().await;
                self.done("login", Effect::Nothing, token)
            }
            95..98 => {
                let body = json!({ "refresh_token": self.refresh });
                let (tokens, token) = self
                    .send(Method::POST, "/auth/refresh", Some(body), None)
                    .await;
                self.take(&tokens);
                self.done("refresh", Effect::Nothing, token)
            }
            _ => {
                let body = json!({ "refresh_token": self.refresh });
                let (_, token) = self
                    .send(Method::POST, "/auth/logout", Some(body), None)
                    .await;
                let done = self.done("logout", Effect::Nothing, token);
                // A session for later; the access token is good for longer.
                let body = json!({ "username": self.username, "password": PASSWORD });
                let (tokens, _) = self
                    .send(Method::POST, "/auth/login", Some(body), None)
                    .await;
                self.take(&tokens);
                done
            }
        }
    }

    fn done(&self, kind: &'static str, effect: Effect, token: String) -> Done {
        Done {
            kind,
            effect,
            token,
        }
    }

    async fn post(&mut self, again: bool) -> Done {
        let (key, content, kind) = match self.posts.choose(&mut self.rng).cloned() {
            // The same key and content: the first answer once more.
            Some((id, key)) if again => {
                let body = json!({ "content": key });
                let (post, token) = self
                    .send(Method::POST, "/posts", Some(body), Some(&key))
                    .await;
                assert_eq!(text(&post, "post_id"), id);
                let effect = Effect::Nothing;
                return self.done("post again", effect, token);
            }
            _ => {
                let key = format!("{}-{}", self.username, self.number);
                (key.clone(), key, "post")
            }
        };
        let body = json!({ "content": content });
        let (post, token) = self
            .send(Method::POST, "/posts", Some(body), Some(&key))
            .await;
        let id = text(&post, "post_id").to_owned();
        self.posts.push((id.clone(), key));
        self.done(kind, Effect::Post { id, there: true }, token)
    }

    async fn answer(&mut self) -> Done {
        let parent = self.keeper_of_somebody();
        let content = format!("{} answers {}", self.username, self.number);
        let body = json!({ "content": content, "reply_to_post_id": parent });
        let (post, token) = self.send(Method::POST, "/posts", Some(body), None).await;
        let id = text(&post, "post_id").to_owned();
        self.done("reply", Effect::Post { id, there: true }, token)
    }

    async fn delete(&mut self, again: bool) -> Done {
        let old = self.deleted.choose(&mut self.rng).cloned();
        let (kind, id) = match old.filter(|_| again) {
            Some(id) => ("delete again", id),
            None if self.posts.is_empty() => return self.post(false).await,
            None => {
                let at = self.rng.random_range(0..self.posts.len());
                ("delete", self.posts.swap_remove(at).0)
            }
        };
        let path = format!("/posts/{id}");
        let (_, token) = self.send(Method::DELETE, &path, None, None).await;
        if kind == "delete again" {
            return self.done(kind, Effect::Nothing, token);
        }
        self.deleted.push(id.clone());
        self.done(kind, Effect::Post { id, there: false }, token)
    }

    fn keeper_of_somebody(&mut self) -> String {
        self.keepers
            .choose(&mut self.rng)
            .expect("everybody has one")
            .clone()
    }

    async fn react(&mut self, again: bool, like: bool) -> Done {
        let post = self.keeper_of_somebody();
        let known = if like { &self.likes } else { &self.reposts };
        let before = known.get(&post).copied().unwrap_or(false);
        let on = before == again;
        let (method, kind) = match (on, again, like) {
            (true, false, true) => (Method::POST, "like"),
            (true, true, true) => (Method::POST, "like again"),
            (false, false, true) => (Method::DELETE, "unlike"),
            (false, true, true) => (Method::DELETE, "unlike again"),
            (true, false, false) => (Method::POST, "repost"),
            (true, true, false) => (Method::POST, "repost again"),
            (false, false, false) => (Method::DELETE, "unrepost"),
            (false, true, false) => (Method::DELETE, "unrepost again"),
        };
        let what = if like { "like" } else { "repost" };
        let path = format!("/posts/{post}/{what}");
        let (_, token) = self.send(method, &path, None, None).await;
        if again {
            return self.done(kind, Effect::Nothing, token);
        }
        let effect = if like {
            self.likes.insert(post.clone(), on);
            Effect::Liked { post, on }
        } else {
            self.reposts.insert(post.clone(), on);
            Effect::Reposted { post, on }
        };
        self.done(kind, effect, token)
    }

    async fn follow(&mut self, again: bool) -> Done {
        let whom = self.others.choose(&mut self.rng).expect("others").clone();
        let before = self.follows.get(&whom).copied().unwrap_or(false);
        let on = before == again;
        let (method, kind) = match (on, again) {
            (true, false) => (Method::POST, "follow"),
            (true, true) => (Method::POST, "follow again"),
            (false, false) => (Method::DELETE, "unfollow"),
            (false, true) => (Method::DELETE, "unfollow again"),
        };
        let path = format!("/users/{whom}/follow");
        let (_, token) = self.send(method, &path, None, None).await;
        if again {
            return self.done(kind, Effect::Nothing, token);
        }
        self.follows.insert(whom.clone(), on);
        self.done(kind, Effect::Following { whom, on }, token)
    }

    async fn rename(&mut self, again: bool) -> Done {
        if !again {
            self.name = format!("{} {}", self.username, self.number);
        }
        let body = json!({ "display_name": self.name });
        let (_, token) = self
            .send(Method::PATCH, "/users/me", Some(body), None)
            .await;
        if again {
            return self.done("rename again", Effect::Nothing, token);
        }
        let effect = Effect::Name(self.name.clone());
        self.done("rename", effect, token)
    }
}
