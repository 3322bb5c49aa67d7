//! A world of its own for each test: a database, a stream, a history, and a fold that can be
//! started, stopped and killed. The relay's part is played here: events go to the log and to the
//! stream.

#![allow(dead_code, reason = "each test uses a part of it")]

mod by_ids;
mod history;
mod message;
mod running;

pub use history::History;
pub use running::Fold;

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Document, doc};
use query_service::operator::verify::model::{Model, pages};
use query_service::operator::verify::{self, Line, List, Report, Visible};
use query_service::projection::Projector;
use query_service::projection::memory::Memory;
use query_service::projection::settings::FoldSettings;
use query_service::projection::stream_check::StreamCheck;
use query_service::reads::ReadModel;
use query_service::reads::bodies::PostView;
use query_service::reads::budget::{ReadBudget, ReadLimits};
use query_service::views::ViewWriter;
use query_service::views::fail_point::FailPoint;
use query_service::views::generation::{Catalog, Generation, View};
use query_service::views::keys::binary;
use rand::RngExt;
use rand::seq::IndexedRandom;
use shared::connections::{self, Nats};
use shared::contract::event_stream::{self, ChainHash};
use shared::contract::events::Event;
use shared::contract::ids::{PostId, UserId};
use shared::contract::log::LogDocument;
use shared::runtime::settings::Settings;
use shared::runtime::tasks::Tasks;

pub struct World {
    pub settings: Settings,
    pub log: mongodb::Database,
    pub nats: Nats,
    pub history: History,
    pub idle_after: Option<Duration>,
    pub memory: Memory,
    /// Built into views and folds from here on.
    pub fail_point: Option<FailPoint>,
    chain: ChainHash,
    published: Vec<Event>,
    /// The stream's end.
    end: u64,
}

impl World {
    /// A new world; `MONGODB_URI` and `NATS_URL` say where the engines are.
    pub async fn new(name: &str, partitions: u16, threshold: u64, seed: u64) -> Self {
        let nats = std::env::var("NATS_URL").expect("NATS_URL: run the tests with `make test`");
        Self::on(nats, name, partitions, threshold, seed).await
    }

    /// A new world on another broker.
    pub async fn on(nats: String, name: &str, partitions: u16, threshold: u64, seed: u64) -> Self {
        let unique = format!("t_{name}_{:08x}", rand::random::<u32>());
        let mongo =
            std::env::var("MONGODB_URI").expect("MONGODB_URI: run the tests with `make test`");
        let (base, query) = mongo
            .split_once("/?")
            .unwrap_or((mongo.trim_end_matches('/'), ""));
        let uri = format!("{base}/{unique}?{query}");
        let vars = [
            ("MONGODB_URI", uri),
            ("NATS_URL", nats),
            ("NATS_PREFIX", unique.to_lowercase()),
            ("PARTITIONS", partitions.to_string()),
            ("CELEBRITY_THRESHOLD", threshold.to_string()),
        ];
        let settings = Settings::from_vars(vars.map(|(name, value)| (name.into(), value.into())))
            .expect("valid settings");
        let log = connections::mongo(&settings.mongodb_uri, "test", 8)
            .await
            .expect("a database");
        let nats = connections::nats(&settings.nats, "test")
            .await
            .expect("a broker");
        let jetstream = nats.jetstream();
        event_stream::ensure(&jetstream, &settings.names, 1, None)
            .await
            .expect("a stream");
        Self {
            settings,
            log,
            nats,
            history: History::new(seed),
            idle_after: None,
            memory: Memory::default(),
            fail_point: None,
            chain: ChainHash::START,
            published: Vec::new(),
            end: 0,
        }
    }

    pub async fn views(&self) -> ReadModel {
        open(&self.log, &self.settings, self.fail_point).await
    }

    /// Starts a fold of all partitions.
    pub async fn fold(&self) -> Fold {
        self.fold_of(None).await.0
    }

    /// Starts a fold of a generation that readers are not shown yet; they are once it is sent.
    pub async fn fold_beside(
        &self,
        generation: Generation,
    ) -> (Fold, tokio::sync::watch::Sender<ReadModel>) {
        self.fold_of(Some(generation)).await
    }

    async fn fold_of(
        &self,
        other: Option<Generation>,
    ) -> (Fold, tokio::sync::watch::Sender<ReadModel>) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let tasks = Tasks::default();
        let (settings, fail_point) = (self.settings.clone(), self.fail_point);
        let (idle_after, memory, owned) = (self.idle_after, self.memory, tasks.clone());
        // Connections of its own, too: they go with it.
        let started = runtime.spawn(async move {
            let log = connections::mongo(&settings.mongodb_uri, "fold", 8).await;
            let log = log.expect("a database");
            let views = open(&log, &settings, fail_point).await;
            let check = StreamCheck::of(&settings).await.expect("a check");
            let (switch, current) = tokio::sync::watch::channel(views.clone());
            let folded = match other {
                Some(other) => ViewWriter::of(other).await.expect("views"),
                None => writer(&views).await.with_fail_point(fail_point),
            };
            let projector = Projector {
                views: folded,
                current,
                settings: FoldSettings {
                    idle_after,
                    memory,
                    ..FoldSettings::of(&settings, check, &owned)
                },
            };
            projector.spawn(&owned, &owned.stop_signal());
            switch
        });
        let switch = started.await.expect("a fold");
        (Fold { runtime, tasks }, switch)
    }

    pub fn views_database(&self) -> mongodb::Database {
        let name = connections::views_database(&self.settings);
        self.log.client().database(&name)
    }

    /// The numbers of all generations there are: in the catalog, and by what is stored.
    pub async fn generations(&self) -> Vec<i64> {
        let database = self.views_database();
        let all = Catalog::new(&database).all().await.expect("views");
        let numbers: BTreeSet<i64> = all.iter().map(|generation| generation.number).collect();
        let names = database.list_collection_names().await.expect("views");
        let stored: BTreeSet<i64> = names
            .iter()
            .filter_map(|name| name.strip_prefix('g')?.split_once('_')?.0.parse().ok())
            .collect();
        assert_eq!(numbers, stored, "{names:?}");
        numbers.into_iter().collect()
    }

    /// Lets go of what a killed fold held: nobody waits for leases to run out.
    pub async fn expire_leases(&self) {
        let views = self
            .log
            .client()
            .database(&connections::views_database(&self.settings));
        let generations = Catalog::new(&views).all().await.expect("views");
        let expired = doc! { "$set": { "expires_at": bson::DateTime::MIN } };
        for generation in generations {
            generation
                .leases()
                .update_many(doc! {}, expired.clone())
                .await
                .expect("leases");
        }
    }

    /// Writes events to the log and publishes them, as the relay does.
    pub async fn publish(&mut self, events: Vec<Event>) {
        let log = self
            .log
            .collection::<LogDocument>(shared::contract::log::COLLECTION);
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
        self.published.extend_from_slice(&events);
        let jetstream = self.nats.jetstream();
        let mut acks = Vec::new();
        for event in events {
            self.chain = self.chain.then(event.id.get());
            let headers = message::headers(&self.settings.names, &event, self.chain);
            let subject = self.settings.names.event(&event.payload);
            acks.push(
                jetstream
                    .publish_with_headers(subject, headers, event.encode().into())
                    .await
                    .expect("published"),
            );
        }
        for ack in acks {
            self.end = ack.await.expect("acknowledged").sequence;
        }
    }

    /// What was published is gone, and so is the past: from here on it is another log.
    pub fn forget_published(&mut self) {
        self.published.clear();
        (self.chain, self.end) = (ChainHash::START, 0);
        self.history = History::new(self.history.rng.random());
    }

    /// Runs a command of the program itself.
    pub async fn query_service(
        &self,
        partitions: &str,
        arguments: &[&str],
    ) -> std::process::Output {
        let mut program = self.program(partitions, arguments);
        program.output().await.expect("the program runs")
    }

    /// Starts a projector as it is deployed: it folds every generation, and follows switches.
    pub fn projector(&self, partitions: &str) -> tokio::process::Child {
        let mut program = self.program(partitions, &["--role", "projector"]);
        program
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        program.spawn().expect("the program runs")
    }

    fn program(&self, partitions: &str, arguments: &[&str]) -> tokio::process::Command {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_query-service"));
        program
            .args(arguments)
            .env("QUERY_ADDR", "127.0.0.1:0")
            .env("QUERY_OPS_ADDR", "127.0.0.1:0")
            .env("MONGODB_URI", self.settings.mongodb_uri.expose())
            .env("NATS_URL", self.settings.nats.url().expose())
            .env("NATS_PREFIX", self.settings.names.stream().to_lowercase())
            .env("PARTITIONS", partitions)
            .env(
                "CELEBRITY_THRESHOLD",
                self.settings.celebrity_threshold.to_string(),
            )
            .kill_on_drop(true);
        program
    }

    /// How many entries of a reader are stored, and down to where they are complete.
    pub async fn stored(&self, views: &ReadModel, reader: UserId) -> (u64, i64) {
        let entries = views.generation().collection::<Document>(View::Timeline);
        let first = [reader.to_key(), [0; 8]].concat();
        let last = [reader.to_key(), [0xff; 8]].concat();
        let range = doc! { "_id": { "$gte": binary(first), "$lte": binary(last) } };
        let count = entries.count_documents(range).await.expect("entries");
        let horizons = views
            .generation()
            .horizons(&[reader])
            .await
            .expect("readers");
        (count, horizons.get(&reader).copied().unwrap_or(0))
    }

    /// Who is inactive, in all partitions.
    pub async fn inactive(&self, views: &ReadModel) -> BTreeSet<UserId> {
        let mut inactive = BTreeSet::new();
        for partition in views.partitions().all() {
            inactive.extend(
                views
                    .generation()
                    .some_inactive(partition, 1_000)
                    .await
                    .expect("readers"),
            );
        }
        inactive
    }

    /// Publishes something that is no event.
    pub async fn publish_junk(&mut self) {
        let jetstream = self.nats.jetstream();
        let subject = self.settings.names.tick();
        let ack = jetstream
            .publish(subject, "junk".into())
            .await
            .expect("published");
        self.end = ack.await.expect("acknowledged").sequence;
    }

    /// Waits until everything that was published is folded.
    pub async fn caught_up(&self, views: &ReadModel) {
        eventually("everything is folded", async || {
            views.position_now().await.is_ok_and(|at| at >= self.end)
        })
        .await;
    }

    /// What should be visible now.
    pub fn model(&self) -> Model {
        Model::of(self.published.clone())
    }

    /// Reads as clients do while the fold goes on, and checks what is true at any moment: newest
    /// first, and no page shows a post twice.
    pub async fn read_meanwhile(&mut self, views: &ReadModel) {
        let reader = self.history.any_user();
        let limit = self.history.rng.random_range(1..30);
        let scroll = List::Home.scroll(views, reader, limit).await;
        let pages = scroll.expect("a timeline").pages;
        let mut last = i64::MAX;
        for page in &pages {
            let mut posts = BTreeSet::new();
            for line in page {
                let Line::Post(post) = line else {
                    panic!("a timeline is of posts")
                };
                assert!(post.entry_id.get() < last, "newest first: {pages:#?}");
                last = post.entry_id.get();
                assert!(posts.insert(post.post_id), "once a page: {page:#?}");
            }
        }
    }

    /// Everything that anybody can see, in pages of random sizes, against the model: a line for
    /// each difference.
    pub async fn differences(&mut self, views: &ReadModel) -> Vec<String> {
        self.caught_up(views).await;
        let model = self.model();
        let mut differences = Vec::new();
        let users: Vec<UserId> = model.users().collect();
        for user in &users {
            let shown = Visible::of(views, *user).await.expect("views");
            let expected = model.visible(*user, &shown.cuts);
            differences.extend(expected.differences(*user, &shown));
            differences.extend(self.random_pages(&model, views, *user).await);
            // A few of them: all pairs, over many looks.
            for other in users.sample(&mut self.history.rng, 4) {
                let expected = model.relationship(*user, *other);
                let shown = views.relationship(*user, *other).await.expect("views");
                if shown != expected {
                    differences.push(format!("{user} and {other}: {expected:?}, {shown:?}"));
                }
            }
        }
        let posts: Vec<PostId> = model.posts().collect();
        for post in posts {
            let limit = self.history.rng.random_range(1..5);
            let list = List::Replies(post);
            let shown = list.scroll(views, users[0], limit).await.expect("views");
            let expected = paged(&model.replies_to(post), limit, &shown.cuts);
            if shown.pages != expected {
                differences.push(format!("{list:?}: expected {expected:?}, shown {shown:?}"));
            }
        }
        differences.extend(self.differences_by_ids(&model, views).await);
        differences
    }

    /// The same for one reader's timeline and posts.
    async fn random_pages(
        &mut self,
        model: &Model,
        views: &ReadModel,
        user: UserId,
    ) -> Vec<String> {
        if model.user(user).is_none() {
            return Vec::new();
        }
        let mut differences = Vec::new();
        for (list, expected) in [
            (List::Home, model.home(user)),
            (List::Posts, model.posts_of(user)),
        ] {
            let limit = self.history.rng.random_range(1..12);
            // Now and then every page ends after its first step.
            let views = if self.history.rng.random_bool(0.3) {
                &hasty(views)
            } else {
                views
            };
            let shown = list.scroll(views, user, limit).await.expect("views");
            let expected = paged(&expected, limit, &shown.cuts);
            if shown.pages != expected {
                differences.push(format!(
                    "{user}: {list:?} by {limit}: expected {expected:?}, shown {shown:?}"
                ));
            }
        }
        differences
    }

    pub async fn verify(&self) -> Report {
        verify::verify(&self.settings, Duration::from_secs(90))
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
        let views = self
            .log
            .client()
            .database(&connections::views_database(&self.settings));
        let _ = views.drop().await;
        let _ = self.log.drop().await;
        let jetstream = self.nats.jetstream();
        let _ = jetstream.delete_stream(self.settings.names.stream()).await;
    }
}

/// The transaction of a killed fold keeps its rows for a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until something holds; fails after a while. This is how tests wait: for something that can
/// be seen, never for time to pass.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < give_up,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As little as a budget can be: every page ends after its first step.
pub fn hasty(views: &ReadModel) -> ReadModel {
    let limits = ReadLimits {
        rows: 1,
        queries: 1,
        time: Duration::ZERO,
    };
    views.within(ReadBudget::new(limits, true))
}

async fn open(
    log: &mongodb::Database,
    settings: &Settings,
    fail_point: Option<FailPoint>,
) -> ReadModel {
    let database = log
        .client()
        .database(&connections::views_database(settings));
    let views = ReadModel::open(&database, settings.partitions).await;
    views.expect("views").with_fail_point(fail_point)
}

/// What writes these views.
pub async fn writer(views: &ReadModel) -> ViewWriter {
    let writer = ViewWriter::of(views.generation().clone()).await;
    writer.expect("views")
}

fn paged(entries: &[PostView], limit: usize, cuts: &BTreeSet<i64>) -> Vec<Vec<Line>> {
    let line = |post| Line::Post(Box::new(post));
    let pages = pages(entries, limit, cuts).into_iter();
    pages
        .map(|page| page.into_iter().map(line).collect())
        .collect()
}
