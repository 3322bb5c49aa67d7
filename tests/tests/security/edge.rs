//! What proxies, browsers and libraries make of requests and of what they are sent.

use futures_util::future::join_all;
use serde_json::{Value, json};

use system_tests::world::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::BASE;
use super::clients::{Answer, Clients, People};

/// The public address that the services of this world are configured with.
pub const PUBLIC_URL: &str = "https://example.org/social";

pub async fn what_others_make_of_requests_is_understood(
    world: &World,
    clients: &Clients,
    people: &People,
) {
    let last = links_lead_to_the_next_page_whatever_else_was_asked(clients, people).await;
    tags_are_known_as_proxies_send_them_back(clients, people, &last).await;
    browsers_may_send_what_event_sources_send(clients).await;
    forwarded_addresses_are_read_as_proxies_write_them(clients).await;
    http_2_without_tls_is_refused_and_leaves_no_line(world, clients).await;
}

/// Ada's newest posts, the last one's token, and her timeline by its links.
async fn links_lead_to_the_next_page_whatever_else_was_asked(
    clients: &Clients,
    people: &People,
) -> String {
    let token = &people.ada.token;
    let mut posted = Vec::new();
    let mut visible = String::new();
    for n in 0..3 {
        let request = clients.request("command-service", "POST", &format!("{BASE}/posts"));
        let request = request.bearer_auth(token);
        let answer = clients
            .send(request.json(&json!({ "content": format!("linked {n}") })))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let id = answer.body["post_id"].as_str().expect("an id").to_owned();
        let location = format!("{PUBLIC_URL}{BASE}/posts/{id}");
        assert_eq!(answer.header("location"), location);
        answer
            .header("x-consistency-token")
            .clone_into(&mut visible);
        posted.push(id);
    }
    posted.reverse();
    let get = async |path: &str| -> Answer {
        let request = clients.request("query-service", "GET", path);
        let request = request.bearer_auth(token);
        let answer = clients
            .send(request.header("x-consistency-token", &visible))
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer
    };
    let ids = |answer: &Answer| -> Vec<String> {
        let posts = answer.body["posts"].as_array().expect("posts").iter();
        let id = |post: &Value| post["post_id"].as_str().expect("an id").to_owned();
        posts.map(id).collect()
    };
    let first = format!("{BASE}/timeline?limit=2&fields=a,b&q=%3E%22%3C&user_id=&cursor=");
    let page = get(&first).await;
    assert_eq!(ids(&page), posted[..2]);
    let cursor = page.body["next_cursor"].as_str().expect("there is more");
    let link = page.header("link");
    let next = link
        .strip_prefix(&format!("<{PUBLIC_URL}"))
        .and_then(|link| link.strip_suffix(">; rel=\"next\""))
        .unwrap_or_else(|| panic!("no link: {link:?}"));
    let expected = format!("{BASE}/timeline?limit=2&fields=a%2Cb&q=%3E%22%3C&cursor={cursor}");
    assert_eq!(next, expected);
    let page = get(next).await;
    assert_eq!(ids(&page)[0], posted[2]);
    let whole = get(&format!("{BASE}/timeline?limit&cursor=&user_id")).await;
    assert_eq!(ids(&whole)[..3], posted);
    posted[0].clone()
}

async fn tags_are_known_as_proxies_send_them_back(clients: &Clients, people: &People, post: &str) {
    let get = async |lines: &[String]| {
        let path = format!("{BASE}/posts/{post}");
        let mut request = clients.request("query-service", "GET", &path);
        request = request.bearer_auth(&people.ada.token);
        for line in lines {
            request = request.header("if-none-match", line);
        }
        clients.send(request).await
    };
    let fresh = get(&[]).await;
    let tag = fresh.header("etag").to_owned();
    let bare = tag
        .strip_prefix("W/\"")
        .and_then(|tag| tag.strip_suffix('"'))
        .unwrap_or_else(|| panic!("no weak tag: {tag}"));
    for line in [
        tag.clone(),
        format!("\"{bare}\""),
        format!("W/\"{bare}-gzip\""),
        format!("\"{bare}-br\""),
        format!("W/\"{bare};gzip\""),
        format!("\"one, two\", W/\"{bare}\""),
    ] {
        let answer = get(std::slice::from_ref(&line)).await;
        assert_eq!(
            (answer.status, answer.header("etag")),
            (304, &*tag),
            "{line}"
        );
    }
    assert_eq!(
        get(&["\"other\"".to_owned(), tag.clone()]).await.status,
        304
    );
    let other = format!("\"{bare}0\", \"{bare}-other\"");
    assert_eq!(get(&[other]).await.status, 200);
}

async fn browsers_may_send_what_event_sources_send(clients: &Clients) {
    let asked = "authorization,Cache-Control,last-event-id,x-consistency-token";
    for service in ["command-service", "query-service"] {
        let path = format!("{BASE}/timeline/stream");
        let request = clients
            .request(service, "OPTIONS", &path)
            .header("origin", "https://a.example")
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", asked);
        let answer = clients.send(request).await;
        assert_eq!(answer.status, 204);
        let allowed = answer.header("access-control-allow-headers");
        let allowed: Vec<&str> = allowed.split(", ").collect();
        for name in asked.split(',') {
            let name = name.to_ascii_lowercase();
            assert!(allowed.contains(&name.as_str()), "{name}: {allowed:?}");
        }
    }
}

/// Each flood is of one address, whatever stands around it; its neighbour is not held to it.
async fn forwarded_addresses_are_read_as_proxies_write_them(clients: &Clients) {
    const FLOOD: usize = 200;
    for service in ["command-service", "query-service"] {
        let url = format!("{}/nowhere", clients.base(service));
        let from = async |lines: &[Vec<u8>]| {
            let mut request = clients.http.get(&url);
            for line in lines {
                request = request.header("x-forwarded-for", line.as_slice());
            }
            clients.send(request).await.status
        };
        let flood = async |lines: &dyn Fn(usize) -> Vec<Vec<u8>>| {
            let answers = (0..FLOOD).map(|n| {
                let lines = lines(n);
                let from = &from;
                async move { from(&lines).await }
            });
            let answers = join_all(answers).await;
            answers.iter().filter(|status| **status == 429).count()
        };
        // A line that is no ASCII, right of one that the caller wrote.
        let limited = flood(&|n| {
            vec![
                format!("198.51.100.{n}").into_bytes(),
                b"\xe9, 203.0.113.20".to_vec(),
            ]
        });
        assert!(
            limited.await > 0,
            "{service}: the caller's line is believed"
        );
        // Ports differ from connection to connection.
        let limited = flood(&|n| vec![format!("203.0.113.21:{}", 40_000 + n).into_bytes()]);
        assert!(limited.await > 0, "{service}: a port makes another address");
        for neighbour in ["203.0.113.22:1", "[2001:db8::1]:80", "203.0.113.23"] {
            let status = from(&[neighbour.as_bytes().to_vec()]).await;
            assert_eq!(status, 404, "{service}: {neighbour}");
        }
    }
}

/// A client that begins with HTTP/2 gets 400 in HTTP/1.1; one that offers an upgrade gets its answer
/// in HTTP/1.1. Neither makes a service write a line about its stream into the log.
async fn http_2_without_tls_is_refused_and_leaves_no_line(world: &World, clients: &Clients) {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const OFFER: &str = "GET /nowhere HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.30\r\n\
        connection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n";
    for (service, process) in [
        ("command-service", &world.command.process),
        ("query-service", &world.query.process),
    ] {
        let host = clients
            .base(service)
            .trim_start_matches("http://")
            .to_owned();
        let ask = async |text: &str| {
            let mut connection = TcpStream::connect(&host).await.expect("a connection");
            let sent = connection.write_all(text.as_bytes()).await;
            sent.expect("a request is sent");
            let mut answer = Vec::new();
            // A connection that is broken off has ended as well.
            let _ = connection.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        process.note("h2c");
        for text in [PREFACE, "junk\r\n\r\n", PREFACE] {
            let answer = ask(text).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{service}: {answer:?}");
        }
        let answer = ask(OFFER).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{service}: {answer:?}");
        let log = process.tail(1_000);
        let (_, since) = log.rsplit_once("=== h2c").expect("the note");
        assert!(!since.contains("stream error"), "{service}: {since}");
    }
}
