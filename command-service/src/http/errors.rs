//! The one table from refusals to answers.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use shared::error_chain::Chain;
use shared::problem::{Code, FieldError, Problem};
use tracing::error;

use crate::app::CommandError;
use crate::app::limits::PostAllowance;
use crate::domain::Fault;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// An answer other than success.
#[derive(Debug)]
pub struct ApiError {
    problem: Problem,
    allowance: Option<PostAllowance>,
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
        if let Some(allowance) = &self.allowance {
            tell_allowance(response.headers_mut(), allowance);
        }
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            allowance: None,
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
        let mut allowance = None;
        match error {
            CommandError::Invalid(faults) => {
                problem.errors = faults.into_iter().map(field_error).collect();
            }
            CommandError::PostQuota(used_up) => {
                problem.retry_after = Some(whole_seconds(used_up.state.resets_in));
                allowance = Some(used_up);
            }
            CommandError::LoginLimit { retry_after } => {
                problem.retry_after = Some(whole_seconds(retry_after));
            }
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
            | CommandError::Deadline
            | CommandError::Panicked
            | CommandError::Signing(_)
            | CommandError::Hashing(_)
            | CommandError::Store(_) => {}
        }
        Self { problem, allowance }
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
        CommandError::PostQuota(_) | CommandError::LoginLimit { .. } => Code::TooManyRequests,
        CommandError::Overloaded => Code::Overloaded,
        CommandError::Deadline => Code::Unavailable,
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
        CommandError::PostQuota(allowance) => {
            let (posts, window) = (allowance.quota.posts, allowance.quota.window.as_secs());
            format!("at most {posts} posts in {window} seconds")
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

/// `RateLimit-Policy` and `RateLimit`, as structured fields.
pub fn tell_allowance(headers: &mut HeaderMap, allowance: &PostAllowance) {
    let (quota, window) = (allowance.quota.posts, allowance.quota.window.as_secs());
    let (left, resets) = (
        allowance.state.remaining,
        whole_seconds(allowance.state.resets_in),
    );
    let policy = format!(r#""posts";q={quota};w={window}"#);
    let state = format!(r#""posts";r={left};t={resets}"#);
    for (name, text) in [(POLICY, policy), (STATE, state)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

/// Rounded up: nobody is asked to come back too early.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::store::StoreError;

    #[test]
    fn the_table_of_refusals() {
        let away = || StoreError::Unavailable("canary".into());
        let broken = || StoreError::Unexpected("canary".into());
        let table = [
            (CommandError::Invalid(Vec::new()), 400, "invalid"),
            (CommandError::NoActor, 401, "unauthorized"),
            (CommandError::Suspended, 403, "suspended"),
            (CommandError::BadCredentials, 401, "bad_credentials"),
            (CommandError::BadRefreshToken, 401, "bad_refresh_token"),
            (CommandError::UsernameTaken, 409, "username_taken"),
            (CommandError::EmailTaken, 409, "email_taken"),
            (CommandError::NoSuchUser, 404, "not_found"),
            (CommandError::NoSuchPost, 404, "not_found"),
            (CommandError::NotYours, 403, "not_yours"),
            (CommandError::SelfFollow, 400, "self_follow"),
            (CommandError::FollowLimit, 403, "follow_limit"),
            (CommandError::Conflict, 409, "conflict"),
            (CommandError::KeyReused, 422, "idempotency_key_reused"),
            (CommandError::Overloaded, 503, "overloaded"),
            (CommandError::Deadline, 503, "unavailable"),
            (CommandError::Store(away()), 503, "unavailable"),
            (
                CommandError::Store(StoreError::NotPrepared),
                503,
                "unavailable",
            ),
            (CommandError::Store(broken()), 500, "internal"),
            (CommandError::Panicked, 500, "internal"),
        ];
        for (error, status, name) in table {
            let answer = ApiError::from(error);
            assert_eq!(answer.status_code(), status, "{name}");
            assert_eq!(answer.problem.code.name(), name);
            assert!(
                !answer.to_string().contains("canary"),
                "nothing of ours is told"
            );
        }
    }

    #[test]
    fn what_is_refused_for_a_while_says_how_long() {
        let retry_after = Duration::from_millis(1_500);
        let answer = ApiError::from(CommandError::LoginLimit { retry_after }).error_response();
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers().get("retry-after").unwrap(), "2");
    }
}
