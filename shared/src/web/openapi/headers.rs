//! The headers of answers.

use utoipa::openapi::{Header, HeaderBuilder, Ref};

use super::schemas::{integer, string};

/// A header that an answer may have.
#[derive(Debug)]
pub struct AnswerHeader {
    pub(super) name: &'static str,
    text: &'static str,
    example: &'static str,
}

pub const CONSISTENCY_TOKEN: AnswerHeader = AnswerHeader {
    name: "X-Consistency-Token",
    text: "Covers everything that the user had accepted until now. Send it with reads that are to reflect it.",
    example: "AgEAAAGQ8gABAAAAAQ",
};
pub const ETAG: AnswerHeader = AnswerHeader {
    name: "ETag",
    text: "What was answered, weakly: send it as `If-None-Match`.",
    example: "W/\"00ff00ff00ff00ff\"",
};
pub const LINK: AnswerHeader = AnswerHeader {
    name: "Link",
    text: "Where the next page is (RFC 8288), if there is one.",
    example: "</api/v1/timeline?limit=20&cursor=AQAB>; rel=\"next\"",
};
pub const LOCATION: AnswerHeader = AnswerHeader {
    name: "Location",
    text: "Where what was made is read.",
    example: "/api/v1/posts/117467262156800001",
};
pub const REPLAYED: AnswerHeader = AnswerHeader {
    name: "Idempotent-Replayed",
    text: "`true`: this is the first answer to the same `Idempotency-Key`, again.",
    example: "true",
};
pub const SERVED: AnswerHeader = AnswerHeader {
    name: "X-Served",
    text: "`stale`: from memory, while the database is away.",
    example: "stale",
};
pub(super) const ALLOW: AnswerHeader = AnswerHeader {
    name: "Allow",
    text: "The methods that the path has.",
    example: "GET, HEAD, DELETE",
};
pub(super) const CHALLENGE: AnswerHeader = AnswerHeader {
    name: "WWW-Authenticate",
    text: "That a bearer token is wanted.",
    example: "Bearer realm=\"microblog\"",
};
pub(super) const LIMIT: AnswerHeader = AnswerHeader {
    name: "RateLimit",
    text: "How each limit that was checked stands: `r` is what is left, `t` the seconds until it is reset.",
    example: "\"posts\";r=299;t=36, \"address\";r=399;t=1",
};
pub(super) const POLICY: AnswerHeader = AnswerHeader {
    name: "RateLimit-Policy",
    text: "Each limit that was checked: `q` in a window of `w` seconds.",
    example: "\"posts\";q=300;w=10800, \"address\";q=400;w=2",
};
pub(super) const REQUEST_ID: AnswerHeader = AnswerHeader {
    name: "X-Request-Id",
    text: "The id of the request, in the service's log too.",
    example: "6f9619ff8b86d011b42d00cf4fc964ff",
};
pub(super) const RETRY_AFTER: AnswerHeader = AnswerHeader {
    name: "Retry-After",
    text: "Seconds after which it may be worth asking again.",
    example: "1",
};

/// Each is a component, and referred to where it is sent.
pub(super) const ALL: [&AnswerHeader; 12] = [
    &ALLOW,
    &CHALLENGE,
    &CONSISTENCY_TOKEN,
    &ETAG,
    &LIMIT,
    &LINK,
    &LOCATION,
    &POLICY,
    &REPLAYED,
    &REQUEST_ID,
    &RETRY_AFTER,
    &SERVED,
];

impl AnswerHeader {
    pub(super) fn reference(&self) -> Ref {
        Ref::new(format!("#/components/headers/{}", self.name))
    }

    pub(super) fn build(&self) -> Header {
        let schema = if self.name == RETRY_AFTER.name {
            integer().minimum(Some(0)).examples([serde_json::json!(1)])
        } else {
            string().examples([serde_json::json!(self.example)])
        };
        HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(self.text))
            .build()
    }
}
