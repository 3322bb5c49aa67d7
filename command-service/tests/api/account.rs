//! What an account is signed in with: its password, its address, its sessions.

use shared::contract::ids::UserId;
use shared::contract::sessions::{OwnSession, SessionId, Sessions};

use super::*;

const NEW: &str = "battery staple";

/// The id of the session that a refresh token is of.
fn session_of(refresh: &str) -> SessionId {
    SessionId::of(refresh.split_once('.').expect("family and secret").0)
}

fn id_of(who: &Account) -> UserId {
    who.id.parse().expect("an id")
}

/// A user's sessions, as the query service lists them.
async fn sessions_of(app: &TestApp, who: &Account) -> Vec<OwnSession> {
    let sessions = Sessions::new(&app.database().await);
    sessions.of(id_of(who)).await.expect("sessions")
}

async fn ids_of(app: &TestApp, who: &Account) -> HashSet<SessionId> {
    let sessions = sessions_of(app, who).await;
    sessions.iter().map(|session| session.id).collect()
}

async fn sign_in(app: &TestApp, name: &str, password: &str) -> Answer {
    let body = json!({ "username": name, "password": password });
    app.post("/auth/login", body).await
}

async fn refresh(app: &TestApp, token: &str) -> Answer {
    app.post("/auth/refresh", json!({ "refresh_token": token }))
        .await
}

async fn change_password(app: &TestApp, who: &Account, from: &str, to: &str) -> Answer {
    let body = json!({ "password": from, "new_password": to });
    app.command_with(who, "PUT", "/users/me/password", body)
        .await
}

async fn change_email(app: &TestApp, who: &Account, email: &str) -> Answer {
    let body = json!({ "password": PASSWORD, "email": email });
    app.command_with(who, "PUT", "/users/me/email", body).await
}

/// What the address book has of a user.
async fn addresses_of(app: &TestApp, who: &Account) -> Vec<String> {
    use futures_util::TryStreamExt;
    let emails = app.database().await.collection::<Document>("emails");
    let of_user = doc! { "user": id_of(who).get() };
    let found = emails.find(of_user).await.expect("addresses");
    let found: Vec<Document> = found.try_collect().await.expect("addresses");
    let folded = found.iter().map(|row| row.get_str("_id").expect("text"));
    folded.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_ends_all_other_sessions_and_a_repeat_is_answered_alike() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let others = [app.login("ada").await, app.login("ada").await];
    assert_eq!(sessions_of(&app, &ada).await.len(), 3);
    change_password(&app, &ada, "wrong horse", NEW)
        .await
        .refused(401, "bad_credentials");
    for (new, code) in [("short", "too_short"), (&*"x".repeat(129), "too_long")] {
        let refused = change_password(&app, &ada, PASSWORD, new).await;
        refused.refused(400, "invalid");
        let fault = &refused.body["errors"][0];
        assert_eq!(
            (&fault["field"], &fault["code"]),
            (&json!("new_password"), &json!(code))
        );
    }
    assert_eq!(
        sessions_of(&app, &ada).await.len(),
        3,
        "nothing has happened"
    );
    for _ in 0..2 {
        let changed = change_password(&app, &ada, PASSWORD, NEW).await;
        changed.accepted(204);
        assert_eq!(write_named_by(&changed), (format!("user:{}", ada.id), 1));
        assert_eq!(ids_of(&app, &ada).await, [session_of(&ada.refresh)].into());
    }
    for other in &others {
        refresh(&app, &other.text("refresh_token"))
            .await
            .refused(401, "bad_refresh_token");
    }
    let own = refresh(&app, &ada.refresh).await;
    own.accepted(200);
    sign_in(&app, "ada", PASSWORD)
        .await
        .refused(401, "bad_credentials");
    let new = sign_in(&app, "ada", NEW).await;
    new.accepted(200);
    refresh(&app, &new.text("refresh_token"))
        .await
        .accepted(200);
    refresh(&app, &own.text("refresh_token"))
        .await
        .accepted(200);
    // Who changes it once more, from the other session, ends the first.
    let ada = Account {
        token: new.text("access_token"),
        refresh: new.text("refresh_token"),
        ..ada
    };
    change_password(&app, &ada, NEW, "third password")
        .await
        .accepted(204);
    assert_eq!(ids_of(&app, &ada).await, [session_of(&ada.refresh)].into());
    assert_eq!(sessions_of(&app, &bob).await.len(), 1, "nobody else's");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_with_the_old_password_at_the_same_moment_is_not_carried_on() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let mut token = ada.refresh.clone();
    let passwords = [PASSWORD, NEW, "third password", "fourth password"];
    for pair in passwords.windows(2) {
        let [old, new] = pair else {
            unreachable!("pairs")
        };
        let signing_in = join_all((0..6).map(|_| sign_in(&app, "ada", old)));
        let refreshing = refresh(&app, &token);
        let changing = change_password(&app, &ada, old, new);
        let (late, renewed, changed) = tokio::join!(signing_in, refreshing, changing);
        changed.accepted(204);
        renewed.accepted(200);
        let in_time = late.iter().filter(|answer| answer.status == 200);
        for answer in in_time {
            refresh(&app, &answer.text("refresh_token"))
                .await
                .refused(401, "bad_refresh_token");
        }
        assert_eq!(ids_of(&app, &ada).await, [session_of(&ada.refresh)].into());
        // Within the grace, the same token gets the same answer.
        let again = refresh(&app, &token).await;
        token = renewed.text("refresh_token");
        assert_eq!(again.accepted(200).text("refresh_token"), token);
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_password_was_replaced_leaves_no_session_that_goes_on() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let other = app.login("ada").await.text("refresh_token");
    // As a process leaves it that is killed between the two writes.
    let credentials = app.database().await.collection::<Document>("credentials");
    let kept = session_of(&ada.refresh).bson();
    let replaced = doc! { "$set": { "mark": 7_i64, "kept": kept } };
    let of_ada = doc! { "_id": id_of(&ada).get() };
    credentials.update_one(of_ada, replaced).await.unwrap();
    assert_eq!(ids_of(&app, &ada).await, [session_of(&ada.refresh)].into());
    refresh(&app, &other)
        .await
        .refused(401, "bad_refresh_token");
    refresh(&app, &ada.refresh).await.accepted(200);
    let sessions = app.database().await.collection::<Document>("sessions");
    assert_eq!(sessions.count_documents(doc! {}).await.unwrap(), 1);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_new_passwords_at_once_one_is_the_password() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let new = |n: usize| format!("password number {n}");
    let wanted: Vec<String> = (0..4).map(new).collect();
    let changes = wanted
        .iter()
        .map(|to| change_password(&app, &ada, PASSWORD, to));
    let answers = join_all(changes).await;
    let done = |answer: &&Answer| answer.status == 204;
    assert_eq!(answers.iter().filter(done).count(), 1);
    for (answer, password) in answers.iter().zip(&wanted) {
        let signed_in = sign_in(&app, "ada", password).await;
        if answer.status == 204 {
            signed_in.accepted(200);
        } else {
            answer.refused(401, "bad_credentials");
            signed_in.refused(401, "bad_credentials");
        }
    }
    // The same at once is one change.
    let winner = answers
        .iter()
        .position(|answer| answer.status == 204)
        .unwrap();
    let same = (0..4).map(|_| change_password(&app, &ada, &wanted[winner], NEW));
    for answer in join_all(same).await {
        answer.accepted(204);
    }
    sign_in(&app, "ada", NEW).await.accepted(200);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_token_guesses_no_faster_than_whoever_has_none() {
    let app = TestApp::spawn_with(&[("IP_RATE_PER_SECOND", "1000")]);
    let ada = app.account("ada").await;
    let email = || {
        let body = json!({ "password": "wrong horse", "email": "new@example.org" });
        app.command_with(&ada, "PUT", "/users/me/email", body)
    };
    // Two guesses each: the password, and what may be it already.
    for _ in 0..4 {
        change_password(&app, &ada, "wrong horse", "a wrong one too")
            .await
            .refused(401, "bad_credentials");
    }
    email().await.refused(401, "bad_credentials");
    let leave = json!({ "password": "wrong horse" });
    let left = app.command_with(&ada, "DELETE", "/users/me", leave).await;
    left.refused(401, "bad_credentials");
    for refused in [
        email().await,
        change_password(&app, &ada, PASSWORD, NEW).await,
    ] {
        refused.refused(429, "too_many_requests");
        assert!(refused.header("ratelimit").contains("\"login\";r=0"));
    }
    app.login("ada").await.accepted(200);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_exchanged_and_the_old_one_is_free_at_once() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let sign_in = |email: &str| {
        let body = json!({ "email": email, "password": PASSWORD });
        app.post("/auth/login", body)
    };
    for _ in 0..2 {
        let changed = change_email(&app, &ada, "Lovelace@example.org").await;
        changed.accepted(200);
        assert_eq!(changed.text("email"), "Lovelace@example.org");
        assert_eq!(changed.text("user_id"), ada.id);
        assert_eq!(write_named_by(&changed), (format!("user:{}", ada.id), 1));
    }
    sign_in("ADA@example.org")
        .await
        .refused(401, "bad_credentials");
    sign_in("lovelace@example.org").await.accepted(200);
    app.register("ada").await.refused(409, "username_taken");
    let other = json!({ "username": "eve", "email": "ada@example.org", "password": PASSWORD });
    app.post("/users", other).await.accepted(201);
    change_email(&app, &ada, "ada@example.org")
        .await
        .refused(409, "email_taken");
    change_email(&app, &bob, "LOVELACE@example.org")
        .await
        .refused(409, "email_taken");
    for (email, code) in [("lovelace", "bad_form"), (&*"x".repeat(255), "too_long")] {
        let refused = change_email(&app, &ada, email).await;
        refused.refused(400, "invalid");
        let fault = &refused.body["errors"][0];
        assert_eq!(
            (&fault["field"], &fault["code"]),
            (&json!("email"), &json!(code))
        );
    }
    let wrong = json!({ "password": "wrong horse", "email": "x@example.org" });
    let wrong = app
        .command_with(&ada, "PUT", "/users/me/email", wrong)
        .await;
    wrong.refused(401, "bad_credentials");
    assert_eq!(addresses_of(&app, &ada).await, ["lovelace@example.org"]);
    // Of somebody who has left and is not forgotten yet, as an earlier build left them.
    app.command_with(&bob, "DELETE", "/users/me", json!({ "password": PASSWORD }))
        .await
        .accepted(204);
    let emails = app.database().await.collection::<Document>("emails");
    let left = doc! { "_id": "bob@example.org", "user": id_of(&bob).get(), "nonce": 1_i64 };
    emails.insert_one(left).await.unwrap();
    change_email(&app, &ada, "bob@example.org")
        .await
        .accepted(200);
    change_email(&app, &bob, "bob@example.org")
        .await
        .refused(401, "unauthorized");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_an_earlier_build_is_not_kept_in_the_log() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let database = app.database().await;
    let (emails, events) = (
        database.collection::<Document>("emails"),
        database.collection::<Document>("events"),
    );
    let of_ada = doc! { "user": id_of(&ada).get() };
    let earlier = doc! { "$unset": { "address": "" } };
    emails.update_one(of_ada, earlier).await.unwrap();
    let event = doc! { "_id": id_of(&ada).get() };
    let earlier = doc! { "$set": { "data.email": "Ada@example.org" } };
    events.update_one(event.clone(), earlier).await.unwrap();
    change_email(&app, &ada, "new@example.org")
        .await
        .accepted(200);
    let event = events.find_one(event).await.unwrap().unwrap();
    let data = event.get_document("data").unwrap();
    assert_eq!(data.get_str("email").unwrap(), "");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_an_address_at_once_leave_one_and_none_to_who_leaves() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    for round in 0..3 {
        let wanted = (0..4).map(|n| format!("ada_{round}_{n}@example.org"));
        let wanted: Vec<String> = wanted.collect();
        let changes = wanted.iter().map(|email| change_email(&app, &ada, email));
        for answer in join_all(changes).await {
            answer.accepted(200);
        }
        let left = addresses_of(&app, &ada).await;
        assert!(left.len() == 1 && wanted.contains(&left[0]), "{left:?}");
        // Both want it: one has it, the other keeps what they had.
        let both = format!("both_{round}@example.org");
        let before = [
            addresses_of(&app, &ada).await,
            addresses_of(&app, &bob).await,
        ];
        let (a, b) = tokio::join!(
            change_email(&app, &ada, &both),
            change_email(&app, &bob, &both)
        );
        let (winner, loser, kept) = match a.status {
            200 => ((&ada, a), (&bob, b), &before[1]),
            _ => ((&bob, b), (&ada, a), &before[0]),
        };
        winner.1.accepted(200);
        loser.1.refused(409, "email_taken");
        assert_eq!(addresses_of(&app, winner.0).await, [both]);
        assert_eq!(addresses_of(&app, loser.0).await, *kept);
    }
    for round in 0..4 {
        let who = app.account(&format!("leaver_{round}")).await;
        let leave = json!({ "password": PASSWORD });
        let email = format!("late_{round}@example.org");
        let (changed, left) = tokio::join!(
            change_email(&app, &who, &email),
            app.command_with(&who, "DELETE", "/users/me", leave)
        );
        left.accepted(204);
        assert!([200, 401].contains(&changed.status), "{}", changed.body);
        assert_eq!(addresses_of(&app, &who).await, Vec::<String>::new());
        change_email(&app, &who, &email)
            .await
            .refused(401, "unauthorized");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended_one_by_one_or_all() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let second = app.login("ada").await.text("refresh_token");
    // One that an earlier build began: it has neither a name nor a beginning.
    let third = app.login("ada").await.text("refresh_token");
    let sessions = app.database().await.collection::<Document>("sessions");
    let family = doc! { "_id": third.split_once('.').unwrap().0 };
    let earlier = doc! { "$unset": { "sid": "", "created_at": "" } };
    sessions.update_one(family, earlier).await.unwrap();
    let listed = sessions_of(&app, &ada).await;
    let expected = [&third, &second, &ada.refresh].map(|token| session_of(token));
    let ids: Vec<SessionId> = listed.iter().map(|session| session.id).collect();
    assert_eq!(ids, expected, "the one used last is first");
    assert_eq!(listed[0].created_at, None);
    for session in &listed[1..] {
        assert_eq!(session.created_at, Some(session.last_used_at));
    }
    refresh(&app, &ada.refresh).await.accepted(200);
    let first = sessions_of(&app, &ada).await[0];
    assert_eq!(first.id, session_of(&ada.refresh));
    assert!(first.created_at < Some(first.last_used_at));
    assert!(first.expires_at > first.last_used_at);

    let end = |who: &Account, path: String| {
        let request = app.request("DELETE", &format!("/api/v1/auth/sessions{path}"));
        app.send(request.bearer_auth(&who.token))
    };
    let one = |token: &str| format!("/{}", session_of(token));
    end(&bob, one(&second)).await.accepted(204);
    assert_eq!(
        sessions_of(&app, &ada).await.len(),
        3,
        "nobody ends another's"
    );
    for token in [&second, &third] {
        for _ in 0..2 {
            let ended = end(&ada, one(token)).await;
            ended.accepted(204);
            assert_eq!(write_named_by(&ended), (format!("user:{}", ada.id), 1));
        }
        refresh(&app, token).await.refused(401, "bad_refresh_token");
    }
    assert_eq!(ids_of(&app, &ada).await, [session_of(&ada.refresh)].into());
    for bad in [
        "/x",
        "/AAAAAAAAAAAAAAAAAAAAA",
        "/AAAAAAAAAAAAAAAAAAAAAAA",
        "/%20",
    ] {
        end(&ada, bad.to_owned()).await.refused(400, "invalid");
    }
    for _ in 0..2 {
        end(&ada, String::new()).await.accepted(204);
    }
    assert_eq!(sessions_of(&app, &ada).await, Vec::new());
    refresh(&app, &ada.refresh)
        .await
        .refused(401, "bad_refresh_token");
    // The access token itself is good until it expires.
    app.create_post(&ada, "still here").await;
    assert_eq!(sessions_of(&app, &bob).await.len(), 1);
    app.end().await;
}
