//! Error bodies: RFC 9457 problem details with a stable code.
//!
//! [`Code`] is the public name; status, title and headers hang off it. `docs/api.md` documents
//! every code.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::Value;

use crate::web::request_id;

macro_rules! codes {
    ($($code:ident $name:literal $status:literal $title:literal;)*) => {
        /// Why a request was not served. Names never change once released.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
        pub enum Code { $($code),* }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$code),*];

            pub fn name(self) -> &'static str { match self { $(Self::$code => $name),* } }

            pub fn status(self) -> StatusCode {
                let status = match self { $(Self::$code => $status),* };
                StatusCode::from_u16(status).expect("the table holds valid statuses")
            }

            pub fn title(self) -> &'static str { match self { $(Self::$code => $title),* } }
        }
    };
}

codes! {
    MalformedBody "malformed_body" 400 "The request body cannot be read";
    Invalid "invalid" 400 "The request is not valid";
    BadCursor "bad_cursor" 400 "The cursor is not one of ours";
    BadConsistencyToken "bad_consistency_token" 400 "The consistency token is not one of ours";
    SelfFollow "self_follow" 400 "Nobody follows themselves";
    Unauthorized "unauthorized" 401 "A valid access token is needed";
    BadCredentials "bad_credentials" 401 "The credentials do not match";
    BadRefreshToken "bad_refresh_token" 401 "The refresh token is not valid";
    Forbidden "forbidden" 403 "This is not allowed";
    ActorMismatch "actor_mismatch" 403 "The body names somebody else";
    NotYours "not_yours" 403 "This belongs to somebody else";
    Suspended "suspended" 403 "The account is suspended";
    FollowLimit "follow_limit" 403 "No more people can be followed";
    NotFound "not_found" 404 "There is nothing here";
    MethodNotAllowed "method_not_allowed" 405 "The method is not allowed here";
    RequestTimeout "request_timeout" 408 "The request took too long to arrive";
    UsernameTaken "username_taken" 409 "The username is taken";
    EmailTaken "email_taken" 409 "The e-mail address is taken";
    Conflict "conflict" 409 "Somebody else was faster";
    BodyTooLarge "body_too_large" 413 "The request body is too large";
    UnsupportedMediaType "unsupported_media_type" 415 "The body must be application/json";
    HeadersTooLarge "headers_too_large" 431 "The request's headers are too large";
    IdempotencyKeyReused "idempotency_key_reused" 422 "The idempotency key belongs to another request";
    TooManyRequests "too_many_requests" 429 "Too many requests";
    Internal "internal" 500 "Something went wrong here";
    BadGateway "bad_gateway" 502 "The service did not answer";
    GatewayTimeout "gateway_timeout" 504 "The service did not answer in time";
    Unavailable "unavailable" 503 "The service cannot answer now";
    Overloaded "overloaded" 503 "The service is overloaded";
    NotYetVisible "not_yet_visible" 503 "The write is not visible yet";
}

/// One fault of one field.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub code: String,
    pub detail: String,
}

/// An answer other than success. `detail` is for the caller: it never holds internals.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    pub code: Code,
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// Seconds after which it may be worth asking again.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        // Not 502 and 504: what was asked for may have been done, and nobody shall be told to ask
        // for it again at once.
        let temporary = code.status() == StatusCode::SERVICE_UNAVAILABLE;
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: temporary.then_some(1),
        }
    }

    /// A request refused for one field.
    pub fn field(field: &str, code: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut problem = Self::new(Code::Invalid, format!("{field}: {detail}"));
        problem.errors.push(FieldError {
            field: field.to_owned(),
            code: code.to_owned(),
            detail,
        });
        problem
    }

    fn body(&self, request_id: String, trace_id: Option<String>) -> Body<'_> {
        Body {
            r#type: format!("urn:microblog:problem:{}", self.code.name()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code.name(),
            detail: &self.detail,
            errors: &self.errors,
            request_id,
            trace_id,
        }
    }

    /// As it is sent, to a request with these ids.
    pub(super) fn to_json(&self, request_id: String, trace_id: Option<String>) -> Value {
        serde_json::to_value(self.body(request_id, trace_id)).unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.detail)
    }
}

impl std::error::Error for Problem {}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"microblog\"");
            response.insert_header((WWW_AUTHENTICATE, challenge));
        }
        let (request_id, trace_id) = request_id::current();
        let body = self.body(request_id, trace_id);
        let json = serde_json::to_string(&body).unwrap_or_default();
        response
            .insert_header(ContentType(
                "application/problem+json".parse().expect("a valid type"),
            ))
            .body(json)
    }
}

/// In seconds, rounded up, so that no client is told to come back too early.
pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_an_error_status() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.status().as_u16() >= 400));
    }

    #[test]
    fn what_is_temporary_says_when_to_ask_again() {
        let response = Problem::new(Code::Unavailable, "away").error_response();
        assert_eq!(response.headers().get(RETRY_AFTER).unwrap(), "1");
    }
}
