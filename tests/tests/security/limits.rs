//! What is bounded: series of metrics, requests of one address, guesses of passwords, posts.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;
use system_tests::world::World;
use system_tests::{is_long, promtool};
use tokio::io::AsyncWriteExt;

use super::BASE;
use super::clients::{Clients, person};

pub async fn ten_thousand_odd_requests_add_no_series(world: &World, clients: &Clients) -> usize {
    const REQUESTS: usize = 10_000;
    const SERVICES: [&str; 2] = ["command-service", "query-service"];
    const PATHS: [&str; 6] = [
        "/x",
        "/api/v1/x",
        "/api/v1/posts/x/y",
        "/.env",
        "/api/v1/posts/",
        "/api/v1/users/by-username/",
    ];
    const METHODS: [&str; 5] = ["GET", "PUT", "PATCH", "PROPFIND", "get"];
    const KINDS: usize = SERVICES.len() * PATHS.len() * METHODS.len();
    let series = async || {
        let mut all = 0;
        for service in [&world.command, &world.query] {
            let metrics = service.metrics().await;
            all += metrics
                .lines()
                .filter(|line| !line.starts_with('#'))
                .count();
        }
        all
    };
    let ask = |n: usize| {
        let service = SERVICES[n % 2];
        let (path, method) = (PATHS[n / 2 % PATHS.len()], METHODS[n / 12 % METHODS.len()]);
        let path = format!("{path}{n}?route={n}&status={n}");
        let request = clients.request(service, method, &path);
        clients.send(request.header("x-request-id", format!("odd-{n}")))
    };
    // The first of each kind makes its series.
    join_all((0..KINDS).map(ask)).await;
    let before = series().await;
    let answers = futures_util::stream::iter((KINDS..REQUESTS).map(ask)).buffer_unordered(32);
    // Some paths are routes of ours, with ids that nobody has.
    let unexpected = answers.filter(|answer| {
        let known = [400, 401, 404, 405].contains(&answer.status);
        std::future::ready(!known)
    });
    assert_eq!(unexpected.count().await, 0);
    let after = series().await;
    println!("{REQUESTS} odd requests: {before} series before, {after} after");
    assert_eq!(before, after);
    REQUESTS
}

/// Prometheus' own checker, where there is one.
pub async fn promtool_finds_no_fault_in_what_is_measured(world: &World) {
    let Some(promtool) = promtool() else {
        println!("no promtool here: what the services measure is not checked with it");
        return;
    };
    for service in [&world.command, &world.query] {
        let metrics = service.metrics().await;
        for line in metrics.lines().filter_map(|it| it.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("a name and a kind");
            assert!(
                metrics.contains(&format!("# HELP {name} ")),
                "no HELP: {name}"
            );
            assert_ne!(kind, "summary", "{name} has no buckets");
        }
        let mut check = tokio::process::Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("promtool runs");
        let mut stdin = check.stdin.take().expect("it reads");
        stdin
            .write_all(metrics.as_bytes())
            .await
            .expect("it takes all");
        drop(stdin);
        let found = check.wait_with_output().await.expect("it ends");
        let said = String::from_utf8_lossy(&found.stderr);
        println!("promtool check metrics: {} {said}", found.status);
        assert!(found.status.success() && said.is_empty(), "{said}");
    }
}

pub async fn both_services_limit_addresses_and_know_origins(clients: &Clients) {
    for service in ["command-service", "query-service"] {
        let from = |address: &'static str| {
            let url = format!("{}/nowhere", clients.base(service));
            let request = clients.http.get(url).header("x-forwarded-for", address);
            clients.send(request)
        };
        let flood = join_all((0..400).map(|_| from("203.0.113.7"))).await;
        let limited: Vec<_> = flood.iter().filter(|answer| answer.status == 429).collect();
        println!(
            "{service}: {} of 400 at once from one address are limited",
            limited.len()
        );
        assert!(limited.len() >= 100, "a bucket holds two seconds' worth");
        let refused = limited[0];
        assert_eq!(refused.fault(), None);
        assert_eq!(refused.code(), "too_many_requests");
        assert_eq!(refused.header("ratelimit-policy"), "\"address\";q=100;w=2");
        assert!(
            refused
                .header("ratelimit")
                .starts_with("\"address\";r=0;t=")
        );
        // What callers write in front of what the proxy wrote is not believed.
        let forged = join_all((0..90).map(|_| from("198.51.100.1, 203.0.113.7"))).await;
        assert!(forged.iter().any(|answer| answer.status == 429));
        let neighbour = from("203.0.113.8").await;
        assert_eq!(neighbour.status, 404);
        assert_eq!(neighbour.header("ratelimit"), "\"address\";r=99;t=1");
        let preflight = |origin| {
            let request = clients.request(service, "OPTIONS", "/api/v1/timeline");
            let request = request.header("origin", origin);
            clients.send(request.header("access-control-request-method", "GET"))
        };
        let known = preflight("https://a.example").await;
        assert_eq!(known.status, 204);
        let allowed = known.header("access-control-allow-origin");
        assert_eq!(allowed, "https://a.example");
        let foreign = preflight("https://b.example").await;
        assert_eq!(foreign.header("access-control-allow-origin"), "");
    }
}

pub async fn an_unknown_account_takes_as_long_as_a_wrong_password(clients: &Clients) {
    const GUESSES: usize = 9;
    let mut times = [Vec::new(), Vec::new()];
    for guess in 0..GUESSES {
        for (name, times) in ["bob", "nobody"].into_iter().zip(&mut times) {
            let body = json!({ "username": name, "password": format!("guess {guess}") });
            let request = clients.request("command-service", "POST", "/api/v1/auth/login");
            let began = Instant::now();
            let answer = clients.send(request.json(&body)).await;
            times.push(began.elapsed());
            assert_eq!((answer.status, answer.code()), (401, "bad_credentials"));
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort_unstable();
        times[GUESSES / 2]
    });
    println!("a wrong password takes {known:?}, an unknown account {unknown:?} (medians)");
    // Without the decoy it would be a twentieth.
    assert!(unknown * 2 > known && known * 2 > unknown);
}

pub async fn two_replicas_accept_exactly_the_quota(world: &World, clients: &Clients) {
    const CLIENTS: u64 = 40;
    let other = world.another(&world.command);
    other.start().await;
    let mut rounds = vec![("eva", 300)];
    person(clients, "eva").await;
    if is_long() {
        person(clients, "vera").await;
        let verify = ["admin", "verify", "vera"];
        let (ended, _) = world.run("verify-vera", "command-service", &verify).await;
        assert!(ended.success());
        rounds.push(("vera", 900));
    }
    for (name, quota) in rounds {
        let token = &world.tokens(&[name.to_owned()]).await[0];
        // Each sends until it has been refused a few times.
        let client = async |n: u64| {
            let (mut accepted, mut refused) = (0, 0);
            let base = if n.is_multiple_of(2) {
                &clients.command
            } else {
                &other.api
            };
            while refused < 3 {
                let address = format!("192.0.2.{n}");
                let request = clients.http.post(format!("{base}{BASE}/posts"));
                let request = request
                    .bearer_auth(token)
                    .header("x-forwarded-for", address);
                let answer = clients.send(request.json(&json!({ "content": "x" }))).await;
                match answer.status {
                    201 => accepted += 1,
                    429 if answer.header("ratelimit").contains("\"posts\";r=0;") => refused += 1,
                    // Limited by its address: it asks again later, as a client does.
                    429 => tokio::time::sleep(Duration::from_millis(20)).await,
                    status => panic!("{status} {}", answer.body),
                }
            }
            (accepted, refused)
        };
        let counts = join_all((0..CLIENTS).map(client)).await;
        let accepted: u64 = counts.iter().map(|count| count.0).sum();
        let refused: u64 = counts.iter().map(|count| count.1).sum();
        println!(
            "quota: {CLIENTS} clients of {name}, two replicas: {accepted} accepted, {refused} refused"
        );
        assert_eq!(accepted, quota);
    }
}
