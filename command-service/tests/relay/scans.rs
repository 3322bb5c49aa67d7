//! Recovery scans, and crashes in them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_leads_to_a_scan() {
    let world = World::new("token").await;
    let tokens = [
        "no JSON",
        "5",
        "{}",
        r#"{"_data":"junk"}"#,
        r#"{"_data":"820000000000000000000000000000000000000000"}"#,
        r#"{"_data":7}"#,
        "scan:whatever",
    ];
    for token in tokens {
        let running = Running::start(world.relay(world.settings()).await);
        world.write(4, 20).await;
        let audit = world.assert_exact().await;
        running.stop().await;
        // Written while no relay looks, and published only by the scan.
        world.write(4, 20).await;
        let mut headers = HeaderMap::new();
        headers.insert(EVENT_ID, "0");
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-type", "relay.tick");
        let source = format!("/{}/log", world.names.stream().to_lowercase());
        headers.insert("ce-source", source);
        headers.insert("ce-time", "2026-11-23T10:00:00.000Z");
        headers.insert("ce-datacontenttype", "application/json");
        headers.insert(CHAIN, audit_tail(&world).await.then(0).to_hex());
        headers.insert(RESUME_TOKEN, token);
        world.publish(world.names.tick(), headers).await;
        let running = Running::start(world.relay(world.settings()).await);
        world.write(4, 20).await;
        let again = world.assert_exact().await;
        let own = usize::from(token.starts_with("scan:"));
        assert!(
            again.scanned >= audit.scanned + own + 80,
            "{token}: {} {}",
            again.scanned,
            audit.scanned
        );
        running.stop().await;
    }
    world.end().await;
}

async fn audit_tail(world: &World) -> ChainHash {
    let mut audit = Audit::default();
    audit.read(&world.jetstream(), &world.names).await;
    audit.chain
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_crashes_anywhere_is_exact_while_writers_go_on() {
    let world = World::new("scan").await;
    // Small windows and batches, so that every step has many places to die at.
    let settings = relay::Settings {
        rescan: true,
        scan_window: 150,
        batch_events: 40,
        ..world.settings()
    };
    world.write(8, 80).await;
    let done = AtomicBool::new(false);
    let writing = async {
        world.write(8, 150).await;
        done.store(true, Ordering::Relaxed);
    };
    let scanning = async {
        let mut crashes = 0;
        while !done.load(Ordering::Relaxed) {
            let running = Running::start(world.relay(settings.clone()).await);
            pause_up_to(400).await;
            running.kill().await;
            crashes += 1;
        }
        crashes
    };
    let ((), crashes) = tokio::join!(writing, scanning);
    let running = Running::start(world.relay(world.settings()).await);
    let audit = world.assert_exact().await;
    println!(
        "{crashes} crashes, {} of {} events scanned",
        audit.scanned,
        audit.events.len()
    );
    running.stop().await;
    world.end().await;
}

/// A scan's token may be ahead of what a majority has, and what it reads is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_has_a_majority_confirm_a_write_after_its_token_before_it_reads_ids() {
    let world = World::new("mark").await;
    world.write(1, 2).await;
    let marks: Collection<Document> = world.database.collection(shared::contract::log::MARKS);
    let mut written = marks.watch().await.unwrap();
    // Nothing past the greatest id is reached: no window has set a mark of its own.
    let relay = world.relay(world.settings()).await;
    let running = Running::start(relay.failing_at(|point| point == FailPoint::ScanBegun));
    let first = tokio::time::timeout(PATIENCE, written.next()).await;
    assert!(first.is_ok(), "a mark is written");
    running.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_named_crash_point_of_a_scan_is_survived() {
    let points = [
        FailPoint::ScanBegun,
        FailPoint::ScanWindowRead,
        FailPoint::ScanCompared,
        FailPoint::BatchStored,
        FailPoint::ScanBatch,
        FailPoint::ScanPublished,
    ];
    // Each in a world of its own, all at once.
    future::join_all(points.map(survive_crashes_at)).await;
}

async fn survive_crashes_at(point: FailPoint) {
    let world = World::new("points").await;
    world.write(6, 50).await;
    let settings = relay::Settings {
        scan_window: 120,
        batch_events: 30,
        ..world.settings()
    };
    let (crashes, reached) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, third) = (crashes.clone(), reached.clone());
    let relay = world.relay(settings).await.failing_at(move |reached| {
        let fails = reached == point && count.fetch_add(1, Ordering::Relaxed) < 3;
        if count.load(Ordering::Relaxed) == 3 {
            third.notify_one();
        }
        fails
    });
    let running = Running::start(relay);
    world.write(6, 50).await;
    let patience = tokio::time::timeout(PATIENCE, reached.notified());
    assert!(patience.await.is_ok(), "{point:?} was not reached");
    world.assert_exact().await;
    running.stop().await;
    world.end().await;
}
