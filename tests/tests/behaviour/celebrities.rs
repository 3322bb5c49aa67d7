//! Authors with many followers: their posts delay no one, with fan-out and without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use system_tests::api::Session;
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually, is_long, quantile};

use super::lines::{follow, user};
use super::shows;

/// A crowd follows `user_1`; a reader follows a calm author, and nobody else does.
struct Crowd {
    world: World,
    famous: Session,
    calm: Session,
    reader: Session,
    /// Some of the crowd.
    fans: Vec<Session>,
}

impl Crowd {
    /// Starts a world in which an author with more than `threshold` followers is not fanned out.
    async fn gather(threshold: usize) -> Self {
        let crowd = if is_long() { 50_000 } else { 3_000 };
        let begun = Instant::now();
        // Two partitions, so that a fan-out in each is larger than one batch.
        let threshold = threshold.to_string();
        let world = World::start(&[("CELEBRITY_THRESHOLD", &threshold), ("PARTITIONS", "2")]).await;
        let edges: String = (2..crowd + 2).map(|fan| format!("{fan} 1\n")).collect();
        let edges = world.file("crowd.edges", &edges);
        let calm = [user("calm"), user("reader"), follow("reader", "calm")];
        let calm = world.file("calm.ndjson", &(calm.join("\n") + "\n"));
        let [edges, calm] = [edges, calm].map(|path| path.display().to_string());
        let arguments = ["import", "--edges", &edges, &calm];
        let (status, printed) = world.run("import", "command-service", &arguments).await;
        assert!(status.success(), "{printed}");
        let mut names = vec!["user_1".to_owned(), "calm".to_owned(), "reader".to_owned()];
        names.extend((0..8).map(|fan| format!("user_{}", 2 + fan * crowd / 8)));
        let tokens = world.tokens(&names).await;
        let mut sessions = world.known(&world.api(), &names, &tokens).await;
        let fans = sessions.split_off(3);
        let [famous, calm, reader] = sessions.try_into().expect("three are left");
        // The last edge is folded, and the jobs that it started have ended.
        eventually("all followers count", PATIENCE * 5, async || {
            let path = format!("/users/{}", famous.user_id);
            let answer = famous.get(&path, None).await.ok()?;
            (answer.body["followers_count"] == crowd).then_some(())
        })
        .await;
        let what = "the fold has nothing left to do";
        eventually(what, PATIENCE * 5, async || {
            let pending = world.views().await.collection::<Document>("g1_pending");
            (pending.count_documents(doc! {}).await.ok()? == 0).then_some(())
        })
        .await;
        println!(
            "{crowd} followers in {:.1?}, threshold {threshold}",
            begun.elapsed()
        );
        Self {
            world,
            famous,
            calm,
            reader,
            fans,
        }
    }
}

/// Two times of each post: of the POST, and from its answer until the reader sees it.
#[derive(Default)]
struct Posted {
    taken: Vec<Duration>,
    seen: Vec<Duration>,
}

impl Posted {
    async fn post(&mut self, author: &Session, reader: &Session, key: &str) {
        let begun = Instant::now();
        let post = author
            .post(&format!("says {key}"), key)
            .await
            .accepted()
            .value;
        self.taken.push(begun.elapsed());
        let accepted = Instant::now();
        while !reader
            .get("/timeline?limit=5", None)
            .await
            .is_ok_and(|page| shows(&post)(&page))
        {
            assert!(accepted.elapsed() < PATIENCE, "{key} is not seen");
            // A time is measured: more often than `eventually` looks.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.seen.push(accepted.elapsed());
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} posts; POST median {:.1?}, 95 % {:.1?}; then seen after median {:.1?}, 95 % {:.1?}, slowest {:.1?}",
            self.taken.len(),
            quantile(&self.taken, 0.5),
            quantile(&self.taken, 0.95),
            quantile(&self.seen, 0.5),
            quantile(&self.seen, 0.95),
            quantile(&self.seen, 1.0)
        );
    }

    /// Whether the medians are about as low as others', for a machine that others use as well.
    fn is_as_quick_as(&self, other: &Self, times: u32, slack: Duration) -> bool {
        [(&self.taken, &other.taken), (&self.seen, &other.seen)]
            .iter()
            .all(|(mine, theirs)| quantile(mine, 0.5) <= quantile(theirs, 0.5) * times + slack)
    }
}

/// Below this, a difference is the machine's.
const SLACK: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_author_past_the_threshold_posts_as_quickly_as_anyone_and_is_seen_at_once() {
    let _alone = alone().await;
    let crowd = Crowd::gather(1_000).await;
    let (mut hot, mut calm) = (Posted::default(), Posted::default());
    for round in 0..if is_long() { 100 } else { 24 } {
        let fan = &crowd.fans[round % crowd.fans.len()];
        hot.post(&crowd.famous, fan, &format!("hot-{round}")).await;
        let key = format!("calm-{round}");
        calm.post(&crowd.calm, &crowd.reader, &key).await;
    }
    hot.print("past the threshold");
    calm.print("anyone");
    let fanned_out = crowd
        .world
        .views()
        .await
        .collection::<Document>("g1_fan_outs");
    assert_eq!(fanned_out.count_documents(doc! {}).await.expect("views"), 0);
    assert!(hot.is_as_quick_as(&calm, 2, SLACK));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_to_a_crowd_holds_nobody_up() {
    let _alone = alone().await;
    let crowd = Crowd::gather(100_000).await;
    let (mut idle, mut meanwhile, mut large) = <(Posted, Posted, Posted)>::default();
    for n in 0..24 {
        let key = format!("idle-{n}");
        idle.post(&crowd.calm, &crowd.reader, &key).await;
    }
    let jobs = crowd
        .world
        .views()
        .await
        .collection::<Document>("g1_fan_outs");
    for round in 0..if is_long() { 6 } else { 8 } {
        let fan = &crowd.fans[round % crowd.fans.len()];
        let reached = AtomicBool::new(false);
        let fanning_out = async {
            // Its followers see it before it has reached them all.
            let key = format!("large-{round}");
            large.post(&crowd.famous, fan, &key).await;
            eventually("the fan-out has ended", PATIENCE, async || {
                let left = jobs.count_documents(doc! {}).await.expect("views");
                (left == 0).then_some(())
            })
            .await;
            reached.store(true, Ordering::Relaxed);
        };
        let others = async {
            while !reached.load(Ordering::Relaxed) {
                let key = format!("meanwhile-{}", meanwhile.taken.len());
                meanwhile.post(&crowd.calm, &crowd.reader, &key).await;
            }
        };
        futures_util::join!(fanning_out, others);
    }
    idle.print("anyone, idle");
    meanwhile.print("anyone, during fan-outs");
    large.print("the one who is fanned out");
    assert!(
        meanwhile.taken.len() > 4,
        "there were fan-outs to compare with"
    );
    // A slice of a job is at most a batch: that is what others wait for.
    assert!(meanwhile.is_as_quick_as(&idle, 3, SLACK * 3));
    if is_long() {
        println!("{}", crowd.world.verify().await);
    }
}
