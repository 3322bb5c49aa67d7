//! Clients and readers at the gateway, while something happens behind it.

use std::path::Path;
use std::time::{Duration, Instant};

use system_tests::api::{Outcome, Session};
use system_tests::eventually;
use system_tests::history::Told;
use system_tests::load::Load;
use system_tests::world::{PATIENCE, Role, Roles};
use system_tests::{is_long, seed};

use super::comings::Follower;

/// What a client waits after each request. In the long form all together send some hundred a
/// second; the short one is for builds and machines that are slow.
const PACE: Duration = Duration::from_millis(40);
const READERS: usize = 4;

pub struct Scene {
    pub roles: Roles,
    pub load: Load,
    followers: Vec<Follower>,
    /// Posts and reads by itself, to see when that works again.
    probe: Session,
    probes: usize,
}

impl Scene {
    /// Clients who send requests, and readers who follow all of them.
    pub async fn start(name: &str) -> Self {
        Self::start_from(None, name).await
    }

    /// The same, before processes with the binaries in `folder`.
    pub async fn start_from(folder: Option<&Path>, name: &str) -> Self {
        let seed = seed(name);
        let clients = if is_long() { 16 } else { 4 };
        let roles = Roles::start_from(folder, &[("STREAM_HEARTBEAT_SECS", "1")]).await;
        let api = roles.api();
        let clients = roles.world.sessions(&api, "client", clients).await;
        let readers = roles.world.sessions(&api, "reader", READERS).await;
        let probe = roles.world.sessions(&api, "probe", 1).await.remove(0);
        for reader in &readers {
            for client in &clients {
                reader.follow(&client.user_id).await.accepted();
            }
        }
        let followers: Vec<Follower> = readers.into_iter().map(Follower::of).collect();
        for follower in &followers {
            eventually("the live stream is open", PATIENCE, async || {
                (follower.heard().opened > 0).then_some(())
            })
            .await;
        }
        Self {
            load: Load::start_mixed(clients, PACE, seed),
            followers,
            probe,
            probes: 0,
            roles,
        }
    }

    /// Waits until clients have sent so many more requests.
    pub async fn requests(&self, more: usize) {
        let wanted = self.load.requests.so_far().all() + more;
        eventually("clients send requests", PATIENCE, async || {
            (self.load.requests.so_far().all() >= wanted).then_some(())
        })
        .await;
    }

    /// Waits until a post is accepted and its author sees it: all four roles work. Says how long
    /// that took.
    pub async fn works(&mut self) -> Duration {
        let began = Instant::now();
        self.probes += 1;
        let content = format!("probe {}", self.probes);
        let key = format!("probe-{}", self.probes);
        let post = eventually("a post is accepted", PATIENCE, async || {
            match self.probe.post(&content, &key).await {
                Outcome::Accepted(accepted) => Some(accepted),
                Outcome::Refused(why) => panic!("nobody should refuse it: {why}"),
                Outcome::NotSent(_) | Outcome::Unknown(_) => None,
            }
        })
        .await;
        let path = format!("/posts/{}", post.value);
        eventually("its author sees it", PATIENCE, async || {
            let answer = self.probe.get(&path, Some(&post.consistency)).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        began.elapsed()
    }

    /// Which relay publishes: its place among the two.
    pub async fn active_relay(&self) -> usize {
        let relays = self.roles.of(Role::Relay);
        eventually("one relay is active", PATIENCE, async || {
            for (number, relay) in relays.iter().enumerate() {
                if relay.metric("relay_active").await == Some(1.0) {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    /// Nothing is lost: what was acknowledged is in the log, on the stream, in the views, and was
    /// heard by every reader.
    pub async fn nothing_is_lost(mut self) {
        self.load.acknowledged(50).await;
        self.load.stop().await;
        let audit = self.roles.world.audit().await;
        let verified = self.roles.world.verify().await;
        let events = self.roles.world.events().await;
        let verdict = self.load.judge(&self.roles.api(), &events).await;
        let records = self.load.history.records().clone();
        let posts: Vec<String> = records
            .into_iter()
            .filter_map(|record| match record.told {
                Told::Accepted(id) => id,
                Told::Refused | Told::Unknown => None,
            })
            .collect();
        println!("{verdict}\n{audit}\n{verified}");
        assert!(verdict.is_clean(), "{verdict}");
        assert!(audit.is_clean(), "{audit:?}");
        for follower in self.followers {
            eventually("the reader has heard of all posts", PATIENCE, async || {
                let heard = follower.heard();
                posts
                    .iter()
                    .all(|post| heard.posts.contains_key(post))
                    .then_some(())
            })
            .await;
            println!("live stream: {}", follower.stop().await);
        }
    }
}
