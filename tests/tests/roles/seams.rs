//! Where two replicas and the gateway meet: what one replica cannot do must not take the others
//! away, and what one has promised the other one keeps.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use system_tests::api::{Answer, PASSWORD, Session};
use system_tests::events::Events;
use system_tests::world::{PATIENCE, Role, Roles};
use system_tests::{alone, eventually, http_client};

use super::gateway;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_lacks_is_no_reason_to_send_nobody_to_any() {
    let _alone = alone().await;
    let roles = Roles::start(&[("STREAM_HEARTBEAT_SECS", "1")]).await;
    let user = roles
        .world
        .sessions(&roles.api(), "user", 1)
        .await
        .remove(0);
    both_sign_in_one_session(&roles).await;
    a_write_nobody_has_folded_is_asked_for_again(&roles, &user).await;
    while_no_keys_can_be_had(&roles, &user).await;
    gateway::restarts_beneath_open_streams(&roles).await;
    while_the_database_is_away(&roles, &user).await;
}

async fn get(session: &Session, path: &str, after: Option<&str>) -> Answer {
    let answer = session.get(path, after).await;
    answer.unwrap_or_else(|why| panic!("GET {path} through the gateway: {why}"))
}

/// A refresh that is sent to both command apis at once, and again, gets one pair of tokens.
async fn both_sign_in_one_session(roles: &Roles) {
    roles.api().register("signs_in").await;
    let http = http_client(None);
    let login = http.post(format!("{}/api/v1/auth/login", roles.address));
    let login = login.json(&json!({ "username": "signs_in", "password": PASSWORD }));
    let first = tokens(login).await;
    let refresh = |api: &str| {
        let request = http.post(format!("{api}/api/v1/auth/refresh"));
        tokens(request.json(&json!({ "refresh_token": first.refresh })))
    };
    let [one, two] = roles.of(Role::CommandApi);
    let places = [&one.api, &two.api, &roles.address].repeat(4);
    let answers = join_all(places.into_iter().map(|api| refresh(api))).await;
    let pairs: BTreeSet<(String, String)> = answers
        .into_iter()
        .map(|tokens| (tokens.access, tokens.refresh))
        .collect();
    assert_eq!(pairs.len(), 1, "both answer the same");
}

struct Tokens {
    access: String,
    refresh: String,
}

async fn tokens(request: reqwest::RequestBuilder) -> Tokens {
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let body: Value = answer.json().await.expect("tokens");
    let text = |name: &str| body[name].as_str().expect("a token").to_owned();
    Tokens {
        access: text("access_token"),
        refresh: text("refresh_token"),
    }
}

/// While nothing is folded, reads with a token are told to come back. That is no fault of the
/// replicas: the gateway goes on sending them everything.
async fn a_write_nobody_has_folded_is_asked_for_again(roles: &Roles, user: &Session) {
    for projector in roles.of(Role::Projector) {
        projector.process.kill();
    }
    let post = user.post("not folded yet", "not-folded").await.accepted();
    let path = format!("/posts/{}", post.value);
    let asked = (0..6).map(|_| get(user, &path, Some(&post.consistency)));
    for answer in join_all(asked).await {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert_eq!(answer.body["code"], "not_yet_visible");
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
        let other = get(user, "/timeline", None).await;
        assert_eq!(other.status, StatusCode::OK, "{other:?}");
    }
    for projector in roles.of(Role::Projector) {
        projector.process.start();
    }
    eventually("it is visible", PATIENCE, async || {
        let answer = get(user, &path, Some(&post.consistency)).await;
        assert_ne!(answer.status, StatusCode::NOT_FOUND, "{answer:?}");
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    for projector in roles.of(Role::Projector) {
        projector.ready().await;
    }
}

/// A query api that starts while no command api is there cannot verify tokens. Nobody is sent to
/// it; the other one knows the keys.
async fn while_no_keys_can_be_had(roles: &Roles, user: &Session) {
    for api in roles.of(Role::CommandApi) {
        api.process.kill();
    }
    let [restarted, _] = roles.of(Role::QueryApi);
    restarted.process.terminate();
    restarted
        .process
        .wait(PATIENCE)
        .await
        .expect("it ends in order");
    restarted.process.start();
    let what = "it waits for the keys";
    let lacks_keys = restarted.readiness_becomes(what, |readiness| {
        !readiness.is_ready() && readiness.mentions("the key set is known")
    });
    lacks_keys.await;
    for _ in 0..20 {
        let answer = get(user, "/timeline", None).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    for api in roles.of(Role::CommandApi) {
        api.process.start();
    }
    for api in roles.of(Role::CommandApi) {
        api.ready().await;
    }
    restarted.ready().await;
}

/// Without its database no replica is ready. Those that know an answer give it all the same, and
/// live streams wait.
async fn while_the_database_is_away(roles: &Roles, user: &Session) {
    let (http, path) = (http_client(None), "/api/v1/users/by-username/user_0");
    for api in roles.of(Role::QueryApi) {
        let profile = http.get(format!("{}{path}", api.api)).send().await;
        assert_eq!(profile.expect("an answer").status(), StatusCode::OK);
    }
    roles.world.mongodb.kill();
    for api in roles.of(Role::QueryApi) {
        let what = "it misses its database";
        api.readiness_becomes(what, |readiness| !readiness.is_ready())
            .await;
    }
    eventually("the gateway falls back to all", PATIENCE, async || {
        let profile = http.get(format!("{}{path}", roles.address));
        let answer = profile.send().await.ok()?;
        let stale = answer.headers().get("x-served")?.to_str().ok()? == "stale";
        (stale && answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    let mut stream = Events::begin(user.live_request("")).await;
    stream.comment("waiting").await;
    roles.world.mongodb.start();
    stream.comment("connected").await;
    for service in roles.all() {
        service.ready().await;
    }
}
