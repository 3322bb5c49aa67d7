//! Every kind of event on a stream, so that every kind is compared with `docs/asyncapi.yaml` when the
//! tests have ended (`scripts/check_streams.py`).

use super::*;

/// The events of the golden messages, in the order of their ids.
fn golden() -> BTreeMap<EventId, Event> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/golden/messages");
    let files = std::fs::read_dir(folder).unwrap();
    let event = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let message: serde_json::Value = serde_json::from_str(&text).unwrap();
        // A tick is no event.
        let event = Event::decode(message["payload"].to_string().as_bytes()).ok()?;
        Some((event.id, event))
    };
    files
        .filter_map(|file| event(file.unwrap().path()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_event_is_published() {
    let world = World::new("golden").await;
    let running = Running::start(world.relay(world.settings()).await);
    let events = golden();
    for event in events.values() {
        assert!(world.insert(event).await, "{} is free", event.id);
    }
    let audit = world.assert_exact().await;
    let published: BTreeSet<_> = audit.decoded.values().map(|it| it.payload.kind()).collect();
    assert_eq!(published, Payload::KINDS.iter().copied().collect());
    running.stop().await;
    world.end().await;
}
