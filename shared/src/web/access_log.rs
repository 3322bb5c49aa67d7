//! One line for each request, when it is answered or its client has gone.
//!
//! It says the pattern of the route and never the path, the query or a body: those hold what people
//! write. Who has no account cannot fill the log: of requests without an access token that was
//! accepted, so many are told a second, counted apart for answers, for what callers got wrong and for
//! our own faults, so that a flood of one hides none of the others. What is left out is in a metric,
//! and in the next line that is told.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use tracing::{Span, debug, info};

use crate::auth::token::KEY_SET;
use crate::contract::ids::UserId;
use crate::runtime::metric_rows::{HTTP_ABANDONED, HTTP_IN_FLIGHT, LOG_LEFT_OUT};
use crate::web::bound::Bound;

/// Lines a second of requests that nobody with an account has sent, for each class.
const LINES_PER_SECOND: u32 = 20;
/// As many at once, after a quiet time.
const BURST: u32 = 200;

tokio::task_local! {
    static ACTOR: Rc<Cell<Option<UserId>>>;
}

/// The request at work is this user's: its access token was accepted.
pub fn acts(user: UserId) {
    // Outside a request there is no line to write.
    let _ = ACTOR.try_with(|actor| actor.set(Some(user)));
    Span::current().record("actor", tracing::field::display(user));
}

/// A request that is not answered yet.
pub(super) struct Request {
    began: Instant,
    span: Span,
    /// Who sent it, once that is known.
    actor: Rc<Cell<Option<UserId>>>,
    /// Services ask it of each other all the time: told at `debug` where nothing is wrong.
    is_routine: bool,
    answered: bool,
}

impl Request {
    /// `span` is that of the request, `route` its pattern.
    pub(super) fn begin(span: Span, route: &str) -> Self {
        HTTP_IN_FLIGHT.only().increment(1.0);
        Self {
            began: Instant::now(),
            span,
            actor: Rc::default(),
            is_routine: route == KEY_SET,
            answered: false,
        }
    }

    /// Serves it, and learns who has sent it.
    pub(super) async fn serve<T>(&self, serve: impl Future<Output = T>) -> T {
        ACTOR.scope(self.actor.clone(), serve).await
    }

    pub(super) fn actor(&self) -> Option<UserId> {
        self.actor.get()
    }

    /// It is answered: how long that took.
    pub(super) fn answered(&mut self, status: StatusCode) -> Duration {
        self.answered = true;
        let took = self.began.elapsed();
        let Some(left_out) = turn(Class::of(status), self.actor()) else {
            return took;
        };
        // Divided last: nothing stands behind the third place.
        let millis = took.as_micros() as f64 / 1_000.0;
        let status = status.as_u16();
        self.span.in_scope(|| {
            if self.is_routine && status < 400 {
                debug!(target: "access", status, duration_ms = millis, left_out, "answered");
            } else {
                info!(target: "access", status, duration_ms = millis, left_out, "answered");
            }
        });
        took
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        HTTP_IN_FLIGHT.only().decrement(1.0);
        if self.answered {
            return;
        }
        HTTP_ABANDONED.only().increment(1);
        if let Some(left_out) = turn(Class::Abandoned, self.actor()) {
            let millis = self.began.elapsed().as_secs_f64() * 1_000.0;
            self.span.in_scope(|| {
                info!(target: "access", duration_ms = millis, left_out, "the client has gone");
            });
        }
    }
}

/// What is bounded apart.
#[derive(Clone, Copy)]
enum Class {
    Served,
    Rejected,
    Failed,
    Abandoned,
}

impl Class {
    fn of(status: StatusCode) -> Self {
        if status.is_server_error() {
            Self::Failed
        } else if status.is_client_error() {
            Self::Rejected
        } else {
            Self::Served
        }
    }
}

static BOUNDS: [Bound; 4] = [const { Bound::new(LINES_PER_SECOND, BURST) }; 4];

/// Whether a line is written: how many were left out since the last one of its class.
fn turn(class: Class, actor: Option<UserId>) -> Option<u64> {
    if !tracing::enabled!(target: "access", tracing::Level::INFO) {
        return None;
    }
    if actor.is_some() {
        return Some(0);
    }
    let turn = BOUNDS[class as usize].turn(Instant::now());
    if turn.is_none() {
        LOG_LEFT_OUT.only().increment(1);
    }
    turn
}
