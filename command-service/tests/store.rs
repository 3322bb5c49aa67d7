//! The store's promises, one by one: what a refused insert means, and that every write may be
//! asked for twice.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

#[path = "store/conformance.rs"]
mod conformance;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bson::doc;
use command_service::app::CommandError;
use command_service::app::error::Refusal;
use command_service::app::ports::{Registered, Store};
use command_service::domain::user::RegistrationForm;
use command_service::keys::Signer;
use command_service::startup::Core;
use conformance::{World, account, promises};
use shared::contract::ids::Id;
use shared::contract::time::{Clock, SystemClock, Timestamp};
use shared::runtime::settings::Secret;
use shared::runtime::tasks::Tasks;
use support::TestApp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn world() -> (TestApp, Core) {
    let app = TestApp::spawn();
    let core = app.core().await;
    (app, core)
}

struct OnMongo {
    app: TestApp,
    core: Core,
}

async fn on_mongo() -> OnMongo {
    let (app, core) = world().await;
    OnMongo { app, core }
}

impl World for OnMongo {
    fn store(&self) -> &Store {
        self.core.store.ports()
    }

    async fn events(&self) -> usize {
        self.app.log().await.len()
    }

    async fn end(self) {
        self.app.end().await;
    }
}

promises!(on_mongo);

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
    core.store.ports().accounts.register(&ada).await.unwrap();
    let user = Id::new(10).unwrap();
    let address = async || core.store.ports().accounts.address(user).await.unwrap();
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
        core.store.ports().accounts.forget(user).await.unwrap();
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
    let [eve, other] = rivals
        .each_ref()
        .map(|rival| core.store.ports().accounts.register(rival));
    assert_eq!(eve.await.unwrap(), Registered::Done, "the address is free");
    assert_eq!(other.await.unwrap(), Registered::UsernameTaken);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_whose_deactivation_never_came_goes_away() {
    let (app, core) = world().await;
    let user = Id::new(10).unwrap();
    let long_ago = Timestamp::from_millis(1_000);
    core.store
        .ports()
        .cleanups
        .plan(user, long_ago)
        .await
        .unwrap();
    assert!(
        core.app.cleanup_step().await.unwrap(),
        "the job is looked at"
    );
    assert!(!core.app.cleanup_step().await.unwrap(), "and gone");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_that_is_planned_again_is_not_given_up() {
    let (app, core) = world().await;
    let user = Id::new(10).unwrap();
    let (long_ago, now) = (Timestamp::from_millis(1_000), SystemClock.now());
    let lease = Duration::from_secs(30);
    core.store
        .ports()
        .cleanups
        .plan(user, long_ago)
        .await
        .unwrap();
    // A worker has found that the user is still there; meanwhile they try again.
    let claimed = core
        .store
        .ports()
        .cleanups
        .claim(long_ago, lease)
        .await
        .unwrap();
    core.store.ports().cleanups.plan(user, now).await.unwrap();
    core.store
        .ports()
        .cleanups
        .remove(&claimed.unwrap())
        .await
        .unwrap();
    assert!(
        core.app.cleanup_step().await.unwrap(),
        "the job is still there"
    );
    let later = Timestamp::from_millis(now.millis() + 3_600_000);
    let kept = core
        .store
        .ports()
        .cleanups
        .claim(later, lease)
        .await
        .unwrap();
    assert_eq!(kept.unwrap().planned_at, now);
    app.end().await;
}
