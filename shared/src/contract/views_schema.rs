//! Names in the database of views that both services use: the query service writes the views, the
//! command service looks up a few of their numbers.

/// Every generation of views has a row here, and there is one more: the [`POINTER`].
pub const GENERATIONS: &str = "generations";
/// The `_id` of the row that says which generation readers are shown.
pub const POINTER: &str = "current";
/// The pointer's field with the number of that generation.
pub const SHOWN: &str = "generation";

// Collections of a generation.
pub const FOLLOWER_COUNTS: &str = "follower_counts";
pub const LIKES: &str = "likes";
pub const POSTS: &str = "posts";
pub const REPOSTS: &str = "reposts";
pub const USERS: &str = "users";

/// The name of a generation's collection.
pub fn collection_of(generation: i64, name: &str) -> String {
    format!("g{generation}_{name}")
}

// Fields of rows.
/// Of every row that one log stream makes: the version of its last event.
pub const VERSION: &str = "v";
/// Of posts.
pub const LIKES_COUNT: &str = "likes";
pub const REPOSTS_COUNT: &str = "reposts";
/// Of users.
pub const FOLLOWING_COUNT: &str = "following";
pub const POSTS_COUNT: &str = "posts";
/// Of `follower_counts`, whose rows have the key `user ‖ partition`.
pub const FOLLOWERS_COUNT: &str = "n";
