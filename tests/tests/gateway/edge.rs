//! What the gateway makes of headers and addresses, and what it answers by itself.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system_tests::api::Session;
use system_tests::http_client;
use system_tests::world::World;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Front;
use super::front::client_from;

pub async fn an_answer_that_the_client_has_is_not_sent_again(front: &Front, session: &Session) {
    let http = http_client(Some(Duration::from_secs(20)));
    let ask = |tag: &str| {
        let request = http.get(format!("{}/api/v1/users/{}", front.url, session.user_id));
        let request = request.header("accept-encoding", "gzip, br");
        request.header("if-none-match", tag.to_owned()).send()
    };
    let first = ask("\"another\"").await.expect("an answer");
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(first.headers().get("content-encoding"), None);
    let tag = first.headers()["etag"].to_str().expect("a tag").to_owned();
    assert!(tag.starts_with("W/"), "{tag}");
    let again = ask(&tag).await.expect("an answer");
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(again.headers()["etag"].to_str().ok(), Some(tag.as_str()));
}

/// The services say what is wrong; the gateway, which allows more, only cuts off.
pub async fn headers_are_bounded_by_the_service_first(front: &Front) {
    let http = http_client(Some(Duration::from_secs(20)));
    let ask = async |bytes: usize| {
        let request = http.get(format!("{}/api/v1/users/1", front.url));
        let answer = request
            .header("x-large", "x".repeat(bytes))
            .send()
            .await
            .expect("an answer");
        let status = answer.status();
        (status, answer.text().await.expect("a body"))
    };
    let (status, body) = ask(20_000).await;
    let body: Value = serde_json::from_str(&body).expect("a problem");
    assert_eq!(
        (status.as_u16(), &body["code"]),
        (431, &json!("headers_too_large"))
    );
    let (status, body) = ask(60_000).await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (431, "431 Request Header Fields Too Large")
    );
}

/// Ten wrong passwords for one account from one address, and the next is refused, whatever it says
/// of where it comes from; another address has its own ten.
pub async fn forged_addresses_are_not_believed(front: &Front) {
    let sign_in = async |http: &reqwest::Client, forged: u8| {
        let request = http.post(format!("{}/api/v1/auth/login", front.url));
        let request = request
            .header("x-forwarded-for", format!("203.0.113.{forged}"))
            .header("x_forwarded_for", format!("203.0.113.{forged}"))
            .header("x-real-ip", format!("203.0.113.{forged}"))
            .header("forwarded", format!("for=203.0.113.{forged}"))
            .json(&json!({ "username": "nobody_at_all", "password": "a wrong password" }));
        request.send().await.expect("an answer").status().as_u16()
    };
    let (one, other) = (client_from("127.0.0.1"), client_from("127.0.0.2"));
    for forged in 0..10 {
        assert_eq!(sign_in(&one, forged).await, 401, "sign-in {forged}");
    }
    assert_eq!(sign_in(&one, 10).await, 429);
    assert_eq!(sign_in(&other, 10).await, 401);
}

/// The coarse limit: in plain text, since a problem body would replace those of the services too.
pub async fn an_address_that_floods_is_refused(world: &World) {
    let front = Front::of(world, &["--rate", "5"]).await;
    let flood = async |http: &reqwest::Client| {
        let ask = || http.get(format!("{}/api/v1/users/1", front.url)).send();
        let answers = join_all((0..40).map(|_| ask())).await;
        answers
            .into_iter()
            .map(|answer| answer.expect("an answer"))
            .collect::<Vec<_>>()
    };
    let answers = flood(&client_from("127.0.0.1")).await;
    let (limited, passed): (Vec<_>, Vec<_>) = answers
        .iter()
        .partition(|answer| answer.status().as_u16() == 429);
    assert!(
        (10..20).contains(&passed.len()),
        "{} of 40 pass",
        passed.len()
    );
    let refused = limited.first().expect("one is refused");
    let seconds = refused.headers()["retry-after"].to_str().expect("a text");
    assert!(
        seconds.parse::<u32>().is_ok_and(|seconds| seconds >= 1),
        "{seconds}"
    );
    let neighbour = client_from("127.0.0.2").get(format!("{}/api/v1/users/1", front.url));
    assert_eq!(
        neighbour.send().await.expect("an answer").status().as_u16(),
        404
    );
}

/// 502 where nothing listens, 504 where nothing answers: a problem, written by the other service.
pub async fn what_the_gateway_itself_answers_is_a_problem(world: &World) {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = format!("http://{}", silent.local_addr().expect("a port"));
    // It listens, and its queue is full: no connection is ever made.
    let full = TcpSocket::new_v4().expect("a socket");
    full.bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let full = full.listen(1).expect("a queue");
    let full_address = full.local_addr().expect("a port");
    let queue: Vec<_> = (0..4)
        .map(|_| tokio::spawn(TcpStream::connect(full_address)))
        .collect();
    let full_url = format!("http://{full_address}");
    // Nothing listens on a port that was just given back.
    let [closed] = system_tests::world::free_ports();
    let closed = format!("http://127.0.0.1:{closed}");
    let (commands, queries) = (&world.command.api, &world.query.api);
    let cases = [
        ("GET", "nothing listens", commands, &closed, 502),
        ("GET", "nothing answers", commands, &silent, 504),
        ("GET", "nothing is accepted", commands, &full_url, 504),
        ("POST", "nothing listens", &closed, queries, 502),
    ];
    join_all(
        cases.map(async |(method, what, commands, queries, status)| {
            let front = Front::start(commands, queries, &["--rate", "0"]).await;
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let asked = Instant::now();
            let request =
                http_client(None).request(method.clone(), format!("{}/api/v1/posts", front.url));
            let request = request.json(&json!({ "content": "x" }));
            let answer = request
                .header("x-request-id", "mine")
                .send()
                .await
                .expect("an answer");
            let took = asked.elapsed();
            println!("{method}, {what}: {} after {took:.1?}", answer.status());
            assert_eq!(answer.status().as_u16(), status, "{what}");
            assert!(took < Duration::from_secs(20), "{what}: {took:?}");
            let kind = answer.headers()["content-type"].to_str().ok();
            assert_eq!(kind, Some("application/problem+json"), "{what}");
            assert_eq!(answer.headers()["x-request-id"], "mine", "{what}");
            let body: Value = answer.json().await.expect("a problem");
            assert_eq!(
                (&body["status"], &body["request_id"]),
                (&json!(status), &json!("mine"))
            );
            assert!(body["code"].is_string(), "{body}");
        }),
    )
    .await;
    drop((queue, full));
}
