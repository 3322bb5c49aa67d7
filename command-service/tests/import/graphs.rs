//! Lists of edges.

use super::*;

/// A graph that is no tree, with comments, a loop, and an edge said twice.
fn edges(nodes: u64) -> String {
    let mut text = String::from("# a graph\n% of ours\n");
    for a in 1..=nodes {
        for b in [a * 7 % nodes + 1, a * 13 % nodes + 1] {
            text.push_str(&format!("{a} {b}\n"));
        }
    }
    text.push_str("5 5\n");
    text
}

/// The edges of [`edges`] that can be follows.
fn distinct(text: &str) -> HashSet<(u64, u64)> {
    text.lines()
        .filter(|line| !line.starts_with(['#', '%']))
        .map(|line| {
            let (a, b) = line.split_once(' ').unwrap();
            (a.parse().unwrap(), b.parse().unwrap())
        })
        .filter(|(a, b)| a != b)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_list_is_imported_once_however_often_it_is_run() {
    let app = TestApp::spawn();
    let folder = tempfile::tempdir().unwrap();
    let text = edges(60);
    let path = file(folder.path(), "edges", &text);
    let arguments = ["--edges", path.to_str().unwrap(), "--posts-per-user", "3"];
    let first = import(&app, &arguments);
    // The loop is a line that cannot be loaded.
    assert_eq!(first.status.code(), Some(2), "{}", said(&first.stderr));
    assert!(said(&first.stderr).contains("nobody follows themselves"));
    let log = app.log().await;
    check(&log);
    let expected = distinct(&text);
    assert_eq!(kinds(&log)["user.registered"], 60);
    assert_eq!(kinds(&log)["follow.followed"], expected.len());
    assert_eq!(kinds(&log)["post.created"], 180);
    // Authors take turns.
    let authors: Vec<_> = log
        .iter()
        .filter(|event| matches!(event.payload, Payload::PostCreated(_)))
        .map(|event| event.actor)
        .collect();
    assert_eq!(authors[..60].iter().collect::<HashSet<_>>().len(), 60);
    assert_eq!(authors[..60], authors[60..120]);
    let second = import(&app, &arguments);
    assert!(
        said(&second.stdout).starts_with("nothing appended"),
        "{}",
        said(&second.stdout)
    );
    assert_eq!(app.log().await.len(), log.len());
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_at_any_moment_is_completed_by_the_next() {
    let app = TestApp::spawn();
    app.wait_until_ready().await;
    let folder = tempfile::tempdir().unwrap();
    let text = edges(1_500);
    let path = file(folder.path(), "edges", &text);
    let arguments = [
        "import",
        "--undirected",
        "--edges",
        path.to_str().unwrap(),
        "--posts-per-user",
        "2",
    ];
    for millis in [60, 150, 300, 500, 800] {
        let mut child = app
            .program(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moment of the kill is the fault itself.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = import(&app, &arguments[1..]);
    assert_eq!(last.status.code(), Some(2), "{}", said(&last.stderr));
    let log = app.log().await;
    check(&log);
    let both: HashSet<(u64, u64)> = distinct(&text)
        .into_iter()
        .flat_map(|(a, b)| [(a, b), (b, a)])
        .collect();
    assert_eq!(kinds(&log)["user.registered"], 1_500);
    assert_eq!(kinds(&log)["follow.followed"], both.len());
    assert_eq!(kinds(&log)["post.created"], 3_000);
    let usernames: HashSet<String> = log
        .iter()
        .filter_map(|event| {
            let Payload::UserRegistered(data) = &event.payload else {
                return None;
            };
            Some(data.username.clone())
        })
        .collect();
    assert_eq!(usernames.len(), 1_500);
    app.end().await;
}
