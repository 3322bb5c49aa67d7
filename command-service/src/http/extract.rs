//! What a request carries: the caller, an idempotency key, a trace, perhaps a body.

use std::future::{Future, Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::HeaderValue;
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use serde::de::DeserializeOwned;
use shared::auth::token::{TokenError, TokenVerifier, Verified};
use shared::contract::ids::UserId;
use shared::contract::sessions::SessionId;
use shared::contract::trace_parent::TraceParent;
use shared::web::access_log;
use shared::web::problem::{Code, Problem};
use shared::web::rate_limit::IpRateLimiter;
use shared::web::routing::{MAX_BODY, bearer};
use shared::web::server_span;

pub const MAX_KEY: usize = 128;
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The user whose access token came with the request; without one the answer is 401.
pub struct Caller(pub UserId);

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let verified = verified(request);
        Box::pin(async move { Ok(Self(verified.await?.user)) })
    }
}

/// The same, with the session that the token was issued for, where it was for one.
pub struct CallerInSession {
    pub user: UserId,
    pub session: Option<SessionId>,
}

impl FromRequest for CallerInSession {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let verified = verified(request);
        Box::pin(async move {
            let Verified { user, session, .. } = verified.await?;
            Ok(Self { user, session })
        })
    }
}

fn verified(request: &HttpRequest) -> impl Future<Output = Result<Verified, Problem>> + use<> {
    let token = bearer(request).map(str::to_owned);
    let verifier = request
        .app_data::<Data<TokenVerifier>>()
        .map(|data| Arc::clone(data));
    async move {
        let Some(verifier) = verifier else {
            return Err(Problem::new(Code::Internal, "something went wrong here"));
        };
        let Some(token) = token else {
            let detail = "send an access token: Authorization: Bearer …";
            return Err(Problem::new(Code::Unauthorized, detail));
        };
        let verified = verifier.verified(&token).await.map_err(refused)?;
        access_log::acts(verified.user);
        Ok(verified)
    }
}

fn refused(error: TokenError) -> Problem {
    let code = match error {
        TokenError::Invalid => Code::Unauthorized,
        TokenError::NoKeys => Code::Unavailable,
    };
    Problem::new(code, error.to_string())
}

/// The W3C `traceparent` of the request: of its span, or the caller's where nothing is traced.
pub struct Trace(pub Option<TraceParent>);

impl FromRequest for Trace {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(server_span::trace_of(request.headers()))))
    }
}

/// Where the request comes from.
pub struct ClientAddress(pub Option<IpAddr>);

impl FromRequest for ClientAddress {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let addresses = request.app_data::<Data<IpRateLimiter>>();
        ready(Ok(Self(
            addresses.and_then(|addresses| addresses.of(request)),
        )))
    }
}

/// The request's `Idempotency-Key`, bare or as a quoted string.
pub struct IdempotencyKey(pub Option<String>);

impl FromRequest for IdempotencyKey {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let mut given = request.headers().get_all("idempotency-key");
        let key = match (given.next(), given.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => parse_key(value).map(Some).ok_or(()),
            (Some(_), Some(_)) => Err(()),
        };
        let detail = format!("is one of 1 to {MAX_KEY} visible ASCII characters");
        ready(
            key.map(Self)
                .map_err(|()| Problem::field("Idempotency-Key", "bad_key", detail)),
        )
    }
}

fn parse_key(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    let quoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    let visible = key
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"');
    (visible && (1..=MAX_KEY).contains(&key.len())).then(|| key.to_owned())
}

/// A JSON body, which must arrive in time.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if !is_json(request) {
            return Box::pin(ready(Err(not_json())));
        }
        let body = bytes(request, payload);
        Box::pin(async move { Ok(Self(parse(&body.await?)?)) })
    }
}

/// Only JSON itself: what is like it, as a merge patch, means something else. In UTF-8, as RFC
/// 8259 has it.
fn is_json(request: &HttpRequest) -> bool {
    let given = request.mime_type().ok().flatten();
    given.is_some_and(|given| {
        let charset = given.get_param("charset");
        given.essence_str() == "application/json" && charset.is_none_or(|it| it == "utf-8")
    })
}

/// The whole body, bounded by the application's `PayloadConfig`.
fn bytes(
    request: &HttpRequest,
    payload: &mut Payload,
) -> impl Future<Output = Result<Bytes, Problem>> + use<> {
    let body = Bytes::from_request(request, payload);
    async move { in_time(body).await?.map_err(unreadable) }
}

fn not_json() -> Problem {
    let detail = "send content-type: application/json";
    Problem::new(Code::UnsupportedMediaType, detail)
}

/// A body is an object. serde would take an array for one, with its items as the fields in order.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        let detail = "the body is a JSON object";
        return Err(Problem::new(Code::MalformedBody, detail));
    }
    // serde names the field or the position, and may quote what the caller sent.
    let read = serde_json::from_slice(body);
    read.map_err(|fault| Problem::new(Code::MalformedBody, fault.to_string()))
}

/// actix limits the time for a request's head, not for its body.
async fn in_time<F: Future>(body: F) -> Result<F::Output, Problem> {
    let arrived = tokio::time::timeout(BODY_DEADLINE, body).await;
    arrived.map_err(|_| {
        let seconds = BODY_DEADLINE.as_secs();
        let detail = format!("a body arrives within {seconds} seconds");
        Problem::new(Code::RequestTimeout, detail)
    })
}

/// A JSON body that may be left out, with or without a content type.
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default + 'static> FromRequest for OptionalJson<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (is_json, body) = (is_json(request), bytes(request, payload));
        Box::pin(async move {
            let body = body.await?;
            match (body.is_empty(), is_json) {
                (true, _) => Ok(Self(T::default())),
                (false, true) => Ok(Self(parse(&body)?)),
                (false, false) => Err(not_json()),
            }
        })
    }
}

fn unreadable(error: actix_web::Error) -> Problem {
    if error.as_response_error().status_code() == Code::BodyTooLarge.status() {
        Problem::new(
            Code::BodyTooLarge,
            format!("a body has at most {MAX_BODY} bytes"),
        )
    } else {
        Problem::new(
            Code::MalformedBody,
            "the body ended early, or cannot be read",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> Option<String> {
        parse_key(&HeaderValue::from_bytes(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_key_may_be_quoted() {
        assert_eq!(key("abc-1"), Some("abc-1".into()));
        assert_eq!(key("\"abc-1\""), key("abc-1"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "x".repeat(MAX_KEY + 1);
        for text in ["", "\"\"", "a b", "a\"b", "é", long.as_str()] {
            assert_eq!(key(text), None, "{text}");
        }
    }

    #[test]
    fn a_body_is_an_object_and_no_list_of_its_fields() {
        #[derive(Debug, serde::Deserialize, PartialEq)]
        struct Given {
            one: String,
            two: Option<String>,
        }
        let read = |body: &[u8]| parse::<Given>(body).map_err(|problem| problem.code);
        let (one, two) = ("a".to_owned(), None);
        assert_eq!(read(b" \r\n\t{\"one\":\"a\"}"), Ok(Given { one, two }));
        for body in [
            r#"["a","b"]"#,
            r#"["a",null]"#,
            "[]",
            "null",
            "\"a\"",
            "1",
            "",
            " ",
        ] {
            assert_eq!(read(body.as_bytes()), Err(Code::MalformedBody), "{body}");
        }
    }

    proptest! {
        #[test]
        fn visible_keys_are_kept_as_they_are(text in "[!#-~]{1,128}") {
            prop_assert_eq!(key(&text), Some(text));
        }

        #[test]
        fn any_header_is_a_key_or_refused(text in "[ -~é]{0,200}") {
            let parsed = key(&text);
            let visible = |key: &String| key.bytes().all(|byte| byte.is_ascii_graphic());
            prop_assert!(parsed.as_ref().is_none_or(visible));
            prop_assert!(parsed.is_none_or(|key| (1..=MAX_KEY).contains(&key.len())));
        }
    }
}
