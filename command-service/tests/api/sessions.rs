//! Signing in, staying signed in, signing out, guessing.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_signs_in_by_name_or_address_and_the_token_verifies() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let body = json!({ "email": "ADA@example.org", "password": PASSWORD });
    let tokens = app.post("/auth/login", body).await;
    tokens.accepted(200);
    assert_eq!(tokens.body["token_type"], "Bearer");
    assert_eq!(tokens.body["expires_in"], 900);
    assert_eq!(write_named_by(&tokens), (format!("user:{}", ada.id), 1));
    let keys = app
        .request("GET", "/.well-known/jwks.json")
        .send()
        .await
        .unwrap();
    let keys: JwkSet = serde_json::from_str(&keys.text().await.unwrap()).unwrap();
    let verifier = TokenVerifier::with_keys(&keys, KeysInUse::default());
    let user = verifier.verify(&tokens.text("access_token")).await.unwrap();
    assert_eq!(user.to_string(), ada.id);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_understood_as_keyboards_send_it_and_is_nobody_else_s() {
    let app = TestApp::spawn();
    let kada = app.account("kada").await;
    let sign_in = |field: &str, name: &str| {
        app.post("/auth/login", json!({ field: name, "password": PASSWORD }))
    };
    for (field, name) in [
        ("username", "kada "),
        ("username", "\tKADA\n"),
        ("email", " kada@example.org"),
        ("email", "Kada@Example.org\r\n"),
        ("username", "kada@example.org"),
        ("username", " KADA@example.org "),
    ] {
        let tokens = sign_in(field, name).await;
        tokens.accepted(200);
        assert_eq!(
            write_named_by(&tokens),
            (format!("user:{}", kada.id), 1),
            "{name:?}"
        );
    }
    // The Kelvin sign is no k, and white space inside a name is a part of it.
    for (field, name) in [
        ("username", "\u{212a}ada"),
        ("email", "\u{212a}ada@example.org"),
        ("username", "ka da"),
        ("username", "@"),
        ("email", "kada"),
    ] {
        let refused = sign_in(field, name).await;
        refused.refused(401, "bad_credentials");
    }
    app.register("\u{212a}ada").await.refused(400, "invalid");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_and_a_wrong_password_get_one_answer() {
    let app = TestApp::spawn();
    app.account("ada").await;
    let guess = |name: &str| json!({ "username": name, "password": "wrong horse" });
    let unknown = app.post("/auth/login", guess("nobody")).await;
    let wrong = app.post("/auth/login", guess("ada")).await;
    unknown.refused(401, "bad_credentials");
    wrong.refused(401, "bad_credentials");
    assert_eq!(unknown.body["detail"], wrong.body["detail"]);
    assert!(!unknown.header("www-authenticate").is_empty());
    for body in [
        json!({ "password": "x" }),
        json!({ "username": "a", "email": "b", "password": "x" }),
    ] {
        app.post("/auth/login", body).await.refused(400, "invalid");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_limited_per_account_and_address() {
    let app = TestApp::spawn_with(&[("IP_RATE_PER_SECOND", "1000")]);
    app.account("ada").await; // the first attempt
    for _ in 0..9 {
        let body = json!({ "username": "ada", "password": "wrong horse" });
        app.post("/auth/login", body)
            .await
            .refused(401, "bad_credentials");
    }
    let limited = app.login("ada").await;
    limited.refused(429, "too_many_requests");
    let seconds: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds));
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_family() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let refresh = |token: &str| app.post("/auth/refresh", json!({ "refresh_token": token }));
    let second = refresh(&ada.refresh).await;
    second.accepted(200);
    assert_eq!(write_named_by(&second), (format!("user:{}", ada.id), 1));
    let third = refresh(&second.text("refresh_token")).await;
    third.accepted(200);
    refresh(&ada.refresh)
        .await
        .refused(401, "bad_refresh_token");
    // The thief and the owner are both out.
    refresh(&third.text("refresh_token"))
        .await
        .refused(401, "bad_refresh_token");
    refresh("nonsense").await.refused(401, "bad_refresh_token");
    app.end().await;
}

/// Another replica of the same service, with its database and its key.
async fn replica(app: &TestApp) -> TestApp {
    let same = [
        "MONGODB_URI",
        "JWT_PRIVATE_KEY_FILE",
        "IP_RATE_PER_SECOND",
        "TRUSTED_PROXIES",
    ];
    let vars = app
        .vars()
        .iter()
        .filter(|(name, _)| same.contains(&name.as_str()));
    let vars: Vec<(&str, &str)> = vars.map(|(name, value)| (&**name, &**value)).collect();
    let other = TestApp::spawn_with(&vars);
    other.wait_until_ready().await;
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_refreshes_at_once_all_get_the_same_pair() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let mut other = replica(&app).await;
    let refresh = |app: &TestApp, token: &str| {
        let request = app.request("POST", "/api/v1/auth/refresh");
        let request = request.json(&json!({ "refresh_token": token }));
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    let mut token = ada.refresh.clone();
    for _ in 0..5 {
        let uses = (0..8).map(|n| refresh(if n % 2 == 0 { &app } else { &other }, &token));
        let answers = join_all(uses).await;
        let pairs: HashSet<(String, String)> = answers
            .iter()
            .map(|answer| answer.accepted(200))
            .map(|answer| (answer.text("access_token"), answer.text("refresh_token")))
            .collect();
        assert_eq!(pairs.len(), 1, "one pair, from whichever replica");
        token = pairs.into_iter().next().unwrap().1;
    }
    // An answer that was lost is given again, for half a minute.
    let first = refresh(&app, &token).await;
    let again = refresh(&other, &token).await;
    assert_eq!(
        first.accepted(200).text("access_token"),
        again.accepted(200).text("access_token")
    );
    assert_eq!(first.text("refresh_token"), again.text("refresh_token"));
    let expires_in = again.body["expires_in"].as_u64().unwrap();
    assert!((890..=900).contains(&expires_in), "{expires_in}");
    let sessions = app.database().await.collection::<Document>("sessions");
    let stored = format!("{:?}", sessions.find_one(doc! {}).await.unwrap().unwrap());
    assert!(!stored.contains(&first.text("refresh_token")));
    let earlier = DateTime::from_millis(SystemClock.now().millis() - 31_000);
    let earlier = doc! { "$set": { "renewed_at": earlier } };
    sessions.update_one(doc! {}, earlier).await.unwrap();
    refresh(&app, &token)
        .await
        .refused(401, "bad_refresh_token");
    let newest = refresh(&other, &first.text("refresh_token")).await;
    newest.refused(401, "bad_refresh_token");
    other.halt().await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_a_name_keeps_its_owner_neither_out_nor_in() {
    let settings = [
        ("IP_RATE_PER_SECOND", "1000"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let app = TestApp::spawn_with(&settings);
    app.wait_until_ready().await;
    app.register("ada").await.accepted(201);
    let sign_in = |app: &TestApp, from: String, password: &str| {
        let request = app.request("POST", "/api/v1/auth/login");
        let request = request.header("x-forwarded-for", from);
        let request = request.json(&json!({ "username": "ada", "password": password }));
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    let home = || "192.0.2.1".to_owned();
    let session = sign_in(&app, home(), PASSWORD).await;
    session.accepted(200);
    // 120 guesses from 12 addresses: strangers have a hundred.
    let guesses = (0..120).map(|n| sign_in(&app, format!("198.51.100.{}", n % 12), "guess"));
    let guesses = join_all(guesses).await;
    let refused = guesses.iter().filter(|answer| answer.status == 429).count();
    assert!(refused >= 20, "{refused}");
    let fresh = sign_in(&app, "203.0.113.9".to_owned(), PASSWORD).await;
    fresh.refused(429, "too_many_requests");
    sign_in(&app, home(), PASSWORD).await.accepted(200);
    // A replica that has only just begun asks the sessions whether it is the owner.
    let mut other = replica(&app).await;
    let guesses = (0..110).map(|n| sign_in(&other, format!("198.51.100.{}", n % 12), "guess"));
    let guesses = join_all(guesses).await;
    assert!(guesses.iter().any(|answer| answer.status == 429));
    sign_in(&other, "203.0.113.9".to_owned(), PASSWORD)
        .await
        .refused(429, "too_many_requests");
    sign_in(&other, home(), PASSWORD).await.accepted(200);
    let sessions = app.database().await.collection::<Document>("sessions");
    let stored = format!("{:?}", sessions.find_one(doc! {}).await.unwrap().unwrap());
    assert!(
        !stored.contains("192.0.2.1"),
        "an address is not kept: {stored}"
    );
    // Whoever is in may leave, from anywhere.
    let leave = other.request("DELETE", "/api/v1/users/me");
    let leave = leave.header("x-forwarded-for", "203.0.113.9");
    let leave = leave.bearer_auth(session.text("access_token"));
    let left = other
        .send(leave.json(&json!({ "password": PASSWORD })))
        .await;
    left.accepted(204);
    other.halt().await;
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_ends_the_session() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let body = || json!({ "refresh_token": ada.refresh });
    let out = app.post("/auth/logout", body()).await;
    out.accepted(204);
    assert_eq!(write_named_by(&out), (format!("user:{}", ada.id), 1));
    app.post("/auth/logout", body()).await.accepted(204);
    app.post("/auth/refresh", body())
        .await
        .refused(401, "bad_refresh_token");
    app.end().await;
}
