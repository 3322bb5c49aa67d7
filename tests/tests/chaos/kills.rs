//! A random schedule of SIGKILLs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use system_tests::process::describe;
use system_tests::world::World;

use super::import::Import;

/// A random schedule of deaths.
pub struct Faults<'a> {
    world: &'a World,
    pub schedule: Vec<&'static str>,
    rng: StdRng,
    /// Kills, and how many of them while the import was under way.
    killed: BTreeMap<&'static str, (usize, usize)>,
    pub ended_by_themselves: Vec<String>,
    slowest_recovery: Duration,
}

const TARGETS: [&str; 5] = [
    "command-service",
    "query-service",
    "broker",
    "database",
    "import",
];

impl<'a> Faults<'a> {
    /// Each target dies `rounds` times, in random order.
    pub fn new(world: &'a World, rounds: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut schedule: Vec<&str> = TARGETS.repeat(rounds);
        schedule.shuffle(&mut rng);
        Self {
            world,
            schedule,
            rng,
            killed: BTreeMap::new(),
            ended_by_themselves: Vec::new(),
            slowest_recovery: Duration::ZERO,
        }
    }

    /// Kills the next one at a random moment of an import, and starts it again at another.
    pub async fn one(&mut self, import: &mut Import<'_>) -> bool {
        let Some(target) = self.schedule.pop() else {
            return false;
        };
        // Half of the time the others have recovered from the last fault, half of the time not.
        if self.rng.random_bool(0.5) {
            self.all_recover().await;
        }
        import.keep_running();
        self.moment(600).await;
        let during_import = import.process.is_running();
        let process = match target {
            "command-service" => &self.world.command.process,
            "query-service" => &self.world.query.process,
            "broker" => &self.world.nats,
            "database" => &self.world.mongodb,
            _ => &import.process,
        };
        process.note("SIGKILL");
        let ended = process.kill();
        // The next round goes on with the import.
        if target != "import" {
            if let Some(status) = ended {
                self.ended_by_themselves
                    .push(format!("{target}: {}", describe(status)));
            }
            self.moment(600).await;
            process.start();
        }
        let (kills, during) = self.killed.entry(target).or_default();
        *kills += 1;
        *during += usize::from(during_import);
        true
    }

    pub async fn all_recover(&mut self) {
        let begun = Instant::now();
        self.world.command.ready().await;
        self.world.query.ready().await;
        self.slowest_recovery = self.slowest_recovery.max(begun.elapsed());
    }

    /// A random moment: one of the few sleeps that are what is tested.
    async fn moment(&mut self, at_most_ms: u64) {
        let millis = self.rng.random_range(0..at_most_ms);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    pub fn print(&self) {
        println!("{:<16} {:>8} {:>14}", "SIGKILL", "rounds", "during import");
        for (target, (kills, during)) in &self.killed {
            println!("{target:<16} {kills:>8} {during:>14}");
        }
        println!(
            "slowest recovery of both services: {:.1?}",
            self.slowest_recovery
        );
    }
}
