//! Registering, and editing a profile.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_answers_with_the_user_and_where_it_is() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let body = json!({ "username": "Ada_L", "email": "Ada@Example.org", "password": PASSWORD,
        "display_name": " Ada ", "bio": "engines" });
    let answer = app.post("/users", body).await;
    answer.accepted(201);
    let id = answer.text("user_id");
    assert_eq!(answer.header("location"), format!("{BASE}/users/{id}"));
    for (field, value) in [
        ("username", json!("ada_l")),
        ("display_name", json!("Ada")),
        ("bio", json!("engines")),
        ("email", json!("Ada@Example.org")),
        ("verified", json!(false)),
        ("followers_count", json!(0)),
        ("following_count", json!(0)),
        ("posts_count", json!(0)),
    ] {
        assert_eq!(answer.body[field], value, "{field}");
    }
    assert_eq!(write_named_by(&answer), (format!("user:{id}"), 1));
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_a_name_at_once_one_gets_it() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let body = |n: usize| json!({ "username": "ada", "email": format!("ada{n}@example.org"), "password": PASSWORD });
    let answers = join_all((0..8).map(|n| app.post("/users", body(n)))).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "username_taken");
    }
    assert_eq!(app.log().await.len(), 1);
    let emails = app.database().await.collection::<Document>("emails");
    assert_eq!(
        emails.count_documents(doc! {}).await.unwrap(),
        1,
        "losers leave nothing"
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_belongs_to_one_user_whatever_its_case() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let body = |n: usize| {
        let email = if n.is_multiple_of(2) {
            "a@example.org"
        } else {
            "A@EXAMPLE.org"
        };
        json!({ "username": format!("ada{n}"), "email": email, "password": PASSWORD })
    };
    let answers = join_all((0..6).map(|n| app.post("/users", body(n)))).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "email_taken");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_registration_is_told() {
    let app = TestApp::spawn();
    let body = json!({ "username": "a b", "email": "nowhere", "password": "canary",
        "display_name": "\u{202e}ada", "bio": "x".repeat(161) });
    let answer = app.post("/users", body).await;
    answer.refused(400, "invalid");
    let fields: Vec<&str> = answer.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        ["username", "email", "password", "display_name", "bio"]
    );
    assert!(
        !answer.body.to_string().contains("canary"),
        "no secret is repeated"
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_tidied_and_what_shows_nothing_is_refused() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let form = json!({ "username": "ada", "email": "ada@example.org", "password": PASSWORD,
        "display_name": "", "bio": "one\r\ntwo\rthree\tfour" });
    let ada = app.post("/users", form).await;
    ada.accepted(201);
    assert_eq!(ada.body["display_name"], "ada");
    assert_eq!(ada.body["bio"], "one\ntwo\nthree\tfour");
    let token = app.login("ada").await.text("access_token");
    let send = |method: &str, path: &str, body: Value| {
        let request = app.request(method, &format!("/api/v1{path}"));
        app.send(request.bearer_auth(&token).json(&body))
    };
    let edited = send("PATCH", "/users/me", json!({ "bio": "a\r\nb\tc" })).await;
    assert_eq!(edited.accepted(200).body["bio"], "a\nb\tc");
    let post = send("POST", "/posts", json!({ "content": "a\r\nb" })).await;
    assert_eq!(post.accepted(201).body["content"], "a\nb");
    let family = "\u{1f469}\u{200d}\u{1f467}\u{fe0f}";
    let post = send("POST", "/posts", json!({ "content": family })).await;
    assert_eq!(post.accepted(201).body["content"], family);
    let lines = "x\r\n".repeat(140);
    let post = send("POST", "/posts", json!({ "content": lines })).await;
    post.accepted(201);
    for (field, text, code) in [
        ("content", "\u{200b}", "blank"),
        ("content", " \u{2800}\u{3164}\n", "blank"),
        ("content", "\u{ad}\u{feff}", "blank"),
        ("content", "a\0b", "bad_character"),
        ("content", "a\u{7f}", "bad_character"),
        ("content", "a\u{85}", "bad_character"),
        ("display_name", "\u{200b}\u{2060}", "blank"),
        ("display_name", "ada\u{202e}", "bad_character"),
        ("display_name", "a\tb", "bad_character"),
        ("display_name", "", "empty"),
        ("bio", "\u{feff}", "blank"),
        ("bio", "\u{1b}[31m", "bad_character"),
    ] {
        let (method, path) = match field {
            "content" => ("POST", "/posts"),
            _ => ("PATCH", "/users/me"),
        };
        let answer = send(method, path, json!({ field: text })).await;
        answer.refused(400, "invalid");
        let fault = &answer.body["errors"][0];
        assert_eq!(
            (&fault["field"], &fault["code"]),
            (&json!(field), &json!(code)),
            "{text:?}"
        );
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_edited_in_part_and_shows_in_the_next_post() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let edited = app
        .command_with(
            &ada,
            "PATCH",
            "/users/me",
            json!({ "display_name": "Ada L." }),
        )
        .await;
    edited.accepted(200);
    assert_eq!(
        (&edited.body["display_name"], &edited.body["bio"]),
        (&json!("Ada L."), &json!(""))
    );
    let post = app
        .command_with(&ada, "POST", "/posts", json!({ "content": "hi" }))
        .await;
    assert_eq!(post.body["display_name"], "Ada L.");
    // An edit that changes nothing appends nothing.
    app.command_with(&ada, "PATCH", "/users/me", json!({}))
        .await
        .accepted(200);
    assert_eq!(app.versions(&format!("user:{}", ada.id)).await, [1, 2]);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_profile_is_answered_with_its_projected_numbers() {
    let app = TestApp::spawn();
    let (ada, bob) = (app.account("ada").await, app.account("bob").await);
    let database = app.database().await;
    let views = database
        .client()
        .database(&format!("{}_views", database.name()));
    let rows = |name: &str| views.collection::<Document>(name);
    let pointer = doc! { "_id": "current", "generation": 7_i64 };
    rows("generations").insert_one(pointer).await.unwrap();
    let id = |who: &Account| who.id.parse::<i64>().unwrap();
    let user = doc! { "_id": id(&ada), "following": 3_i64, "posts": 12_i64 };
    rows("g7_users").insert_one(user).await.unwrap();
    for (who, partition, n) in [(&ada, 0_u16, 4_i64), (&ada, 3, 5), (&bob, 0, 70)] {
        let bytes = [&id(who).to_be_bytes()[..], &partition.to_be_bytes()].concat();
        let subtype = BinarySubtype::Generic;
        let row = doc! { "_id": Binary { subtype, bytes }, "n": n };
        rows("g7_follower_counts").insert_one(row).await.unwrap();
    }
    let edit = json!({ "bio": "engines" });
    let edited = app.command_with(&ada, "PATCH", "/users/me", edit).await;
    for (field, number) in [
        ("followers_count", 9),
        ("following_count", 3),
        ("posts_count", 12),
    ] {
        assert_eq!(edited.accepted(200).body[field], number, "{field}");
    }
    views.drop().await.unwrap();
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_edits_are_all_kept_in_order() {
    let app = TestApp::spawn();
    let ada = app.account("ada").await;
    let edit = |n: usize| {
        app.command_with(
            &ada,
            "PATCH",
            "/users/me",
            json!({ "bio": format!("bio {n}") }),
        )
    };
    for answer in join_all((0..12).map(edit)).await {
        answer.accepted(200);
    }
    let versions = app.versions(&format!("user:{}", ada.id)).await;
    assert_eq!(versions, (1..=13).collect::<Vec<i64>>());
    app.end().await;
}
