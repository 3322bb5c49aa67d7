//! Valid requests, the dearest there are, many at once, from clients that go away before they are
//! answered. Others are served all the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bson::{Binary, Bson, Document, doc};
use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::Value;
use system_tests::world::{PATIENCE, Service, World};
use system_tests::{eventually, is_long};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::{Seen, alone, ask, http};

const DAY: i64 = 86_400_000;
/// Clients that go away do so after this long.
const GONE_AFTER: Duration = Duration::from_millis(300);
/// What others ask for in a second.
const OTHERS_PER_SECOND: u32 = 50;

fn bytes(parts: &[&[u8]]) -> Bson {
    Bson::Binary(Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: parts.concat(),
    })
}

fn pair(first: i64, second: i64) -> Bson {
    bytes(&[&first.to_be_bytes(), &second.to_be_bytes()])
}

/// Rows as the fold writes them, of people who were there long before.
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
        let partitions = shared::partition::Partitions::new(4).expect("a number");
        let back = edges.iter().map(|(follower, followee)| {
            let id = shared::ids::UserId::new(*follower).expect("an id");
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

/// Requests as clients that go away send them: paths, and the token of some.
struct Hostile {
    requests: Vec<(String, Option<String>)>,
}

/// Everything there is to ask for, at its dearest.
async fn hostile(world: &World, reader: &system_tests::api::Session) -> Hostile {
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
    let edges: Vec<_> = followed.iter().map(|other| (lonely, *other)).collect();
    seed.follow(&edges).await;
    // As many as follow back, so that neither list is the shorter one.
    seed.count(lonely, follows, follows).await;
    // A post of everybody whom the reader follows, all below what is stored for them.
    let reader_id: i64 = reader.user_id.parse().expect("an id");
    let edges: Vec<_> = followed.iter().map(|other| (reader_id, *other)).collect();
    seed.follow(&edges).await;
    let at = |n: i64| ((seed.begin + 100 * DAY + n * 1_000) << 16) + 7;
    let posts: Vec<_> = followed
        .iter()
        .zip(0..)
        .map(|(author, n)| (*author, at(n)))
        .collect();
    seed.posts(&posts).await;
    let many: Vec<_> = (0..crowd_size).map(|n| (writer, at(n) + 1)).collect();
    seed.posts(&many).await;
    // Replies that nobody is shown.
    let post = at(0);
    let hidden: Vec<_> = (0..2_500).map(|n| (gone, at(n) + 2)).collect();
    seed.posts(&hidden).await;
    let replies = hidden
        .iter()
        .map(|(_, id)| doc! { "_id": pair(post, *id), "post": id, "s": 1_i64 });
    seed.rows("replies", replies.collect()).await;
    let parked = doc! { "$set": { "horizon": i64::MAX - 1 } };
    let readers = seed.views.collection::<Document>("g1_readers");
    let row = doc! { "_id": reader_id };
    readers
        .update_one(row, parked)
        .upsert(true)
        .await
        .expect("a row");
    let token = Some(reader.token().to_owned());
    let first = eventually("a page and where it ends", PATIENCE, async || {
        let answer = reader.get("/timeline?limit=1", None).await.ok()?;
        let cursor = answer.body["next_cursor"].as_str()?;
        Some(cursor.to_owned())
    })
    .await;
    let mut requests = vec![
        (format!("/timeline?limit=1&cursor={first}"), token.clone()),
        (format!("/timeline?limit=100&cursor={first}"), token.clone()),
        ("/timeline/stream".to_owned(), token.clone()),
        (format!("/posts/{post}"), None),
        (format!("/posts/{post}/replies?limit=1"), None),
        ("/users/by-username/seed_1".to_owned(), None),
        (format!("/users/{famous}"), None),
        (format!("/users/{famous}/relationship"), token),
    ];
    let lists = [
        format!("/users/{writer}/posts"),
        format!("/users/{famous}/followers"),
        format!("/users/{lonely}/following"),
        format!("/users/{lonely}/mutuals"),
    ];
    for list in lists {
        for limit in [1, 100] {
            requests.push((format!("{list}?limit={limit}"), None));
        }
    }
    Hostile { requests }
}

impl Hostile {
    /// So many at once, each closed after a while and begun again, until told to stop. They come
    /// from an address of their own.
    fn attack(
        &self,
        target: &Service,
        at_once: usize,
        stop: &Arc<AtomicBool>,
    ) -> Vec<JoinHandle<u64>> {
        let host = target.api.trim_start_matches("http://").to_owned();
        let address: SocketAddr = host.parse().expect("an address");
        let attacker = |n: usize| {
            let (stop, host) = (stop.clone(), host.clone());
            // A kind of request at a time, all of them at the same time.
            let (path, token) = self.requests[n % self.requests.len()].clone();
            tokio::spawn(async move {
                let mut sent = 0;
                let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
                // To a stream it says: everything since the beginning. Others do not look at it.
                let request = format!(
                    "GET /api/v1{path} HTTP/1.1\r\nhost: {host}\r\nlast-event-id: 1\r\n{}\r\n",
                    token.unwrap_or_default()
                );
                while !stop.load(Ordering::Relaxed) {
                    let socket = TcpSocket::new_v4().expect("a socket");
                    let own = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
                    // Not every system has more than one address of its own.
                    let _ = socket.bind(own);
                    if let Ok(mut stream) = socket.connect(address).await {
                        let _ = stream.write_all(request.as_bytes()).await;
                        tokio::time::sleep(GONE_AFTER).await;
                        sent += 1;
                    }
                }
                sent
            })
        };
        (0..at_once).map(attacker).collect()
    }
}

/// What others were answered.
struct Served {
    answered: usize,
    asked: usize,
    times: Vec<Duration>,
    refused: Vec<u16>,
}

impl Served {
    fn p99(&self) -> Duration {
        self.times
            .get(self.times.len() * 99 / 100)
            .or(self.times.last())
            .copied()
            .unwrap_or_default()
    }
}

/// Asks at a steady rate, whatever becomes of the requests before.
async fn ask_steadily(requests: &[RequestBuilder], length: Duration) -> Served {
    let mut every = tokio::time::interval(Duration::from_secs(1) / OTHERS_PER_SECOND);
    let (began, mut asked) = (Instant::now(), Vec::new());
    while began.elapsed() < length {
        every.tick().await;
        let request = &requests[asked.len() % requests.len()];
        asked.push(tokio::spawn(ask(request.try_clone().expect("no body"))));
    }
    let seen: Vec<Seen> = join_all(asked)
        .await
        .into_iter()
        .map(|seen| seen.expect("no panic"))
        .collect();
    let served = |seen: &&Seen| seen.status == 200;
    let mut times: Vec<Duration> = seen.iter().filter(served).map(|seen| seen.took).collect();
    times.sort_unstable();
    Served {
        answered: times.len(),
        asked: seen.len(),
        refused: seen
            .iter()
            .filter(|seen| seen.status != 200)
            .map(|seen| seen.status)
            .collect(),
        times,
    }
}

/// The worst lag of the fold, and how often it was not ready, until told to stop.
fn watch(service: &Service, stop: &Arc<AtomicBool>) -> JoinHandle<(f64, u64)> {
    let (service, stop) = (service.clone(), stop.clone());
    tokio::spawn(async move {
        let (mut worst, unready) = (0.0_f64, AtomicU64::new(0));
        while !stop.load(Ordering::Relaxed) {
            let metrics = service.metrics().await;
            let lags = metrics.lines().filter_map(|line| {
                let value = line.strip_prefix("query_service_fold_lag_seconds{")?;
                value.rsplit_once(' ')?.1.parse::<f64>().ok()
            });
            worst = lags.fold(worst, f64::max);
            if !service.is_ready().await {
                unready.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (worst, unready.into_inner())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_take_the_reads_away() {
    let _alone = alone().await;
    let length = Duration::from_secs(if is_long() { 30 } else { 3 });
    let world = World::start(&[]).await;
    let sessions = world.sessions(&world.api(), "reader", 4).await;
    let [reader, one, other, writer] = &sessions[..] else {
        panic!("four were made")
    };
    one.follow(&other.user_id).await.accepted();
    other.follow(&one.user_id).await.accepted();
    let post = other.post("what others read", "key").await.accepted().value;
    eventually("it is read", PATIENCE, async || {
        one.timeline(1, None, None).await.posts.first().map(|_| ())
    })
    .await;
    let hostile = hostile(&world, reader).await;
    let client = http();
    let others: Vec<RequestBuilder> = [
        ("/timeline".to_owned(), Some(one.token())),
        ("/timeline?limit=5".to_owned(), Some(other.token())),
        (format!("/posts/{post}"), None),
        (format!("/users/{}", one.user_id), None),
        (format!("/users/{}/posts", other.user_id), Some(one.token())),
        (
            format!("/users/{}/followers", other.user_id),
            Some(other.token()),
        ),
        (format!("/users/{}/mutuals", one.user_id), Some(one.token())),
        (
            format!("/users/{}/relationship", other.user_id),
            Some(one.token()),
        ),
    ]
    .map(|(path, token)| {
        let request = client.get(format!("{}/api/v1{path}", world.query.api));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    })
    .into();
    let mut unanswered = Vec::new();
    // Each request of theirs by itself, to its end: what it costs, and that it is answered.
    for (path, token) in &hostile.requests {
        if path.ends_with("/stream") {
            continue;
        }
        let request = client.get(format!("{}/api/v1{path}", world.query.api));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let began = Instant::now();
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_default();
        let route = path.split(['?', '&']).next().unwrap_or_default();
        let limit = if path.contains("limit=100") { 100 } else { 1 };
        let items = body["posts"]
            .as_array()
            .or(body["users"].as_array())
            .map(Vec::len);
        println!(
            "{route} by {limit}: {status}, {items:?} items, {:?}",
            began.elapsed()
        );
        if status != 200 {
            unanswered.push(format!("{path}: {body}"));
        }
    }
    let before = ask_steadily(&others, length / 2).await;
    println!(
        "before: {} of {} answered, p99 {:?}",
        before.answered,
        before.asked,
        before.p99()
    );
    let crowds: &[usize] = if is_long() { &[64, 640] } else { &[64] };
    for at_once in crowds {
        let stop = Arc::<AtomicBool>::default();
        let lag = watch(&world.query, &stop);
        let attackers = hostile.attack(&world.query, *at_once, &stop);
        let writes = async {
            let began = Instant::now();
            let mut count = 0;
            while began.elapsed() < length {
                count += 1;
                writer
                    .post("meanwhile", &format!("{at_once}-{count}"))
                    .await
                    .accepted();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let (during, ()) = tokio::join!(ask_steadily(&others, length), writes);
        stop.store(true, Ordering::Relaxed);
        let sent: u64 = join_all(attackers)
            .await
            .into_iter()
            .map(|sent| sent.expect("no panic"))
            .sum();
        let (worst, unready) = lag.await.expect("no panic");
        println!(
            "{at_once} at once, {sent} sent and left: {} of {} others answered, p99 {:?}, refused {:?}; \
             the fold lagged {worst:.2} s at the most, not ready {unready} times",
            during.answered,
            during.asked,
            during.p99(),
            during.refused
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = ask_steadily(&others, length / 3).await;
        println!(
            "after 2 s: {} of {} answered, p99 {:?}",
            after.answered,
            after.asked,
            after.p99()
        );
        // Client, engines and other tests share the machine in the short form.
        let (share, slowest, lag) = if is_long() {
            (90, 1, 1.0)
        } else {
            (75, 4, 4.0)
        };
        assert!(during.answered * 100 >= during.asked * share);
        assert!(during.p99() < Duration::from_secs(slowest));
        assert!(worst < lag);
        assert_eq!((after.answered, unready), (after.asked, 0));
        let abandoned = world.query.metric("query_service_reads_abandoned_total");
        assert!(
            abandoned.await.is_some_and(|reads| reads > 0.0),
            "who leaves is noticed"
        );
    }
    assert!(unanswered.is_empty(), "{unanswered:#?}");
}
