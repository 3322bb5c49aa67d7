//! The one table from refusals to answers.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use shared::address::{POLICY, STATE};
use shared::error_chain::Chain;
use shared::problem::{Code, FieldError, Problem, whole_seconds};
use tracing::error;

use crate::app::CommandError;
use crate::app::store::Allowance;
use crate::domain::Fault;

/// An answer other than success.
#[derive(Debug)]
pub struct ApiError {
    problem: Problem,
    limit: Option<Limit>,
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
            limit.tell(response.headers_mut());
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
        let code = code_of(&error);
        if code == Code::Internal {
            error!(error = %Chain(&error), "a command failed");
        }
        let mut problem = Problem::new(code, detail_of(&error));
        let mut limit = None;
        match error {
            CommandError::Invalid(faults) => {
                problem.errors = faults.into_iter().map(field_error).collect();
            }
            CommandError::Quota(used_up) => {
                problem.retry_after = Some(whole_seconds(used_up.state.resets_in));
                limit = Some(Limit::of(&used_up));
            }
            CommandError::LoginLimit {
                most,
                window,
                retry_after,
            } => {
                let resets = whole_seconds(retry_after);
                problem.retry_after = Some(resets);
                limit = Some(Limit {
                    policy: format!(r#""login";q={most};w={}"#, window.as_secs()),
                    state: format!(r#""login";r=0;t={resets}"#),
                });
            }
            CommandError::Ahead(ahead) => problem.retry_after = Some(whole_seconds(ahead.by)),
            CommandError::NoActor
            | CommandError::Suspended
            | CommandError::BadCredentials
            | CommandError::BadRefreshToken
            | CommandError::UsernameTaken
            | CommandError::EmailTaken
            | CommandError::NoSuchUser
            | CommandError::NoSuchPost
            | CommandError::NotYours
            | CommandError::SelfFollow
            | CommandError::FollowLimit
            | CommandError::Conflict
            | CommandError::KeyReused
            | CommandError::Overloaded
            | CommandError::Away
            | CommandError::Deadline
            | CommandError::Panicked
            | CommandError::Signing(_)
            | CommandError::Hashing(_)
            | CommandError::Store(_) => {}
        }
        Self { problem, limit }
    }
}

fn code_of(error: &CommandError) -> Code {
    match error {
        CommandError::Invalid(_) => Code::Invalid,
        CommandError::NoActor => Code::Unauthorized,
        CommandError::Suspended => Code::Suspended,
        CommandError::BadCredentials => Code::BadCredentials,
        CommandError::BadRefreshToken => Code::BadRefreshToken,
        CommandError::UsernameTaken => Code::UsernameTaken,
        CommandError::EmailTaken => Code::EmailTaken,
        CommandError::NoSuchUser | CommandError::NoSuchPost => Code::NotFound,
        CommandError::NotYours => Code::NotYours,
        CommandError::SelfFollow => Code::SelfFollow,
        CommandError::FollowLimit => Code::FollowLimit,
        CommandError::Conflict => Code::Conflict,
        CommandError::KeyReused => Code::IdempotencyKeyReused,
        CommandError::Quota(_) | CommandError::LoginLimit { .. } => Code::TooManyRequests,
        CommandError::Overloaded => Code::Overloaded,
        CommandError::Away | CommandError::Ahead(_) | CommandError::Deadline => Code::Unavailable,
        CommandError::Store(error) if error.is_transient() => Code::Unavailable,
        CommandError::Panicked
        | CommandError::Signing(_)
        | CommandError::Hashing(_)
        | CommandError::Store(_) => Code::Internal,
    }
}

/// What the caller is told; of our own faults, nothing.
fn detail_of(error: &CommandError) -> String {
    match error {
        CommandError::Invalid(faults) => {
            let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
            faults.join("; ")
        }
        CommandError::Quota(allowance) => {
            let (most, window) = (allowance.quota.posts, allowance.quota.window.as_secs());
            format!("at most {most} {} in {window} seconds", allowance.of.name())
        }
        CommandError::Store(error) if error.is_transient() => {
            "the database does not answer; what was asked may still happen".to_owned()
        }
        CommandError::Panicked
        | CommandError::Signing(_)
        | CommandError::Hashing(_)
        | CommandError::Store(_) => "the fault is ours; the request id helps to find it".to_owned(),
        CommandError::NoActor
        | CommandError::Suspended
        | CommandError::BadCredentials
        | CommandError::BadRefreshToken
        | CommandError::UsernameTaken
        | CommandError::EmailTaken
        | CommandError::NoSuchUser
        | CommandError::NoSuchPost
        | CommandError::NotYours
        | CommandError::SelfFollow
        | CommandError::FollowLimit
        | CommandError::Conflict
        | CommandError::KeyReused
        | CommandError::LoginLimit { .. }
        | CommandError::Overloaded
        | CommandError::Away
        | CommandError::Ahead(_)
        | CommandError::Deadline => error.to_string(),
    }
}

fn field_error(fault: Fault) -> FieldError {
    FieldError {
        field: fault.field.to_owned(),
        code: fault.code.to_owned(),
        detail: fault.detail,
    }
}

/// A limit and how it stands, as structured fields.
#[derive(Debug)]
pub struct Limit {
    policy: String,
    state: String,
}

impl Limit {
    pub fn of(allowance: &Allowance) -> Self {
        let (quota, window) = (allowance.quota.posts, allowance.quota.window.as_secs());
        let left = allowance.state.remaining;
        let resets = whole_seconds(allowance.state.resets_in);
        let name = allowance.of.name();
        Self {
            policy: format!(r#""{name}";q={quota};w={window}"#),
            state: format!(r#""{name}";r={left};t={resets}"#),
        }
    }

    /// Sets `RateLimit-Policy` and `RateLimit`.
    pub fn tell(&self, headers: &mut HeaderMap) {
        for (name, text) in [(POLICY, &self.policy), (STATE, &self.state)] {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::time::Timestamp;

    use super::*;
    use crate::app::store::{Limited, Quota, QuotaState, StoreError};

    #[test]
    fn the_table_of_refusals() {
        let away = || StoreError::Unavailable("canary".into());
        let broken = || StoreError::Unexpected("canary".into());
        let by = Duration::from_secs(600);
        let ahead = shared::ids::TooFarAhead { by };
        let faults = ["a", "b"].map(|field| Fault {
            field,
            code: "blank",
            detail: "is blank".into(),
        });
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
        let used_up = |of| Allowance { of, quota, state };
        let logins = CommandError::LoginLimit {
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
            (CommandError::NoActor, 401, "unauthorized", "no user stands behind the access token any more", None),
            (CommandError::Suspended, 403, "suspended", "the account is suspended", None),
            (CommandError::BadCredentials, 401, "bad_credentials", "the credentials do not match", None),
            (CommandError::BadRefreshToken, 401, "bad_refresh_token", "the refresh token is not valid", None),
            (CommandError::UsernameTaken, 409, "username_taken", "the username is taken", None),
            (CommandError::EmailTaken, 409, "email_taken", "the e-mail address is taken", None),
            (CommandError::NoSuchUser, 404, "not_found", "there is no such user", None),
            (CommandError::NoSuchPost, 404, "not_found", "there is no such post", None),
            (CommandError::NotYours, 403, "not_yours", "the post belongs to somebody else", None),
            (CommandError::SelfFollow, 400, "self_follow", "nobody follows themselves", None),
            (CommandError::FollowLimit, 403, "follow_limit", "no more people can be followed", None),
            (CommandError::Conflict, 409, "conflict", "others were faster, again and again", None),
            (CommandError::KeyReused, 422, "idempotency_key_reused", "the idempotency key belongs to another request", None),
            (CommandError::Quota(used_up(Limited::Posts)), 429, "too_many_requests", "at most 20 posts in 60 seconds", Some(7)),
            (CommandError::Quota(used_up(Limited::Edits)), 429, "too_many_requests", "at most 20 edits in 60 seconds", Some(7)),
            (logins, 429, "too_many_requests", "too many attempts to sign in", Some(9)),
            (CommandError::Overloaded, 503, "overloaded", "too many commands at once", Some(1)),
            (CommandError::Away, 503, "unavailable", "the database does not answer; nothing was done", Some(1)),
            (CommandError::Ahead(ahead), 503, "unavailable", "nothing was done: what this builds on is 600000 ms too far ahead of the clock", Some(600)),
            (CommandError::Deadline, 503, "unavailable", "the command took too long; it may still be carried out", Some(1)),
            (CommandError::Store(away()), 503, "unavailable", unknown, Some(1)),
            (CommandError::Store(StoreError::NotPrepared), 503, "unavailable", unknown, Some(1)),
            (CommandError::Store(broken()), 500, "internal", ours, None),
            (CommandError::Store(StoreError::Corrupt("canary".into())), 500, "internal", ours, None),
            (CommandError::Panicked, 500, "internal", ours, None),
            (CommandError::Signing(jwt.into()), 500, "internal", ours, None),
            (CommandError::Hashing("canary".into()), 500, "internal", ours, None),
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
        let refused = CommandError::LoginLimit {
            most: 10,
            window: Duration::from_secs(60),
            retry_after: Duration::from_millis(1_500),
        };
        let answer = ApiError::from(refused).error_response();
        assert_eq!(answer.status(), 429);
        let header = |name: &str| answer.headers().get(name).unwrap();
        assert_eq!(header("retry-after"), "2");
        assert_eq!(header("ratelimit-policy"), r#""login";q=10;w=60"#);
        assert_eq!(header("ratelimit"), r#""login";r=0;t=2"#);
    }
}
