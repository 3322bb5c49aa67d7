//! What operations are about.

pub const SESSIONS: &str = "sessions";
pub const USERS: &str = "users";
pub const FOLLOWS: &str = "follows";
pub const POSTS: &str = "posts";
pub const REACTIONS: &str = "reactions";
pub const TIMELINE: &str = "timeline";

/// An operation has one of these; in the order in which one needs them.
pub(super) const TAGS: [(&str, &str); 6] = [
    (
        SESSIONS,
        "Signing in, staying signed in, signing out, and the keys of access tokens.",
    ),
    (USERS, "Accounts and profiles."),
    (FOLLOWS, "Who follows whom."),
    (POSTS, "Posts and replies."),
    (REACTIONS, "Likes and reposts."),
    (
        TIMELINE,
        "The home timeline, in pages and as a live stream.",
    ),
];
