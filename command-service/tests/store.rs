//! The store's promises, one by one: what a refused insert means, and that every write may be
//! asked for twice.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bson::doc;
use command_service::app::CommandError;
use command_service::app::error::Refusal;
use command_service::app::store::{
    AccountName, Append, Key, NewAccount, Outcome, Registered, Store, Tie,
};
use command_service::domain::user::RegistrationForm;
use command_service::keys::Signer;
use command_service::startup::Core;
use shared::events::{
    Edge, Event, LogStream, NoAddress, Payload, PostCreated, PostRef, UserRegistered,
};
use shared::ids::Id;
use shared::settings::Secret;
use shared::tasks::Tasks;
use shared::time::{Clock, SystemClock, Timestamp};
use support::TestApp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn world() -> (TestApp, Core) {
    let app = TestApp::spawn();
    let core = app.core().await;
    (app, core)
}

fn post(id: i64) -> Append {
    let payload = Payload::PostCreated(PostCreated {
        content: format!("post {id}"),
        reply_to: None,
    });
    Append {
        event: Event {
            id: Id::new(id).unwrap(),
            stream: LogStream::Post(Id::new(id).unwrap()),
            version: 1,
            actor: Id::new(1).unwrap(),
            at: Timestamp::from_millis(1_700_000_000_000),
            payload,
        },
        owner: Id::new(1).unwrap(),
        key: None,
        trace: None,
        nonce: rand::random(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_may_be_asked_for_again() {
    let (app, core) = world().await;
    let append = post(10);
    for _ in 0..3 {
        assert!(matches!(
            core.store.append(&append).await.unwrap(),
            Outcome::Appended
        ));
    }
    assert_eq!(app.log().await.len(), 1);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_s_event_under_the_same_id_means_take_the_next() {
    let (app, core) = world().await;
    core.store.append(&post(10)).await.unwrap();
    assert!(matches!(
        core.store.append(&post(10)).await.unwrap(),
        Outcome::IdTaken
    ));
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_version_and_a_taken_key_are_told_apart() {
    let (app, core) = world().await;
    let key = |hash| {
        Some(Key {
            text: "http:k".into(),
            hash,
        })
    };
    let first = Append {
        key: key(7),
        ..post(10)
    };
    core.store.append(&first).await.unwrap();
    let mut rival = post(11);
    rival.event.stream = first.event.stream;
    assert!(matches!(
        core.store.append(&rival).await.unwrap(),
        Outcome::VersionTaken
    ));
    let again = Append {
        key: key(8),
        ..post(12)
    };
    let Outcome::KeyTaken(receipt) = core.store.append(&again).await.unwrap() else {
        panic!("the key is taken");
    };
    assert_eq!((receipt.event, receipt.hash), (first.event, 7));
    let elsewhere = Append {
        key: key(8),
        owner: Id::new(2).unwrap(),
        ..post(13)
    };
    assert!(matches!(
        core.store.append(&elsewhere).await.unwrap(),
        Outcome::Appended
    ));
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_appends_say_of_each_whether_it_is_there() {
    let (app, core) = world().await;
    core.store.append(&post(11)).await.unwrap();
    let appends: Vec<Append> = (10..15).map(post).collect();
    let there = core.store.append_all(&appends).await.unwrap();
    assert_eq!(there, [true, false, true, true, true]);
    assert_eq!(
        core.store.append_all(&appends).await.unwrap(),
        there,
        "asked again"
    );
    assert_eq!(app.log().await.len(), 5);
    app.end().await;
}

fn account(id: i64, username: &str, email: &str) -> NewAccount {
    let payload = Payload::UserRegistered(UserRegistered {
        username: username.into(),
        email: NoAddress,
        display_name: username.into(),
        bio: String::new(),
    });
    NewAccount {
        event: Event {
            id: Id::new(id).unwrap(),
            stream: LogStream::User(Id::new(id).unwrap()),
            version: 1,
            actor: Id::new(id).unwrap(),
            at: Timestamp::from_millis(1_700_000_000_000),
            payload,
        },
        username: username.into(),
        email: shared::names::fold(email),
        address: email.into(),
        password_hash: Some(shared::settings::Secret::new("$argon2id$")),
        trace: None,
        nonce: rand::random(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_whole_or_absent_and_says_what_is_taken() {
    let (app, core) = world().await;
    let store = &core.store;
    let ada = account(10, "ada", "ada@x.org");
    assert_eq!(store.register(&ada).await.unwrap(), Registered::Done);
    for (rival, taken) in [
        (account(11, "ada", "other@x.org"), Registered::UsernameTaken),
        (account(12, "eve", "ada@x.org"), Registered::EmailTaken),
        (account(10, "eve", "eve@x.org"), Registered::IdTaken),
    ] {
        assert_eq!(store.register(&rival).await.unwrap(), taken);
    }
    let eve = AccountName::Username("eve".into());
    assert_eq!(
        store.find_account(&eve).await.unwrap(),
        None,
        "nothing is left reserved"
    );
    let crowd = [account(20, "one", "1@x.org"), account(21, "ada", "2@x.org")];
    assert!(!store.register_all(&crowd).await.unwrap());
    assert_eq!(app.log().await.len(), 1);
    app.end().await;
}

/// Stands before the database and swallows the answers to the first `cuts` commits, with the
/// connections on which they were sent.
async fn swallowing_commits(database: String, cuts: u32) -> std::net::SocketAddr {
    const COMMIT: &[u8] = b"commitTransaction";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let left = Arc::new(AtomicU32::new(cuts));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (database, left) = (database.clone(), left.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(database).await?;
                let (mut asked, mut told) = (vec![0; 1 << 16], vec![0; 1 << 16]);
                loop {
                    tokio::select! {
                        n = client.read(&mut asked) => {
                            let asked = &asked[..n?];
                            server.write_all(asked).await?;
                            let commits = asked.windows(COMMIT.len()).any(|it| it == COMMIT);
                            let one_less = |left: u32| left.checked_sub(1);
                            if asked.is_empty() {
                                break;
                            } else if commits
                                && left.fetch_update(Relaxed, Relaxed, one_less).is_ok()
                            {
                                let _ = server.read(&mut told).await?;
                                break;
                            }
                        }
                        n = server.read(&mut told) => {
                            let n = n?;
                            client.write_all(&told[..n]).await?;
                            if n == 0 {
                                break;
                            }
                        }
                    }
                }
                Ok::<(), std::io::Error>(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_commit_is_not_answered_is_never_told_that_it_is_taken() {
    let (app, core) = world().await;
    let uri = app.uri.trim_start_matches("mongodb://");
    let (host, rest) = uri.split_once('/').unwrap();
    for (n, cuts) in [1, 3, u32::MAX].into_iter().enumerate() {
        let proxy = swallowing_commits(host.to_owned(), cuts).await;
        let mut settings = app.settings.clone();
        let uri = format!("mongodb://{proxy}/{rest}&directConnection=true");
        settings.mongodb_uri = Secret::new(uri);
        let signer = Signer::load_or_make(&settings.jwt_private_key_file).unwrap();
        let behind = Core::open(&settings, signer, &Tasks::default()).await;
        let behind = behind.unwrap();
        behind.store.prepare().await.unwrap();
        let form = RegistrationForm {
            username: format!("ada_{n}"),
            email: format!("ada_{n}@example.org"),
            ..RegistrationForm::default()
        };
        let registered = behind.app.register(form.clone()).await;
        assert!(registered.is_ok(), "{cuts} answers lost: {registered:?}");
        // By another it is.
        let again = core.app.register(form).await;
        assert!(
            matches!(again, Err(CommandError::Refused(Refusal::UsernameTaken))),
            "{again:?}"
        );
    }
    assert_eq!(app.log().await.len(), 3);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_an_earlier_build_is_shown_and_forgotten_like_any_other() {
    let (app, core) = world().await;
    let ada = account(10, "ada", "Ada@x.org");
    core.store.register(&ada).await.unwrap();
    let user = Id::new(10).unwrap();
    let address = async || core.store.address(user).await.unwrap();
    assert_eq!(address().await.as_deref(), Some("Ada@x.org"));
    // It wrote the address into the event, and only the folded one beside the account.
    let (database, of_ada) = (app.database().await, doc! { "_id": 10_i64 });
    let rows = |name: &str| database.collection::<bson::Document>(name);
    let older = doc! { "$set": { "data.email": "Ada@x.org" } };
    rows("events")
        .update_one(of_ada.clone(), older)
        .await
        .unwrap();
    let older = doc! { "$unset": { "address": "" } };
    rows("emails").update_one(doc! {}, older).await.unwrap();
    assert_eq!(address().await.as_deref(), Some("Ada@x.org"));
    for _ in 0..2 {
        core.store.forget_account(user).await.unwrap();
        assert_eq!(address().await, None);
    }
    let event = rows("events").find_one(of_ada).await.unwrap().unwrap();
    let data = event.get_document("data").unwrap();
    assert_eq!(data.get_str("email").unwrap(), "");
    assert_eq!(data.get_str("username").unwrap(), "ada");
    for name in ["emails", "credentials"] {
        assert_eq!(
            rows(name).count_documents(doc! {}).await.unwrap(),
            0,
            "{name}"
        );
    }
    let rivals = [
        account(11, "eve", "ada@x.org"),
        account(12, "ada", "b@x.org"),
    ];
    let [eve, other] = rivals.each_ref().map(|rival| core.store.register(rival));
    assert_eq!(eve.await.unwrap(), Registered::Done, "the address is free");
    assert_eq!(other.await.unwrap(), Registered::UsernameTaken);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_whose_deactivation_never_came_goes_away() {
    let (app, core) = world().await;
    let user = Id::new(10).unwrap();
    let long_ago = Timestamp::from_millis(1_000);
    core.store.plan_farewell(user, long_ago).await.unwrap();
    assert!(
        core.app.farewell_step().await.unwrap(),
        "the job is looked at"
    );
    assert!(!core.app.farewell_step().await.unwrap(), "and gone");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_that_is_planned_again_is_not_given_up() {
    let (app, core) = world().await;
    let user = Id::new(10).unwrap();
    let (long_ago, now) = (Timestamp::from_millis(1_000), SystemClock.now());
    let lease = Duration::from_secs(30);
    core.store.plan_farewell(user, long_ago).await.unwrap();
    // A worker has found that the user is still there; meanwhile they try again.
    let claimed = core.store.claim_farewell(long_ago, lease).await.unwrap();
    core.store.plan_farewell(user, now).await.unwrap();
    core.store.drop_farewell(&claimed.unwrap()).await.unwrap();
    assert!(
        core.app.farewell_step().await.unwrap(),
        "the job is still there"
    );
    let later = Timestamp::from_millis(now.millis() + 3_600_000);
    let kept = core.store.claim_farewell(later, lease).await.unwrap();
    assert_eq!(kept.unwrap().planned_at, now);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_is_one_worker_s_at_a_time_and_keeps_its_place() {
    let (app, core) = world().await;
    let (user, now) = (Id::new(10).unwrap(), Timestamp::from_millis(1_000_000));
    core.store.plan_farewell(user, now).await.unwrap();
    core.store.plan_farewell(user, now).await.unwrap();
    let lease = Duration::from_secs(30);
    let mut job = core
        .store
        .claim_farewell(now, lease)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(core.store.claim_farewell(now, lease).await.unwrap(), None);
    job.tie = Tie::Replies;
    job.after = Some(LogStream::Post(Id::new(77).unwrap()));
    core.store.save_farewell(&job, now).await.unwrap();
    assert_eq!(
        core.store.claim_farewell(now, lease).await.unwrap(),
        Some(job)
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ties_of_every_kind_are_found_page_by_page() {
    let (app, core) = world().await;
    let edge = |id: i64, follower: i64, followee: i64| {
        let ends = Edge {
            follower: Id::new(follower).unwrap(),
            followee: Id::new(followee).unwrap(),
        };
        let mut append = post(id);
        append.owner = ends.follower;
        append.event.stream = LogStream::Follow {
            follower: ends.follower,
            followee: ends.followee,
        };
        append.event.payload = Payload::Followed(ends);
        append
    };
    let mut appends: Vec<Append> = (20..30).map(|n| edge(n, 1, n)).collect();
    appends.extend((30..40).map(|n| edge(n, n, 2)));
    let parent = PostRef {
        post: Id::new(7).unwrap(),
        author: Id::new(3).unwrap(),
    };
    let by_one = |append: &mut Append| {
        append.owner = Id::new(1).unwrap();
        append.event.actor = append.owner;
    };
    // Posts that answer none are not looked at.
    appends.extend((40..60).map(|n| {
        let mut append = post(n);
        by_one(&mut append);
        append.event.stream = LogStream::Post(Id::new(n).unwrap());
        append.event.payload = Payload::PostCreated(PostCreated {
            content: "hi".into(),
            reply_to: (n < 50).then_some(parent),
        });
        append
    }));
    appends.extend((60..70).map(|n| {
        let mut append = post(n);
        by_one(&mut append);
        let reposted = PostRef {
            post: Id::new(n).unwrap(),
            ..parent
        };
        append.event.stream = LogStream::Repost {
            user: append.owner,
            post: reposted.post,
        };
        append.event.payload = Payload::Reposted(reposted);
        append
    }));
    core.store.append_all(&appends).await.unwrap();
    for (user, tie, expected) in [
        (1, Tie::Followees, 20..30),
        (2, Tie::Followers, 30..40),
        (1, Tie::Replies, 40..50),
        (1, Tie::Reposts, 60..70),
    ] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let user = Id::new(user).unwrap();
            let page = core.store.ties(user, tie, after, 3).await.unwrap();
            after = page.last().copied();
            if after.is_none() {
                break;
            }
            found.extend(page.iter().map(|stream| match stream {
                LogStream::Follow { followee, .. } if tie == Tie::Followees => followee.get(),
                LogStream::Follow { follower, .. } => follower.get(),
                LogStream::Post(post) | LogStream::Repost { post, .. } => post.get(),
                LogStream::User(_) | LogStream::Like { .. } => panic!("{stream} is no tie"),
            }));
        }
        assert_eq!(found, expected.collect::<Vec<i64>>());
    }
    assert_eq!(
        core.store.count_follows(Id::new(1).unwrap()).await.unwrap(),
        10
    );
    app.end().await;
}
