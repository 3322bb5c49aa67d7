//! What stands beside the log: accounts, sessions, guards of limits, jobs.

use std::time::Duration;

use command_service::app::ports::{
    AccountName, Began, Limited, NewAddress, NewPassword, Owner, Quota, Registered, Relation,
    Renewal, Renewed, Replaced, Rotation, Session, Store,
};
use shared::contract::events::{LogStream, Payload};
use shared::contract::ids::Id;
use shared::contract::sessions::{MOST_SESSIONS, PasswordMark, SessionId};
use shared::contract::time::{Clock, SystemClock, Timestamp};
use shared::runtime::settings::Secret;

use super::{World, account, edge, event, user};

pub async fn a_farewell_is_one_worker_s_at_a_time_and_keeps_its_place(world: &impl World) {
    let store = world.store();
    let (user, now) = (Id::new(10).unwrap(), Timestamp::from_millis(1_000_000));
    store.cleanups.plan(user, now).await.unwrap();
    store.cleanups.plan(user, now).await.unwrap();
    let lease = Duration::from_secs(30);
    let mut job = store.cleanups.claim(now, lease).await.unwrap().unwrap();
    assert_eq!(store.cleanups.claim(now, lease).await.unwrap(), None);
    job.relation = Relation::Replies;
    job.after = Some(LogStream::Post(Id::new(77).unwrap()));
    store.cleanups.save(&job, now).await.unwrap();
    assert_eq!(store.cleanups.claim(now, lease).await.unwrap(), Some(job));
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
    assert!(accounts.credentials(user(10)).await.unwrap().is_some());
    for _ in 0..2 {
        accounts.forget(user(10)).await.unwrap();
        assert_eq!(accounts.address(user(10)).await.unwrap(), None);
        assert!(accounts.credentials(user(10)).await.unwrap().is_none());
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
        began: Began {
            at: now,
            mark: Some(i64::from(current)),
        },
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
    let has_from = async |origins: &[[u8; 32]]| sessions.has_from(user(1), origins).await.unwrap();
    assert!(has_from(&[[2; 32]]).await);
    assert!(has_from(&[[9; 32], [2; 32]]).await, "or one of others");
    assert!(!has_from(&[[1; 32]]).await);
    assert!(!has_from(&[]).await);
    // As it began, whatever has become of its tokens.
    let owner = sessions.owner("a").await.unwrap();
    let expected = Owner {
        user: user(1),
        mark: Some(1),
    };
    assert_eq!(owner, Some(expected));
    sessions.close("a").await.unwrap();
    assert_eq!(sessions.owner("a").await.unwrap(), None);
    sessions.open(&session("b", 1, 60_000)).await.unwrap();
    sessions.close_all(user(1)).await.unwrap();
    assert_eq!(sessions.owner("b").await.unwrap(), None);
}

pub async fn one_session_too_many_ends_the_one_that_was_used_longest_ago(world: &impl World) {
    let sessions = &world.store().sessions;
    let now = SystemClock.now();
    let open = async |family: String, of: i64, expires_in: i64| {
        let session = Session {
            family,
            user: user(of),
            current: [1; 32],
            expires_at: Timestamp::from_millis(now.millis() + expires_in),
            origin: None,
            began: Began {
                at: now,
                mark: None,
            },
        };
        sessions.open(&session).await.unwrap();
    };
    open("another's".into(), 2, 1_000_000).await;
    // The one that is opened first was used last.
    for n in 0..i64::from(MOST_SESSIONS) {
        open(format!("s{n}"), 1, 2_000_000 - n).await;
    }
    let there = async |family: &str| sessions.owner(family).await.unwrap().is_some();
    let oldest = format!("s{}", MOST_SESSIONS - 1);
    assert!(there("s0").await && there(&oldest).await);
    open("new".into(), 1, 3_000_000).await;
    assert!(!there(&oldest).await);
    for family in ["s0", "s1", "new", "another's"] {
        assert!(there(family).await, "{family}");
    }
}

pub async fn a_password_is_replaced_once_and_says_which_sessions_go_on(world: &impl World) {
    let Store {
        accounts, sessions, ..
    } = world.store();
    let now = SystemClock.now();
    let ada = account(10, "ada", "ada@x.org");
    accounts.register(&ada).await.unwrap();
    let known = || async { accounts.credentials(user(10)).await.unwrap() };
    let before = known().await.expect("credentials");
    assert_eq!(before.mark, PasswordMark::default());
    let open = async |family: &str, of: i64, mark: Option<i64>| {
        let session = Session {
            family: family.into(),
            user: user(of),
            current: [1; 32],
            expires_at: Timestamp::from_millis(now.millis() + 60_000),
            origin: None,
            began: Began { at: now, mark },
        };
        sessions.open(&session).await.unwrap();
    };
    let there = async |families: &[&'static str]| {
        let mut found = Vec::new();
        for family in families {
            let owner = sessions.owner(family).await.unwrap();
            found.extend(owner.map(|_| *family));
        }
        found
    };
    open("own", 10, None).await;
    open("other", 10, None).await;
    open("another's", 11, None).await;
    let change = |from: &str, to: &str, mark: i64| NewPassword {
        user: user(10),
        from: Secret::new(from),
        to: Secret::new(to),
        mark,
        kept: Some(SessionId::of("own")),
    };
    let old = before.password_hash.expose();
    let first = change(old, "second", 7);
    for _ in 0..2 {
        let replaced = accounts.change_password(&first).await.unwrap();
        assert_eq!(replaced, Replaced::Done, "also asked for again");
    }
    let rival = accounts.change_password(&change(old, "third", 8)).await;
    assert_eq!(rival.unwrap(), Replaced::Taken);
    let after = known().await.expect("credentials");
    assert_eq!(after.password_hash.expose(), "second");
    let mark = PasswordMark {
        mark: Some(7),
        kept: Some(SessionId::of("own")),
    };
    assert_eq!(after.mark, mark);
    // A sign-in that had compared the old password, and one with the new.
    open("late", 10, None).await;
    open("new", 10, Some(7)).await;
    open("newest", 10, Some(8)).await;
    let all = ["own", "other", "late", "new", "newest", "another's"];
    let own = Some(SessionId::of("own"));
    // However late: what began under another mark is another change's.
    let ended = sessions.close_ended(user(10), &before.mark, own).await;
    ended.unwrap();
    assert_eq!(there(&all).await, ["own", "new", "newest", "another's"]);
    // One by its id, if it is one's own.
    sessions
        .close_own(user(10), SessionId::of("another's"))
        .await
        .unwrap();
    sessions
        .close_own(user(10), SessionId::of("newest"))
        .await
        .unwrap();
    assert_eq!(there(&all).await, ["own", "new", "another's"]);
    // Of a change that no session made, all end: also the one that was kept before.
    let ended = sessions.close_ended(user(10), &after.mark, None).await;
    ended.unwrap();
    assert_eq!(there(&all).await, ["another's"]);
    accounts.forget(user(10)).await.unwrap();
    let gone = accounts
        .change_password(&change("second", "fourth", 10))
        .await;
    assert_eq!(gone.unwrap(), Replaced::Gone);
    assert!(known().await.is_none(), "nobody gets a password back");
}

pub async fn an_address_is_exchanged_or_stays_as_it_was(world: &impl World) {
    let accounts = &world.store().accounts;
    accounts
        .register(&account(10, "ada", "Ada@x.org"))
        .await
        .unwrap();
    accounts
        .register(&account(11, "bob", "bob@x.org"))
        .await
        .unwrap();
    let change = async |address: &str| {
        let change = NewAddress {
            user: user(10),
            folded: shared::contract::names::fold(address),
            address: address.into(),
            nonce: rand::random(),
        };
        accounts.change_address(&change).await.unwrap()
    };
    let owner = async |folded: &str| {
        let name = AccountName::Email(folded.into());
        accounts.find(&name).await.unwrap()
    };
    let written = async || accounts.address(user(10)).await.unwrap();
    assert_eq!(change("Bob@x.org").await, Replaced::Taken);
    assert_eq!(written().await.as_deref(), Some("Ada@x.org"), "as it was");
    for (address, folded) in [
        ("ada@X.org", "ada@x.org"),
        ("Lovelace@x.org", "lovelace@x.org"),
        ("Lovelace@x.org", "lovelace@x.org"),
    ] {
        assert_eq!(change(address).await, Replaced::Done, "{address}");
        assert_eq!(written().await.as_deref(), Some(address));
        assert_eq!(owner(folded).await, Some(user(10)));
    }
    assert_eq!(owner("ada@x.org").await, None, "free at once");
    accounts
        .register(&account(12, "eve", "ada@x.org"))
        .await
        .unwrap();
    assert_eq!(change("ADA@x.org").await, Replaced::Taken);
    assert_eq!(written().await.as_deref(), Some("Lovelace@x.org"));
    accounts.forget(user(10)).await.unwrap();
    assert_eq!(change("again@x.org").await, Replaced::Gone);
    assert_eq!(written().await, None, "nobody gets an address back");
    assert_eq!(owner("again@x.org").await, None);
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
