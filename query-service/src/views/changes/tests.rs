//! What each operation writes, field by field, and what it names for replicas.

use bson::{Document, doc};
use shared::contract::event_stream::ChainHash;
use shared::contract::events::NoAddress;
use shared::contract::ids::Id;

use super::*;

const STAMP: Stamp = Stamp { version: 1, seq: 9 };
const LATER: Stamp = Stamp {
    version: 2,
    seq: 11,
};
const OWN: Partition = Partition(3);

fn id<K>(id: i64) -> Id<K> {
    Id::new(id).unwrap()
}

fn edge() -> Edge {
    Edge {
        follower: id(1),
        followee: id(2),
    }
}

/// The document that a batch inserts under a key.
fn inserted(changes: &Changes, view: View, key: &Key) -> Document {
    let mut row = changes.rows.inserts[&view][key].clone();
    assert_eq!(row.remove("_id"), Some(key.bson()));
    row
}

/// The statement by which a batch changes a row.
fn update(changes: &Changes, view: View, key: &Key) -> Document {
    let statement = changes.rows.updates[&view][key].statement(view, key);
    let statement = statement.unwrap();
    statement.get_document("u").unwrap().clone()
}

fn is_deleted(changes: &Changes, view: View, key: &Key) -> bool {
    changes.rows.deletes[&view].contains(key)
}

fn invalidations(changes: Changes) -> Vec<Invalidation> {
    changes.into_invalidations().into_iter().collect()
}

#[test]
fn a_user_is_a_row_and_a_reader() {
    let (mut changes, user, at) = (Changes::default(), id(5), Timestamp::from_millis(1_000));
    let profile = UserRegistered {
        username: "ann".into(),
        email: NoAddress,
        display_name: "Ann".into(),
        bio: "b".into(),
    };
    changes.user_registered(user, OWN, at, &profile, STAMP);
    let row = doc! {
        "username": "ann", "email": "", "display_name": "Ann", "bio": "b",
        "at": bson::DateTime::from_millis(1_000), "verified": false, "standing": "active",
        "following": 0_i64, "posts": 0_i64, "outbox": 0_i64, "v": 1_i64, "s": 9_i64,
    };
    assert_eq!(inserted(&changes, View::Users, &Key::id(user)), row);
    let reader = doc! { "p": 3_i32, "horizon": 0_i64, "seen": 1_000_i64 };
    assert_eq!(inserted(&changes, View::Readers, &Key::id(user)), reader);
    let named = [Invalidation::Standing(user), Invalidation::Timeline(user)];
    assert_eq!(invalidations(changes), named);
}

#[test]
fn changes_of_a_user_are_fields() {
    let (user, key) = (id(5), Key::id::<shared::contract::ids::UserKind>(id(5)));
    let profile = ProfileEdited {
        display_name: "A".into(),
        bio: "c".into(),
    };
    let mut changes = Changes::default();
    changes.profile_edited(user, &profile, LATER);
    let set = doc! { "display_name": "A", "bio": "c", "v": 2_i64, "s": 11_i64 };
    assert_eq!(update(&changes, View::Users, &key), doc! { "$set": set });
    assert_eq!(invalidations(changes), [Invalidation::User(user)]);

    let mut changes = Changes::default();
    changes.user_verified(user, LATER);
    let set = doc! { "verified": true, "v": 2_i64, "s": 11_i64 };
    assert_eq!(update(&changes, View::Users, &key), doc! { "$set": set });
    assert_eq!(invalidations(changes), [Invalidation::User(user)]);

    for (standing, name) in [
        (AccountStatus::Active, "active"),
        (AccountStatus::Suspended, "suspended"),
        (AccountStatus::Deactivated, "deactivated"),
    ] {
        let mut changes = Changes::default();
        changes.status_changed(user, standing, LATER);
        let set = doc! { "standing": name, "v": 2_i64, "s": 11_i64 };
        assert_eq!(update(&changes, View::Users, &key), doc! { "$set": set });
        assert_eq!(invalidations(changes), [Invalidation::Standing(user)]);
        let stored = bson::serialize_to_bson(&standing).unwrap();
        assert_eq!(stored, bson::Bson::from(name), "as it is read");
    }
}

#[test]
fn readers_are_parked_and_back() {
    let (mut changes, one, two) = (Changes::default(), id(1), id(2));
    let at = Checkpoint {
        seq: 7,
        chain: ChainHash::START,
        epoch: 1,
        top: 70,
    };
    changes.reader_becomes_inactive(one);
    changes.reader_reactivated(two, &at);
    let set = doc! { "horizon": i64::MAX - 1 };
    let inactive = update(&changes, View::Readers, &Key::id(one));
    assert_eq!(inactive, doc! { "$set": set });
    let set = doc! { "horizon": 70_i64, "active_since": 7_i64 };
    let back = update(&changes, View::Readers, &Key::id(two));
    assert_eq!(back, doc! { "$set": set });
    assert_eq!(
        invalidations(changes),
        [Invalidation::Timeline(one), Invalidation::Timeline(two)]
    );
}

#[test]
fn an_edge_is_a_row_either_way_and_counts() {
    let Edge { follower, followee } = edge();
    let (key, back) = (
        Key::pair(follower, followee),
        Key::follower(followee, OWN, follower),
    );
    let mut changes = Changes::default();
    changes.followed(&edge(), OWN, STAMP);
    changes.edge_pending(&edge(), OWN, 9);
    let row = doc! { "on": true, "v": 1_i64, "s": 9_i64 };
    assert_eq!(inserted(&changes, View::Following, &key), row);
    assert_eq!(inserted(&changes, View::Followers, &back), doc! {});
    let pending = doc! { "p": 3_i32, "s": 9_i64 };
    assert_eq!(inserted(&changes, View::Pending, &key), pending);
    let count = update(&changes, View::FollowerCounts, &Key::user_in(followee, OWN));
    assert_eq!(count, doc! { "$inc": { "n": 1_i64 } });
    let user = update(&changes, View::Users, &Key::id(follower));
    assert_eq!(user, doc! { "$inc": { "following": 1_i64 } });
    let named = [
        Invalidation::User(follower),
        Invalidation::User(followee),
        Invalidation::Edges(follower),
    ];
    assert_eq!(invalidations(changes), named);

    let mut changes = Changes::default();
    changes.unfollowed(&edge(), OWN, LATER);
    changes.edge_not_pending(follower, followee);
    let set = doc! { "on": false, "v": 2_i64, "s": 11_i64 };
    let row = update(&changes, View::Following, &key);
    assert_eq!(row, doc! { "$set": set });
    assert!(is_deleted(&changes, View::Followers, &back));
    assert!(is_deleted(&changes, View::Pending, &key));
    let named = invalidations(changes);
    assert_eq!(named.last(), Some(&Invalidation::Unfollowed(follower)));
}

#[test]
fn an_author_becomes_hot_for_counts_and_readers() {
    let (mut changes, author) = (Changes::default(), id(2));
    changes.became_hot(author, OWN);
    let set = doc! { "$set": { "hot": true } };
    let count = update(&changes, View::FollowerCounts, &Key::user_in(author, OWN));
    assert_eq!(count, set);
    let pulled = update(&changes, View::Pulled, &Key::in_partition(OWN, author));
    assert_eq!(pulled, set);
    let named = [Invalidation::User(author), Invalidation::Pulled];
    assert_eq!(invalidations(changes), named);
}

#[test]
fn a_post_is_a_row_and_a_tombstone_after_it() {
    let (author, post): (UserId, PostId) = (id(2), id(20));
    let parent = PostRef {
        post: id(10),
        author: id(1),
    };
    let created = PostCreated {
        content: "hi".into(),
        reply_to: Some(parent),
    };
    let mut changes = Changes::default();
    changes.post_created(post, author, Timestamp::from_millis(5), &created, STAMP);
    changes.reply_added(parent.post, post, 9);
    let row = doc! {
        "author": 2_i64, "content": "hi", "at": bson::DateTime::from_millis(5),
        "likes": 0_i64, "reposts": 0_i64, "replies": 0_i64, "deleted": false,
        "v": 1_i64, "s": 9_i64, "reply_to": { "post": 10_i64, "author": 1_i64 },
    };
    assert_eq!(inserted(&changes, View::Posts, &Key::id(post)), row);
    let reply = Key::pair(parent.post, post);
    let row = doc! { "post": 20_i64, "s": 9_i64 };
    assert_eq!(inserted(&changes, View::Replies, &reply), row);
    let answered = update(&changes, View::Posts, &Key::id(parent.post));
    assert_eq!(answered, doc! { "$inc": { "replies": 1_i64 } });
    let user = update(&changes, View::Users, &Key::id(author));
    assert_eq!(user, doc! { "$inc": { "posts": 1_i64 } });
    let named = [
        Invalidation::Post(parent.post),
        Invalidation::Post(post),
        Invalidation::User(author),
    ];
    assert_eq!(invalidations(changes), named);

    let mut changes = Changes::default();
    changes.post_deleted(post, author, LATER);
    changes.reply_removed(parent.post, post);
    let set = doc! { "deleted": true, "content": "", "v": 2_i64, "s": 11_i64 };
    let row = update(&changes, View::Posts, &Key::id(post));
    assert_eq!(row, doc! { "$set": set });
    assert!(is_deleted(
        &changes,
        View::AuthorFeed,
        &Key::pair(author, post)
    ));
    assert!(is_deleted(&changes, View::Replies, &reply));
    let named = [
        Invalidation::Post(parent.post),
        Invalidation::Deleted(post),
        Invalidation::User(author),
        Invalidation::Withdrawn(author, post.cast()),
    ];
    assert_eq!(invalidations(changes), named);
}

#[test]
fn reactions_count_and_what_is_posted_is_listed() {
    let (post, user): (PostId, UserId) = (id(20), id(1));
    for (reaction, view, counter) in [
        (Reaction::Like, View::Likes, "likes"),
        (Reaction::Repost, View::Reposts, "reposts"),
    ] {
        let key = Key::pair(post, user);
        let mut changes = Changes::default();
        changes.reacted(reaction, post, user, STAMP);
        let row = doc! { "v": 1_i64, "s": 9_i64 };
        assert_eq!(inserted(&changes, view, &key), row);
        let counted = update(&changes, View::Posts, &Key::id(post));
        assert_eq!(counted, doc! { "$inc": { counter: 1_i64 } });
        let named = [Invalidation::Post(post), Invalidation::Reaction(post, user)];
        assert_eq!(invalidations(changes), named);

        let mut changes = Changes::default();
        changes.reaction_withdrawn(reaction, post, user, LATER);
        let set = doc! { "v": 2_i64, "s": 11_i64 };
        assert_eq!(update(&changes, view, &key), doc! { "$set": set });
        let counted = update(&changes, View::Posts, &Key::id(post));
        assert_eq!(counted, doc! { "$inc": { counter: -1_i64 } });
    }
    let item = TimelineItem {
        entry: id(30),
        post,
        by: user,
    };
    let mut changes = Changes::default();
    changes.author_posted(&item, 9);
    let row = doc! { "post": 20_i64, "s": 9_i64 };
    let listed = Key::pair(user, item.entry);
    assert_eq!(inserted(&changes, View::AuthorFeed, &listed), row);
    let counted = update(&changes, View::Users, &Key::id(user));
    assert_eq!(counted, doc! { "$inc": { "outbox": 1_i64 } });
    assert_eq!(
        invalidations(changes),
        [Invalidation::User(user), Invalidation::AuthorFeed(user)]
    );
}

#[test]
fn a_large_fan_out_is_a_row_until_it_is_done() {
    let item = TimelineItem {
        entry: id(30),
        post: id(20),
        by: id(2),
    };
    let (row, pulled) = (
        Key::in_partition(OWN, item.entry),
        Key::in_partition(OWN, item.by),
    );
    let job = FanOutRow::new(OWN, &item, 9);
    assert_eq!(bson::Bson::from(job.id.clone()), row.bson());
    let mut changes = Changes::default();
    changes.fan_out_begun(OWN, &job);
    let expected =
        doc! { "author": 2_i64, "entry": 30_i64, "post": 20_i64, "s": 9_i64, "next": 0_i64 };
    assert_eq!(inserted(&changes, View::FanOuts, &row), expected);
    let jobs = update(&changes, View::Pulled, &pulled);
    assert_eq!(jobs, doc! { "$inc": { "jobs": 1_i64 } });
    assert_eq!(invalidations(changes), [Invalidation::Pulled]);

    let mut changes = Changes::default();
    changes.fan_out_reached(OWN, item.entry, id(77));
    let next = update(&changes, View::FanOuts, &row);
    assert_eq!(next, doc! { "$set": { "next": 77_i64 } });
    assert!(invalidations(changes).is_empty());

    for still_pulled in [true, false] {
        let mut changes = Changes::default();
        changes.fan_out_done(OWN, item.entry, item.by, still_pulled);
        assert!(is_deleted(&changes, View::FanOuts, &row));
        if still_pulled {
            let jobs = update(&changes, View::Pulled, &pulled);
            assert_eq!(jobs, doc! { "$inc": { "jobs": -1_i64 } });
        } else {
            assert!(is_deleted(&changes, View::Pulled, &pulled));
        }
        assert_eq!(invalidations(changes), [Invalidation::Pulled]);
    }
}

#[test]
fn what_a_commit_changed_is_named_in_the_order_that_caches_need() {
    let (one, two): (UserId, UserId) = (id(1), id(2));
    let mut changes = Changes::default();
    changes.edge_not_pending(one, two);
    changes.reader_becomes_inactive(two);
    changes.author_withdrew(one, two.cast());
    changes.reacted(Reaction::Like, two.cast(), one, STAMP);
    changes.status_changed(one, AccountStatus::Deactivated, LATER);
    changes.post_deleted(one.cast(), two, LATER);
    changes.unfollowed(&edge(), OWN, LATER);
    let expected = [
        Invalidation::Post(two.cast()),
        Invalidation::Deleted(one.cast()),
        Invalidation::User(one),
        Invalidation::User(two),
        Invalidation::Standing(one),
        Invalidation::Reaction(two.cast(), one),
        Invalidation::Withdrawn(one, two.cast()),
        Invalidation::Withdrawn(two, one.cast()),
        Invalidation::Timeline(two),
        Invalidation::Edges(one),
        Invalidation::Unfollowed(one),
    ];
    assert_eq!(invalidations(changes), expected);
}
