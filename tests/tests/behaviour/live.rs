//! Live streams of a reader, through two processes: every entry once, in order, and soon.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::StatusCode;
use system_tests::api::Session;
use system_tests::events::Events;
use system_tests::world::{Service, World};
use system_tests::{alone, is_long, quantile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::text;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_live_streams_of_a_reader_get_every_entry_once_in_order_and_soon() {
    const AUTHORS: usize = 3;
    // A debug build is several times slower.
    let soon = Duration::from_millis(if cfg!(debug_assertions) { 150 } else { 50 });
    let (idle, each) = if is_long() { (200, 100) } else { (30, 20) };
    let _alone = alone().await;
    let world = World::start(&[]).await;
    let other = world.another(&world.query);
    other.start().await;
    let sessions = world.sessions(&world.api(), "live", AUTHORS + 1).await;
    let (reader, authors) = sessions.split_last().expect("there are some");
    let at = [reader.through(&world.query), reader.through(&other)];
    for author in authors {
        let followed = reader.follow(&author.user_id).await.accepted();
        for process in &at {
            let answer = process.get("/timeline", Some(&followed.consistency)).await;
            assert!(answer.is_ok_and(|answer| answer.status == StatusCode::OK));
        }
    }

    let mut streams = [at[0].live(None).await, at[1].live(None).await];
    let (times, last) = post_idle(authors, &mut streams, idle).await;
    let [one, _] = streams;

    // Everybody at once, and the clients change places again and again.
    let clients = [
        follow_live(&at, 0, one, 7),
        follow_live(&at, 1, at[1].live(Some(last)).await, 5),
    ];
    let posting = async {
        join_all((0..AUTHORS).map(|number| post_busy(authors, number, each))).await;
        authors[0].post(THE_END, "end").await.accepted().value
    };
    let [one, two] = clients;
    let (end, one, two) = futures_util::join!(posting, one, two);
    let expected = AUTHORS * each + AUTHORS * (each / 5) + 1;
    for followed in [&one, &two] {
        assert_whole(followed, expected, &end);
    }
    assert_eq!(one.0, two.0, "both clients are told the same");
    println!(
        "busy: {expected} entries, each once and in order for both clients, over {} and {} reconnects",
        one.1, two.1
    );
    for times in &times {
        let median = quantile(times, 0.5);
        assert!(median < soon, "median {median:?}, wanted {soon:?}");
    }
    whoever_goes_gives_the_place_back_at_once(&at[0], &world.query).await;
}

/// However the client goes: by the heartbeat, the service would find out in half a minute.
async fn whoever_goes_gives_the_place_back_at_once(reader: &Session, query: &Service) {
    const OPEN: &str = "query_service_live_streams";
    const STREAMS: usize = 15;
    type Go = fn(TcpStream);
    let goes: [(&str, Go); 3] = [
        ("closes", drop),
        ("closes its half", |mut socket| {
            tokio::spawn(async move {
                let _ = socket.shutdown().await;
                // Its other half stays open until the service closes that as well.
                let _ = socket.read_to_end(&mut Vec::new()).await;
            });
        }),
        ("breaks off", |socket| {
            let _ = socket.set_zero_linger();
        }),
    ];
    for (how, go) in goes {
        query
            .metric_becomes("none is open", OPEN, |open| open == 0.0)
            .await;
        let sockets = join_all((0..STREAMS).map(|_| connected(reader))).await;
        query
            .metric_becomes("all are open", OPEN, |open| open == STREAMS as f64)
            .await;
        let gone = Instant::now();
        sockets.into_iter().for_each(go);
        query
            .metric_becomes("all are gone", OPEN, |open| open == 0.0)
            .await;
        let passed = gone.elapsed();
        println!("{STREAMS} live streams whose client {how} end within {passed:.1?}");
        assert!(
            passed < Duration::from_secs(5),
            "a client that {how}: {passed:?}"
        );
    }
}

/// A stream that has begun, as a bare socket.
async fn connected(reader: &Session) -> TcpStream {
    let request = reader.live_request("").build().expect("a request");
    let url = request.url();
    let address = url.socket_addrs(|| None).expect("an address")[0];
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\r\n",
        url.path(),
        reader.token()
    );
    let mut socket = TcpStream::connect(address).await.expect("a socket");
    socket.write_all(head.as_bytes()).await.expect("a request");
    let (mut begun, mut part) = (String::new(), [0; 1024]);
    while !begun.contains(": connected") {
        let read = socket.read(&mut part).await.expect("it begins");
        assert_ne!(read, 0, "{begun}");
        begun.push_str(&String::from_utf8_lossy(&part[..read]));
    }
    socket
}

/// Posts while nothing else goes on. Says how long each event took to each stream, from the first
/// byte of its POST, and the id of the last event.
async fn post_idle(
    authors: &[Session],
    streams: &mut [Events; 2],
    posts: usize,
) -> ([Vec<Duration>; 2], u64) {
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut last = 0;
    for n in 0..posts {
        let author = &authors[n % authors.len()];
        let sent = Instant::now();
        let key = format!("idle-{n}");
        let post = author.post(&format!("idle {n}"), &key).await;
        let post = post.accepted().value;
        for (stream, times) in streams.iter_mut().zip(&mut times) {
            let event = stream.next().await.expect("the stream goes on");
            assert_eq!(text(&event.post, "post_id"), post);
            times.push(event.at - sent);
            last = event.id;
        }
    }
    for (times, process) in times.iter().zip(["one process", "the other"]) {
        println!(
            "POST to event, idle, {posts} posts, {process}: median {:.1?}, 95 % {:.1?}, slowest {:.1?}",
            quantile(times, 0.5),
            quantile(times, 0.95),
            quantile(times, 1.0)
        );
    }
    (times, last)
}

/// Posts as one of the authors; the next one reposts every fifth post.
async fn post_busy(authors: &[Session], number: usize, posts: usize) {
    for n in 0..posts {
        let key = format!("busy-{n}");
        let post = authors[number].post(&format!("busy {n}"), &key).await;
        let post = post.accepted().value;
        if n % 5 == 4 {
            let next = &authors[(number + 1) % authors.len()];
            next.repost(&post).await.accepted();
        }
    }
}

/// Every entry was an event once, in order, and `end` came last.
fn assert_whole((events, reconnects): &Followed, expected: usize, end: &String) {
    assert!(
        events.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "sequences rise: {events:?}"
    );
    let entries: BTreeSet<&String> = events.iter().map(|(_, entry)| entry).collect();
    assert_eq!((entries.len(), events.len()), (expected, expected));
    assert_eq!(events.last().map(|(_, entry)| entry), Some(end));
    assert!(*reconnects > 2, "it was a test of reconnecting");
}

/// The sequence and entry of each event of a stream, and how often its client reconnected.
type Followed = (Vec<(u64, String)>, usize);

const THE_END: &str = "the end";

/// Follows a reader's stream to the end, changing to the other process after every `stay` events.
async fn follow_live(
    at: &[Session; 2],
    mut process: usize,
    mut stream: Events,
    stay: usize,
) -> Followed {
    let (mut events, mut reconnects) = (Vec::new(), 0);
    loop {
        let event = stream.next().await.expect("the stream goes on");
        events.push((event.id, text(&event.post, "entry_id").to_owned()));
        if text(&event.post, "content") == THE_END {
            return (events, reconnects);
        }
        if events.len() % stay == 0 {
            process = 1 - process;
            reconnects += 1;
            // What is on its way to the old connection is lost with it.
            stream = at[process].live(Some(event.id)).await;
        }
    }
}
