//! From errors to answers: problem bodies, and the headers of limits.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use shared::runtime::error_chain::Chain;
use shared::web::problem::{Code, FieldError, Problem, whole_seconds};
use shared::web::rate_limit::{POLICY, STATE};
use tracing::error;

use crate::app::CommandError;
use crate::app::error::{Limit, Unavailable};
use crate::app::ports::Allowance;
use crate::domain::Fault;

/// An answer other than success.
#[derive(Debug)]
pub struct ApiError {
    problem: Problem,
    limit: Option<RateLimit>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.problem.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.problem.error_response();
        if let Some(limit) = &self.limit {
            limit.add_to(response.headers_mut());
        }
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            limit: None,
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let code = error.code();
        if code == Code::Internal {
            error!(error = %Chain(&error), "a command failed");
        }
        let mut problem = Problem::new(code, detail_of(&error));
        let mut limit = None;
        match error {
            CommandError::Invalid(faults) => {
                problem.errors = faults.into_iter().map(field_error).collect();
            }
            CommandError::LimitReached(reached) => {
                let limited = RateLimit::reached(&reached);
                problem.retry_after = Some(limited.resets_in);
                limit = Some(limited);
            }
            CommandError::Unavailable(Unavailable::Ahead(ahead)) => {
                problem.retry_after = Some(whole_seconds(ahead.by));
            }
            CommandError::Refused(_) | CommandError::Unavailable(_) | CommandError::Internal(_) => {
            }
        }
        Self { problem, limit }
    }
}

/// What the caller is told: the error's own sentence, but for what is ours alone.
fn detail_of(error: &CommandError) -> String {
    match error {
        CommandError::Internal(_) => {
            "the fault is ours; the request id helps to find it".to_owned()
        }
        CommandError::Unavailable(Unavailable::Store(_)) => {
            "the database does not answer; what was asked may still happen".to_owned()
        }
        CommandError::Invalid(_)
        | CommandError::Refused(_)
        | CommandError::LimitReached(_)
        | CommandError::Unavailable(_) => error.to_string(),
    }
}

fn field_error(fault: Fault) -> FieldError {
    FieldError {
        field: fault.field.to_owned(),
        code: fault.code.to_owned(),
        detail: fault.detail,
    }
}

/// A limit and how it stands, as the fields `RateLimit-Policy` and `RateLimit`.
#[derive(Debug)]
pub struct RateLimit {
    name: &'static str,
    most: u32,
    /// In seconds.
    window: u64,
    remaining: u32,
    /// In seconds.
    resets_in: u64,
}

impl RateLimit {
    pub fn of(allowance: &Allowance) -> Self {
        Self {
            name: allowance.of.name(),
            most: allowance.quota.posts,
            window: allowance.quota.window.as_secs(),
            remaining: allowance.state.remaining,
            resets_in: whole_seconds(allowance.state.resets_in),
        }
    }

    fn reached(limit: &Limit) -> Self {
        match *limit {
            Limit::Quota(used_up) => Self::of(&used_up),
            Limit::Logins {
                most,
                window,
                retry_after,
            } => Self {
                name: "login",
                most,
                window: window.as_secs(),
                remaining: 0,
                resets_in: whole_seconds(retry_after),
            },
        }
    }

    pub fn add_to(&self, headers: &mut HeaderMap) {
        let Self {
            name,
            most,
            window,
            remaining,
            resets_in,
        } = self;
        let policy = format!(r#""{name}";q={most};w={window}"#);
        let state = format!(r#""{name}";r={remaining};t={resets_in}"#);
        for (name, text) in [(POLICY, policy), (STATE, state)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::contract::time::Timestamp;

    use super::*;
    use crate::app::error::{Internal, Refusal};
    use crate::app::ports::{Limited, Quota, QuotaState, StoreError};

    fn used_up(of: Limited) -> Limit {
        let quota = Quota {
            posts: 20,
            window: Duration::from_secs(60),
        };
        let state = QuotaState {
            granted: false,
            remaining: 0,
            window_start: Timestamp::from_millis(0),
            resets_in: Duration::from_secs(7),
        };
        Limit::Quota(Allowance { of, quota, state })
    }

    #[test]
    fn the_table_of_refusals() {
        let away = || StoreError::Unavailable("canary".into());
        let broken = || StoreError::Unexpected("canary".into());
        let by = Duration::from_secs(600);
        let ahead = shared::contract::ids::TooFarAhead { by };
        let faults = ["a", "b"].map(|field| Fault {
            field,
            code: "blank",
            detail: "is blank".into(),
        });
        let logins = Limit::Logins {
            most: 10,
            window: Duration::from_secs(60),
            retry_after: Duration::from_secs(9),
        };
        let jwt = jsonwebtoken::errors::ErrorKind::InvalidToken;
        let ours = "the fault is ours; the request id helps to find it";
        let unknown = "the database does not answer; what was asked may still happen";
        #[rustfmt::skip]
        let table = [
            (CommandError::Invalid(faults.to_vec()), 400, "invalid", "a: is blank; b: is blank", None),
            (Refusal::NoActor.into(), 401, "unauthorized", "no user stands behind the access token any more", None),
            (Refusal::Suspended.into(), 403, "suspended", "the account is suspended", None),
            (Refusal::BadCredentials.into(), 401, "bad_credentials", "the credentials do not match", None),
            (Refusal::BadRefreshToken.into(), 401, "bad_refresh_token", "the refresh token is not valid", None),
            (Refusal::UsernameTaken.into(), 409, "username_taken", "the username is taken", None),
            (Refusal::EmailTaken.into(), 409, "email_taken", "the e-mail address is taken", None),
            (Refusal::NoSuchUser.into(), 404, "not_found", "there is no such user", None),
            (Refusal::NoSuchPost.into(), 404, "not_found", "there is no such post", None),
            (Refusal::NotYours.into(), 403, "not_yours", "the post belongs to somebody else", None),
            (Refusal::SelfFollow.into(), 400, "self_follow", "nobody follows themselves", None),
            (Refusal::FollowLimit.into(), 403, "follow_limit", "no more people can be followed", None),
            (Refusal::Conflict.into(), 409, "conflict", "others were faster, again and again", None),
            (Refusal::KeyReused.into(), 422, "idempotency_key_reused", "the idempotency key belongs to another request", None),
            (used_up(Limited::Posts).into(), 429, "too_many_requests", "at most 20 posts in 60 seconds", Some(7)),
            (used_up(Limited::Edits).into(), 429, "too_many_requests", "at most 20 edits in 60 seconds", Some(7)),
            (logins.into(), 429, "too_many_requests", "too many attempts to sign in", Some(9)),
            (Unavailable::Overloaded.into(), 503, "overloaded", "too many commands at once", Some(1)),
            (Unavailable::Away.into(), 503, "unavailable", "the database does not answer; nothing was done", Some(1)),
            (ahead.into(), 503, "unavailable", "nothing was done: what this builds on is 600000 ms too far ahead of the clock", Some(600)),
            (Unavailable::Deadline.into(), 503, "unavailable", "the command took too long; it may still be carried out", Some(1)),
            (away().into(), 503, "unavailable", unknown, Some(1)),
            (StoreError::NotPrepared.into(), 503, "unavailable", unknown, Some(1)),
            (broken().into(), 500, "internal", ours, None),
            (StoreError::Corrupt("canary".into()).into(), 500, "internal", ours, None),
            (Internal::Panicked.into(), 500, "internal", ours, None),
            (Internal::Signing(jwt.into()).into(), 500, "internal", ours, None),
            (Internal::Hashing("canary".into()).into(), 500, "internal", ours, None),
        ];
        for (error, status, name, sentence, retry_after) in table {
            let answer = ApiError::from(error);
            assert_eq!(answer.status_code(), status, "{name}");
            assert_eq!(answer.problem.code.name(), name);
            // Whatever it holds of ours is not told.
            assert_eq!(answer.problem.detail, sentence);
            assert_eq!(answer.problem.retry_after, retry_after, "{sentence}");
        }
    }

    #[test]
    fn what_is_refused_for_a_while_says_how_long() {
        let refused = Limit::Logins {
            most: 10,
            window: Duration::from_secs(60),
            retry_after: Duration::from_millis(1_500),
        };
        let answer = ApiError::from(CommandError::from(refused)).error_response();
        assert_eq!(answer.status(), 429);
        let header = |name: &str| answer.headers().get(name).unwrap();
        assert_eq!(header("retry-after"), "2");
        assert_eq!(header("ratelimit-policy"), r#""login";q=10;w=60"#);
        assert_eq!(header("ratelimit"), r#""login";r=0;t=2"#);
    }
}
