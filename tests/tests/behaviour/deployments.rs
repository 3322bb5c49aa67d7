//! Another deployment on the same broker, with the same prefix.

use reqwest::StatusCode;
use system_tests::api::Api;
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually};

use super::posts;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_deployment_with_the_same_prefix_is_refused_and_disturbs_nobody() {
    const SENTENCE: &str = "holds another log";
    let _alone = alone().await;
    let world = World::start(&[]).await;
    let first = world.sessions(&world.api(), "first", 1).await.remove(0);
    first.post("before", "before").await.accepted();
    let command = world.of_another_deployment(&world.command);
    let query = world.of_another_deployment(&world.query);
    // The projector first: a log that has no identity yet must not take the stream's.
    query.process.start();
    let what = "the second fold waits for its log";
    query
        .readiness_becomes(what, |readiness| {
            !readiness.is_ready() && readiness.mentions("has no identity yet")
        })
        .await;
    command.process.start();
    for service in [&command, &query] {
        let what = "the second deployment is refused";
        service
            .readiness_becomes(what, |readiness| {
                !readiness.is_ready()
                    && readiness.mentions(SENTENCE)
                    && readiness.mentions("NATS_PREFIX")
            })
            .await;
    }
    // Its log takes commands all the same, and nothing of them reaches the stream.
    let api = Api::new(&command.api, &query.api);
    let registered = api.register_at("second", "second@example.com").await;
    assert_eq!(registered, StatusCode::CREATED);
    let tried = async || command.metric("relay_failures_total").await;
    let before = eventually("it tries", PATIENCE, tried).await;
    let post = first.post("after", "after").await.accepted();
    let timeline = first.get("/timeline", Some(&post.consistency)).await;
    assert_eq!(posts(&timeline.expect("an answer").body).len(), 2);
    eventually("it tries again and again", PATIENCE, async || {
        (tried().await? >= before + 3.0).then_some(())
    })
    .await;
    for service in [&command, &query] {
        let said = service.process.tail(1_000);
        let said = said.lines().filter(|line| line.contains(SENTENCE)).count();
        assert_eq!(said, 1, "{}", service.process.tail(40));
    }
    let audit = world.audit().await;
    assert!(audit.is_clean(), "{audit:?}");
    println!("{}", world.verify().await);
}
