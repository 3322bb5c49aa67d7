//! What the command is asked for.

use std::path::PathBuf;

/// Where the data comes from.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(group = clap::ArgGroup::new("input").args(["edges", "file"]).required(true).multiple(true))]
pub struct Arguments {
    /// A list of edges, `a b` on each line: user_a follows user_b. Users are registered as
    /// user_N with the address user_N@example.invalid and no password; `token` lets them in.
    #[arg(long, value_name = "FILE")]
    pub edges: Option<PathBuf>,
    /// Each edge goes both ways.
    #[arg(long, requires = "edges")]
    pub undirected: bool,
    /// Writes this many posts for every user of the input, authors taking turns.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub posts_per_user: u32,
    /// A file of JSON objects, one on each line, or - for standard input. Types: user {username,
    /// email?, password?, display_name?, bio?}, follow {follower, followee}, post {username,
    /// content, id?, reply_to?}, like and repost {username, post}; id, reply_to and post are names
    /// for posts within the input.
    pub file: Option<PathBuf>,
}
