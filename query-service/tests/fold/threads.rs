//! Threads: what a post answers is shown down from the first, with gaps where something is gone, and
//! never more of it than was promised.

use query_service::reads::bodies::{PostView, Thread};
use query_service::reads::threads::MOST_ANCESTORS;
use shared::contract::events::PostRef;
use shared::contract::ids::PostId;

use super::common::{World, hasty};

fn ids(posts: &[PostView]) -> Vec<PostId> {
    posts.iter().map(|post| post.post_id).collect()
}

/// Where a client sees that something is missing: above a post that does not answer the one before.
fn gaps(thread: &Thread) -> Vec<PostId> {
    let line: Vec<&PostView> = thread.ancestors.iter().chain([&thread.post]).collect();
    let pairs = line.windows(2);
    let broken = pairs.filter(|pair| pair[1].reply_to_post_id != Some(pair[0].post_id));
    broken.map(|pair| pair[1].post_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_shows_what_a_post_answers_with_its_gaps_and_ends_where_it_was_promised_to() {
    assert_eq!(MOST_ANCESTORS, 40, "as promised in docs/remarks.md");
    let mut world = World::new("threads", 2, 100_000, 31).await;
    let people = (0..3).map(|_| world.history.register()).collect();
    world.publish(people).await;
    let [ada, bob, cyd] = world.history.users()[..] else {
        panic!("three were registered")
    };
    // One after the other, each answering the one before; the fifth is cyd's.
    let (mut events, mut chain, mut last) = (Vec::new(), Vec::<PostId>::new(), None);
    for n in 0..MOST_ANCESTORS + 10 {
        let author = if n == 4 { cyd } else { [ada, bob][n % 2] };
        let event = world.history.post(author, last);
        let post = event.id.cast();
        last = Some(PostRef { post, author });
        chain.push(post);
        events.push(event);
    }
    // And three that answer the one in the middle, beside the next of the chain.
    let middle = PostRef {
        post: chain[20],
        author: ada,
    };
    let beside: Vec<_> = (0..3)
        .map(|_| world.history.post(bob, Some(middle)))
        .collect();
    let mut answers: Vec<PostId> = beside.iter().map(|event| event.id.cast()).collect();
    answers.push(chain[21]);
    answers.sort_unstable();
    answers.reverse();
    events.extend(beside);
    world.publish(events).await;
    let (fold, views) = (world.fold().await, world.views().await);
    world.caught_up(&views).await;

    let of = async |post: PostId, limit: usize, cursor: Option<&str>| {
        views
            .thread(post, None, limit, cursor)
            .await
            .expect("a read")
    };
    let first = of(chain[0], 20, None).await.expect("a post");
    assert_eq!((first.ancestors.len(), first.more_ancestors), (0, false));
    assert_eq!(ids(&first.replies), [chain[1]]);
    let whole = of(chain[MOST_ANCESTORS], 20, None).await.expect("a post");
    assert_eq!(ids(&whole.ancestors), chain[..MOST_ANCESTORS]);
    assert!(!whole.more_ancestors, "that is all of them");
    let cut = of(chain[MOST_ANCESTORS + 9], 20, None)
        .await
        .expect("a post");
    assert_eq!(ids(&cut.ancestors), chain[9..MOST_ANCESTORS + 9]);
    assert!(cut.more_ancestors && gaps(&cut).is_empty());
    assert!(cut.replies.is_empty() && cut.next_cursor.is_none());
    // Where it was cut it goes on.
    let above = of(cut.ancestors[0].post_id, 20, None)
        .await
        .expect("a post");
    assert_eq!(ids(&above.ancestors), chain[..9]);

    // Replies page by page: each page shows the thread around them, and the cursor is theirs.
    let (mut shown, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = of(middle.post, 3, cursor.as_deref()).await.expect("a post");
        assert_eq!(ids(&page.ancestors), chain[..20]);
        let plain = views.replies_to(middle.post, None, 3, cursor.as_deref());
        let plain = plain.await.expect("a read").expect("a post");
        assert_eq!(
            (&plain.items, &plain.next_cursor),
            (&page.replies, &page.next_cursor)
        );
        shown.extend(ids(&page.replies));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(shown, answers);

    // One is deleted, and the author of another leaves: the line goes on above both.
    let events = vec![
        world.history.delete(chain[10]),
        world.history.delete(chain[11]),
        world.history.leave(cyd),
    ];
    world.publish(events).await;
    world.caught_up(&views).await;
    let thread = of(middle.post, 20, None).await.expect("a post");
    let left = [&chain[..4], &chain[5..10], &chain[12..20]].concat();
    assert_eq!(ids(&thread.ancestors), left);
    assert_eq!(gaps(&thread), [chain[5], chain[12]]);
    assert!(!thread.more_ancestors);
    for gone in [chain[10], chain[4]] {
        assert!(of(gone, 20, None).await.is_none());
    }
    // Without a budget there is one step, and it is said that there is more.
    let hurried = hasty(&views).thread(chain[9], None, 20, None).await;
    let hurried = hurried.expect("a read").expect("a post");
    assert_eq!(ids(&hurried.ancestors), [chain[8]]);
    assert!(hurried.more_ancestors);
    fold.stop().await;
    world.clean_up().await;
}
