//! The command line: input, exit codes, and other commands.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_will_do() {
    let app = TestApp::spawn();
    let mut child = app
        .program(&["import", "--posts-per-user", "2", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = lines(&[
        json!({ "type": "user", "username": "ada" }),
        json!({ "type": "user", "username": "bob" }),
        json!({ "type": "follow", "follower": "ada", "followee": "bob" }),
    ]);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(
        said(&output.stdout).starts_with(
            "appended 2 users, 1 follows, 4 posts; 0 already there, 0 refused; 7 events"
        )
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_a_database_that_is_away() {
    let app = TestApp::spawn();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "data",
        "{\"type\":\"user\",\"username\":\"ada\"}\n",
    );
    let host = app
        .uri
        .trim_start_matches("mongodb://")
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let uri = format!(
        "{}&serverSelectionTimeoutMS=300",
        app.uri.replace(&host, &address.to_string())
    )
    .replace("?&", "?directConnection=true&");
    let mut child = app
        .program(&["import", path.to_str().unwrap()])
        .env("MONGODB_URI", uri)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stderr.take().unwrap());
    let reading = tokio::task::spawn_blocking(move || {
        let mut told = told.lines();
        let waits = told.any(|line| line.unwrap().contains("waiting: "));
        (waits, told)
    });
    let (waits, told) = reading.await.unwrap();
    assert!(waits, "it says that it goes on trying");
    // The database comes: a door in front of the real one opens.
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let door = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(&host).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let ending = tokio::task::spawn_blocking(move || {
        let rest: Vec<String> = told.map(Result::unwrap).collect();
        (child.wait().unwrap(), rest)
    });
    let (status, rest) = ending.await.unwrap();
    assert!(status.success(), "{rest:?}");
    assert_eq!(app.log().await.len(), 1);
    door.abort();
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_verdicts_come_from_the_command_line() {
    let app = TestApp::spawn();
    let (ada, _bob) = (app.account("ada").await, app.account("bob").await);
    let one = app.program(&["token", "Ada"]).output().unwrap();
    let token = said(&one.stdout).trim().to_owned();
    let request = app.request("POST", "/api/v1/posts").bearer_auth(&token);
    app.send(request.json(&json!({ "content": "by token" })))
        .await
        .accepted(201);
    let two = app.program(&["token", "ada", "bob"]).output().unwrap();
    let two = said(&two.stdout);
    assert_eq!(
        two.lines()
            .map(|line| line.split_once('\t').unwrap().0)
            .collect::<Vec<_>>(),
        ["ada", "bob"]
    );
    let nobody = app.program(&["token", "nobody"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    // A key made now would be nobody's: there is none, and none is made.
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("jwt.pem");
    let keyless = |arguments: &[&str]| {
        let mut command = app.program(arguments);
        command
            .env("JWT_PRIVATE_KEY_FILE", &nowhere)
            .output()
            .unwrap()
    };
    assert_eq!(keyless(&["token", "ada"]).status.code(), Some(1));
    assert!(keyless(&["admin", "verify", "ada"]).status.success());
    assert!(!nowhere.exists());
    let suspended = app.program(&["admin", "suspend", "ada"]).output().unwrap();
    assert!(suspended.status.success(), "{}", said(&suspended.stderr));
    eventually("the suspension is known", || async {
        let answer = app
            .command_with(&ada, "POST", "/posts", json!({ "content": "x" }))
            .await;
        answer.status == 403
    })
    .await;
    assert_eq!(
        app.log_where(doc! { "type": "user.suspended" }).await.len(),
        1
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_and_arguments_end_with_64_and_say_every_fault() {
    let output = Command::new(BINARY)
        .env_clear()
        .env("MONGODB_URI", "canary")
        .env("POST_QUOTA", "canary")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let told = said(&output.stderr);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(!told.contains("canary"));
    let output = Command::new(BINARY)
        .env_clear()
        .arg("nonsense")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let output = Command::new(BINARY)
        .env_clear()
        .arg("--help")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
}
