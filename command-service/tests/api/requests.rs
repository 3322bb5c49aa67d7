//! What is asked of every request, whatever it commands.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_a_user_wants_a_token() {
    let app = TestApp::spawn();
    for (method, pattern) in routes::of(Service::Command) {
        let path = pattern.replace("{id}", "4711");
        if [KEY_SET, "/api/v1/users"].contains(&pattern) || pattern.contains("/auth/") {
            continue;
        }
        let bare = app.send(app.request(method, &path)).await;
        bare.refused(401, "unauthorized");
        assert!(!bare.header("www-authenticate").is_empty());
        for token in ["x", "a.b.c"] {
            app.send(app.request(method, &path).bearer_auth(token))
                .await
                .refused(401, "unauthorized");
        }
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_frameworks_answer_in_plain_text_is_a_problem_too() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let post = |path: &str| {
        app.request("POST", &format!("{BASE}{path}"))
            .bearer_auth(&ada.token)
    };
    let json = |text: String| {
        post("/posts")
            .header("content-type", "application/json")
            .body(text)
    };
    app.send(app.request("GET", "/nowhere"))
        .await
        .refused(404, "not_found");
    app.send(app.request("GET", &format!("{BASE}/nowhere")))
        .await
        .refused(404, "not_found");
    let wrong = app.send(app.request("PUT", &format!("{BASE}/posts"))).await;
    wrong.refused(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), "GET, HEAD, POST");
    let both = app
        .send(app.request("GET", &format!("{BASE}/posts/1/like")))
        .await;
    assert_eq!(both.header("allow"), "POST, DELETE");
    let keys = async |method| app.request(method, KEY_SET).send().await.unwrap();
    let (head, whole) = (keys("HEAD").await, keys("GET").await);
    assert_eq!(head.status(), 200);
    let length = |answer: &reqwest::Response| answer.headers().get("content-length").cloned();
    assert_eq!(length(&head), length(&whole));
    assert_eq!(head.text().await.unwrap(), "");
    app.send(json("{".into()))
        .await
        .refused(400, "malformed_body");
    app.send(json(String::new()))
        .await
        .refused(400, "malformed_body");
    app.send(json(r#"{"content":"x","author":"me"}"#.into()))
        .await
        .refused(400, "malformed_body");
    app.send(json(r#"{"content":{"$gt":""}}"#.into()))
        .await
        .refused(400, "malformed_body");
    let big = json!({ "content": "x".repeat(20_000) }).to_string();
    app.send(json(big.clone()))
        .await
        .refused(413, "body_too_large");
    app.send(post("/posts").body("{}"))
        .await
        .refused(415, "unsupported_media_type");
    let like = || post("/posts/4711/like").header("content-type", "application/json");
    app.send(like().body(big))
        .await
        .refused(413, "body_too_large");
    app.send(like().body("{"))
        .await
        .refused(400, "malformed_body");
    app.send(post("/posts/4711/like").body("{}"))
        .await
        .refused(415, "unsupported_media_type");
    app.send(like()).await.refused(404, "not_found");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_away_is_carried_out_all_the_same() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let address = app.base.trim_start_matches("http://").to_owned();
    let body = json!({ "content": "written by a ghost" }).to_string();
    let request = format!(
        "POST {BASE}/posts HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        ada.token,
        body.len()
    );
    for _ in 0..10 {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.set_zero_linger().unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        drop(stream);
    }
    // Whole or absent, and the service is as well as before.
    app.create_post(&ada, "still here").await;
    for event in app.log_where(doc! { "type": "post.created" }).await {
        assert_eq!(event.version, 1);
    }
    app.end().await;
}

/// Whatever was wrong with it, and however its length was told: the answer comes, and then the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_holds_no_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let address = app.base.trim_start_matches("http://").to_owned();
    let long = format!("7530\r\n{}\r\n", "x".repeat(0x7530));
    let (chunk, of_chunks) = ("1\r\n{\r\n", "transfer-encoding: chunked");
    let (json, text) = ("application/json", "text/plain");
    let ask = async |status: u16, kind: &str, length: &str, body: &str, token: &str| {
        let head = format!(
            "POST {BASE}/posts HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n\
             authorization: Bearer {token}\r\n{length}\r\n\r\n{body}"
        );
        let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = connection.read_to_end(&mut answer);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(18), end).await;
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        let begins = format!("http/1.1 {status} ");
        assert!(answer.starts_with(&begins), "{status} {length}: {answer}");
        assert!(answer.contains("connection: close"), "{length}: {answer}");
        assert!(answer.contains("\"request_id\":"), "it is whole: {answer}");
        assert!(ended.is_ok_and(|it| it.is_ok()), "{status} {length}: held");
    };
    tokio::join!(
        ask(401, json, of_chunks, chunk, "x"),
        ask(408, json, of_chunks, chunk, &ada.token),
        ask(408, json, "content-length: 9", "{", &ada.token),
        ask(413, json, of_chunks, &long, &ada.token),
        ask(413, json, "content-length: 99999", "{", &ada.token),
        ask(415, text, of_chunks, chunk, &ada.token),
        ask(415, text, "content-length: 9", "{", &ada.token),
    );
    // One that arrives whole keeps its connection.
    let body = json!({ "content": "in chunks" }).to_string();
    let whole = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let request = format!(
        "POST {BASE}/posts HTTP/1.1\r\nhost: x\r\ncontent-type: {json}\r\n\
         authorization: Bearer {}\r\n{of_chunks}\r\n\r\n{whole}",
        ada.token
    );
    let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
    for _ in 0..2 {
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.contains("\"post_id\"") {
            let mut part = [0; 4096];
            let read = connection.read(&mut part).await.unwrap();
            assert_ne!(read, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        assert!(!answer.to_lowercase().contains("connection: close"));
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_as_long_as_the_setting_says() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = TestApp::spawn_with(&[("KEEP_ALIVE_SECS", "2")]);
    let address = app.base.trim_start_matches("http://").to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let asked = std::time::Instant::now();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let kept = asked.elapsed().as_secs_f64();
    assert!(answer.starts_with(b"HTTP/1.1 404 "));
    // actix tells the time to half a second.
    assert!((1.4..10.0).contains(&kept), "{kept} s");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_of_the_list_may_call() {
    let app = TestApp::spawn_with(&[("CORS_ORIGINS", "https://a.example")]);
    let preflight = app
        .request("OPTIONS", &format!("{BASE}/posts"))
        .header("origin", "https://a.example")
        .header("access-control-request-method", "POST");
    let answer = app.send(preflight).await;
    answer.accepted(204);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://a.example"
    );
    let foreign = app
        .request("POST", &format!("{BASE}/posts"))
        .header("origin", "https://b.example");
    let answer = app.send(foreign).await;
    answer.refused(401, "unauthorized");
    assert_eq!(answer.header("access-control-allow-origin"), "");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_sends_so_many_requests_a_second() {
    let app = TestApp::spawn_with(&[("IP_RATE_PER_SECOND", "5")]);
    let request = || app.send(app.request("GET", "/nowhere"));
    let answers = join_all((0..30).map(|_| request())).await;
    let limited: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert!(limited.len() >= 15, "{} were limited", limited.len());
    limited[0].refused(429, "too_many_requests");
    assert_eq!(limited[0].header("retry-after"), "1");
    // Whoever else is at this address can still verify tokens.
    let keys = app.send(app.request("GET", KEY_SET)).await;
    keys.accepted(200);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_the_service_starts_waits_and_says_so() {
    let uri = "mongodb://127.0.0.1:9/x?directConnection=true&serverSelectionTimeoutMS=300";
    let mut app = TestApp::spawn_with(&[("MONGODB_URI", uri)]);
    let mut answer = None;
    eventually("the ports are bound", || async {
        app.http
            .get(format!("{}/livez", app.ops))
            .send()
            .await
            .is_ok()
    })
    .await;
    for _ in 0..3 {
        answer = Some(app.register("ada").await);
    }
    let answer = answer.unwrap();
    answer.refused(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    let ready = app
        .http
        .get(format!("{}/readyz", app.ops))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    let missing: Value = serde_json::from_str(&ready.text().await.unwrap()).unwrap();
    assert!(
        missing["missing"]["MongoDB answers"].is_string(),
        "{missing}"
    );
    app.halt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_counted_by_name_and_outcome() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    app.create_post(&ada, "x").await;
    let metrics = app
        .http
        .get(format!("{}/metrics", app.ops))
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    let counted = r#"command_service_commands_total{command="create_post",outcome="accepted"}"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(!metrics.contains(&ada.id), "no ids in labels");
    app.end().await;
}
