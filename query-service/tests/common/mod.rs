//! A world of its own for each test: a database, a stream, a history, and a fold that can be
//! started and killed. The relay's part is played here: events go to the log and to the stream.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::HashMap;

use async_nats::HeaderMap;
use async_nats::jetstream;
use query_service::projection::Projector;
use query_service::projection::generations::FoldSettings;
use query_service::read_model::Views;
use query_service::startup::views_database;
use query_service::verify::{self, Report};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shared::engines::{self, Nats};
use shared::event_stream::{self, ChainHash};
use shared::events::{
    Bare, Edge, Event, LogStream, Payload, PostCreated, PostDeleted, PostRef, ProfileEdited,
    Unreposted, UserRegistered,
};
use shared::ids::{EntryId, EventId, Id, PostId, UserId};
use shared::log::LogDocument;
use shared::settings::Settings;
use shared::tasks::Tasks;
use shared::time::Timestamp;

pub struct World {
    pub settings: Settings,
    pub log: mongodb::Database,
    pub nats: Nats,
    pub history: History,
    pub idle_after: Option<std::time::Duration>,
    chain: ChainHash,
}

impl World {
    /// A new world; `MONGODB_URI` and `NATS_URL` say where the engines are.
    pub async fn new(name: &str, partitions: u16, threshold: u64, seed: u64) -> Self {
        let unique = format!("t_{name}_{:08x}", rand::random::<u32>());
        let mongo =
            std::env::var("MONGODB_URI").expect("MONGODB_URI: run the tests with `make test`");
        let (base, query) = mongo
            .split_once("/?")
            .unwrap_or((mongo.trim_end_matches('/'), ""));
        let uri = format!("{base}/{unique}?{query}");
        let nats = std::env::var("NATS_URL").expect("NATS_URL: run the tests with `make test`");
        let vars = [
            ("MONGODB_URI", uri),
            ("NATS_URL", nats),
            ("NATS_PREFIX", unique.to_lowercase()),
            ("PARTITIONS", partitions.to_string()),
            ("CELEBRITY_THRESHOLD", threshold.to_string()),
        ];
        let settings = Settings::from_vars(vars.map(|(name, value)| (name.into(), value.into())))
            .expect("valid settings");
        let log = engines::mongo(&settings.mongodb_uri, "test", 8)
            .await
            .expect("a database");
        let nats = engines::nats(&settings.nats_url, "test")
            .await
            .expect("a broker");
        let jetstream = jetstream::new(nats.client.clone());
        event_stream::ensure(&jetstream, &settings.names, 1)
            .await
            .expect("a stream");
        Self {
            settings,
            log,
            nats,
            history: History::new(seed),
            idle_after: None,
            chain: ChainHash::START,
        }
    }

    pub async fn views(&self) -> Views {
        let database = self.log.client().database(&views_database(self.log.name()));
        Views::open(&database, self.settings.partitions)
            .await
            .expect("views")
    }

    /// Starts a fold of all partitions; drop the tasks' stop signal to kill it.
    pub async fn fold(&self) -> Fold {
        let tasks = Tasks::default();
        let views = self.views().await;
        let (_, current) = tokio::sync::watch::channel(views.clone());
        let projector = Projector {
            views,
            current,
            settings: FoldSettings {
                idle_after: self.idle_after,
                ..FoldSettings::of(&self.settings)
            },
        };
        projector.spawn(&tasks, &tasks.stop_signal());
        Fold { tasks }
    }

    /// Writes events to the log and publishes them, as the relay does.
    pub async fn publish(&mut self, events: Vec<Event>) {
        let log = self.log.collection::<LogDocument>(shared::log::COLLECTION);
        let documents: Vec<_> = events
            .iter()
            .map(|event| LogDocument::new(event, event.actor, 1).expect("a document"))
            .collect();
        if documents.is_empty() {
            return;
        }
        log.insert_many(documents)
            .await
            .expect("the log takes events");
        let jetstream = jetstream::new(self.nats.client.clone());
        let mut acks = Vec::new();
        for event in events {
            self.chain = self.chain.then(event.id.get());
            let mut headers = HeaderMap::new();
            headers.insert(event_stream::CHAIN, self.chain.to_hex());
            headers.insert(event_stream::EVENT_ID, event.id.to_string());
            let subject = self.settings.names.event(&event.payload);
            acks.push(
                jetstream
                    .publish_with_headers(subject, headers, event.encode().into())
                    .await
                    .expect("published"),
            );
        }
        for ack in acks {
            ack.await.expect("acknowledged");
        }
    }

    /// Runs a command of the program itself.
    pub async fn query_service(
        &self,
        partitions: &str,
        arguments: &[&str],
    ) -> std::process::Output {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_query-service"))
            .args(arguments)
            .env("MONGODB_URI", self.settings.mongodb_uri.expose())
            .env("NATS_URL", self.settings.nats_url.expose())
            .env("NATS_PREFIX", self.settings.names.stream().to_lowercase())
            .env("PARTITIONS", partitions)
            .env(
                "CELEBRITY_THRESHOLD",
                self.settings.celebrity_threshold.to_string(),
            )
            .kill_on_drop(true)
            .output()
            .await
            .expect("the program runs")
    }

    /// Publishes something that is no event.
    pub async fn publish_junk(&self) {
        let jetstream = jetstream::new(self.nats.client.clone());
        let subject = self.settings.names.tick();
        jetstream
            .publish(subject, "junk".into())
            .await
            .expect("published")
            .await
            .expect("acknowledged");
    }

    pub async fn verify(&self) -> Report {
        verify::verify(&self.settings, std::time::Duration::from_secs(60))
            .await
            .expect("something to compare")
    }

    /// Verifies, and drops the world if nothing differs.
    pub async fn assert_equal_to_the_model(&self, context: &str) {
        let report = self.verify().await;
        let lines: Vec<_> = report.differences.values().flatten().take(5).collect();
        assert!(lines.is_empty(), "{context}: {lines:#?}");
    }

    pub async fn clean_up(self) {
        let views = self.log.client().database(&views_database(self.log.name()));
        let _ = views.drop().await;
        let _ = self.log.drop().await;
        let jetstream = jetstream::new(self.nats.client.clone());
        let _ = jetstream.delete_stream(self.settings.names.stream()).await;
    }
}

/// Waits until something holds; fails after half a minute.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let give_up = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < give_up,
            "not within 30 s: {what}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A running fold.
pub struct Fold {
    tasks: Tasks,
}

impl Fold {
    /// Stops in order: leases are released, checkpoints written.
    pub async fn stop(self) {
        self.tasks
            .stop_and_join(std::time::Duration::from_secs(10))
            .await;
    }
}

/// A random history that a command service could have written.
pub struct History {
    rng: StdRng,
    next: i64,
    users: Vec<UserId>,
    posts: Vec<(PostId, UserId, Option<PostRef>)>,
    versions: HashMap<LogStream, (i64, Option<EntryId>)>,
}

impl History {
    fn new(seed: u64) -> Self {
        // Ids of the recent past, a millisecond apart, so that windows of time matter.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_millis() as i64;
        Self {
            rng: StdRng::seed_from_u64(seed),
            next: (now - 3_600_000) << 16,
            users: Vec::new(),
            posts: Vec::new(),
            versions: HashMap::new(),
        }
    }

    pub fn users(&self) -> &[UserId] {
        &self.users
    }

    fn event(
        &mut self,
        actor: Option<UserId>,
        stream: impl FnOnce(EventId) -> LogStream,
        payload: Payload,
    ) -> Event {
        self.next += 1 << 16;
        let id: EventId = Id::new(self.next).expect("a positive id");
        let stream = stream(id);
        let version = self.versions.entry(stream).or_default();
        version.0 += 1;
        Event {
            id,
            stream,
            version: version.0,
            actor: actor.unwrap_or(id.cast()),
            at: Timestamp::from_millis(self.next >> 16),
            payload,
        }
    }

    pub fn register(&mut self) -> Event {
        let n = self.users.len();
        let user = UserRegistered {
            username: format!("user_{n}"),
            email: format!("user_{n}@example.com"),
            display_name: format!("User {n}"),
            bio: String::new(),
        };
        let event = self.event(
            None,
            |id| LogStream::User(id.cast()),
            Payload::UserRegistered(user),
        );
        self.users.push(event.id.cast());
        event
    }

    pub fn post(&mut self, author: UserId, reply_to: Option<PostRef>) -> Event {
        let content = format!("post {}", self.posts.len());
        let event = self.event(
            Some(author),
            |id| LogStream::Post(id.cast()),
            Payload::PostCreated(PostCreated { content, reply_to }),
        );
        self.posts.push((event.id.cast(), author, reply_to));
        event
    }

    /// Follows, or unfollows where the edge stands.
    pub fn toggle_follow(&mut self, follower: UserId, followee: UserId) -> Event {
        let stream = LogStream::Follow { follower, followee };
        let edge = Edge { follower, followee };
        let on = self
            .versions
            .get(&stream)
            .is_none_or(|(version, _)| version % 2 == 0);
        let payload = if on {
            Payload::Followed(edge)
        } else {
            Payload::Unfollowed(edge)
        };
        self.event(Some(follower), |_| stream, payload)
    }

    fn toggle_like(&mut self, user: UserId, post: PostRef) -> Event {
        let stream = LogStream::Like {
            user,
            post: post.post,
        };
        let on = self
            .versions
            .get(&stream)
            .is_none_or(|(version, _)| version % 2 == 0);
        let payload = if on {
            Payload::Liked(post)
        } else {
            Payload::Unliked(post)
        };
        self.event(Some(user), |_| stream, payload)
    }

    fn toggle_repost(&mut self, user: UserId, post: PostRef) -> Event {
        let stream = LogStream::Repost {
            user,
            post: post.post,
        };
        let withdrawn = self
            .versions
            .get(&stream)
            .filter(|(version, _)| version % 2 == 1)
            .and_then(|(_, entry)| *entry);
        let payload = match withdrawn {
            None => Payload::Reposted(post),
            Some(entry) => Payload::Unreposted(Unreposted {
                post: post.post,
                author: post.author,
                entry,
            }),
        };
        let event = self.event(Some(user), |_| stream, payload);
        if let Some(version) = self.versions.get_mut(&stream) {
            version.1 = Some(event.id.cast());
        }
        event
    }

    fn any_user(&mut self) -> UserId {
        self.users[self.rng.random_range(0..self.users.len())]
    }

    /// One random thing that somebody does.
    pub fn act(&mut self) -> Event {
        let actor = self.any_user();
        let other = self.any_user();
        let any_post = match self.posts.len() {
            0 => None,
            len => Some(self.rng.random_range(0..len)),
        };
        match (self.rng.random_range(0..100), any_post) {
            (0..30, _) if other != actor => self.toggle_follow(actor, other),
            (30..50, Some(at)) => {
                let (post, author, _) = self.posts[at];
                self.toggle_like(actor, PostRef { post, author })
            }
            (50..62, Some(at)) => {
                let (post, author, _) = self.posts[at];
                self.toggle_repost(actor, PostRef { post, author })
            }
            (62..70, Some(at)) => {
                let (post, author, reply_to) = self.posts.swap_remove(at);
                self.event(
                    Some(author),
                    |_| LogStream::Post(post),
                    Payload::PostDeleted(PostDeleted { post, reply_to }),
                )
            }
            (70..75, Some(at)) => {
                let (post, author, _) = self.posts[at];
                self.post(actor, Some(PostRef { post, author }))
            }
            (75..77, _) => {
                let profile = ProfileEdited {
                    display_name: format!("Again {}", self.next),
                    bio: "new".into(),
                };
                self.event(
                    Some(actor),
                    |_| LogStream::User(actor),
                    Payload::ProfileEdited(profile),
                )
            }
            (77, _) => self.event(
                Some(actor),
                |_| LogStream::User(actor),
                Payload::UserVerified(Bare {}),
            ),
            (78, _) if self.users.len() > 6 => {
                self.users.retain(|user| *user != actor);
                self.posts.retain(|(_, author, _)| *author != actor);
                self.event(
                    Some(actor),
                    |_| LogStream::User(actor),
                    Payload::UserDeactivated(Bare {}),
                )
            }
            _ => self.post(actor, None),
        }
    }
}
