//! Too much, and nobody to ask: what is refused is refused quickly, what is served is served, and
//! memory stays flat.

#[path = "overload/hostile.rs"]
mod hostile;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use system_tests::process::OnlyLast;
use system_tests::world::{PATIENCE, Service, World};
use system_tests::{eventually, http_client, is_long};
use tokio::sync::{Mutex, MutexGuard, Semaphore};

const CLIENTS: usize = 8;
/// What a refusal may take. A second is promised; the machine may be busy.
const REFUSED_WITHIN: Duration = Duration::from_millis(1_200);

/// One test at a time in the long form: they measure.
async fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    if is_long() {
        Some(ALONE.lock().await)
    } else {
        None
    }
}

fn http() -> Client {
    http_client(Some(Duration::from_secs(20)))
}

/// One answer.
#[derive(Clone, Copy, Debug)]
struct Seen {
    status: u16,
    took: Duration,
    ended: Instant,
    /// A refusal says when to ask again.
    said_when: bool,
    /// It says that it is from memory.
    stale: bool,
}

async fn ask(request: RequestBuilder) -> Seen {
    let began = Instant::now();
    let (status, said_when, stale) = match request.send().await {
        Ok(answer) => {
            let said_when = answer.headers().contains_key("retry-after");
            let served = answer.headers().get("x-served");
            let stale = served.is_some_and(|served| served == "stale");
            let status = answer.status().as_u16();
            // To its end, so that the connection can be used again.
            let _ = answer.bytes().await;
            (status, said_when, stale)
        }
        Err(_) => (0, false, false),
    };
    Seen {
        status,
        took: began.elapsed(),
        ended: Instant::now(),
        said_when,
        stale,
    }
}

/// A writer per token, each as fast as it is answered, until it is told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Writers {
    fn start(world: &World, tokens: &[String]) -> Self {
        let (stop, seen) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<Seen>>>::default(),
        );
        let http = http();
        let client = |token: &String| {
            let (stop, seen, http) = (stop.clone(), seen.clone(), http.clone());
            let (url, token) = (format!("{}/api/v1/posts", world.command.api), token.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = http.post(&url).bearer_auth(&token);
                    let answer = ask(request.json(&json!({ "content": "x" }))).await;
                    seen.lock().await.push(answer);
                    if answer.status != 201 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        };
        let clients = tokens.iter().map(client).collect();
        Self {
            stop,
            clients,
            seen,
        }
    }

    /// What was answered since the last look.
    async fn since(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().await)
    }

    /// Waits until somebody is answered like that.
    async fn until(&self, status: u16) {
        eventually(
            &format!("somebody is answered {status}"),
            PATIENCE,
            async || {
                let seen = self.since().await;
                seen.iter().any(|seen| seen.status == status).then_some(())
            },
        )
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.clients).await;
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("client_{n}")).collect()
}

fn slowest(seen: &[Seen]) -> Duration {
    seen.iter().map(|seen| seen.took).max().unwrap_or_default()
}

async fn circuit(service: &Service, dependency: &str) -> Option<f64> {
    let line = format!("circuit_open{{dependency=\"{dependency}\"}} ");
    let metrics = service.metrics().await;
    let value = metrics.lines().find_map(|text| text.strip_prefix(&line));
    value?.parse().ok()
}

async fn circuit_becomes(service: &Service, dependency: &str, value: f64) {
    let what = format!("the circuit to {dependency} is {value}");
    eventually(&what, PATIENCE, async || {
        (circuit(service, dependency).await == Some(value)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_answers_come_within_a_second_and_all_recovers() {
    let _alone = alone().await;
    let outage = Duration::from_secs(if is_long() { 60 } else { 2 });
    let world = World::start(&[]).await;
    let tokens = world.users(&names(CLIENTS)).await;
    let writers = Writers::start(&world, &tokens);
    writers.until(201).await;
    // Pages that are read all the time, by somebody whose followee writes all the time.
    let reader = &world.sessions(&world.api(), "reader", 1).await[0];
    let followee = world.api().user("client_0").await.user_id;
    reader.follow(&followee).await.accepted();
    // Not somebody who has just begun: what is remembered of them is whole.
    eventually("the timeline is long", PATIENCE, async || {
        (reader.scroll(100, None).await.len() > 300).then_some(())
    })
    .await;
    let http = http();
    let get = |path: &str| {
        let request = http.get(format!("{}/api/v1{path}", world.query.api));
        request.bearer_auth(reader.token())
    };
    let hot = [
        "/timeline".to_owned(),
        "/timeline?limit=5".to_owned(),
        format!("/users/{}", reader.user_id),
        "/users/by-username/client_0".to_owned(),
    ];
    // Gone, then silent: a killed server refuses connections, a stopped one takes them.
    for fault in ["killed", "stopped"] {
        for path in hot.iter().cycle().take(20) {
            let seen = ask(get(path)).await;
            assert_eq!((seen.status, seen.stale), (200, false), "{path}");
        }
        writers.since().await;
        let before = world.command.process.resident();
        let began = Instant::now();
        match fault {
            "killed" => drop(world.mongodb.kill()),
            _ => world.mongodb.pause(),
        }
        // What nobody has read is not made up.
        let read = ask(get("/users/by-username/client_7")).await;
        let mut reads = Vec::new();
        while began.elapsed() < outage {
            reads.extend(join_all(hot.iter().map(|path| ask(get(path)))).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let seen = writers.since().await;
        let refused: Vec<Seen> = seen.into_iter().filter(|seen| seen.status != 201).collect();
        let grown = world.command.process.resident().saturating_sub(before) / 1024;
        for service in [&world.command, &world.query] {
            assert_eq!(circuit(service, "mongodb").await, Some(1.0));
        }
        match fault {
            "killed" => world.mongodb.start(),
            _ => world.mongodb.resume(),
        }
        let back = Instant::now();
        writers.until(201).await;
        let recovered = back.elapsed();
        let served = reads.iter().filter(|seen| seen.status == 200).count();
        let stale = reads.iter().filter(|seen| seen.stale).count();
        println!(
            "hot reads meanwhile: {served} of {} answered, {stale} marked stale, the slowest after {:?}",
            reads.len(),
            slowest(&reads)
        );
        assert_eq!(served, reads.len(), "what is read all the time is served");
        assert!(stale * 2 > reads.len() && slowest(&reads) < REFUSED_WITHIN);
        println!(
            "MongoDB {fault} for {outage:?}: {} writes refused, the slowest after {:?}; a read \
             answered {} after {:?}; {grown} KiB more; writes again after {recovered:?}",
            refused.len(),
            slowest(&refused),
            read.status,
            read.took,
        );
        assert!(!refused.is_empty());
        let proper = |seen: &Seen| seen.status == 503 && seen.said_when;
        let others: Vec<&Seen> = refused.iter().filter(|seen| !proper(seen)).collect();
        assert!(others.is_empty(), "{others:?}");
        assert!(slowest(&refused) < REFUSED_WITHIN);
        assert!(read.took < REFUSED_WITHIN);
        assert!(grown < 32 * 1024, "memory stays flat");
        for service in [&world.command, &world.query] {
            circuit_becomes(service, "mongodb", 0.0).await;
        }
    }
    writers.since().await;
    world.nats.kill();
    for service in [&world.command, &world.query] {
        circuit_becomes(service, "nats", 1.0).await;
    }
    tokio::time::sleep(outage).await;
    let seen = writers.since().await;
    println!(
        "NATS killed for {outage:?}: {} writes, the slowest after {:?}",
        seen.len(),
        slowest(&seen)
    );
    assert!(seen.iter().all(|seen| seen.status == 201), "{seen:?}");
    world.nats.start();
    for service in [&world.command, &world.query] {
        circuit_becomes(service, "nats", 0.0).await;
    }
    writers.stop().await;
    let audit = world.audit().await;
    println!("log and stream: {audit}");
    assert!(audit.is_clean(), "{audit:?}");
    world.verify().await;
}

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
        assert_eq!(opened, None, "slow is not silent");
        assert!(tally.other.is_empty(), "{:?}", tally.other);
        // A second is promised of a service; in the short form the flood waits for a processor
        // as well, and so may all that runs beside it.
        let bound = Duration::from_secs(if is_long() { 2 } else { 5 });
        assert!(tally.p99() < bound);
        assert!(tally.slowest_refusal < bound);
        let late = if is_long() { 0 } else { sent / 10 };
        assert!(tally.late <= late, "{} of {sent} came too late", tally.late);
        // As many connections hold as much; nothing piles up.
        assert!(after < half + half / 10 + 8 * 1024);
        assert!(after < before + 128 * 1024);
        let served = u64::try_from(tally.times.len()).expect("a count");
        assert_eq!(served + tally.refused + tally.late, sent);
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
}
