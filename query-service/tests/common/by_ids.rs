//! What is asked for by ids, who reacted to a post, and threads, against the model.

use query_service::operator::verify::model::Model;
use query_service::reads::ReadModel;
use query_service::reads::bodies::RelationshipWith;
use rand::RngExt;
use rand::seq::IndexedRandom;
use shared::contract::events::Payload;
use shared::contract::ids::{PostId, UserId};

use super::World;

/// Posts looked at with their threads, and with who reacted: a few each time, over many looks.
const SOME: usize = 10;

impl World {
    /// A line for each difference.
    pub(super) async fn differences_by_ids(
        &mut self,
        model: &Model,
        views: &ReadModel,
    ) -> Vec<String> {
        // Also who has left, what is deleted, and what never was.
        let unknown = 4_711;
        let everybody: Vec<UserId> = model.users().chain(UserId::new(unknown)).collect();
        let posts = self.published.iter().filter_map(|event| {
            let is_post = matches!(event.payload, Payload::PostCreated(_));
            is_post.then(|| event.id.cast())
        });
        let posts: Vec<PostId> = posts.chain(PostId::new(unknown)).collect();
        let rng = &mut self.history.rng;
        let viewer = *everybody.choose(rng).expect("somebody");
        let users: Vec<UserId> = everybody.sample(rng, 8).copied().collect();
        let many: Vec<PostId> = posts.sample(rng, 100).copied().collect();

        let mut different = Differences::default();
        let expected: Vec<_> = users.iter().filter_map(|user| model.user(*user)).collect();
        let shown = views.user_views(&users).await.expect("views");
        different.compare("users by ids", &users, expected, shown);
        let with = |user: &UserId| {
            let stand = model.relationship(viewer, *user)?;
            Some(RelationshipWith {
                user_id: *user,
                following: stand.following,
                followed_by: stand.followed_by,
            })
        };
        let expected: Vec<_> = users.iter().filter_map(with).collect();
        let shown = views.relationships(viewer, &users).await.expect("views");
        different.compare("relationships", (viewer, &users), expected, shown);
        for viewer in [None, Some(viewer)] {
            let expected = many.iter().filter_map(|post| model.by_id(*post, viewer));
            let expected: Vec<_> = expected.collect();
            let shown = views.posts(&many, viewer).await.expect("views");
            different.compare("posts by ids", viewer, expected, shown);
        }
        for post in many.into_iter().take(SOME) {
            let limit = self.history.rng.random_range(1..5);
            let shown = people(views, post, limit, true).await;
            different.compare("likes", post, model.likers(post), shown);
            let shown = people(views, post, limit, false).await;
            different.compare("reposts", post, model.reposters(post), shown);
            let expected = model.by_id(post, None).map(|shown| {
                let mut replies = model.replies_to(post);
                replies.truncate(100);
                (model.ancestors_of(post), shown, replies)
            });
            let shown = views.thread(post, None, 100, None).await.expect("views");
            let shown = shown.map(|thread| {
                assert!(!thread.more_ancestors, "{post}: nobody answers so often");
                (thread.ancestors, thread.post, thread.replies)
            });
            different.compare("thread", post, expected, shown);
        }
        different.0
    }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn compare<T: std::fmt::Debug + PartialEq>(
        &mut self,
        what: &str,
        of: impl std::fmt::Debug,
        expected: T,
        shown: T,
    ) {
        if shown != expected {
            let line = format!("{what} of {of:?}: expected {expected:?}, shown {shown:?}");
            self.0.push(line);
        }
    }
}

/// Who likes a post, or reposted it, page by page.
async fn people(views: &ReadModel, post: PostId, limit: usize, like: bool) -> Vec<UserId> {
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let at = cursor.as_deref();
        let page = match like {
            true => views.likers(post, limit, at).await,
            false => views.reposters(post, limit, at).await,
        };
        let Some(page) = page.expect("views") else {
            return all;
        };
        assert!(page.items.len() <= limit);
        all.extend(page.items.iter().map(|user| user.user_id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
    }
}
