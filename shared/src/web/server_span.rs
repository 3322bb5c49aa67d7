//! The span of a request, from the head of the request to the head of its answer: a live stream's
//! ends when the stream begins.
//!
//! Named by method and pattern of the route, with the attributes of OpenTelemetry's conventions for
//! HTTP; without those that repeat what callers write: the path, the query, the user agent.

use std::time::Instant;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::HeaderMap;
use actix_web::http::{StatusCode, Version};

use crate::contract::ids::UserId;
use crate::contract::trace_parent::{TRACEPARENT, TRACESTATE, TraceParent};
use crate::runtime::metric_table::UNMATCHED;
use crate::runtime::trace::{self, Span, Within};
use crate::web::bound::Bound;

/// Requests a second that are recorded because their callers ask for it. A command makes some ten
/// spans: these leave the queue room for what the relay and the fold make.
const ASKED_PER_SECOND: u32 = 50;
/// As many at once, after a quiet time.
const ASKED_AT_ONCE: u32 = 200;

static ASKED: Bound = Bound::new(ASKED_PER_SECOND, ASKED_AT_ONCE);

/// Which trace a request belongs to: of the span that serves it, or its caller's where nothing is
/// traced.
pub fn trace_of(headers: &HeaderMap) -> Option<TraceParent> {
    trace::current().or_else(|| caller(headers))
}

/// Which trace the caller says that its request belongs to. What W3C calls invalid is ignored, and
/// so are several.
pub(super) fn caller(headers: &HeaderMap) -> Option<TraceParent> {
    let mut given = headers.get_all(TRACEPARENT);
    let only = given.next().filter(|_| given.next().is_none())?;
    only.to_str().ok()?.parse().ok()
}

/// A request that is traced.
pub(super) struct ServerSpan {
    span: Span,
    /// The client has gone.
    abandoned: bool,
}

impl ServerSpan {
    /// Begins it, in the caller's trace if it has one. Anybody can ask to be recorded, before any
    /// limit of requests is looked at: beyond the bound, nobody is heard.
    pub(super) fn begin(request: &ServiceRequest, caller: Option<TraceParent>) -> Self {
        let state = request.headers().get(TRACESTATE);
        let state = state.filter(|_| caller.is_some());
        let state = state.and_then(|state| state.to_str().ok());
        let asks = caller.filter(|caller| trace::is_asked_for(*caller));
        let span = match asks.filter(|_| ASKED.turn(Instant::now()).is_none()) {
            Some(beyond) => Span::unrecorded(beyond),
            None => Span::of_request(caller, state),
        };
        Self {
            span,
            abandoned: true,
        }
    }

    /// A request that makes no span.
    pub(super) fn none() -> Self {
        Self {
            span: Span::default(),
            abandoned: false,
        }
    }

    /// Says what is asked for.
    pub(super) fn asks(&self, request: &ServiceRequest, (method, route, id): (&str, &str, &str)) {
        let span = &self.span;
        if !span.is_recorded() {
            return;
        }
        // Any word can stand in for a method; the conventions have a name for those.
        let (known, shown) = match method {
            "other" => ("_OTHER", "HTTP"),
            method => (method, method),
        };
        if route == UNMATCHED {
            span.is_called(shown.to_owned());
        } else {
            span.is_called(format!("{shown} {route}"));
            span.says("http.route", route.to_owned());
        }
        span.says("http.request.method", known.to_owned());
        span.says("url.scheme", "http");
        let version = if request.version() == Version::HTTP_10 {
            "1.0"
        } else {
            "1.1"
        };
        span.says("network.protocol.version", version);
        span.says("request.id", id.to_owned());
    }

    /// The trace that it belongs to; `None` where nothing is traced.
    pub(super) fn told(&self) -> Option<TraceParent> {
        self.span.told()
    }

    pub(super) fn around<F: Future>(&self, work: F) -> Within<F> {
        self.span.around(work)
    }

    pub(super) fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        self.span.within(act)
    }

    /// It is answered.
    pub(super) fn answered(mut self, status: StatusCode, actor: Option<UserId>) {
        self.abandoned = false;
        if !self.span.is_recorded() {
            return;
        }
        let code = i64::from(status.as_u16());
        self.span.says("http.response.status_code", code);
        if let Some(actor) = actor {
            self.span.says("user.id", actor.to_string());
        }
        if status.is_server_error() {
            self.span.fails(status.as_str().to_owned());
        }
    }
}

impl Drop for ServerSpan {
    fn drop(&mut self) {
        if self.abandoned {
            self.span.fails("client_gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_one_proper_traceparent_names_a_trace() {
        const PROPER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let of = |values: &[&str]| {
            let mut request = TestRequest::default();
            for value in values {
                request = request.append_header((TRACEPARENT, *value));
            }
            caller(request.to_srv_request().headers()).map(TraceParent::trace_id)
        };
        let trace = Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        assert_eq!(of(&[PROPER]), trace);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["everything"]), None);
        assert_eq!(of(&[PROPER, PROPER]), None);
    }
}
