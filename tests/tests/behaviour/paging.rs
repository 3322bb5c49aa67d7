//! Paging: a scroll shows every post once, to the true end of the timeline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use serde_json::Value;
use system_tests::api::Session;
use system_tests::world::{PATIENCE, World};
use system_tests::{alone, eventually, is_long};

use super::lines::{follow, post, user};
use super::{scroll, text};

/// Followees of the reader, and posts of all of them together.
const FOLLOWEES: usize = 60;
const POSTS: usize = 3_000;

/// Entries of a timeline, newest first: id and content.
type Entries = Vec<(i64, String)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scroll_to_the_true_end_shows_every_post_once_while_others_post() {
    let _alone = alone().await;
    let world = World::start(&[]).await;
    let other = world.another(&world.query);
    other.start().await;
    import_history(&world).await;
    let names: Vec<String> = ["reader".to_owned()]
        .into_iter()
        .chain((0..FOLLOWEES).step_by(12).map(author))
        .collect();
    let tokens = world.tokens(&names).await;
    let sessions = world.known(&world.api(), &names, &tokens).await;
    let (reader, writers) = sessions.split_first().expect("the reader");
    // Everything is folded, and what is beyond the cap is gone.
    println!("{}", world.verify().await);
    let horizon = horizon_of(&world, reader).await;
    let expected = posts_of_the_log(&world).await;
    assert_eq!(expected.len(), POSTS);
    let stored = expected.iter().filter(|(id, _)| *id > horizon).count();
    assert!(
        stored < POSTS / 2,
        "most of the scroll is below the horizon"
    );

    let done = AtomicBool::new(false);
    let posting = writers.iter().map(|writer| post_until(writer, &done));
    let scrolling = async {
        let through_other = reader.through(&other);
        let mut scrolls = vec![(reader, 50), (&through_other, 100)];
        if is_long() {
            scrolls.push((&through_other, 7));
            scrolls.push((reader, 33));
        }
        let scrolls = scrolls.into_iter();
        let shown = join_all(scrolls.map(|(reader, limit)| scroll_home(reader, limit))).await;
        done.store(true, Ordering::Relaxed);
        shown
    };
    let (scrolls, written) = futures_util::join!(scrolling, join_all(posting));
    let written: usize = written.into_iter().sum();
    println!(
        "{POSTS} posts of {FOLLOWEES}, {stored} of them stored, {written} more posted meanwhile"
    );
    assert!(written > 20, "others did post");
    for shown in scrolls {
        assert_whole(&shown, &expected);
    }
}

/// Half are followed before anything is posted, half when half was: fanned out, and filled in.
async fn import_history(world: &World) {
    let mut lines = vec![user("reader")];
    lines.extend((0..FOLLOWEES).map(|n| user(&author(n))));
    for half in 0..2 {
        let followed = (0..FOLLOWEES).filter(|n| n % 2 == half);
        lines.extend(followed.map(|n| follow("reader", &author(n))));
        let posts = half * POSTS / 2..(half + 1) * POSTS / 2;
        lines.extend(posts.map(|n| post(&author(n % FOLLOWEES), &format!("post {n}"))));
        world.import(&format!("half-{half}"), &lines).await;
        lines.clear();
    }
}

/// Below which id entries of a reader's timeline are no longer stored, once some are not.
async fn horizon_of(world: &World, reader: &Session) -> i64 {
    let id: i64 = reader.user_id.parse().expect("an id is a number");
    eventually("the timeline is trimmed", PATIENCE, async || {
        let readers = world.views().await.collection::<Document>("g1_readers");
        let row = readers.find_one(doc! { "_id": id }).await.ok()??;
        row.get_i64("horizon").ok().filter(|horizon| *horizon > 0)
    })
    .await
}

async fn posts_of_the_log(world: &World) -> Entries {
    let events = world.events().await;
    let posts = events
        .find(doc! { "type": "post.created" })
        .sort(doc! { "_id": -1 })
        .await
        .expect("the log");
    let posts: Vec<Document> = posts.try_collect().await.expect("the log");
    let post = |event: &Document| {
        let data = event.get_document("data").expect("an event has data");
        let content = data.get_str("content").expect("a post has a content");
        (event.get_i64("_id").expect("an id"), content.to_owned())
    };
    posts.iter().map(post).collect()
}

/// Posts until the scrolls are done. Says how often.
async fn post_until(writer: &Session, done: &AtomicBool) -> usize {
    let mut written = 0;
    while !done.load(Ordering::Relaxed) {
        let content = format!("meanwhile {written}");
        let key = format!("meanwhile-{written}");
        writer.post(&content, &key).await.accepted();
        written += 1;
        // As fast as people, not as fast as the machine: the scrolls share it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    written
}

/// The home timeline to its end.
async fn scroll_home(reader: &Session, limit: usize) -> Entries {
    let begun = Instant::now();
    let shown = scroll(reader, "/timeline", limit, None).await;
    let shown = shown.expect("every page");
    println!(
        "scroll by {limit}: {} entries in {:.1?}",
        shown.len(),
        begun.elapsed()
    );
    let line = |post: &Value| {
        let id = text(post, "entry_id").parse::<i64>();
        (
            id.expect("an id is a number"),
            text(post, "content").to_owned(),
        )
    };
    shown.iter().map(line).collect()
}

/// Newest first, each once: all that was expected, and above it only what was posted meanwhile.
fn assert_whole(shown: &Entries, expected: &Entries) {
    assert!(
        shown.windows(2).all(|pair| pair[0].0 > pair[1].0),
        "newest first, and each once"
    );
    // What was posted meanwhile is above all of these.
    let begin = shown.len() - POSTS.min(shown.len());
    assert!(
        shown[..begin]
            .iter()
            .all(|(_, content)| content.starts_with("meanwhile"))
    );
    assert!(shown[begin..] == expected[..], "every post, to the end");
}

fn author(n: usize) -> String {
    format!("author_{n}")
}
