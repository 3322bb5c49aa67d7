//! Secrets are rotated while everything is used: no request fails, nothing is lost.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bson::doc;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::json;
use system_tests::api::Outcome;
use system_tests::process::{Process, describe};
use system_tests::secured::{SecuredMongo, Security};
use system_tests::world::{PATIENCE, Role, Roles, Service};
use system_tests::{alone, eventually, root};

use super::people::{People, key_of};

/// The drain, then at most its grace for requests and for tasks.
const STOPS_WITHIN: Duration = Duration::from_secs(2 + 10 + 10);
const KEY_FILE: &str = "jwt.pem";

/// People at work on all eight processes, on engines that ask for a password, and whoever rotates.
struct Scene {
    roles: Roles,
    people: People,
    /// None where tests run `mongod`, which makes users in another way.
    mongodb: Option<SecuredMongo>,
}

/// A user of an engine, and a password.
#[derive(Clone)]
struct User {
    name: &'static str,
    password: String,
}

impl User {
    fn new(name: &'static str) -> Self {
        let password = format!("p{:032x}", rand::random::<u128>());
        Self { name, password }
    }

    fn at(&self, scheme: &str, rest: &str) -> String {
        format!("{scheme}://{}:{}@{rest}", self.name, self.password)
    }
}

/// Who looks at the engines from outside, and is not rotated.
const AUDITOR: &str = "auditor";
/// Who uses the broker: the command API only writes the log.
const OF_BROKER: [Role; 3] = [Role::Relay, Role::QueryApi, Role::Projector];

/// `scripts/rotate.py` with these arguments, to its end; what it said.
async fn rotate(roles: &Roles, arguments: &[&str]) -> String {
    let script = root().join("scripts/rotate.py").display().to_string();
    let file = roles.world.path(KEY_FILE).display().to_string();
    let ops = [Role::CommandApi, Role::QueryApi].map(|role| {
        let both = roles.of(role).each_ref().map(|one| one.ops_address());
        both.join(",")
    });
    let process = Process::new("rotate", Path::new("python3"), &roles.world.path(""))
        .arguments([
            script.as_str(),
            "key",
            "--file",
            &file,
            "--ops",
            &ops.join(","),
        ])
        .arguments(arguments);
    let process = Arc::new(process);
    let (status, said) = roles.world.run_to_end(&process).await;
    let logged = process.tail(20);
    assert!(
        status.success(),
        "rotate.py: {}: {logged}",
        describe(status)
    );
    for line in said.lines() {
        println!("rotate.py | {line}");
    }
    said
}

/// The status of the answer to a command.
fn status<T: std::fmt::Debug>(outcome: &Outcome<T>) -> u16 {
    match outcome {
        Outcome::Accepted(_) => 200,
        Outcome::Refused(why) => {
            let status = why.get(..3).and_then(|it| it.parse().ok());
            status.expect("a refusal begins with its status")
        }
        Outcome::NotSent(_) | Outcome::Unknown(_) => panic!("no answer: {outcome:?}"),
    }
}

/// How often a replica of the command service has answered with its key set.
async fn key_sets_served(service: &Service) -> f64 {
    let metrics = service.metrics().await;
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("http_requests_total{") && line.contains("jwks.json"));
    let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    counts.sum()
}

impl Scene {
    /// Everything runs, with a first user at each engine.
    async fn start(broker: &User, database: &User) -> Self {
        let auditor = User::new(AUDITOR);
        let security = Security {
            user: Some((AUDITOR, &auditor.password)),
            tls: None,
        };
        let mongodb = SecuredMongo::start(security).await;
        let from_outside = mongodb.as_ref().map(|it| uri(it, &auditor));
        let mut extra = vec![("STREAM_HEARTBEAT_SECS", "1")];
        extra.extend(from_outside.as_deref().map(|uri| ("MONGODB_URI", uri)));
        let roles = Roles::idle(&extra);
        if mongodb.is_none() {
            roles.world.start_mongodb().await;
        }
        configure_broker(&roles, &[broker]);
        roles.world.start_nats().await;
        for service in roles.all() {
            service
                .process
                .sets("NATS_URL", &broker.at("nats", &roles.world.nats_address()));
            if let Some(mongodb) = &mongodb {
                service.process.sets("MONGODB_URI", &uri(mongodb, database));
            }
        }
        if let Some(mongodb) = &mongodb {
            make_user(&roles, database).await;
            mongodb.check();
        }
        let roles = roles.started().await;
        let people = People::start(&roles.api()).await;
        let scene = Self {
            roles,
            people,
            mongodb,
        };
        scene.nothing_failed("before anything is rotated");
        scene
    }

    /// All processes are restarted one by one with other values of variables.
    async fn use_from_now_on(&self, changed: &[(&str, String)]) {
        for role in Role::ALL {
            for number in 0..2 {
                for (name, value) in changed {
                    self.roles.of(role)[number].process.sets(name, value);
                }
                self.restart(role, number).await;
            }
        }
    }

    /// How often a process lost the broker, all together.
    async fn disconnections(&self) -> f64 {
        let all = OF_BROKER.iter().flat_map(|role| self.roles.of(*role));
        let lost = all.map(async |service| {
            let lost = service.metric("nats_disconnections_total").await;
            lost.expect("a counter begins at zero")
        });
        join_all(lost).await.into_iter().sum()
    }

    /// Everybody goes on for a while, and no request has failed since the start.
    async fn goes_on(&self, after: &str) {
        self.people.are_at_it().await;
        self.nothing_failed(after);
    }

    fn nothing_failed(&self, after: &str) {
        let counted = self.people.requests.so_far();
        println!("{after}: {counted}");
        let failures = counted.failures().join("\n");
        assert_eq!(counted.failed(), 0, "{after}: {failures}");
    }

    /// The key that the replicas of the command service sign with.
    async fn signing(&self) -> String {
        let keys = self.roles.of(Role::CommandApi)[0].keys().await;
        keys["signs"].as_str().expect("it signs").to_owned()
    }

    /// How a request with this token is answered by each replica: two that write, two that read.
    async fn answered(&self, token: &str) -> [u16; 4] {
        let somebody = self.people.somebody().with_token(token);
        let mut answers = [0; 4];
        for number in 0..2 {
            let command = &self.roles.of(Role::CommandApi)[number];
            let query = &self.roles.of(Role::QueryApi)[number];
            let there = somebody.through_both(command, query);
            answers[number] = status(&there.rename("A Person").await);
            let read = there.get("/timeline?limit=1", None).await;
            answers[2 + number] = read.expect("an answer").status.as_u16();
        }
        answers
    }

    /// Asks a replica to stop, and starts it again once it has ended.
    async fn restart(&self, role: Role, number: usize) {
        let service = &self.roles.of(role)[number];
        service.process.terminate();
        let ended = service.process.wait(STOPS_WITHIN).await;
        let name = service.process.name();
        let ended = ended.unwrap_or_else(|| panic!("{name} still runs after {STOPS_WITHIN:?}"));
        assert!(ended.success(), "{name}: {}", describe(ended));
        service.start().await;
    }

    /// What was acknowledged is in the log and on the stream once, in the views as it should be, and was
    /// heard on every live stream.
    async fn nothing_is_lost(mut self) {
        let posts = self.people.stop().await;
        self.nothing_failed("in the end");
        let audit = self.roles.world.audit().await;
        let verified = self.roles.world.verify().await;
        assert!(audit.is_clean(), "{audit:?}");
        let events = self.roles.world.events().await;
        for (id, content) in &posts {
            let same = doc! { "type": "post.created", "data.content": content };
            let times = events.count_documents(same).await.expect("the log");
            assert_eq!(times, 1, "{content}");
            let shown = self.roles.api().post(id).await;
            assert_eq!(shown.map(|it| it.content).as_ref(), Some(content));
        }
        println!("{} posts acknowledged\n{audit}\n{verified}", posts.len());
        self.people.have_heard_of(&posts).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_keys_rotate_without_a_failed_request_and_nothing_is_lost() {
    let _alone = alone().await;
    let (broker, database) = (User::new("microblog"), User::new("microblog"));
    let scene = Scene::start(&broker, &database).await;
    the_signing_key_rotates(&scene).await;
    a_rotation_is_taken_back(&scene).await;
    unknown_keys_make_nobody_hammer_the_key_set(&scene).await;
    scene.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_rotate_without_a_failed_request_and_nothing_is_lost() {
    let _alone = alone().await;
    let (broker, database) = (User::new("microblog"), User::new("microblog"));
    let scene = Scene::start(&broker, &database).await;
    both_passwords_rotate(&scene, [&broker, &database]).await;
    scene.nothing_is_lost().await;
}

fn configure_broker(roles: &Roles, users: &[&User]) {
    let listed = users.iter().map(|user| {
        let User { name, password } = user;
        format!("{{user: \"{name}\", password: \"{password}\"}}")
    });
    let listed = listed.collect::<Vec<_>>().join(", ");
    roles.world.configure_nats(&format!(
        "accounts {{ MICROBLOG {{ jetstream: enabled, users: [{listed}, {{user: \"{AUDITOR}\", password: \"unused\"}}] }}, SYS {{}} }}\n\
         system_account: SYS\nno_auth_user: {AUDITOR}"
    ));
}

/// Whether the broker takes a user.
async fn broker_takes(roles: &Roles, user: &User) -> bool {
    // The client sends no credentials that stand in a URL.
    let signing_in =
        ConnectOptions::with_user_and_password(user.name.into(), user.password.clone());
    let connected = signing_in.connect(roles.world.nats_address()).await;
    connected.is_ok()
}

/// The broker takes another user beside the one from before, and nobody who is connected notices.
async fn the_broker_takes_both(scene: &Scene, old: &User, new: &User) {
    let lost = scene.disconnections().await;
    configure_broker(&scene.roles, &[old, new]);
    scene.roles.world.nats.reload();
    eventually("the broker takes both users", PATIENCE, async || {
        broker_takes(&scene.roles, new).await.then_some(())
    })
    .await;
    assert!(broker_takes(&scene.roles, old).await);
    assert!(
        !broker_takes(&scene.roles, &User::new(old.name)).await,
        "another password"
    );
    assert_eq!(scene.disconnections().await, lost, "nobody notices");
}

async fn the_broker_takes_the_new_one_alone(scene: &Scene, old: &User, new: &User) {
    let lost = scene.disconnections().await;
    configure_broker(&scene.roles, &[new]);
    scene.roles.world.nats.reload();
    eventually(
        "the broker takes the new user alone",
        PATIENCE,
        async || (!broker_takes(&scene.roles, old).await).then_some(()),
    )
    .await;
    scene.goes_on("the broker's user from before is gone").await;
    assert_eq!(scene.disconnections().await, lost, "nobody notices");
}

fn uri(mongodb: &SecuredMongo, user: &User) -> String {
    let (port, set) = (mongodb.port, mongodb.replica_set);
    user.at(
        "mongodb",
        &format!("127.0.0.1:{port}/microblog?authSource=admin&replicaSet={set}"),
    )
}

/// With the rights that the manifests give it.
async fn make_user(roles: &Roles, User { name, password }: &User) {
    let of = |database: &str| doc! { "role": "readWrite", "db": database };
    let rights = [of("microblog"), of("microblog_views")].to_vec();
    let made = doc! { "createUser": *name, "pwd": password, "roles": rights };
    let admin = roles.world.log().await.client().database("admin");
    eventually("a user is made", PATIENCE, async || {
        admin.run_command(made.clone()).await.ok()
    })
    .await;
}

/// Whether the database takes a user.
async fn database_takes(mongodb: &SecuredMongo, user: &User) -> bool {
    let client = mongodb::Client::with_uri_str(uri(mongodb, user))
        .await
        .expect("a client");
    let log = client.database("microblog");
    log.run_command(doc! { "count": "events" }).await.is_ok()
}

async fn the_database_takes_the_new_one_alone(
    scene: &Scene,
    mongodb: &SecuredMongo,
    old: &User,
    new: &User,
) {
    let admin = scene.roles.world.log().await.client().database("admin");
    let dropped = admin.run_command(doc! { "dropUser": old.name }).await;
    dropped.expect("the user from before is dropped");
    assert!(!database_takes(mongodb, old).await && database_takes(mongodb, new).await);
    scene
        .goes_on("the database's user from before is gone")
        .await;
}

/// Both engines take two users, the processes are restarted one by one as the new ones, and both
/// engines take the new ones alone.
async fn both_passwords_rotate(scene: &Scene, [broker, database]: [&User; 2]) {
    let began = Instant::now();
    let [new_broker, new_database] = ["microblog-b"; 2].map(User::new);
    the_broker_takes_both(scene, broker, &new_broker).await;
    let url = new_broker.at("nats", &scene.roles.world.nats_address());
    let mut changed = vec![("NATS_URL", url)];
    match &scene.mongodb {
        Some(mongodb) => {
            make_user(&scene.roles, &new_database).await;
            assert!(database_takes(mongodb, database).await);
            assert!(database_takes(mongodb, &new_database).await);
            changed.push(("MONGODB_URI", uri(mongodb, &new_database)));
        }
        None => println!("left out, the database's password: needs the embedded MongoDB"),
    }
    scene.use_from_now_on(&changed).await;
    scene.goes_on("the services are other users").await;
    the_broker_takes_the_new_one_alone(scene, broker, &new_broker).await;
    if let Some(mongodb) = &scene.mongodb {
        the_database_takes_the_new_one_alone(scene, mongodb, database, &new_database).await;
    }
    println!("both passwords were rotated in {:.0?}", began.elapsed());
}

/// Tokens that name keys which nobody has are refused, and the key set is looked at as often as it may be.
async fn unknown_keys_make_nobody_hammer_the_key_set(scene: &Scene) {
    const FLOOD: usize = 600;
    let fetches = async || {
        let both = scene.roles.of(Role::CommandApi);
        join_all(both.iter().map(key_sets_served))
            .await
            .into_iter()
            .sum::<f64>()
    };
    let (before, began) = (fetches().await, Instant::now());
    let by = scene.people.some_token();
    let (_, rest) = by.split_once('.').expect("a token has three parts");
    let replicas = scene.roles.of(Role::QueryApi);
    let asked = stream::iter(0..FLOOD).map(async |number| {
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": format!("unknown-{number}") });
        let token = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(head.to_string()));
        let somebody = scene.people.somebody().with_token(&token);
        let answer = somebody
            .through(&replicas[number % 2])
            .get("/timeline", None)
            .await;
        answer.expect("an answer").status.as_u16()
    });
    let answers: Vec<u16> = asked.buffer_unordered(16).collect().await;
    let refused = answers.iter().filter(|status| **status == 401).count();
    let (took, fetched) = (began.elapsed(), fetches().await - before);
    println!(
        "{FLOOD} unknown keys in {took:.1?}: {refused} refused, the key set was asked for {fetched} times"
    );
    assert_eq!(refused, FLOOD);
    // Of each of two APIs and two projectors: one look in five seconds, and one for freshness.
    let most = 4 * (took.as_secs() / 5 + 2);
    assert!(fetched <= most as f64, "{fetched} looks, not {most}");
    scene.goes_on("a flood of unknown keys").await;
}

async fn the_signing_key_rotates(scene: &Scene) {
    let (began, opened) = (Instant::now(), scene.people.streams_opened());
    let old = scene.signing().await;
    scene.people.have_tokens_of(&old).await;
    let by_old = scene.people.some_token();

    rotate(&scene.roles, &["--stop-after", "publish"]).await;
    scene.goes_on("the next key is published").await;
    assert_eq!(scene.signing().await, old);

    // Without the five minutes for whoever keeps the key set: nobody does here.
    rotate(&scene.roles, &["--stop-after", "sign", "--no-wait"]).await;
    let new = scene.signing().await;
    assert_ne!(new, old);
    scene.people.have_tokens_of(&new).await;
    scene.goes_on("the next key signs").await;
    assert_eq!(key_of(&by_old), old);
    assert_eq!(
        scene.answered(&by_old).await,
        [200; 4],
        "good until its end"
    );

    // A replica that comes up half way takes what is there.
    for role in [Role::CommandApi, Role::QueryApi] {
        scene.restart(role, 1).await;
    }
    scene
        .goes_on("a replica of each has been restarted half way")
        .await;

    // Instead of the quarter of an hour that tokens live: everybody has a newer one.
    rotate(&scene.roles, &["--no-wait"]).await;
    assert_eq!(scene.answered(&by_old).await, [401; 4], "withdrawn");
    scene.goes_on("the key before is withdrawn").await;
    println!("the signing key was rotated in {:.0?}", began.elapsed());
    let again = scene.people.streams_opened() - opened;
    println!("live streams that had to be opened again, by the restart half way: {again}");
}

async fn a_rotation_is_taken_back(scene: &Scene) {
    let old = scene.signing().await;
    rotate(&scene.roles, &["--stop-after", "sign", "--no-wait"]).await;
    let new = scene.signing().await;
    scene.people.have_tokens_of(&new).await;
    let by_new = scene.people.some_token();
    // Tokens of the new key are withdrawn with it: clients that are refused sign in anew.
    let said = rotate(&scene.roles, &["--back", "--stop-after", "sign"]).await;
    assert_eq!(scene.signing().await, old);
    scene.people.have_tokens_of(&old).await;
    assert_eq!(
        scene.answered(&by_new).await,
        [200; 4],
        "good until its end"
    );
    let said = said + &rotate(&scene.roles, &["--back", "--no-wait"]).await;
    assert!(said.contains(&format!("{old} is the only key")), "{said}");
    assert_eq!(scene.signing().await, old);
    assert_eq!(scene.answered(&by_new).await, [401; 4], "withdrawn");
    scene.goes_on("a rotation was taken back").await;
}
