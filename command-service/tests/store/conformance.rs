//! What every implementation of the ports promises, one function each, on a store that is empty.
//! Run on MongoDB by `tests/store.rs`, and on the in-memory twin by the crate's own tests.

use command_service::app::ports::{
    AppendOutcome, Key, NewAccount, NewEvent, Registered, Relation, Store,
};
use shared::contract::consistency::Position;
use shared::contract::events::{
    Edge, Event, LogStream, NoAddress, NoData, Payload, PostCreated, PostRef, UserRegistered,
};
use shared::contract::ids::{Id, SEQUENCE_BITS, UserId};
use shared::contract::time::Timestamp;
use shared::runtime::settings::Secret;

/// An empty store, and what can be seen of it from outside.
pub trait World {
    fn store(&self) -> &Store;
    /// How many events the log has.
    fn events(&self) -> impl Future<Output = usize>;
    fn end(self) -> impl Future<Output = ()>;
}

/// Makes a test of each promise, on the world that `$open` makes.
macro_rules! promises {
    ($open:ident) => {
        promises! {
            $open:
            an_append_may_be_asked_for_again,
            another_s_event_under_the_same_id_means_take_the_next,
            a_taken_version_and_a_taken_key_are_told_apart,
            many_appends_say_of_each_whether_it_is_there,
            a_registration_is_whole_or_absent_and_says_what_is_taken,
            a_farewell_is_one_worker_s_at_a_time_and_keeps_its_place,
            ties_of_every_kind_are_found_page_by_page,
            what_was_done_under_a_key_is_found_by_it,
            only_a_post_is_a_post,
            a_user_is_what_their_stream_says,
            the_latest_events_name_each_stream_once,
            an_address_is_forgotten_and_a_name_is_not,
            a_refresh_token_is_renewed_once_and_gets_its_answer_again,
            a_password_is_replaced_once_and_says_which_sessions_go_on,
            one_session_too_many_ends_the_one_that_was_used_longest_ago,
            an_address_is_exchanged_or_stays_as_it_was,
            a_quota_is_granted_so_often_and_given_back_to_its_window,
            follows_are_counted_from_the_log_and_reserved_up_to_the_limit,
        }
    };
    ($open:ident: $($promise:ident),* $(,)?) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $promise() {
            let world = $open().await;
            conformance::$promise(&world).await;
            world.end().await;
        }
    )* };
}
pub(crate) use promises;

mod guards;
pub use guards::*;

pub fn post(id: i64) -> NewEvent {
    let payload = Payload::PostCreated(PostCreated {
        content: format!("post {id}"),
        reply_to: None,
    });
    NewEvent {
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

pub fn account(id: i64, username: &str, email: &str) -> NewAccount {
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
        email: shared::contract::names::fold(email),
        address: email.into(),
        password_hash: Some(Secret::new("$argon2id$")),
        trace: None,
        nonce: rand::random(),
    }
}

pub async fn an_append_may_be_asked_for_again(world: &impl World) {
    let store = world.store();
    let append = post(10);
    for _ in 0..3 {
        assert!(matches!(
            store.log.append(&append).await.unwrap(),
            AppendOutcome::Appended(_)
        ));
    }
    assert_eq!(world.events().await, 1);
}

pub async fn another_s_event_under_the_same_id_means_take_the_next(world: &impl World) {
    let store = world.store();
    store.log.append(&post(10)).await.unwrap();
    assert!(matches!(
        store.log.append(&post(10)).await.unwrap(),
        AppendOutcome::IdTaken
    ));
}

pub async fn a_taken_version_and_a_taken_key_are_told_apart(world: &impl World) {
    let store = world.store();
    let key = |hash| {
        Some(Key {
            text: "http:k".into(),
            hash,
        })
    };
    let first = NewEvent {
        key: key(7),
        ..post(10)
    };
    store.log.append(&first).await.unwrap();
    let mut rival = post(11);
    rival.event.stream = first.event.stream;
    assert!(matches!(
        store.log.append(&rival).await.unwrap(),
        AppendOutcome::VersionTaken
    ));
    let again = NewEvent {
        key: key(8),
        ..post(12)
    };
    let AppendOutcome::KeyTaken(prior_request) = store.log.append(&again).await.unwrap() else {
        panic!("the key is taken");
    };
    assert_eq!((prior_request.event, prior_request.hash), (first.event, 7));
    let elsewhere = NewEvent {
        key: key(8),
        owner: Id::new(2).unwrap(),
        ..post(13)
    };
    assert!(matches!(
        store.log.append(&elsewhere).await.unwrap(),
        AppendOutcome::Appended(_)
    ));
}

pub async fn many_appends_say_of_each_whether_it_is_there(world: &impl World) {
    let store = world.store();
    store.log.append(&post(11)).await.unwrap();
    let appends: Vec<NewEvent> = (10..15).map(post).collect();
    let there = store.log.append_all(&appends).await.unwrap();
    assert_eq!(there, [true, false, true, true, true]);
    assert_eq!(
        store.log.append_all(&appends).await.unwrap(),
        there,
        "asked again"
    );
    assert_eq!(world.events().await, 5);
}

pub async fn ties_of_every_kind_are_found_page_by_page(world: &impl World) {
    let store = world.store();
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
    let mut appends: Vec<NewEvent> = (20..30).map(|n| edge(n, 1, n)).collect();
    appends.extend((30..40).map(|n| edge(n, n, 2)));
    let parent = PostRef {
        post: Id::new(7).unwrap(),
        author: Id::new(3).unwrap(),
    };
    let by_one = |append: &mut NewEvent| {
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
    store.log.append_all(&appends).await.unwrap();
    for (user, relation, expected) in [
        (1, Relation::Followees, 20..30),
        (2, Relation::Followers, 30..40),
        (1, Relation::Replies, 40..50),
        (1, Relation::Reposts, 60..70),
    ] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let user = Id::new(user).unwrap();
            let page = store.log.relations(user, relation, after, 3).await.unwrap();
            after = page.last().copied();
            if after.is_none() {
                break;
            }
            found.extend(page.iter().map(|stream| match stream {
                LogStream::Follow { followee, .. } if relation == Relation::Followees => {
                    followee.get()
                }
                LogStream::Follow { follower, .. } => follower.get(),
                LogStream::Post(post) | LogStream::Repost { post, .. } => post.get(),
                LogStream::User(_) | LogStream::Like { .. } => panic!("{stream} is no relation"),
            }));
        }
        assert_eq!(found, expected.collect::<Vec<i64>>());
    }
    assert_eq!(store.follows.count(Id::new(1).unwrap()).await.unwrap(), 10);
}

fn event(owner: i64, id: i64, stream: LogStream, version: i64, payload: Payload) -> NewEvent {
    let mut append = post(id);
    append.owner = Id::new(owner).unwrap();
    append.event.actor = append.owner;
    append.event.stream = stream;
    append.event.version = version;
    append.event.payload = payload;
    append
}

fn edge(follower: i64, followee: i64) -> (LogStream, Edge) {
    let (follower, followee) = (Id::new(follower).unwrap(), Id::new(followee).unwrap());
    let stream = LogStream::Follow { follower, followee };
    (stream, Edge { follower, followee })
}

fn user(id: i64) -> UserId {
    Id::new(id).unwrap()
}

pub async fn what_was_done_under_a_key_is_found_by_it(world: &impl World) {
    let store = world.store();
    let keyed = NewEvent {
        key: Some(Key {
            text: "import:a".into(),
            hash: 7,
        }),
        ..post(10)
    };
    store.log.append(&keyed).await.unwrap();
    let found = store.log.prior_request(user(1), "import:a").await.unwrap();
    let found = found.expect("the key is used");
    assert_eq!((found.event, found.hash), (keyed.event, 7));
    let keys = [(1, "import:a"), (2, "import:a"), (1, "import:b")];
    let keys = keys.map(|(owner, key)| (user(owner), key.to_owned()));
    let found = store.log.prior_requests(&keys).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[&keys[0]], (Id::new(10).unwrap(), 7));
}

pub async fn only_a_post_is_a_post(world: &impl World) {
    let store = world.store();
    store.log.append(&post(10)).await.unwrap();
    let (stream, ends) = edge(1, 2);
    let follow = event(1, 11, stream, 1, Payload::Followed(ends));
    store.log.append(&follow).await.unwrap();
    for (id, is_post) in [(10, true), (11, false), (12, false)] {
        let found = store.log.post_created(Id::new(id).unwrap()).await.unwrap();
        assert_eq!(found.is_some(), is_post, "{id}");
    }
}

pub async fn a_user_is_what_their_stream_says(world: &impl World) {
    let store = world.store();
    let ada = account(10, "ada", "ada@x.org");
    assert_eq!(
        store.accounts.register(&ada).await.unwrap(),
        Registered::Done
    );
    let own = LogStream::User(user(10));
    for (id, version, payload) in [
        (20, 2, Payload::UserVerified(NoData {})),
        (30, 3, Payload::UserSuspended(NoData {})),
    ] {
        let decided = event(10, id, own, version, payload);
        store.log.append(&decided).await.unwrap();
    }
    let now = store.streams.user(user(10)).await.unwrap().expect("ada");
    assert_eq!((now.version, now.verified), (3, true));
    assert!(now.status.can_write().is_err());
    let before = store.streams.user_before(user(10), Id::new(30).unwrap());
    let before = before.await.unwrap().expect("ada before");
    assert_eq!((before.version, before.verified), (2, true));
    assert!(before.status.can_write().is_ok());
    let last = store.streams.last(user(10), own).await.unwrap();
    assert_eq!(last.map(|event| event.id.get()), Some(30));
    let found = store.streams.statuses(&[user(10), user(11)]).await;
    let found = found.unwrap();
    assert_eq!(found.len(), 1, "nobody is number 11");
    assert_eq!(found[&user(10)], (now.status, now.last));
    assert_eq!(store.streams.user(user(11)).await.unwrap(), None);
    assert_eq!(store.streams.last(user(11), own).await.unwrap(), None);
}

pub async fn the_latest_events_name_each_stream_once(world: &impl World) {
    let store = world.store();
    let at = |seconds: i64| (1_700_000_000_000 + 1_000 * seconds) << SEQUENCE_BITS;
    let (stream, ends) = edge(1, 2);
    let alone = LogStream::Post(Id::new(at(20)).unwrap());
    for append in [
        // So much older than the newest that it stands before it.
        post(at(1)),
        event(1, at(15), stream, 1, Payload::Followed(ends)),
        event(1, at(16), stream, 2, Payload::Unfollowed(ends)),
        post(at(20)),
    ] {
        store.log.append(&append).await.unwrap();
    }
    let latest = store.streams.latest(user(1)).await.unwrap();
    let expected = [(alone, 1), (stream, 2)];
    assert_eq!(
        latest,
        expected.map(|(stream, version)| Position { stream, version })
    );
    assert!(store.streams.latest(user(2)).await.unwrap().is_empty());
}
