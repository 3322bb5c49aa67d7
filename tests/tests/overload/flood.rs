//! Ten times too much: what can be served is served, the rest is refused in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::json;
use system_tests::is_long;
use system_tests::process::OnlyLast;
use system_tests::world::{Service, World};
use tokio::sync::Semaphore;

use super::{Seen, Writers, alone, ask, http, names};

/// Requests of one kind, sent at a rate whatever becomes of those before.
struct Offer {
    requests: Vec<RequestBuilder>,
}

#[derive(Debug, Default)]
struct Tally {
    /// Before the end of the flood.
    in_time: u64,
    refused: u64,
    slowest_refusal: Duration,
    /// Whose head took more than 5 s to arrive: the flood, too, waits for a processor.
    late: u64,
    other: Vec<u16>,
    /// Of what was served.
    times: Vec<Duration>,
}

impl Tally {
    fn of(seen: Vec<Seen>, end: Instant) -> Self {
        let mut tally = Self::default();
        for seen in seen {
            match seen.status {
                200 | 201 => {
                    tally.in_time += u64::from(seen.ended <= end);
                    tally.times.push(seen.took);
                }
                503 if seen.said_when => {
                    tally.refused += 1;
                    tally.slowest_refusal = tally.slowest_refusal.max(seen.took);
                }
                408 => tally.late += 1,
                other => tally.other.push(other),
            }
        }
        tally.times.sort_unstable();
        tally
    }

    /// Everything that was sent is answered, with an answer or a refusal, and not too late.
    fn assert_all_in_time(&self, sent: u64) {
        assert!(self.other.is_empty(), "{:?}", self.other);
        // A second is promised of a service; in the short form the flood waits for a processor
        // as well, and so may all that runs beside it.
        let bound = Duration::from_secs(if is_long() { 2 } else { 5 });
        assert!(self.p99() < bound);
        assert!(self.slowest_refusal < bound);
        let late = if is_long() { 0 } else { sent / 10 };
        assert!(self.late <= late, "{} of {sent} came too late", self.late);
        let served = u64::try_from(self.times.len()).expect("a count");
        assert_eq!(served + self.refused + self.late, sent);
    }

    fn p99(&self) -> Duration {
        let at = (self.times.len() * 99 / 100).min(self.times.len().saturating_sub(1));
        self.times.get(at).copied().unwrap_or_default()
    }
}

impl Offer {
    fn request(&self, n: u64) -> RequestBuilder {
        let count = u64::try_from(self.requests.len()).expect("few");
        let at = usize::try_from(n % count).expect("few");
        self.requests[at].try_clone().expect("a body in memory")
    }

    /// So many at once, each as soon as the last was answered: what can be served.
    async fn capacity(&self, clients: u64, length: Duration) -> Tally {
        let (began, next) = (Instant::now(), AtomicU64::new(0));
        let client = async |_| {
            let mut seen = Vec::new();
            while began.elapsed() < length {
                seen.push(ask(self.request(next.fetch_add(1, Ordering::Relaxed))).await);
            }
            seen
        };
        let seen = join_all((0..clients).map(client)).await;
        Tally::of(seen.into_iter().flatten().collect(), began + length)
    }

    /// So many a second, as far as this machine can send them.
    /// `half_way` is called once.
    async fn flood(
        &self,
        per_second: f64,
        length: Duration,
        half_way: impl FnOnce(),
    ) -> (Tally, u64) {
        // Connections of the flood: many times as many as it takes to keep a service busy.
        let most = if is_long() { 2_000 } else { 400 };
        let (began, open) = (Instant::now(), Arc::new(Semaphore::new(most)));
        let (mut sent, mut flying) = (0_u64, tokio::task::JoinSet::new());
        let (mut seen, mut half_way) = (Vec::new(), Some(half_way));
        while began.elapsed() < length {
            let due = (began.elapsed().as_secs_f64() * per_second) as u64;
            while sent < due && began.elapsed() < length {
                if began.elapsed() > length / 2
                    && let Some(half_way) = half_way.take()
                {
                    half_way();
                }
                let Ok(place) = open.clone().acquire_owned().await else {
                    break;
                };
                let request = self.request(sent);
                flying.spawn(async move {
                    let seen = ask(request).await;
                    drop(place);
                    seen
                });
                sent += 1;
                while let Some(Ok(done)) = flying.try_join_next() {
                    seen.push(done);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while let Some(done) = flying.join_next().await {
            seen.push(done.expect("no panic"));
        }
        (Tally::of(seen, began + length), sent)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_too_much_is_refused_and_the_rest_is_served() {
    let _alone = alone().await;
    let (short, length) = if is_long() { (10, 30) } else { (1, 4) };
    let (short, length) = (Duration::from_secs(short), Duration::from_secs(length));
    let world = World::start(&[]).await;
    // Sending ten times too much takes more of a machine than serving it. With a processor of its
    // own the flood takes nothing from what is measured.
    let last = if is_long() { OnlyLast::take() } else { None };
    if let Some(OnlyLast { others: rest }) = last {
        let services = [&world.command.process, &world.query.process];
        for process in services.into_iter().chain([&world.mongodb, &world.nats]) {
            process.only_first(rest);
        }
        println!("services and engines on {rest} processors, the flood on one");
    }
    // Many: writers of one account wait for each other.
    let tokens = world.users(&names(64)).await;
    let writers = Writers::start(&world, &tokens);
    writers.until(201).await;
    writers.stop().await;
    let http = http();
    let read = |path: &str| {
        let url = format!("{}/api/v1{path}", world.query.api);
        let request = |token: &String| http.get(&url).bearer_auth(token);
        tokens.iter().map(request).collect::<Vec<_>>()
    };
    let writes = tokens.iter().map(|token| {
        let url = format!("{}/api/v1/posts", world.command.api);
        let body = json!({ "content": "one of too many" });
        http.post(url).bearer_auth(token).json(&body)
    });
    let profile = format!(
        "/users/{}/posts",
        world.api().user("client_0").await.user_id
    );
    let offers = [
        ("reads from memory", &world.query, read("/timeline")),
        ("reads", &world.query, read(&profile)),
        ("writes", &world.command, writes.collect()),
    ];
    for (what, service, requests) in offers {
        let offer = Offer { requests };
        offer_too_much(what, service, &offer, short, length).await;
    }
}

/// Finds what a service can serve, offers it ten times as much, and judges what it answers.
async fn offer_too_much(
    what: &str,
    service: &Service,
    offer: &Offer,
    short: Duration,
    length: Duration,
) {
    offer.capacity(32, short).await;
    let capacity = offer.capacity(64, short).await;
    let rate = |tally: &Tally, length: Duration| tally.in_time as f64 / length.as_secs_f64();
    let capacity = rate(&capacity, short);
    let resident = || service.process.resident() / 1024;
    let (before, mut half) = (resident(), 0);
    let flood = offer.flood(10.0 * capacity, length, || half = resident());
    let (tally, sent) = flood.await;
    let goodput = rate(&tally, length);
    let offered = sent as f64 / length.as_secs_f64();
    let after = resident();
    println!(
        "{what}: capacity {capacity:.0}/s; offered {offered:.0}/s for {length:?}: served \
         {goodput:.0}/s ({:.0} %), p99 {:?}; refused {}, the slowest after {:?}; {before} KiB \
         before, {half} KiB half way, {after} KiB after",
        100.0 * goodput / capacity,
        tally.p99(),
        tally.refused,
        tally.slowest_refusal,
    );
    let opened = service.metric("circuit_opened_total").await;
    assert_eq!(opened, Some(0.0), "slow is not silent");
    tally.assert_all_in_time(sent);
    // As many connections hold as much; nothing piles up.
    assert!(after < half + half / 10 + 8 * 1024);
    assert!(after < before + 128 * 1024);
    // From memory more may be read than the flood can ask for: then nobody is refused.
    let could = if tally.refused == 0 {
        capacity.min(offered)
    } else {
        capacity
    };
    // Client, engines, the fold and other tests share the machine in the short form.
    let promised = if is_long() { 0.7 } else { 0.1 };
    assert!(goodput > promised * could);
}
