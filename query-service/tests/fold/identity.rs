//! Views remember which log they were folded from, and take no other until they are rebuilt.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helper that cannot go on fails the test"
)]

use bson::{Document, doc};
use query_service::projection::stream_check::StreamCheck;
use query_service::projection::stream_fault::StreamFault;
use shared::connections::log_identity::{self, LogId, OwnLog};
use shared::contract::event_stream::{self, StreamError};
use shared::contract::stream_end;

use crate::common::{self, World};

impl World {
    /// What the check says of the stream as it is.
    async fn judged(&self) -> Result<Option<LogId>, StreamFault> {
        let check = StreamCheck::of(&self.settings).await.unwrap();
        let names = &self.settings.names;
        let jetstream = self.nats.jetstream();
        let stream = jetstream.get_stream(names.stream()).await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        let end = stream_end::read(&stream, last).await.unwrap();
        check
            .judge(names, self.views().await.generation(), &stream, &end)
            .await
    }

    async fn set_identity(&self, log: LogId) {
        let identity = self.log.collection::<Document>(log_identity::COLLECTION);
        identity.drop().await.unwrap();
        assert_eq!(OwnLog::new(&self.log).id_or(log).await.unwrap(), log);
    }

    /// Names the log on the stream, as the relay does.
    async fn name_stream(&self, log: LogId) {
        let jetstream = self.nats.jetstream();
        let names = &self.settings.names;
        let stream = event_stream::ensure(&jetstream, names, 1, Some(log)).await;
        let info = stream.unwrap().cached_info().clone();
        log_identity::label(&jetstream, names, &info, log)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn views_remember_their_log_and_take_no_other_until_they_are_rebuilt() {
    let mut world = World::new("log_id", 2, 100_000, 31).await;
    let people = (0..6).map(|_| world.history.register()).collect();
    world.publish(people).await;
    // As an earlier version left it: no identity anywhere, and all of it is in the log.
    let fold = world.fold().await;
    world.assert_equal_to_the_model("unnamed").await;
    assert_eq!(world.judged().await.unwrap(), None);
    fold.stop().await;
    // Named, but the log is not: its relay has not started.
    let (one, other) = (LogId::random(), LogId::random());
    world.name_stream(one).await;
    let judged = world.judged().await;
    assert!(matches!(judged, Err(StreamFault::NoIdentity { theirs, .. }) if theirs == one));
    world.set_identity(other).await;
    let judged = world.judged().await;
    let refused = |fault: &StreamFault| {
        matches!(fault, StreamFault::Stream(StreamError::OtherLog { theirs, ours, .. })
            if (*theirs, *ours) == (one, other))
    };
    assert!(judged.as_ref().is_err_and(refused), "{judged:?}");
    world.set_identity(one).await;
    assert_eq!(world.judged().await.unwrap(), Some(one));
    let fold = world.fold().await;
    let views = world.views().await;
    common::eventually("the views remember their log", async || {
        views.generation().log().await.unwrap() == Some(one)
    })
    .await;
    let events = (0..60).map(|_| world.history.act()).collect();
    world.publish(events).await;
    world.assert_equal_to_the_model("named").await;

    // The log is older than the stream.
    let log = world
        .log
        .collection::<Document>(shared::contract::log::COLLECTION);
    let newest = doc! { "_id": -1 };
    let lost = log.find_one_and_delete(doc! {}).sort(newest).await.unwrap();
    let judged = world.judged().await;
    let older =
        |fault: &StreamFault| matches!(fault, StreamFault::Stream(StreamError::LogIsOlder(..)));
    assert!(judged.as_ref().is_err_and(older), "{judged:?}");
    log.insert_one(lost.unwrap()).await.unwrap();

    fold.stop().await;
    if !crate::is_long() {
        return world.clean_up().await;
    }
    // Everything is given up but the views: they are of another log now.
    world.start_over(other).await;
    let fold = world.fold().await;
    let judged = world.judged().await;
    let others = |fault: &StreamFault| {
        matches!(fault, StreamFault::OtherViews { theirs, bound, .. }
            if (*theirs, *bound) == (other, one))
    };
    assert!(judged.as_ref().is_err_and(others), "{judged:?}");
    // More than before: the old views will never come so far.
    let people = (0..100).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let rebuild = world.query_service("2", &["rebuild", "--accept"]).await;
    assert!(rebuild.status.success(), "{rebuild:?}");
    world.assert_equal_to_the_model("rebuilt").await;
    assert_eq!(world.judged().await.unwrap(), Some(other));
    fold.stop().await;
    world.clean_up().await;
}

impl World {
    /// Another log and its stream, under the same names.
    async fn start_over(&mut self, log: LogId) {
        let stream = self.settings.names.stream();
        self.nats.jetstream().delete_stream(stream).await.unwrap();
        let events = self
            .log
            .collection::<Document>(shared::contract::log::COLLECTION);
        events.drop().await.unwrap();
        self.set_identity(log).await;
        self.name_stream(log).await;
        self.forget_published();
    }
}
