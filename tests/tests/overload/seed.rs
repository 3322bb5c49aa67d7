//! Rows as the fold writes them, of old accounts: the most expensive ones to read.

use bson::{Binary, Bson, Document, doc};
use system_tests::is_long;
use system_tests::world::World;

const DAY: i64 = 86_400_000;

fn bytes(parts: &[&[u8]]) -> Bson {
    Bson::Binary(Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: parts.concat(),
    })
}

fn pair(first: i64, second: i64) -> Bson {
    bytes(&[&first.to_be_bytes(), &second.to_be_bytes()])
}

/// Writes rows of old accounts as the fold does.
struct Seed {
    views: mongodb::Database,
    begin: i64,
}

impl Seed {
    async fn rows(&self, view: &str, rows: Vec<Document>) {
        let rows_of = self.views.collection::<Document>(&format!("g1_{view}"));
        for some in rows.chunks(5_000) {
            rows_of
                .insert_many(some)
                .ordered(false)
                .await
                .expect("rows");
        }
    }

    /// So many accounts, the first of them numbered `first`.
    async fn users(&self, first: i64, count: i64, standing: &str) -> Vec<i64> {
        let ids: Vec<i64> = (first..first + count)
            .map(|n| (self.begin + n) << 16)
            .collect();
        let rows = ids.iter().zip(first..).map(|(id, n)| {
            let name = format!("seed_{n}");
            doc! {
                "_id": id, "username": &name, "email": "", "display_name": &name, "bio": "",
                "at": bson::DateTime::from_millis(self.begin + n), "standing": standing,
                "v": 1_i64, "s": 1_i64,
            }
        });
        self.rows("users", rows.collect()).await;
        ids
    }

    async fn follow(&self, edges: &[(i64, i64)]) {
        let standing = edges.iter().map(|(follower, followee)| {
            doc! { "_id": pair(*follower, *followee), "on": true, "v": 1_i64, "s": 1_i64 }
        });
        self.rows("following", standing.collect()).await;
        let partitions = shared::contract::partition::Partitions::new(4).expect("a number");
        let back = edges.iter().map(|(follower, followee)| {
            let id = shared::contract::ids::UserId::new(*follower).expect("an id");
            let partition = partitions.of(id).0.to_be_bytes();
            let key = [
                &followee.to_be_bytes()[..],
                &partition,
                &follower.to_be_bytes(),
            ];
            doc! { "_id": bytes(&key) }
        });
        self.rows("followers", back.collect()).await;
    }

    async fn count(&self, user: i64, following: i64, followers: i64) {
        let users = self.views.collection::<Document>("g1_users");
        let change = doc! { "$set": { "following": following } };
        users
            .update_one(doc! { "_id": user }, change)
            .await
            .expect("a row");
        let key = bytes(&[&user.to_be_bytes(), &0_u16.to_be_bytes()]);
        let change = doc! { "$set": { "n": followers } };
        let counts = self.views.collection::<Document>("g1_follower_counts");
        counts
            .update_one(doc! { "_id": key }, change)
            .upsert(true)
            .await
            .expect("a row");
    }

    /// Everything in the reader's timeline is below the horizon: nothing of it is stored.
    async fn nothing_is_stored_for(&self, reader: i64) {
        let readers = self.views.collection::<Document>("g1_readers");
        let all = doc! { "$set": { "horizon": i64::MAX - 1 } };
        readers
            .update_one(doc! { "_id": reader }, all)
            .upsert(true)
            .await
            .expect("a row");
    }

    /// Posts, as author and id.
    async fn posts(&self, posts: &[(i64, i64)]) {
        let rows = posts.iter().map(|(author, id)| {
            doc! {
                "_id": id, "author": author, "content": "seed",
                "at": bson::DateTime::from_millis(id >> 16), "v": 1_i64, "s": 1_i64,
            }
        });
        self.rows("posts", rows.collect()).await;
        let outbox = posts.iter().map(|(author, id)| {
            doc! { "_id": pair(*author, *id), "post": id, "s": 1_i64 }
        });
        self.rows("outbox", outbox.collect()).await;
    }
}

impl Seed {
    /// All of these users like a post.
    async fn likes(&self, post: i64, users: &[i64]) {
        let rows = users.iter().map(|user| {
            doc! { "_id": pair(post, *user), "v": 1_i64, "s": 1_i64 }
        });
        self.rows("likes", rows.collect()).await;
        let posts = self.views.collection::<Document>("g1_posts");
        let count = i64::try_from(users.len()).expect("few");
        let change = doc! { "$set": { "likes": count } };
        let updated = posts.update_one(doc! { "_id": post }, change).await;
        updated.expect("a row");
    }

    /// Posts of one author, each answering the one before.
    async fn line(&self, author: i64, ids: &[i64]) {
        let answers = ids.windows(2).map(|pair| {
            doc! {
                "_id": pair[1], "author": author, "content": "seed",
                "at": bson::DateTime::from_millis(pair[1] >> 16), "v": 1_i64, "s": 1_i64,
                "reply_to": { "post": pair[0], "author": author },
            }
        });
        self.rows("posts", answers.collect()).await;
        self.posts(&[(author, ids[0])]).await;
    }
}

/// Whom and what there is to ask for.
pub struct Seeded {
    /// Followed by a crowd.
    pub famous: i64,
    /// Follows thousands, and as many follow back: neither list is the shorter one.
    pub lonely: i64,
    /// Has written thousands of posts.
    pub writer: i64,
    /// A post with thousands of replies that nobody is shown, and as many likes.
    pub post: i64,
    /// A post that answers one that answers one, and so on.
    pub deep: i64,
    /// A hundred authors, and a post of each.
    pub some: Vec<(i64, i64)>,
}

/// Seeds the views. The reader follows thousands whose posts are all below what is stored for them.
pub async fn seed(world: &World, reader: i64) -> Seeded {
    let (crowd_size, follows) = if is_long() {
        (30_000, 4_900)
    } else {
        (6_000, 2_500)
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_millis() as i64;
    let seed = Seed {
        views: world.views().await,
        begin: now - 200 * DAY,
    };
    let crowd = seed.users(1, crowd_size, "active").await;
    let gone = seed.users(crowd_size + 1, 1, "deactivated").await[0];
    let [famous, lonely, writer] = seed.users(crowd_size + 2, 3, "active").await[..] else {
        panic!("three were made")
    };
    let fans: Vec<_> = crowd.iter().map(|fan| (*fan, famous)).collect();
    seed.follow(&fans).await;
    seed.count(famous, 0, crowd_size).await;
    let followed = &crowd[..usize::try_from(follows).expect("few")];
    for follower in [lonely, reader] {
        let edges: Vec<_> = followed.iter().map(|other| (follower, *other)).collect();
        seed.follow(&edges).await;
    }
    seed.count(lonely, follows, follows).await;
    let at = |n: i64| ((seed.begin + 100 * DAY + n * 1_000) << 16) + 7;
    let first: Vec<_> = followed
        .iter()
        .zip(0..)
        .map(|(author, n)| (*author, at(n)))
        .collect();
    seed.posts(&first).await;
    let many: Vec<_> = (0..crowd_size).map(|n| (writer, at(n) + 1)).collect();
    seed.posts(&many).await;
    let hidden: Vec<_> = (0..2_500).map(|n| (gone, at(n) + 2)).collect();
    seed.posts(&hidden).await;
    let post = at(0);
    let replies = hidden
        .iter()
        .map(|(_, id)| doc! { "_id": pair(post, *id), "post": id, "s": 1_i64 });
    seed.rows("replies", replies.collect()).await;
    seed.likes(post, &crowd).await;
    let line: Vec<_> = (0..60).map(|n| at(n) + 3).collect();
    seed.line(writer, &line).await;
    seed.nothing_is_stored_for(reader).await;
    Seeded {
        famous,
        lonely,
        writer,
        post,
        deep: line[line.len() - 1],
        some: first[..100].to_vec(),
    }
}
