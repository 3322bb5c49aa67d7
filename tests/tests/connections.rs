//! Engines as people run them: brokers and databases that ask who is there, behind certificates of
//! their own, reached by what a console hands out. What works, and what an operator is told where
//! it does not.

use std::path::Path;
use std::time::{Duration, Instant};

use bson::doc;
use futures_util::future::join_all;
use nkeys::KeyPair;
use serde_json::Value;
use shared::engines::{self, Nats};
use shared::settings::{Secret, Settings};
use system_tests::eventually;
use system_tests::process::Process;
use system_tests::secured::{Authority, Broker, Operator, SecuredMongo, Security, write};
use system_tests::world::{PATIENCE, Readiness, World, binary_named};

const SOON: Duration = Duration::from_secs(20);

// ---- NATS -------------------------------------------------------------------------------------

/// A broker's configuration, and what the services are told.
struct Way {
    name: &'static str,
    broker: Broker,
    config: String,
    right: Vec<(&'static str, String)>,
    /// What does not work, and the sentence about it.
    wrong: Vec<(Vec<(&'static str, String)>, &'static str)>,
}

async fn connect(name: &str, vars: &[(&'static str, String)]) -> Nats {
    let vars = vars.iter().map(|(name, value)| (name.into(), value.into()));
    let settings = Settings::from_vars(vars).unwrap_or_else(|faults| panic!("{name}: {faults}"));
    let nats = engines::nats(&settings.nats, name).await;
    nats.unwrap_or_else(|error| panic!("{name}: {error}"))
}

impl Way {
    async fn try_all(self) -> usize {
        let name = self.name;
        self.broker.start(&self.config);
        let nats = connect(name, &self.right).await;
        eventually(&format!("{name}: connected"), SOON, async || {
            nats.status().ok()
        })
        .await;
        // It is somebody who may use JetStream.
        let stream = async_nats::jetstream::stream::Config {
            name: "TEST".to_owned(),
            subjects: vec!["test".to_owned()],
            ..Default::default()
        };
        let jetstream = nats.jetstream();
        let made = jetstream.create_stream(stream).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
        let sent = jetstream.publish("test", "x".into()).await;
        let taken = sent.expect("handed over").await;
        taken.unwrap_or_else(|error| panic!("{name}: {error}"));
        for (vars, sentence) in &self.wrong {
            let nats = connect(name, vars).await;
            let mut last = String::new();
            let told = async || {
                last = nats.status().expect_err("nobody lets it in");
                (last == *sentence).then_some(())
            };
            let what = format!("{name}: {sentence}");
            let waited = tokio::time::timeout(SOON, eventually(&what, PATIENCE, told)).await;
            assert!(waited.is_ok(), "{name}: it said: {last}, not: {sentence}");
        }
        self.wrong.len()
    }
}

const UNKNOWN_AUTHORITY: &str =
    "its certificate comes from an authority that we do not know: see NATS_TLS_CA_FILE";

fn by_password() -> Way {
    let broker = Broker::new();
    let (port, other) = (broker.port, broker.other_port);
    let url = |userinfo: &str| vec![("NATS_URL", format!("nats://{userinfo}127.0.0.1:{port}"))];
    Way {
        name: "user and password",
        config: "authorization { user: \"us er\", password: \"p@ss/w:rd%ü\" }".to_owned(),
        right: vec![(
            "NATS_URL",
            // The first is not there: credentials are those of all servers.
            format!(
                "nats://us%20er:p%40ss%2Fw%3Ard%25%C3%BC@127.0.0.1:{other}, nats://127.0.0.1:{port}"
            ),
        )],
        wrong: vec![
            (
                url("us%20er:another@"),
                "it refuses the user and password in NATS_URL",
            ),
            (
                url(""),
                "it wants credentials, and none are set: see NATS_URL and NATS_CREDS_FILE",
            ),
        ],
        broker,
    }
}

fn by_token() -> Way {
    let broker = Broker::new();
    let url = |token: &str| {
        vec![(
            "NATS_URL",
            format!("nats://{token}@127.0.0.1:{}", broker.port),
        )]
    };
    Way {
        name: "token",
        config: "authorization { token: \"t:k/n@\" }".to_owned(),
        right: url("t%3Ak%2Fn%40"),
        wrong: vec![(url("another"), "it refuses the token in NATS_URL")],
        broker,
    }
}

fn by_nkey() -> Way {
    let broker = Broker::new();
    let user = KeyPair::new_user();
    let with = |name: &str, key: &KeyPair| {
        let seed = key.seed().expect("a seed") + "\n";
        vec![
            ("NATS_URL", format!("nats://127.0.0.1:{}", broker.port)),
            ("NATS_NKEY_FILE", broker.file(name, &seed)),
        ]
    };
    Way {
        name: "nkey",
        config: format!(
            "authorization {{ users: [{{ nkey: {} }}] }}",
            user.public_key()
        ),
        right: with("right.nk", &user),
        wrong: vec![(
            with("wrong.nk", &KeyPair::new_user()),
            "it refuses the key of NATS_NKEY_FILE",
        )],
        broker,
    }
}

fn by_creds() -> Way {
    let broker = Broker::new();
    let (operator, another) = (Operator::new(), Operator::new());
    let with = |name: &str, operator: &Operator| {
        vec![
            ("NATS_URL", format!("nats://127.0.0.1:{}", broker.port)),
            ("NATS_CREDS_FILE", broker.file(name, &operator.creds())),
        ]
    };
    Way {
        name: "creds",
        config: operator.config(),
        right: with("right.creds", &operator),
        wrong: vec![(
            with("wrong.creds", &another),
            "it refuses the credentials of NATS_CREDS_FILE",
        )],
        broker,
    }
}

/// The files of a server's certificate, as its configuration names them.
fn server_files(broker: &Broker, authority: &Authority) -> String {
    let server = authority.server("localhost");
    let certificate = broker.file("server.pem", &server.certificate);
    let key = broker.file("server.key", &server.key);
    format!("cert_file: {certificate:?}, key_file: {key:?}")
}

fn behind_tls() -> Way {
    let broker = Broker::new();
    let (authority, another) = (Authority::new("ours"), Authority::new("theirs"));
    let ours = broker.file("ours.pem", &authority.certificate());
    let theirs = broker.file("theirs.pem", &another.certificate());
    let at = |url: String, ca: &str| vec![("NATS_URL", url), ("NATS_TLS_CA_FILE", ca.to_owned())];
    let port = broker.port;
    Way {
        name: "TLS",
        config: format!("tls {{ {} }}", server_files(&broker, &authority)),
        right: at(format!("tls://localhost:{port}"), &ours),
        wrong: vec![
            (
                at(format!("tls://localhost:{port}"), &theirs),
                UNKNOWN_AUTHORITY,
            ),
            (
                at(format!("nats://127.0.0.1:{port}"), &ours),
                "its certificate is for another name than NATS_URL's host",
            ),
        ],
        broker,
    }
}

fn with_client_certificates() -> Way {
    let broker = Broker::new();
    let authority = Authority::new("ours");
    let ca = broker.file("ca.pem", &authority.certificate());
    let client = authority.client("microblog");
    let certificate = broker.file("client.pem", &client.certificate);
    let key = broker.file("client.key", &client.key);
    let bare = vec![
        ("NATS_URL", format!("tls://localhost:{}", broker.port)),
        ("NATS_TLS_CA_FILE", ca.clone()),
    ];
    let mut right = bare.clone();
    right.extend([
        ("NATS_TLS_CERT_FILE", certificate),
        ("NATS_TLS_KEY_FILE", key),
    ]);
    Way {
        name: "client certificates",
        config: format!(
            "tls {{ {}, ca_file: {ca:?}, verify: true }}",
            server_files(&broker, &authority)
        ),
        right,
        wrong: vec![(
            bare,
            "it refuses our TLS: does it want a certificate (NATS_TLS_CERT_FILE)?",
        )],
        broker,
    }
}

fn by_websocket() -> Way {
    let broker = Broker::new();
    let (authority, another) = (Authority::new("ours"), Authority::new("theirs"));
    let ours = broker.file("ours.pem", &authority.certificate());
    let theirs = broker.file("theirs.pem", &another.certificate());
    let (port, other) = (broker.port, broker.other_port);
    let at = |url: String, ca: &str| vec![("NATS_URL", url), ("NATS_TLS_CA_FILE", ca.to_owned())];
    Way {
        name: "wss",
        config: format!(
            "authorization {{ user: u, password: \"p w\" }}\n\
             websocket {{ listen: \"127.0.0.1:{other}\", tls {{ {} }} }}",
            server_files(&broker, &authority)
        ),
        right: at(format!("wss://u:p%20w@localhost:{other}"), &ours),
        wrong: vec![
            (
                at(format!("wss://u:p%20w@localhost:{other}"), &theirs),
                UNKNOWN_AUTHORITY,
            ),
            (
                at(format!("wss://u:p@localhost:{other}"), &ours),
                "it refuses the user and password in NATS_URL",
            ),
            (
                // Plain NATS where TLS is asked for.
                at(format!("tls://u:p%20w@localhost:{port}"), &ours),
                "it does not speak TLS, which NATS_URL or a NATS_TLS_ file asks for",
            ),
        ],
        broker,
    }
}

fn in_a_domain() -> Way {
    let broker = Broker::new();
    let store = broker.folder().join("hub").display().to_string();
    let url = |port: u16| ("NATS_URL", format!("ws://127.0.0.1:{port}/"));
    let (port, other) = (broker.port, broker.other_port);
    Way {
        name: "domain, ws",
        config: format!(
            "jetstream {{ store_dir: {store:?}, domain: hub }}\n\
             websocket {{ listen: \"127.0.0.1:{other}\", no_tls: true }}"
        ),
        right: vec![url(other), ("NATS_JS_DOMAIN", "hub".to_owned())],
        wrong: vec![(vec![url(port)], "what answers there speaks no WebSocket")],
        broker,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_takes_us_in_every_way_and_a_refusal_is_one_plain_sentence() {
    shared::crypto::install_provider();
    let ways = [
        by_password(),
        by_token(),
        by_nkey(),
        by_creds(),
        behind_tls(),
        with_client_certificates(),
        by_websocket(),
        in_a_domain(),
    ];
    let count = ways.len();
    let refusals: usize = join_all(ways.map(Way::try_all)).await.into_iter().sum();
    println!("NATS: {count} ways in, {refusals} refusals told");
}

/// A refusal is not repeated a dozen times a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_is_asked_ever_less_often_and_takes_us_once_it_is_mended() {
    let broker = Broker::new();
    broker.start("authorization { user: u, password: old }");
    let url = format!("nats://u:new@127.0.0.1:{}", broker.port);
    let nats = connect("patient", &[("NATS_URL", url)]).await;
    let refused = || {
        broker
            .process
            .logged()
            .matches("authentication error")
            .count()
    };
    let first = eventually("refused", SOON, async || {
        (refused() >= 1).then(Instant::now)
    })
    .await;
    eventually("refused again", SOON, async || {
        (refused() >= 5).then_some(())
    })
    .await;
    let elapsed = first.elapsed();
    println!("NATS: 5 refusals in {elapsed:?}");
    assert!(
        elapsed > Duration::from_millis(800),
        "5 refusals in {elapsed:?}"
    );
    broker.reload("authorization { user: u, password: new }");
    eventually("let in", SOON, async || nats.status().ok()).await;
}

// ---- MongoDB ----------------------------------------------------------------------------------

/// What an operator is told of a URI; nothing if it works.
async fn told_of(uri: &str) -> Option<String> {
    let database = engines::mongo(&Secret::new(uri), "test", 2).await;
    let database = database.unwrap_or_else(|error| panic!("{error}"));
    let answer = database.run_command(doc! { "count": "nothing" }).await;
    answer.err().map(|error| engines::reason(&error))
}

const QUICKLY: &str = "serverSelectionTimeoutMS=1500";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb_says_which_of_password_authority_and_replica_set_is_wrong() {
    shared::crypto::install_provider();
    let (authority, another) = (Authority::new("ours"), Authority::new("theirs"));
    let (server, client) = (authority.server("localhost"), authority.client("microblog"));
    let with_user = Security {
        user: Some(("us er", "p@ss/w:rd%")),
        tls: None,
    };
    let with_tls = Security {
        user: None,
        tls: Some((&server, Some(&authority))),
    };
    let (with_user, with_tls) = futures_util::join!(
        SecuredMongo::start(with_user),
        SecuredMongo::start(with_tls)
    );
    let (Some(with_user), Some(with_tls)) = (with_user, with_tls) else {
        return;
    };
    let file = |name: &str, text: &str| write(&with_tls.folder, name, text);
    let ours = file("ours.pem", &authority.certificate());
    let theirs = file("theirs.pem", &another.certificate());
    let own = file("own.pem", &(client.certificate.clone() + &client.key));
    let (port, set) = (with_user.port, with_user.replica_set);
    let user = |userinfo: &str, options: &str| {
        format!("mongodb://{userinfo}127.0.0.1:{port}/social?authSource=admin&{QUICKLY}&{options}")
    };
    let tls = |host: &str, options: &str| {
        let port = with_tls.port;
        format!("mongodb://{host}:{port}/?tls=true&directConnection=true&{QUICKLY}&{options}")
    };
    let right = "us%20er:p%40ss%2Fw%3Ard%25@";
    let wrong_password = Some("it refuses the user and password of the URI");
    let rows = [
        (user(right, &format!("replicaSet={set}")), None),
        (
            user("us%20er:another@", &format!("replicaSet={set}")),
            wrong_password,
        ),
        (user("nobody:p@", "directConnection=true"), wrong_password),
        (
            user(right, "replicaSet=another"),
            Some("none of the URI's hosts belongs to the replica set that replicaSet names"),
        ),
        (
            user(right, "replicaSet=another&directConnection=true"),
            Some("its replica set has another name than replicaSet says"),
        ),
        (
            tls(
                "localhost",
                &format!("tlsCAFile={ours}&tlsCertificateKeyFile={own}"),
            ),
            None,
        ),
        (
            tls(
                "localhost",
                &format!("tlsCAFile={theirs}&tlsCertificateKeyFile={own}"),
            ),
            Some("its certificate comes from an authority that we do not know: see tlsCAFile"),
        ),
        (
            tls("localhost", &format!("tlsCertificateKeyFile={own}")),
            Some("its certificate comes from an authority that we do not know: see tlsCAFile"),
        ),
        (
            tls(
                "127.0.0.1",
                &format!("tlsCAFile={ours}&tlsCertificateKeyFile={own}"),
            ),
            Some("its certificate is for another name than the URI's host"),
        ),
        (
            tls("localhost", &format!("tlsCAFile={ours}")),
            Some("it refuses our TLS: does it want a certificate (tlsCertificateKeyFile)?"),
        ),
        (
            format!("mongodb://127.0.0.1:1/?{QUICKLY}"),
            Some("nothing listens at the URI's hosts"),
        ),
    ];
    let rows_told = join_all(rows.iter().map(async |(uri, wanted)| {
        let told = told_of(uri).await;
        (told.as_deref() != *wanted).then(|| format!("{uri}: {told:?}, not {wanted:?}"))
    }));
    let wrong: Vec<String> = rows_told.await.into_iter().flatten().collect();
    with_user.check();
    with_tls.check();
    println!("MongoDB: {} URIs, {} told wrong", rows.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // And so says /readyz of both services, which go on waiting.
    let uri = user("us%20er:another@", &format!("replicaSet={set}"));
    let world = World::idle(&[("MONGODB_URI", &uri)]);
    for service in [&world.command, &world.query] {
        service.process.start();
        let name = service.process.name().to_owned();
        eventually(&format!("{name} says why"), SOON, async || {
            let Readiness { status, body } = service.readiness().await?;
            let why = body["missing"]["MongoDB answers"].as_str()?;
            (status == 503 && Some(why) == wrong_password).then_some(())
        })
        .await;
        assert!(
            !service.process.logged().contains("another"),
            "a password in the log of {name}"
        );
    }
}

/// Unlike one that answers that there is nothing: that stops the start, as the test of all
/// settings shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_that_does_not_answer_is_no_fault_of_the_setting() {
    // A network in which nobody is.
    const ALONE: &str = "unshare";
    let possible = std::process::Command::new(ALONE)
        .args(["-rn", "true"])
        .status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("left out: no network without anybody can be made here");
        return;
    }
    let service = binary_named("command-service").display().to_string();
    let variables = [
        ("MONGODB_URI", "mongodb+srv://cluster0.example.net"),
        ("PARTITIONS", "none"),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::new("service", Path::new(ALONE), folder.path())
        .arguments(["-rn", &service])
        .environment(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    process.start();
    let status = process.wait(SOON).await.expect("it ends");
    assert_eq!(status.code(), Some(64));
    assert_eq!(
        process.logged(),
        "PARTITIONS must be a number from 1 to 256\n"
    );
}

/// As DocumentDB's console writes it, and more that has to do with where is read and written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timelines_are_filled_and_operators_find_the_views_whatever_the_uris_say() {
    const SAYS: &str = "readPreference=secondaryPreferred&retryWrites=false&w=1\
        &readConcernLevel=local&directConnection=true&compressors=zstd,snappy";
    let facts = format!("mongodb://{{mongodb}}/facts?{SAYS}");
    let shown = format!("mongodb://{{mongodb}}/shown?{SAYS}");
    let world = World::start(&[("MONGODB_URI", &facts), ("VIEWS_MONGODB_URI", &shown)]).await;
    let api = world.api();
    let sessions = world.sessions(&api, "reader", 2).await;
    let [reader, author] = &sessions[..] else {
        panic!("two sessions")
    };
    reader.follow(&author.user_id).await.accepted();
    let post = author.post("seen", "1").await.accepted().value;
    eventually("the post is in the home timeline", PATIENCE, async || {
        let page = reader.timeline(20, None, None).await;
        let shown = page.posts.iter().any(|shown| shown.post_id == post);
        shown.then_some(())
    })
    .await;
    // The views are in the database that their own URI names, for operators as for services.
    world.verify().await;
    assert_eq!(world.dead_letters().await, 0);
    let (status, printed) = world.run("rebuild", "query-service", &["rebuild"]).await;
    assert!(status.success(), "{printed}");
}

// ---- both -------------------------------------------------------------------------------------

fn users(keys: &[&KeyPair]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|key| format!("{{ nkey: {} }}", key.public_key()))
        .collect();
    // The tests' own clients show nothing and are let in.
    format!(
        "authorization {{ users: [{}, {{ user: test, password: test }}] }}\nno_auth_user: test",
        keys.join(", ")
    )
}

fn put_key(path: &Path, key: &KeyPair) {
    let next = path.with_extension("next");
    std::fs::write(&next, key.seed().expect("a seed")).expect("a file");
    std::fs::rename(next, path).expect("files of one folder");
}

fn says(body: &Value, sentence: &str) -> bool {
    body.to_string().contains(sentence)
}

/// The key in the file is not the broker's; it is mended; then it is exchanged under load, on both
/// sides, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_once_and_credentials_are_exchanged_under_load_without_loss() {
    const SENTENCE: &str = "it refuses the key of NATS_NKEY_FILE";
    let (wrong, first, second) = (
        KeyPair::new_user(),
        KeyPair::new_user(),
        KeyPair::new_user(),
    );
    let world = World::start_engines(
        &[
            ("NATS_NKEY_FILE", "{folder}/service.nk"),
            ("RUST_LOG", "info"),
        ],
        &users(&[&first]),
    )
    .await;
    let file = world.file("service.nk", "");
    put_key(&file, &wrong);
    world.command.process.start();
    world.query.process.start();
    // Commands are accepted meanwhile, and what is wrong can be read.
    world.command.ready().await;
    eventually("both services say why", SOON, async || {
        let command = world.command.readiness().await?;
        let query = world.query.readiness().await?;
        let told =
            says(&command.body["degraded"], SENTENCE) && says(&query.body["missing"], SENTENCE);
        (command.status == 200 && query.status == 503 && told).then_some(())
    })
    .await;
    for service in [&world.command, &world.query] {
        let metrics = service.metrics().await;
        let open = r#"circuit_open{dependency="nats"} 1"#;
        assert!(
            metrics.contains(open),
            "{}: {metrics}",
            service.process.name()
        );
    }
    let names: Vec<String> = (0..2).map(|number| format!("writer_{number}")).collect();
    let tokens = world.users(&names).await;

    put_key(&file, &first);
    world.query.ready().await;
    let what = "the command service is whole";
    let is_whole = |readiness: &Readiness| readiness.body["status"] == "ready";
    world.command.readiness_becomes(what, is_whole).await;
    for service in [&world.command, &world.query] {
        // The line may be on its way to us when the service is ready already.
        eventually("the end is told", SOON, async || {
            let log = service.process.logged();
            log.contains("NATS: connected again").then_some(())
        })
        .await;
        let log = service.process.logged();
        let (told, ended) = (
            log.matches(SENTENCE).count(),
            log.matches("NATS: connected again").count(),
        );
        let name = service.process.name();
        assert_eq!(
            (told, ended),
            (1, 1),
            "{name}: said so often\n{}",
            service.process.tail(40)
        );
        // In the field `error`, beside our words.
        let is_its_own = |line: &&str| line.contains("authorization violation");
        let its_own = log.lines().filter(is_its_own).count();
        assert_eq!(its_own, 1, "{name}: the client's own words");
    }

    let api = world.api();
    let sessions = world.known(&api, &names, &tokens).await;
    let exchange = async {
        // Nobody knows when the file and the broker change: first one, then the other.
        world.configure_nats(&users(&[&second]));
        world.nats.reload();
        put_key(&file, &second);
    };
    let load = join_all(sessions.iter().map(async |session| {
        for number in 0..60 {
            let text = format!("{} {number}", session.username);
            let posted = session.post(&text, &format!("key-{number}")).await;
            posted.accepted();
        }
    }));
    let exchanged = async {
        eventually("the load has begun", PATIENCE, async || {
            let published = world.command.metric("relay_published_total").await?;
            (published > 10.0).then_some(())
        })
        .await;
        exchange.await;
    };
    futures_util::join!(load, exchanged);
    let audit = world.audit().await;
    assert!(audit.is_clean(), "{audit:?}");
    println!(
        "NATS: the key exchanged under load: {} events, none lost",
        audit.events
    );
    world.query.ready().await;
    world.verify().await;
}
