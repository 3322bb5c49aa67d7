//! What takes long: live streams pass at once and for as long as they last; uploads do not.

use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::api::Session;
use system_tests::eventually;
use system_tests::process::Process;
use system_tests::world::{PATIENCE, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Front, READ_TIMEOUT_SECS};

/// What is held back by a buffer comes minutes later.
const AT_ONCE: Duration = Duration::from_secs(5);

pub async fn a_stream_outlives_what_the_gateway_gives_a_request(session: Session) {
    let mut stream = session.live(None).await;
    let began = Instant::now();
    let mut number = 0;
    while number == 0 || began.elapsed() < Duration::from_secs(READ_TIMEOUT_SECS + 2) {
        number += 1;
        let text = format!("long {number}");
        let posted = Instant::now();
        session
            .post(&text, &text.replace(' ', "-"))
            .await
            .accepted();
        let event = stream.next().await.expect("the stream goes on");
        assert_eq!(event.post["content"], *text);
        assert!(posted.elapsed() < AT_ONCE, "{text}: {:?}", posted.elapsed());
        stream.comment("heartbeat").await;
        stream.comment("heartbeat").await;
    }
    println!(
        "a live stream passed {number} events at once in {:.1?}",
        began.elapsed()
    );
}

/// The service gives a body 10 s, and its 408 reaches the client when the gateway's time is up.
pub async fn a_slow_upload_is_told_what_the_service_says(front: &Front) {
    let mut upload = TcpStream::connect(("127.0.0.1", front.port))
        .await
        .expect("a connection");
    let head = "POST /api/v1/users HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n\
                content-length: 1000\r\n\r\n";
    upload
        .write_all(head.as_bytes())
        .await
        .expect("it is taken");
    let began = Instant::now();
    let (mut reader, mut writer) = upload.split();
    let mut answer = Vec::new();
    let drip = async {
        // Until the answer is there; then nobody reads any more.
        while writer.write_all(b" ").await.is_ok() {
            // So slow is the upload.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    let patience = Duration::from_secs(READ_TIMEOUT_SECS + 8);
    tokio::select! {
        read = timeout(patience, reader.read_to_end(&mut answer)) => {
            read.expect("it ends").expect("it is read");
        }
        () = drip => {}
    }
    let took = began.elapsed();
    let answer = String::from_utf8_lossy(&answer);
    println!(
        "a slow upload: {:?} after {took:.1?}",
        answer.lines().next()
    );
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
    assert!(
        took < Duration::from_secs(READ_TIMEOUT_SECS + 4),
        "{took:?}"
    );
}

/// A browser has six connections to an origin by HTTP/1.1, and each live stream takes one. By
/// HTTP/2, which it speaks with TLS alone, all of them are one.
pub async fn browsers_get_many_streams_on_one_connection(world: &World, session: Session) {
    const STREAMS: usize = 8;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(path("cert.pem"), made.cert.pem()).expect("a file");
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let front = Front::of(
        world,
        &["--rate", "0", "--tls-cert", &certificate, "--tls-key", &key],
    )
    .await;
    let url = format!("https://localhost:{}/api/v1/timeline/stream", front.port);
    let header = format!("authorization: Bearer {}", session.token());
    let mut arguments = vec![
        "--http2",
        "--parallel",
        "--no-buffer",
        "--silent",
        "--noproxy",
        "*",
    ];
    arguments.extend(["--cacert", &certificate, "--header", &header]);
    let files: Vec<_> = (0..STREAMS)
        .map(|number| path(&format!("stream-{number}")))
        .collect();
    for file in &files {
        arguments.extend(["--output", file, &url]);
    }
    // The client that everybody has who speaks HTTP/2.
    let curl = Process::new("curl", "curl".as_ref(), folder.path()).arguments(&arguments);
    curl.start();
    let all_say = async |what: &str, wanted: &str| {
        eventually(what, PATIENCE, async || {
            assert!(curl.ended().is_none(), "curl: {}", curl.tail(5));
            let said = |file| std::fs::read_to_string(file).unwrap_or_default();
            files
                .iter()
                .all(|file| said(file).contains(wanted))
                .then_some(())
        })
        .await;
    };
    all_say("all streams are open", ": connected").await;
    let posted = Instant::now();
    session.post("to all tabs", "to-all-tabs").await.accepted();
    all_say("all streams have the event", "to all tabs").await;
    assert!(posted.elapsed() < AT_ONCE, "{:?}", posted.elapsed());
    curl.kill();
    let lines: Vec<Value> = eventually("the streams are logged", PATIENCE, async || {
        let lines = front.accesses();
        let path = "/api/v1/timeline/stream";
        let streams = lines.into_iter().filter(|line| line["RequestPath"] == path);
        Some(streams.collect::<Vec<_>>()).filter(|streams| streams.len() >= STREAMS)
    })
    .await;
    let ports: std::collections::BTreeSet<_> = lines
        .iter()
        .map(|line| line["ClientPort"].to_string())
        .collect();
    assert!(
        lines
            .iter()
            .all(|line| line["RequestProtocol"] == "HTTP/2.0"),
        "{lines:?}"
    );
    assert_eq!(ports.len(), 1, "one connection for {} streams", lines.len());
    println!("{STREAMS} live streams on one connection of HTTP/2");
}
