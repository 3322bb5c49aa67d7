//! MongoDB with users and with TLS: what works, and the sentence for operators where it does not.

use std::path::Path;

use bson::doc;
use futures_util::future::join_all;
use shared::connections;
use shared::runtime::mongo_errors;
use shared::runtime::settings::Secret;
use system_tests::eventually;
use system_tests::process::Process;
use system_tests::secured::{Authority, SecuredMongo, Security, write};
use system_tests::world::{PATIENCE, Readiness, World, binary_named};

use super::SOON;

/// The sentence that operators get about a URI; `None` if it works.
async fn told_of(uri: &str) -> Option<String> {
    let database = connections::mongo(&Secret::new(uri), "test", 2).await;
    let database = database.unwrap_or_else(|error| panic!("{error}"));
    let answer = database.run_command(doc! { "count": "nothing" }).await;
    answer.err().map(|error| mongo_errors::reason(&error))
}

const QUICKLY: &str = "serverSelectionTimeoutMS=1500";

/// A URI, and the sentence that operators get about it; `None` if it works.
type Row = (String, Option<&'static str>);

const WRONG_PASSWORD: &str = "it refuses the user and password of the URI";
const UNKNOWN_AUTHORITY: &str =
    "its certificate comes from an authority that we do not know: see tlsCAFile";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb_says_which_of_password_authority_and_replica_set_is_wrong() {
    shared::runtime::crypto::install_provider();
    let (authority, another) = (Authority::new("ours"), Authority::new("theirs"));
    let server = authority.server("localhost");
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
    let mut rows = rows_of_users(&with_user);
    rows.extend(rows_of_tls(&with_tls, &authority, &another));
    rows.push((
        format!("mongodb://127.0.0.1:1/?{QUICKLY}"),
        Some("nothing listens at the URI's hosts"),
    ));
    let rows_told = join_all(rows.iter().map(async |(uri, wanted)| {
        let told = told_of(uri).await;
        (told.as_deref() != *wanted).then(|| format!("{uri}: {told:?}, not {wanted:?}"))
    }));
    let wrong: Vec<String> = rows_told.await.into_iter().flatten().collect();
    with_user.check();
    with_tls.check();
    println!("MongoDB: {} URIs, {} told wrong", rows.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    services_say_so_and_go_on_waiting(&with_user).await;
}

/// A URI of the database that asks for users.
fn uri_of_user(database: &SecuredMongo, userinfo: &str, options: &str) -> String {
    let port = database.port;
    format!("mongodb://{userinfo}127.0.0.1:{port}/social?authSource=admin&{QUICKLY}&{options}")
}

fn rows_of_users(database: &SecuredMongo) -> Vec<Row> {
    let user = |userinfo: &str, options: &str| uri_of_user(database, userinfo, options);
    let set = format!("replicaSet={}", database.replica_set);
    let right = "us%20er:p%40ss%2Fw%3Ard%25@";
    vec![
        (user(right, &set), None),
        (user("us%20er:another@", &set), Some(WRONG_PASSWORD)),
        (
            user("nobody:p@", "directConnection=true"),
            Some(WRONG_PASSWORD),
        ),
        (
            user(right, "replicaSet=another"),
            Some("none of the URI's hosts belongs to the replica set that replicaSet names"),
        ),
        (
            user(right, "replicaSet=another&directConnection=true"),
            Some("its replica set has another name than replicaSet says"),
        ),
    ]
}

fn rows_of_tls(database: &SecuredMongo, authority: &Authority, another: &Authority) -> Vec<Row> {
    let client = authority.client("microblog");
    let file = |name: &str, text: &str| write(&database.folder, name, text);
    let ours = file("ours.pem", &authority.certificate());
    let theirs = file("theirs.pem", &another.certificate());
    let own = file("own.pem", &(client.certificate.clone() + &client.key));
    let tls = |host: &str, options: &str| {
        let port = database.port;
        format!("mongodb://{host}:{port}/?tls=true&directConnection=true&{QUICKLY}&{options}")
    };
    let with_ours = format!("tlsCAFile={ours}&tlsCertificateKeyFile={own}");
    let with_theirs = format!("tlsCAFile={theirs}&tlsCertificateKeyFile={own}");
    let with_none = format!("tlsCertificateKeyFile={own}");
    let without_certificate = format!("tlsCAFile={ours}");
    vec![
        (tls("localhost", &with_ours), None),
        (tls("localhost", &with_theirs), Some(UNKNOWN_AUTHORITY)),
        (tls("localhost", &with_none), Some(UNKNOWN_AUTHORITY)),
        (
            tls("127.0.0.1", &with_ours),
            Some("its certificate is for another name than the URI's host"),
        ),
        (
            tls("localhost", &without_certificate),
            Some("it refuses our TLS: does it want a certificate (tlsCertificateKeyFile)?"),
        ),
    ]
}

/// `/readyz` of both services says that the password is wrong; no log has the password.
async fn services_say_so_and_go_on_waiting(database: &SecuredMongo) {
    let set = format!("replicaSet={}", database.replica_set);
    let uri = uri_of_user(database, "us%20er:another@", &set);
    let world = World::idle(&[("MONGODB_URI", &uri)]);
    for service in [&world.command, &world.query] {
        service.process.start();
        let name = service.process.name().to_owned();
        eventually(&format!("{name} says why"), SOON, async || {
            let Readiness { status, body } = service.readiness().await?;
            let why = body["missing"]["MongoDB answers"].as_str()?;
            (status == 503 && why == WRONG_PASSWORD).then_some(())
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
