//! Faults of what is stored: a rebuild that is killed, a broker that forgets or cannot write.

use std::path::Path;

use system_tests::eventually;
use system_tests::load::Load;
use system_tests::world::{PATIENCE, Service, World};

use super::CLIENTS;
use super::scene::Scene;

impl Scene {
    pub async fn kill_rebuild(&mut self, load: &Load) {
        let rebuild = self
            .world
            .operator("rebuild", "query-service", &["rebuild"]);
        rebuild.start();
        self.moment(0..1_500).await;
        rebuild.kill();
        load.acknowledged(CLIENTS).await;
        for arguments in [&["rebuild"][..], &["rebuild", "--drop"]] {
            let (status, printed) = self
                .world
                .run("rebuild-2", "query-service", arguments)
                .await;
            assert!(status.success(), "{arguments:?}: {printed}");
        }
    }

    pub async fn restore_broker(&mut self, load: &Load) {
        let store = self.world.nats_store();
        let copy = store.with_file_name("nats-copy");
        self.world.nats.kill();
        copy_folder(&store, &copy);
        self.world.start_nats().await;
        self.world.command.ready().await;
        load.acknowledged(5 * CLIENTS).await;
        // What was published since is lost, though it was acknowledged to the relay.
        self.world.nats.kill();
        std::fs::remove_dir_all(&store).expect("the store");
        copy_folder(&copy, &store);
        std::fs::remove_dir_all(&copy).expect("the copy");
        self.world.start_nats().await;
    }

    /// What it cannot write it must not acknowledge; commands do not depend on it.
    pub async fn fill_disk(&mut self, load: &Load) {
        let published = async |world: &World| {
            let metric = world.command.metric("relay_published_total").await;
            metric.expect("what was published is counted")
        };
        self.world.nats.no_file_past(0);
        load.acknowledged(2 * CLIENTS).await;
        // What was on its way is out, or refused.
        let before = published(&self.world).await;
        load.acknowledged(2 * CLIENTS).await;
        let more = published(&self.world).await - before;
        assert_eq!(more, 0.0, "published to a broker that cannot write");
        let ended = self.world.nats.kill();
        assert!(ended.is_none(), "it ended by itself: {ended:?}");
        self.world.start_nats().await;
    }

    pub async fn poison(&mut self) {
        for body in ["", "{", "\u{0}\u{1}", "{\"schema\":99}"] {
            self.world.publish_foreign(body).await;
            self.poisoned += 1;
        }
        let (wanted, query) = (self.poisoned, &self.world.query);
        eventually("poison is kept as dead letters", PATIENCE, async || {
            let letters = self.world.dead_letters().await;
            (letters == wanted && has_checkpoint(query).await).then_some(())
        })
        .await;
    }
}

/// Whether the fold says how far it is.
async fn has_checkpoint(service: &Service) -> bool {
    service
        .metric("query_service_checkpoint_sequence")
        .await
        .is_some()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
