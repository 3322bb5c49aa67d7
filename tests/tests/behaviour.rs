//! What people are promised while nothing is broken: a write is read back at once, live streams
//! and scrolls show everything once and in order, a crowd slows nobody down, and a rebuild of the
//! views fails no read.
//!
//! Every test has engines and services of its own, and times are measured in some: so they run
//! one after the other. The short form runs with all tests; the long one, `make chaos`, has more
//! of everything.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn what they need, and are told by the environment what to test"
)]

#[path = "behaviour/celebrities.rs"]
mod celebrities;
#[path = "behaviour/clients.rs"]
mod clients;
#[path = "behaviour/deployments.rs"]
mod deployments;
#[path = "behaviour/lines.rs"]
mod lines;
#[path = "behaviour/live.rs"]
mod live;
#[path = "behaviour/own_writes.rs"]
mod own_writes;
#[path = "behaviour/paging.rs"]
mod paging;
#[path = "behaviour/pairs.rs"]
mod pairs;
#[path = "behaviour/personal_data.rs"]
mod personal_data;
#[path = "behaviour/proxies.rs"]
mod proxies;
#[path = "behaviour/rebuild.rs"]
mod rebuild;
#[path = "behaviour/streams.rs"]
mod streams;
#[path = "behaviour/writer.rs"]
mod writer;

use reqwest::StatusCode;
use serde_json::Value;
use system_tests::api::{Answer, Session};

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {value}"))
}

fn posts(page: &Value) -> &[Value] {
    page["posts"].as_array().map_or(&[], Vec::as_slice)
}

fn shows(post: &str) -> impl Fn(&Answer) -> bool + Send + 'static {
    let post = post.to_owned();
    move |page| {
        page.status == StatusCode::OK
            && posts(&page.body)
                .iter()
                .any(|shown| shown["post_id"] == *post)
    }
}

/// Every entry of a list, page by page, each asked for once.
async fn scroll(
    me: &Session,
    path: &str,
    limit: usize,
    after: Option<&str>,
) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    let mut at = String::new();
    loop {
        let answer = me.get(&format!("{path}?limit={limit}{at}"), after).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("{path}: {answer:?}"));
        }
        all.extend_from_slice(posts(&answer.body));
        match answer.body["next_cursor"].as_str() {
            Some(cursor) => at = format!("&cursor={cursor}"),
            None => return Ok(all),
        }
    }
}
