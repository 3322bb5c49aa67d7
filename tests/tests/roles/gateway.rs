//! The gateway itself is restarted or killed while live streams are open through it.

use std::time::{Duration, Instant};

use system_tests::api::Session;
use system_tests::process::describe;
use system_tests::world::{PATIENCE, Role, Roles};
use system_tests::{eventually, is_long};

use super::comings::Follower;

const READERS: usize = 10;
/// The gateway's grace for open answers, and what it needs besides.
const STOPS_WITHIN: Duration = Duration::from_secs(15);
/// A service notices at once that the gateway is gone, for its connections are closed.
const PLACES_FREE_WITHIN: Duration = Duration::from_secs(3);

/// Streams come back, hear what they have missed, and no place stays taken.
pub async fn restarts_beneath_open_streams(roles: &Roles) {
    let readers = roles.world.sessions(&roles.api(), "reader", READERS).await;
    let author = readers[0].clone();
    for reader in &readers[1..] {
        reader.follow(&author.user_id).await.accepted();
    }
    let followers: Vec<Follower> = readers.into_iter().map(Follower::of).collect();
    all_open(roles, &followers, 1).await;
    let before = author.post("before", "before").await.accepted().value;
    all_heard(&followers, &before).await;

    // Killed: the kernel closes its connections.
    kill(roles).await;
    places_are_free(roles).await;
    // Nobody can be told of it before the gateway is there again.
    let meanwhile = direct(roles, &author).post("meanwhile", "meanwhile").await;
    comes_back(roles, &followers, 2, &meanwhile.accepted().value).await;

    if is_long() {
        // Asked to stop, it lets answers go on for its grace, and then cuts them without an end.
        let asked = Instant::now();
        roles.gateway.terminate();
        let status = roles.gateway.wait(STOPS_WITHIN).await;
        let status = status.unwrap_or_else(|| panic!("it still runs after {STOPS_WITHIN:?}"));
        assert!(status.success(), "{}", describe(status));
        println!("the gateway stopped in {:.1?}", asked.elapsed());
        places_are_free(roles).await;
        let later = direct(roles, &author).post("later", "later").await;
        comes_back(roles, &followers, 3, &later.accepted().value).await;
    }
    for follower in followers {
        let heard = follower.stop().await;
        assert!(heard.posts.values().all(|times| *times == 1), "{heard}");
    }
}

/// Kills what runs the gateway, which takes the gateway with it.
async fn kill(roles: &Roles) {
    roles.gateway.kill();
    let address = roles.address.trim_start_matches("http://");
    eventually("nothing listens any more", PATIENCE, async || {
        let connected = tokio::net::TcpStream::connect(address).await;
        connected.is_err().then_some(())
    })
    .await;
}

/// A client of the first command api, past the gateway.
fn direct(roles: &Roles, author: &Session) -> Session {
    author.through_both(&roles.of(Role::CommandApi)[0], &roles.of(Role::QueryApi)[0])
}

/// Starts the gateway again, and waits until all have come back and heard of this post.
async fn comes_back(roles: &Roles, followers: &[Follower], times: usize, post: &str) {
    roles.gateway.start();
    roles.gateway_serves().await;
    let serves = Instant::now();
    all_open(roles, followers, times).await;
    all_heard(followers, post).await;
    println!(
        "{} live streams are back {:.1?} after the gateway",
        followers.len(),
        serves.elapsed()
    );
}

/// All are connected, and count once.
async fn all_open(roles: &Roles, followers: &[Follower], times: usize) {
    eventually("all live streams are open", PATIENCE, async || {
        let open = |follower: &Follower| follower.heard().opened >= times;
        followers.iter().all(open).then_some(())
    })
    .await;
    assert_eq!(open_streams(roles).await, followers.len() as f64);
}

async fn all_heard(followers: &[Follower], post: &str) {
    eventually("all hear of it", PATIENCE, async || {
        let heard = |follower: &Follower| follower.heard().posts.contains_key(post);
        followers.iter().all(heard).then_some(())
    })
    .await;
}

async fn places_are_free(roles: &Roles) {
    let gone = Instant::now();
    eventually("no live stream counts", PLACES_FREE_WITHIN, async || {
        (open_streams(roles).await == 0.0).then_some(())
    })
    .await;
    println!(
        "all places are free {:.1?} after the gateway has gone",
        gone.elapsed()
    );
}

/// Live streams that both query apis count.
async fn open_streams(roles: &Roles) -> f64 {
    let mut open = 0.0;
    for api in roles.of(Role::QueryApi) {
        // It is not there before the first one.
        open += api
            .metric("query_service_live_streams")
            .await
            .unwrap_or(0.0);
    }
    open
}
