//! The world of the fault matrix: how faults are injected, and how all recovers from them.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use system_tests::api::Session;
use system_tests::load::Load;
use system_tests::process::{Process, describe};
use system_tests::proxy::Weather;
use system_tests::world::World;

use super::Target::{Broker, Command, Database, Query};
use super::{CLIENTS, Fault, SPELL_MS, Target};

pub struct Scene {
    pub world: World,
    pub rng: StdRng,
    /// Messages of the stream that are no events.
    pub poisoned: usize,
}

impl Scene {
    pub async fn sessions(&self, prefix: &str) -> Vec<Session> {
        let api = self.world.api();
        self.world.sessions(&api, prefix, CLIENTS).await
    }

    /// Starts what does not run, and waits until it is ready.
    pub async fn recover(&self) {
        for process in [&self.world.mongodb, &self.world.nats] {
            if !process.is_running() {
                process.start();
            }
        }
        for service in [&self.world.command, &self.world.query] {
            if !service.process.is_running() {
                service.process.start();
            }
            service.ready().await;
        }
    }

    /// A random moment: the fault's own.
    pub async fn moment(&mut self, millis: std::ops::Range<u64>) {
        let millis = self.rng.random_range(millis);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    pub async fn inject(&mut self, fault: Fault, load: &Load, client: &Session, round: usize) {
        match fault {
            Fault::Kill(target) => self.kill(&[target]).await,
            Fault::KillBothServices => self.kill(&[Command, Query]).await,
            Fault::KillBothEngines => self.kill(&[Database, Broker]).await,
            Fault::KillEverything => self.kill(&[Command, Broker, Query, Database]).await,
            Fault::Pause(target) => {
                // Sometimes past the leases, sometimes not.
                self.process(target).pause();
                self.moment(500..5_000).await;
                self.process(target).resume();
            }
            Fault::Weather(target, weather) => {
                let proxies = self.world.proxies();
                let proxy = if target == Database {
                    &proxies.mongodb
                } else {
                    &proxies.nats
                };
                proxy.set(weather);
                self.moment(SPELL_MS).await;
                let proxies = self.world.proxies();
                proxies.mongodb.set(Weather::Fair);
                proxies.nats.set(Weather::Fair);
            }
            Fault::Terminate(target) => {
                let process = self.process(target);
                process.terminate();
                let ended = process.wait(Duration::from_secs(15)).await;
                let ended = ended.unwrap_or_else(|| panic!("{target:?} does not stop"));
                assert!(
                    ended.success(),
                    "{target:?} after SIGTERM: {}",
                    describe(ended)
                );
            }
            Fault::InterruptTwice(target) => {
                let process = self.process(target);
                process.interrupt();
                process.interrupt();
                let ended = process.wait(Duration::from_secs(15)).await;
                assert!(ended.is_some(), "{target:?} does not stop at once");
            }
            Fault::Resets => self.reset_some(load, client, round).await,
            Fault::SlowBodies => self.slow_bodies(load, client).await,
            Fault::KillRebuild => self.kill_rebuild(load).await,
            Fault::RestoreBroker => self.restore_broker(load).await,
            Fault::Poison => self.poison().await,
            Fault::FullDisk => self.fill_disk(load).await,
        }
    }

    fn process(&self, target: Target) -> &Process {
        match target {
            Command => &self.world.command.process,
            Query => &self.world.query.process,
            Broker => &self.world.nats,
            Database => &self.world.mongodb,
        }
    }

    /// One after the other, at random moments.
    async fn kill(&mut self, targets: &[Target]) {
        for target in targets {
            self.moment(0..300).await;
            let ended = self.process(*target).kill();
            let ended = ended.map(describe);
            assert_eq!(ended, None, "{target:?} ended by itself");
        }
        self.moment(0..800).await;
    }
}
