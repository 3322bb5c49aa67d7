//! Live streams as client libraries read them: what is sent to the byte, how a stream begins
//! where it cannot be served yet, and how it ends.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::StatusCode;
use serde_json::{Value, json};
use shared::auth::token::{AUDIENCE, ISSUER};
use system_tests::api::Session;
use system_tests::events::{End, Events, Item};
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually, http_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::text;

/// Streams that one reader may have.
const MOST: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_is_what_libraries_read_from_its_first_byte_to_its_end() {
    let _alone = alone().await;
    let keys = tempfile::tempdir().expect("a folder");
    let key = keys.path().join("jwt.pem").display().to_string();
    let settings = [
        ("STREAM_HEARTBEAT_SECS", "1"),
        ("JWT_PRIVATE_KEY_FILE", &key),
    ];
    let world = World::start(&settings).await;
    let readers = world.sessions(&world.api(), "reader", 5).await;
    futures_util::join!(
        to_the_byte(&readers[0], "1.1"),
        to_the_byte(&readers[1], "1.0"),
        resumed_as_libraries_resume(&readers[2]),
        ends_with_its_token(&world, &readers[3], &key),
        one_stream_too_many(&readers[4]),
    );
    // Whoever closes a connection gives its place back at once, not with the second heartbeat.
    let what = "no live stream is left";
    let open = "query_service_live_streams";
    world.query.metric_becomes(what, open, |n| n == 0.0).await;
}

async fn post(session: &Session, content: &str) -> String {
    let key = content.replace(' ', "-");
    session.post(content, &key).await.accepted().value
}

/// Without a token, and directly.
async fn get(url: &str) -> reqwest::Result<reqwest::Response> {
    http_client(None).get(url).send().await
}

/// A stream as it comes over the wire, chunked coding undone where there is any.
struct Raw {
    socket: TcpStream,
    bytes: String,
}

impl Raw {
    async fn get(session: &Session, version: &str, more: &str) -> Self {
        let request = session.live_request("").build().expect("a request");
        let (host, port) = (
            request.url().host_str().expect("a host").to_owned(),
            request.url().port().expect("a port"),
        );
        let head = format!(
            "GET {} HTTP/{version}\r\nhost: {host}:{port}\r\nauthorization: Bearer {}\r\n{more}\r\n",
            request.url().path(),
            session.token()
        );
        let mut socket = TcpStream::connect((host, port)).await.expect("a socket");
        socket.write_all(head.as_bytes()).await.expect("a request");
        Self {
            socket,
            bytes: String::new(),
        }
    }

    /// Reads until the whole answer so far is like that.
    async fn until(&mut self, what: &str, like: impl Fn(&str) -> bool) -> &str {
        let give_up = Instant::now() + PATIENCE;
        while !like(&self.bytes) {
            let mut piece = [0; 4_096];
            let read = tokio::time::timeout_at(give_up.into(), self.socket.read(&mut piece)).await;
            let read = read.expect("in time").expect("bytes");
            assert!(read > 0, "{what}: {}", self.bytes);
            self.bytes
                .push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        &self.bytes
    }
}

/// Undoes chunked coding of what has arrived.
fn unchunked(body: &str) -> String {
    let (mut plain, mut rest) = (String::new(), body);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        let Some(chunk) = after.get(..length) else {
            break;
        };
        plain.push_str(chunk);
        rest = after.get(length + 2..).unwrap_or_default();
    }
    plain
}

/// `retry:` first; comments with one newline; an empty line after events alone.
async fn to_the_byte(reader: &Session, version: &str) {
    let is_chunked = version == "1.1";
    let mut raw = Raw::get(reader, version, "connection: keep-alive\r\n").await;
    raw.until("two heartbeats", |bytes| {
        bytes.matches(": heartbeat\n").count() == 2
    })
    .await;
    let id = post(reader, &format!("over HTTP/{version}")).await;
    let end = format!("\"post_id\":\"{id}\"");
    let ends = |bytes: &str| bytes.contains(&end) && bytes.contains("}\n\n");
    let answer = raw.until("the event", ends).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let head = head.to_lowercase();
    assert!(
        head.starts_with("http/1.1 200") || head.starts_with("http/1.0 200"),
        "{head}"
    );
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert!(head.contains("x-accel-buffering: no"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    assert_eq!(
        head.contains("transfer-encoding: chunked"),
        is_chunked,
        "{head}"
    );
    let body = if is_chunked {
        unchunked(body)
    } else {
        assert!(!head.contains("connection: keep-alive"), "{head}");
        body.to_owned()
    };
    let (before, event) = body.split_once("event: post\n").expect("an event");
    let retry = before
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("retry: "));
    let retry: u64 = retry
        .and_then(|ms| ms.parse().ok())
        .expect("retry comes first");
    assert!((1_000..=3_000).contains(&retry));
    let comments: Vec<&str> = before.lines().skip(1).collect();
    assert_eq!(comments[0], ": connected");
    assert!(
        comments[1..].iter().all(|line| *line == ": heartbeat"),
        "{before}"
    );
    let lines: Vec<&str> = event.split('\n').take(4).collect();
    assert!(
        lines[0].starts_with("id: ") && lines[1].starts_with("data: {"),
        "{event}"
    );
    assert_eq!(lines[2], "", "{event}");
}

/// A client resumes by a header or by the query string; an empty id means no id.
async fn resumed_as_libraries_resume(reader: &Session) {
    let mut stream = reader.live(None).await;
    post(reader, "noted").await;
    let noted = stream.next().await.expect("an event").id;
    drop(stream);
    let mut missed = Vec::new();
    for content in ["one", "two", "three"] {
        missed.push(post(reader, content).await);
    }
    let by_query = |name: &str| reader.live_request(&format!("?{name}={noted}"));
    let resumed = [
        by_query("lastEventId"),
        by_query("last-event-id"),
        by_query("Last-Event-ID"),
        by_query("lastEventId").header("last-event-id", ""),
        reader
            .live_request("?lastEventId=999999999")
            .header("last-event-id", noted),
    ];
    let resumed = resumed.map(|request| async {
        let mut stream = Events::begin(request).await;
        let mut posts = Vec::new();
        while posts.len() < missed.len() {
            let event = stream.next().await.expect("an event");
            posts.push(text(&event.post, "post_id").to_owned());
        }
        posts
    });
    for posts in join_all(resumed).await {
        assert_eq!(posts, missed);
    }
    // An empty one is what libraries send that have seen no event: it begins now.
    let request = reader
        .live_request("?lastEventId=")
        .header("last-event-id", "");
    let mut stream = Events::begin(request).await;
    stream.comment("connected").await;
    let next = post(reader, "next").await;
    let event = stream.next().await.expect("an event");
    assert_eq!(text(&event.post, "post_id"), next);
}

/// When its token expires, a stream says so and breaks off. The service then refuses the token; a
/// client that comes back with a new one misses nothing.
async fn ends_with_its_token(world: &World, reader: &Session, key: &str) {
    let url = format!("{}/.well-known/jwks.json", world.command.api);
    let keys = get(&url).await.expect("the key set");
    let keys: JwkSet = keys.json().await.expect("a key set");
    let pem = std::fs::read(key).expect("the service's key");
    let now = get_current_timestamp();
    // Accepted for five seconds longer, for clocks that differ.
    let claims = json!({
        "sub": reader.user_id, "iss": ISSUER, "aud": AUDIENCE, "iat": now - 900, "exp": now - 2,
    });
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = keys.keys[0].common.key_id.clone();
    let token = encode(
        &header,
        &claims,
        &EncodingKey::from_ed_pem(&pem).expect("a key"),
    );
    let old = reader.with_token(&token.expect("a token"));
    let began = Instant::now();
    let mut stream = old.live(None).await;
    post(reader, "before it expires").await;
    let last = stream.next().await.expect("an event").id;
    ends_with("token expired", &mut stream).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let missed = post(reader, "after it expired").await;
    let refused = old.live_request("").send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let event = reader
        .live(Some(last))
        .await
        .next()
        .await
        .expect("an event");
    assert_eq!(text(&event.post, "post_id"), missed);
}

/// The 21st stream of a reader is refused with 429, and the other 20 go on.
async fn one_stream_too_many(reader: &Session) {
    let mut streams = join_all((0..MOST).map(|_| reader.live(None))).await;
    let refused = reader.live_request("").send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let later = refused.headers().get("retry-after").cloned();
    assert_eq!(later.expect("when to ask again"), "60");
    let problem: Value = refused.json().await.expect("a problem");
    assert_eq!(text(&problem, "code"), "too_many_requests");
    let all = post(reader, "to all of them").await;
    for stream in &mut streams {
        let event = stream.next().await.expect("no stream was replaced");
        assert_eq!(text(&event.post, "post_id"), all);
    }
    // One is closed and another opened at once, again and again.
    for _ in 0..3 {
        drop(streams.remove(0));
        streams.push(reader.live(None).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_waits_for_what_it_needs_and_is_broken_off_so_that_clients_come_back() {
    let _alone = alone().await;
    let world = World::start(&[("STREAM_HEARTBEAT_SECS", "1")]).await;
    let reader = world.sessions(&world.api(), "reader", 1).await.remove(0);
    let mut early = reader.live(None).await;
    post(&reader, "first").await;
    let first = early.next().await.expect("an event").id;

    let (mut streams, second) = while_the_database_is_away(&world, &reader, early, first).await;
    while_the_service_restarts(&world, &reader, &mut streams, first, &second).await;
    while_the_keys_are_away(&world, &reader, first, &second).await;
}

/// The database is silent, then gone: comments go on, and new streams wait. Says which streams are
/// open in the end, and the id of the post that all of them got.
async fn while_the_database_is_away(
    world: &World,
    reader: &Session,
    mut early: Events,
    first: u64,
) -> ([Events; 3], String) {
    world.mongodb.pause();
    early.comment("heartbeat").await;
    let mut late = waiting(reader, Some(first)).await;
    world.mongodb.resume();
    late.comment("connected").await;
    world.mongodb.kill();
    let unknown = waiting(reader, None).await;
    world.mongodb.start();
    let mut streams = [early, late, unknown];
    streams[2].comment("connected").await;
    let second = reader.post_when_possible("second").await;
    for stream in &mut streams {
        let event = stream.next().await.expect("the stream goes on");
        assert_eq!(text(&event.post, "post_id"), second);
    }
    (streams, second)
}

/// The service stops, and starts again while its database is away.
async fn while_the_service_restarts(
    world: &World,
    reader: &Session,
    streams: &mut [Events; 3],
    first: u64,
    second: &str,
) {
    let query = &world.query.process;
    query.terminate();
    for stream in streams {
        ends_with("goodbye", stream).await;
    }
    query.wait(PATIENCE).await.expect("it ends in order");
    world.mongodb.kill();
    query.start();
    world.query.listens().await;
    let mut starting = waiting(reader, Some(first)).await;
    let other = reader.get("/timeline", None).await.expect("an answer");
    assert_eq!(other.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(&other.body, "code"), "unavailable");
    world.mongodb.start();
    ends_with("goodbye", &mut starting).await;
    let mut stream = waiting_or_not(reader, Some(first)).await;
    let event = stream.next().await.expect("it is resumed");
    assert_eq!(text(&event.post, "post_id"), second);
}

/// The keys of tokens are away: a good token waits, and so does what may be one.
async fn while_the_keys_are_away(world: &World, reader: &Session, first: u64, second: &str) {
    world.query.ready().await;
    world.command.process.kill();
    let other = world.another(&world.query);
    other.process.start();
    eventually("it serves whoever needs no token", PATIENCE, async || {
        let url = format!("{}/api/v1/posts/{second}", other.api);
        let answer = get(&url).await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    let through = reader.through(&other);
    let mut parts: Vec<&str> = reader.token().split('.').collect();
    parts[2] = "bm9ib2R5";
    let forged = through.with_token(&parts.join("."));
    let (mut good, mut bad) =
        futures_util::join!(waiting(&through, Some(first)), waiting(&forged, None));
    // Again and again, and not only once.
    good.comment("waiting").await;
    world.command.start().await;
    ends_with("unauthorized", &mut bad).await;
    let refused = forged.live_request("").send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let event = good.next().await.expect("it has begun");
    assert_eq!(text(&event.post, "post_id"), second);
}

/// Waits for the last comment of a stream, which is then broken off: clients come back.
async fn ends_with(comment: &str, stream: &mut Events) {
    stream.comment(comment).await;
    assert!(stream.item().await.is_none());
    assert_eq!(stream.end(), Some(End::BrokenOff));
}

/// A stream that is accepted and says soon that it waits.
async fn waiting(session: &Session, after: Option<u64>) -> Events {
    let began = Instant::now();
    let mut stream = waiting_or_not(session, after).await;
    let first = stream.item().await;
    assert!(matches!(first, Some(Item::Retry(_))), "{first:?}");
    stream.comment("waiting").await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    stream
}

async fn waiting_or_not(session: &Session, after: Option<u64>) -> Events {
    let mut request = session.live_request("");
    if let Some(id) = after {
        request = request.header("last-event-id", id);
    }
    Events::begin(request).await
}
