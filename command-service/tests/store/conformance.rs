//! What every implementation of the ports promises, one function each, on a store that is empty.
//! Run on MongoDB by `tests/store.rs`, and on the in-memory twin by the crate's own tests.

use std::time::Duration;

use command_service::app::ports::{
    AccountName, Append, AppendOutcome, Key, Limited, NewAccount, Quota, Registered, Renewal,
    Renewed, Rotation, Session, Store, Tie,
};
use shared::consistency::Position;
use shared::events::{
    Bare, Edge, Event, LogStream, NoAddress, Payload, PostCreated, PostRef, UserRegistered,
};
use shared::ids::{Id, SEQUENCE_BITS, UserId};
use shared::settings::Secret;
use shared::time::{Clock, SystemClock, Timestamp};

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

pub fn post(id: i64) -> Append {
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
        email: shared::names::fold(email),
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
    let first = Append {
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
    let again = Append {
        key: key(8),
        ..post(12)
    };
    let AppendOutcome::KeyTaken(receipt) = store.log.append(&again).await.unwrap() else {
        panic!("the key is taken");
    };
    assert_eq!((receipt.event, receipt.hash), (first.event, 7));
    let elsewhere = Append {
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
    let appends: Vec<Append> = (10..15).map(post).collect();
    let there = store.log.append_all(&appends).await.unwrap();
    assert_eq!(there, [true, false, true, true, true]);
    assert_eq!(
        store.log.append_all(&appends).await.unwrap(),
        there,
        "asked again"
    );
    assert_eq!(world.events().await, 5);
}

pub async fn a_registration_is_whole_or_absent_and_says_what_is_taken(world: &impl World) {
    let store = world.store();
    let ada = account(10, "ada", "ada@x.org");
    assert_eq!(
        store.accounts.register(&ada).await.unwrap(),
        Registered::Done
    );
    for (rival, taken) in [
        (account(11, "ada", "other@x.org"), Registered::UsernameTaken),
        (account(12, "eve", "ada@x.org"), Registered::EmailTaken),
        (account(10, "eve", "eve@x.org"), Registered::IdTaken),
    ] {
        assert_eq!(store.accounts.register(&rival).await.unwrap(), taken);
    }
    let eve = AccountName::Username("eve".into());
    assert_eq!(
        store.accounts.find(&eve).await.unwrap(),
        None,
        "nothing is left reserved"
    );
    let crowd = [account(20, "one", "1@x.org"), account(21, "ada", "2@x.org")];
    assert!(!store.accounts.register_all(&crowd).await.unwrap());
    assert_eq!(world.events().await, 1);
}

pub async fn a_farewell_is_one_worker_s_at_a_time_and_keeps_its_place(world: &impl World) {
    let store = world.store();
    let (user, now) = (Id::new(10).unwrap(), Timestamp::from_millis(1_000_000));
    store.cleanups.plan(user, now).await.unwrap();
    store.cleanups.plan(user, now).await.unwrap();
    let lease = Duration::from_secs(30);
    let mut job = store.cleanups.claim(now, lease).await.unwrap().unwrap();
    assert_eq!(store.cleanups.claim(now, lease).await.unwrap(), None);
    job.tie = Tie::Replies;
    job.after = Some(LogStream::Post(Id::new(77).unwrap()));
    store.cleanups.save(&job, now).await.unwrap();
    assert_eq!(store.cleanups.claim(now, lease).await.unwrap(), Some(job));
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
    store.log.append_all(&appends).await.unwrap();
    for (user, tie, expected) in [
        (1, Tie::Followees, 20..30),
        (2, Tie::Followers, 30..40),
        (1, Tie::Replies, 40..50),
        (1, Tie::Reposts, 60..70),
    ] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let user = Id::new(user).unwrap();
            let page = store.log.ties(user, tie, after, 3).await.unwrap();
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
    assert_eq!(store.follows.count(Id::new(1).unwrap()).await.unwrap(), 10);
}

fn event(owner: i64, id: i64, stream: LogStream, version: i64, payload: Payload) -> Append {
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
    let keyed = Append {
        key: Some(Key {
            text: "import:a".into(),
            hash: 7,
        }),
        ..post(10)
    };
    store.log.append(&keyed).await.unwrap();
    let found = store.log.receipt(user(1), "import:a").await.unwrap();
    let found = found.expect("the key is used");
    assert_eq!((found.event, found.hash), (keyed.event, 7));
    let keys = [(1, "import:a"), (2, "import:a"), (1, "import:b")];
    let keys = keys.map(|(owner, key)| (user(owner), key.to_owned()));
    let found = store.log.receipts(&keys).await.unwrap();
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
        (20, 2, Payload::UserVerified(Bare {})),
        (30, 3, Payload::UserSuspended(Bare {})),
    ] {
        let decided = event(10, id, own, version, payload);
        store.log.append(&decided).await.unwrap();
    }
    let now = store.streams.user(user(10)).await.unwrap().expect("ada");
    assert_eq!((now.version, now.verified), (3, true));
    assert!(now.standing.may_act().is_err());
    let before = store.streams.user_before(user(10), Id::new(30).unwrap());
    let before = before.await.unwrap().expect("ada before");
    assert_eq!((before.version, before.verified), (2, true));
    assert!(before.standing.may_act().is_ok());
    let last = store.streams.last(user(10), own).await.unwrap();
    assert_eq!(last.map(|event| event.id.get()), Some(30));
    let found = store.streams.standings(&[user(10), user(11)]).await;
    let found = found.unwrap();
    assert_eq!(found.len(), 1, "nobody is number 11");
    assert_eq!(found[&user(10)], (now.standing, now.last));
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

pub async fn an_address_is_forgotten_and_a_name_is_not(world: &impl World) {
    let accounts = &world.store().accounts;
    let ada = account(10, "ada", "Ada@x.org");
    accounts.register(&ada).await.unwrap();
    let name = AccountName::Username("ada".into());
    let email = AccountName::Email("ada@x.org".into());
    for name in [&name, &email] {
        assert_eq!(accounts.find(name).await.unwrap(), Some(user(10)));
    }
    let named = accounts.users_named(&["ada".into(), "eve".into()]).await;
    assert_eq!(named.unwrap(), [("ada".into(), user(10))].into());
    let at = accounts.users_at(&["ada@x.org".into()]).await.unwrap();
    assert_eq!(at, [("ada@x.org".into(), user(10))].into());
    let address = accounts.address(user(10)).await.unwrap();
    assert_eq!(address.as_deref(), Some("Ada@x.org"));
    assert!(accounts.password_hash(user(10)).await.unwrap().is_some());
    for _ in 0..2 {
        accounts.forget(user(10)).await.unwrap();
        assert_eq!(accounts.address(user(10)).await.unwrap(), None);
        assert_eq!(accounts.password_hash(user(10)).await.unwrap(), None);
        assert_eq!(accounts.find(&email).await.unwrap(), None);
        assert_eq!(accounts.find(&name).await.unwrap(), Some(user(10)));
    }
    let crowd = [
        account(20, "bob", "b@x.org"),
        account(21, "eve", "ada@x.org"),
    ];
    assert!(accounts.register_all(&crowd).await.unwrap());
    let again = accounts.register(&account(22, "ada", "c@x.org")).await;
    assert_eq!(again.unwrap(), Registered::UsernameTaken);
}

pub async fn a_refresh_token_is_renewed_once_and_gets_its_answer_again(world: &impl World) {
    let sessions = &world.store().sessions;
    let now = SystemClock.now();
    let session = |family: &str, current: u8, expires_in: i64| Session {
        family: family.into(),
        user: user(1),
        current: [current; 32],
        expires_at: Timestamp::from_millis(now.millis() + expires_in),
        origin: Some([current; 32]),
    };
    let renewal = |family: &str, used: u8, next: u8, salt: u8| Renewal {
        used: [used; 32],
        salt: [salt; 32],
        at: now,
        next: session(family, next, 60_000),
    };
    sessions.open(&session("a", 1, 60_000)).await.unwrap();
    sessions.open(&session("old", 1, -1_000)).await.unwrap();
    let renewed = Rotation::Renewed(Renewed {
        salt: [7; 32],
        at: now,
        current: [2; 32],
    });
    for salt in [7, 8] {
        let rotation = sessions.renew(&renewal("a", 1, 2, salt)).await.unwrap();
        assert_eq!(rotation, renewed, "the same answer, salt {salt}");
    }
    for (family, used, expected) in [
        ("a", 9, Rotation::Reused),
        ("old", 1, Rotation::Unknown),
        ("none", 1, Rotation::Unknown),
    ] {
        let rotation = sessions.renew(&renewal(family, used, 3, 9)).await.unwrap();
        assert_eq!(rotation, expected, "{family}");
    }
    assert!(sessions.has_from(user(1), &[2; 32]).await.unwrap());
    assert!(!sessions.has_from(user(1), &[1; 32]).await.unwrap());
    assert_eq!(sessions.user("a").await.unwrap(), Some(user(1)));
    sessions.close("a").await.unwrap();
    assert_eq!(sessions.user("a").await.unwrap(), None);
    sessions.open(&session("b", 1, 60_000)).await.unwrap();
    sessions.close_all(user(1)).await.unwrap();
    assert_eq!(sessions.user("b").await.unwrap(), None);
}

pub async fn a_quota_is_granted_so_often_and_given_back_to_its_window(world: &impl World) {
    let quotas = &world.store().quotas;
    let quota = Quota {
        posts: 2,
        window: Duration::from_secs(3_600),
    };
    let reserve = async |of| quotas.reserve(of, user(1), quota).await.unwrap();
    let before = quotas.state(Limited::Posts, user(1), quota).await.unwrap();
    assert_eq!((before.granted, before.remaining), (true, 2));
    let first = reserve(Limited::Posts).await;
    assert_eq!((first.granted, first.remaining), (true, 1));
    assert_eq!(reserve(Limited::Posts).await.remaining, 0);
    assert!(!reserve(Limited::Posts).await.granted);
    assert!(reserve(Limited::Edits).await.granted, "counted apart");
    let other = Timestamp::from_millis(first.window_start.millis() - 1);
    for (window, granted) in [(other, false), (first.window_start, true)] {
        let released = quotas.release(Limited::Posts, user(1), window);
        released.await.unwrap();
        assert_eq!(reserve(Limited::Posts).await.granted, granted);
    }
}

pub async fn follows_are_counted_from_the_log_and_reserved_up_to_the_limit(world: &impl World) {
    let (follows, log) = (&world.store().follows, &world.store().log);
    let append = async |id, followee, version| {
        let (stream, ends) = edge(1, followee);
        let payload = match version {
            1 => Payload::Followed(ends),
            _ => Payload::Unfollowed(ends),
        };
        let append = event(1, id, stream, version, payload);
        log.append(&append).await.unwrap();
    };
    append(10, 2, 1).await;
    append(11, 3, 1).await;
    append(12, 3, 2).await;
    assert_eq!(follows.count(user(1)).await.unwrap(), 1);
    let reserve = async || follows.reserve(user(1), 3).await.unwrap();
    assert_eq!(reserve().await, Some(1));
    assert_eq!(reserve().await, Some(2));
    assert_eq!(reserve().await, None);
    follows.release(user(1)).await.unwrap();
    assert_eq!(reserve().await, Some(2));
    // Two reservations came to nothing; the log knows better.
    follows.mark_stale(&[user(1)]).await.unwrap();
    assert_eq!(reserve().await, Some(1));
}
