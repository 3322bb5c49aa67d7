//! Use cases on the in-memory store: decisions as a caller meets them, without an engine.

use std::sync::Arc;
use std::time::Duration;

use shared::contract::events::{LogStream, Payload};
use shared::contract::ids::{PostId, UserId};
use shared::contract::time::{Clock, SystemClock};
use shared::resilience::{AdmissionControl, Breaker, Limits};
use shared::runtime::tasks::Tasks;

use super::error::{Limit, Refusal};
use super::ports::memory::Memory;
use super::ports::{Limited, Quota, Registered};
use super::{Accepted, App, CommandError, Created, ModerationAction, NewPost, Parts};
use crate::domain::text::Content;
use crate::domain::user::{self, Registration, RegistrationForm};
use crate::keys::Signer;

const QUOTA: Quota = Quota {
    posts: 3,
    window: Duration::from_secs(3_600),
};

struct World {
    memory: Arc<Memory>,
    app: Arc<App>,
}

impl World {
    fn new() -> Self {
        let memory = Arc::new(Memory::default());
        let limits = Limits {
            max_in_flight: 64,
            max_queued: 64,
            queue_timeout: Duration::from_secs(1),
            request_timeout: super::DEADLINE,
        };
        let app = App::new(Parts {
            store: memory.store(),
            clock: Arc::new(SystemClock),
            signer: Arc::new(Signer::unknown().unwrap()),
            tasks: Tasks::default(),
            gate: AdmissionControl::new(Arc::new(Breaker::new("mongodb")), limits),
            quota: QUOTA,
            limit_logins: false,
        });
        let app = Arc::new(app);
        Self { memory, app }
    }

    /// Without a password: hashing takes as long as a hundred of these tests.
    async fn register(&self, username: &str) -> UserId {
        let form = RegistrationForm {
            username: username.into(),
            email: format!("{username}@example.org"),
            ..RegistrationForm::default()
        };
        self.app.register(form).await.unwrap().value.user.id
    }

    async fn post(
        &self,
        author: UserId,
        text: &str,
        reply_to: Option<PostId>,
        key: Option<&str>,
    ) -> Result<Accepted<Created>, CommandError> {
        let new = NewPost {
            content: Content::parse(text).unwrap(),
            reply_to,
            key: key.map(str::to_owned),
        };
        self.app.create_post(author, new).await
    }

    /// Somebody leaves; the password was asked for.
    async fn leave(&self, user: UserId) {
        let now = SystemClock.now();
        self.app.store.cleanups.plan(user, now).await.unwrap();
        let leave = |user: &user::User| Ok(user::deactivate(user));
        self.app.change_user(user, leave).await.unwrap();
    }

    async fn versions(&self, owner: UserId, stream: LogStream) -> i64 {
        let last = self.app.store.streams.last(owner, stream).await.unwrap();
        last.map_or(0, |event| event.version)
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, CommandError>) -> Refusal {
    match outcome {
        Err(CommandError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn the_same_key_gets_the_first_answer_and_takes_no_quota() {
    let world = World::new();
    let ada = world.register("ada").await;
    let first = world.post(ada, "hello", None, Some("k")).await.unwrap();
    let again = world.post(ada, "hello", None, Some("k")).await.unwrap();
    assert_eq!(again.value.id, first.value.id);
    assert!(again.value.replayed && !first.value.replayed);
    let other = world.post(ada, "good bye", None, Some("k")).await;
    assert_eq!(refused(other), Refusal::KeyReused);
    let left = again.value.allowance.map(|it| it.state.remaining);
    assert_eq!(left, Some(QUOTA.posts - 1));
}

#[tokio::test]
async fn the_quota_ends_and_says_so() {
    let world = World::new();
    let ada = world.register("ada").await;
    for n in 0..QUOTA.posts {
        world.post(ada, &format!("{n}"), None, None).await.unwrap();
    }
    let Err(CommandError::LimitReached(Limit::Quota(used_up))) =
        world.post(ada, "one more", None, None).await
    else {
        panic!("the quota is used up");
    };
    assert_eq!((used_up.of, used_up.state.remaining), (Limited::Posts, 0));
    assert_eq!(world.memory.events().len(), 1 + QUOTA.posts as usize);
}

#[tokio::test]
async fn a_reply_needs_a_post_that_is_there() {
    let world = World::new();
    let (ada, bob) = (world.register("ada").await, world.register("bob").await);
    let post = world.post(ada, "hello", None, None).await.unwrap().value.id;
    let reply = world.post(bob, "hi", Some(post), None).await.unwrap();
    assert_eq!(reply.value.reply_to, Some(post));
    world.app.delete_post(ada, post).await.unwrap();
    let late = world.post(bob, "too late", Some(post), None).await;
    assert_eq!(refused(late), Refusal::NoSuchPost);
    let stranger = world.app.delete_post(ada, reply.value.id).await;
    assert_eq!(refused(stranger), Refusal::NotYours);
}

#[tokio::test]
async fn rivals_on_one_switch_are_all_served_and_versions_have_no_gap() {
    let world = World::new();
    let (ada, bob) = (world.register("ada").await, world.register("bob").await);
    let post = world.post(bob, "hello", None, None).await.unwrap().value.id;
    let switch = async |on: bool| match on {
        true => world.app.like(ada, post).await,
        false => world.app.unlike(ada, post).await,
    };
    let rivals = (0..16).map(|n| switch(n % 2 == 0));
    for outcome in futures_util::future::join_all(rivals).await {
        outcome.unwrap();
    }
    let stream = LogStream::Like { user: ada, post };
    let last = world.versions(ada, stream).await;
    let events = world.memory.events();
    let of_stream = events.iter().filter(|event| event.stream == stream);
    let versions: Vec<i64> = of_stream.map(|event| event.version).collect();
    assert_eq!(versions, (1..=last).collect::<Vec<i64>>());
}

#[tokio::test]
async fn two_who_want_one_name_are_one_user() {
    let world = World::new();
    let forms = ["ada@example.org", "other@example.org"].map(|email| RegistrationForm {
        username: "ada".into(),
        email: email.into(),
        ..RegistrationForm::default()
    });
    let [one, other] = forms.map(|form| world.app.register(form));
    let (one, other) = tokio::join!(one, other);
    assert_eq!(u8::from(one.is_ok()) + u8::from(other.is_ok()), 1);
    let refusal = refused(if one.is_ok() { other } else { one });
    assert_eq!(refusal, Refusal::UsernameTaken);
    // What is not seen in time is found by the reservation.
    let rival = Registration::parse(&RegistrationForm {
        username: "ada".into(),
        email: "third@example.org".into(),
        ..RegistrationForm::default()
    });
    let account = world.app.new_account(&rival.unwrap(), None, 0).unwrap();
    let registered = world.app.store.accounts.register(&account).await.unwrap();
    assert_eq!(registered, Registered::UsernameTaken);
}

#[tokio::test]
async fn who_is_suspended_reads_and_writes_nothing() {
    let world = World::new();
    let (ada, bob) = (world.register("ada").await, world.register("bob").await);
    world
        .app
        .moderate("ada", ModerationAction::Suspend)
        .await
        .unwrap();
    let post = world.post(ada, "hello", None, None).await;
    assert_eq!(refused(post), Refusal::Suspended);
    assert_eq!(
        refused(world.app.follow(ada, bob).await),
        Refusal::Suspended
    );
    world
        .app
        .moderate("ada", ModerationAction::Unsuspend)
        .await
        .unwrap();
    world.app.follow(ada, bob).await.unwrap();
    let unknown = world.app.moderate("eve", ModerationAction::Verify).await;
    assert_eq!(refused(unknown), Refusal::NoSuchUser);
}

#[tokio::test]
async fn whoever_leaves_takes_follows_reposts_and_replies_along() {
    let world = World::new();
    let (ada, bob) = (world.register("ada").await, world.register("bob").await);
    let post = world.post(bob, "hello", None, None).await.unwrap().value.id;
    let reply = world.post(ada, "hi", Some(post), None).await.unwrap();
    world.app.follow(ada, bob).await.unwrap();
    world.app.follow(bob, ada).await.unwrap();
    world.app.repost(ada, post).await.unwrap();
    world.app.like(ada, post).await.unwrap();
    world.leave(ada).await;
    // The first pass; the second is due when no command can believe an older status.
    while world.app.cleanup_step().await.unwrap() {}
    let follow = |follower, followee| LogStream::Follow { follower, followee };
    let (repost, like) = (
        LogStream::Repost { user: ada, post },
        LogStream::Like { user: ada, post },
    );
    for (owner, stream, version, what) in [
        (ada, follow(ada, bob), 2, "whom ada followed"),
        (bob, follow(bob, ada), 2, "who followed ada"),
        (ada, repost, 2, "what ada reposted"),
        (ada, LogStream::Post(reply.value.id), 2, "what ada answered"),
        (ada, like, 1, "likes stay"),
    ] {
        assert_eq!(world.versions(owner, stream).await, version, "{what}");
    }
    let follow = world.app.follow(bob, ada).await;
    assert_eq!(refused(follow), Refusal::NoSuchUser);
    assert_eq!(refused(world.app.follow(ada, bob).await), Refusal::NoActor);
    let events = world.memory.events();
    let left = |payload: &Payload| matches!(payload, Payload::UserDeactivated(_));
    assert_eq!(events.iter().filter(|it| left(&it.payload)).count(), 1);
}
