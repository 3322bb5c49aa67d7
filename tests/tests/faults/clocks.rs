//! Replicas whose machines disagree about the time: by what readiness allows, and by minutes.
//!
//! No answer is 500, ids stay within a second of the database's time, and what comes later has
//! the greater id. The engines, and the first of each service, have the machine's own clock.

use bson::{Document, doc};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use system_tests::api::{Api, Session};
use system_tests::load::Load;
use system_tests::world::{PATIENCE, Service, World};
use system_tests::{eventually, is_long, seed};

use super::{CLIENTS, PACE};

/// In seconds.
const TEN_MINUTES: f64 = 600.0;
const LEFT_OUT: &str = "left out: no process can be told another time here (libfaketime)";

fn now_millis() -> i64 {
    use shared::contract::time::Clock;
    shared::contract::time::SystemClock.now().millis()
}

/// Every event's id, in milliseconds since the epoch, and its own time.
async fn times(world: &World) -> Vec<(i64, i64)> {
    let events = world.events().await;
    let found = events.find(doc! {}).projection(doc! { "at": 1 }).await;
    let found: Vec<Document> = found
        .expect("the log")
        .try_collect()
        .await
        .expect("the log");
    let time = |event: &Document| {
        let id = event.get_i64("_id").expect("an id");
        let at = event.get_datetime("at").expect("a time").timestamp_millis();
        (id >> 16, at)
    };
    found.iter().map(time).collect()
}

/// No id is a second or more from the time at which it was made: not before the world began, not
/// ahead of now, and not far from its event's own time.
async fn assert_near_the_database_s_time(world: &World, since: i64) {
    const SECOND: i64 = 1_000;
    let until = now_millis();
    for (id, at) in times(world).await {
        assert!(
            id > since - SECOND && id <= until + SECOND,
            "an id of {id} ms, made between {since} and {until}"
        );
        assert!(
            (id - at).abs() <= SECOND,
            "an id of {id} ms, written at {at}"
        );
    }
}

/// No answer was 500, of all that a service gave.
async fn assert_no_500(service: &Service) {
    let metrics = service.metrics().await;
    let bad: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("http_requests_total") && line.contains("status=\"500\""))
        .filter(|line| !line.ends_with(" 0"))
        .collect();
    assert!(bad.is_empty(), "{}: {bad:?}", service.process.name());
}

/// Everybody acts on one post and its author at once; all of it is accepted.
async fn crowd(people: &[Session], post: &str, author: &str, round: &str) {
    let act = |person: &Session| {
        let (person, round) = (person.clone(), round.to_owned());
        let (post, author) = (post.to_owned(), author.to_owned());
        async move {
            person.like(&post).await.accepted();
            person.repost(&post).await.accepted();
            person.reply(&post, &format!("{round}?")).await.accepted();
            person.follow(&author).await.accepted();
            person.unrepost(&post).await.accepted();
            person.unfollow(&author).await.accepted();
        }
    };
    join_all(people.iter().map(act)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_on_a_replica_whose_clock_is_off_is_accepted_whole() {
    let since = now_millis();
    let world = World::start(&[]).await;
    let Some(command) = world.another_with_clock(&world.command) else {
        println!("{LEFT_OUT}");
        return;
    };
    command.start().await;
    let (true_api, other_api) = (world.api(), Api::new(&command.api, &world.query.api));
    let author = world.sessions(&true_api, "author", 1).await.remove(0);
    let people = if is_long() { 64 } else { 8 };
    let there = world.sessions(&other_api, "there", people).await;
    let here = world.sessions(&true_api, "here", people).await;
    const ALL: [f64; 8] = [
        -0.06,
        -0.9,
        TEN_MINUTES,
        0.0,
        -0.01,
        -0.3,
        0.9,
        -TEN_MINUTES,
    ];
    let offsets = if is_long() { &ALL[..] } else { &ALL[..4] };
    for (round, offset) in offsets.iter().enumerate() {
        world.set_clock(*offset);
        let name = format!("round-{round}");
        let post = author.post(&name, &name).await.accepted().value;
        // What the other one writes is acted upon by both, too: nobody suffers from it.
        let theirs = there[0].post(&name, &name).await.accepted().value;
        tokio::join!(
            crowd(&there, &post, &author.user_id, &name),
            crowd(&here, &theirs, &author.user_id, &name)
        );
    }
    // Its clock is set back, and it is started again: what it wrote itself is ahead of it.
    let before = there[0].post("before", "before").await.accepted().value;
    assert!(command.process.kill().is_none());
    world.set_clock(-0.9);
    command.start().await;
    crowd(&there, &before, &author.user_id, "set back").await;
    // An import under such a clock, on what is there.
    import_under_that_clock(&world).await;

    assert_near_the_database_s_time(&world, since).await;
    for service in [&world.command, &command] {
        assert_no_500(service).await;
    }
    let audit = world.audit().await;
    println!("{} rounds of {} people: {audit}", offsets.len(), 2 * people);
    assert!(audit.is_clean(), "{audit}");
}

/// Imports some follows, by a process whose clock is off.
async fn import_under_that_clock(world: &World) {
    let lines = ["here_0", "here_1", "author_0"]
        .map(|name| format!(r#"{{"type":"follow","follower":"there_0","followee":"{name}"}}"#));
    let file = world.file("late.ndjson", &(lines.join("\n") + "\n"));
    let file = file.to_str().expect("a path in UTF-8").to_owned();
    let environment = world.clock_environment().expect("it was there before");
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let arguments = ["import", file.as_str()];
    let import = world.operator_with("import-late", "command-service", &arguments, &environment);
    let (status, printed) = world.run_to_end(&import).await;
    assert!(status.success(), "{printed}");
}

/// Leases go by the database's clock, and what comes later has the greater id whatever a replica's
/// clock says. Ten minutes: an access token is good for fifteen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_clocks_jump_lose_nothing_and_keep_the_order() {
    let seed = seed("clocks");
    let since = now_millis();
    let world = World::start(&[]).await;
    let command = world.another_with_clock(&world.command);
    let (Some(command), Some(query)) = (command, world.another_with_clock(&world.query)) else {
        println!("{LEFT_OUT}");
        return;
    };
    command.start().await;
    query.start().await;
    let (true_api, other_api) = (world.api(), Api::new(&command.api, &query.api));
    let here = world.sessions(&true_api, "here", CLIENTS / 2).await;
    let there = world.sessions(&other_api, "there", CLIENTS / 2).await;
    let mut here = Load::start(here, &[], PACE, seed);
    let mut there = Load::start(there, &[], PACE, seed + 1);
    let rounds = if is_long() { 6 } else { 2 };
    for round in 0..rounds {
        for offset in [TEN_MINUTES, -TEN_MINUTES, 0.0] {
            world.set_clock(offset);
            tokio::join!(
                here.acknowledged(3 * CLIENTS),
                there.acknowledged(3 * CLIENTS)
            );
            if round == 0 {
                agree(&command, offset == 0.0).await;
                agree(&query, offset == 0.0).await;
            }
        }
        if round == 0 {
            others_relay_alone(&world).await;
        }
    }
    here.stop().await;
    there.stop().await;
    assert_near_the_database_s_time(&world, since).await;
    for service in [&world.command, &command, &world.query, &query] {
        assert_no_500(service).await;
    }
    let log = world.events().await;
    let (audit, verified) = (world.audit().await, world.verify().await);
    for load in [&here, &there] {
        let verdict = load.judge(&true_api, &log).await;
        println!("clocks jumped {} times: {verdict}; {verified}", 3 * rounds);
        assert!(verdict.is_clean(), "{verdict}");
    }
    assert!(audit.is_clean(), "{audit}");
}

/// Kills the first of each service, so that those whose clock is off have to relay.
async fn others_relay_alone(world: &World) {
    let first = [&world.command, &world.query];
    for service in first {
        assert!(service.process.kill().is_none());
    }
    world.set_clock(-TEN_MINUTES);
    let end = world.stream().await.cached_info().state.last_sequence;
    eventually("the others relay", PATIENCE, async || {
        let now = world.stream().await.cached_info().state.last_sequence;
        (now > end + 20).then_some(())
    })
    .await;
    for service in first {
        service.start().await;
    }
}

/// Waits until a service says that its machine's clock is right, or that it is not.
async fn agree(service: &Service, right: bool) {
    let what = format!("{}: is the clock right? {right}", service.process.name());
    eventually(&what, PATIENCE, async || {
        let readiness = service.readiness().await?;
        let disagrees =
            !readiness.is_ready() && readiness.mentions(shared::runtime::database_clock::AGREES);
        (disagrees != right).then_some(())
    })
    .await;
}
