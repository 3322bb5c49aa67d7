//! Spans: what the hops of a trace are called, and how one is a part of another.
//!
//! Few and by hand, beside the log's spans and not through them: a span of the log is made for each
//! request, whether its trace is recorded or not. Here nothing is made unless it will be sent: off,
//! a [`Span`] holds nothing; in a trace that is not recorded only the request's has an identity, so
//! that what it leads to is not recorded either.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context as Waker, Poll};
use std::time::SystemTime;

use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use pin_project_lite::pin_project;

use crate::contract::trace_parent::TraceParent;

/// Where spans are made: empty while tracing is off.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();
/// Whether the caller's flag decides; else its trace id does.
static PARENT_BASED: OnceLock<bool> = OnceLock::new();

/// As much of `tracestate` is kept with a span as W3C has everybody keep at least; of what is
/// longer, nothing.
const MOST_STATE: usize = 512;

/// From here on spans are made. The first provider of a process holds.
pub(super) fn begin(provider: &SdkTracerProvider, parent_based: bool) {
    let _ = PARENT_BASED.set(parent_based);
    let _ = TRACER.set(provider.tracer("microblog"));
}

/// Whether this caller could have its request recorded: by its flag; or, where the sampler does not
/// ask for that, by the trace id that it has chosen, of which the sampler sees the last eight bytes.
pub fn is_asked_for(caller: TraceParent) -> bool {
    is_on() && (caller.sampled || PARENT_BASED.get() == Some(&false))
}

/// Whether anything is traced in this process.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// What a span does, seen from its trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Asks another program, and waits.
    Client,
    /// Hands something to others, who take it later.
    Producer,
    /// Takes what a producer has handed over.
    Consumer,
    Internal,
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Server => Self::Server,
            Kind::Client => Self::Client,
            Kind::Producer => Self::Producer,
            Kind::Consumer => Self::Consumer,
            Kind::Internal => Self::Internal,
        }
    }
}

/// The span of the work at hand, for whoever goes on with it; `None` where nothing is traced.
pub fn current() -> Option<TraceParent> {
    is_on().then(|| Context::map_current(told)).flatten()
}

fn told(context: &Context) -> Option<TraceParent> {
    let span = context.span();
    let span = span.span_context();
    let trace = u128::from_be_bytes(span.trace_id().to_bytes());
    let id = u64::from_be_bytes(span.span_id().to_bytes());
    TraceParent::new(trace, id, span.is_sampled())
}

/// Whether its parts are recorded as well: also after it has ended, since work goes on when whoever
/// asked for it has gone.
fn is_recorded(context: &Context) -> bool {
    context.span().span_context().is_sampled()
}

/// A span of another process, or of another time.
fn remote(parent: TraceParent, state: TraceState) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(parent.sampled);
    let (trace, span) = (TraceId::from(parent.trace()), SpanId::from(parent.span()));
    SpanContext::new(trace, span, flags, true, state)
}

/// When something begins that may get a span later.
#[expect(
    clippy::disallowed_methods,
    reason = "spans of several processes are laid beside each other by the time of day"
)]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// A piece of work. Dropped, it has ended, whoever still works within it. Where nothing is recorded,
/// all of its methods do nothing.
#[derive(Debug, Default)]
#[must_use = "it ends when it is dropped"]
pub struct Span(Option<Context>);

impl Span {
    /// The span of a request, in its caller's trace or the first of a new one. It has an identity
    /// even where it is not recorded.
    pub fn of_request(caller: Option<TraceParent>, state: Option<&str>) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self::default();
        };
        let parent = caller.map_or_else(Context::new, |caller| {
            let state = state.filter(|text| text.len() <= MOST_STATE);
            let state = state.and_then(|text| text.parse().ok()).unwrap_or_default();
            Context::new().with_remote_span_context(remote(caller, state))
        });
        let builder = SpanBuilder::from_name("request").with_kind(SpanKind::Server);
        let span = tracer.build_with_context(builder, &parent);
        Self(Some(parent.with_span(span)))
    }

    /// Of a request that is not recorded, whatever its caller asks for: it leads to nothing that is.
    /// Its trace stays the caller's.
    pub fn unrecorded(mut caller: TraceParent) -> Self {
        caller.sampled = false;
        let caller = remote(caller, TraceState::default());
        Self(is_on().then(|| Context::new().with_remote_span_context(caller)))
    }

    /// The first of a new trace, for what nobody has asked for by HTTP.
    pub fn root(name: &'static str) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self::default();
        };
        let builder = SpanBuilder::from_name(name);
        let span = tracer.build_with_context(builder, &Context::new());
        Self(Some(Context::new().with_span(span)))
    }

    /// A part of the work at hand, where that is recorded.
    pub fn part(kind: Kind, name: &'static str) -> Self {
        if !is_on() {
            return Self::default();
        }
        let parent = Context::map_current(|at| is_recorded(at).then(|| at.clone()));
        parent.map_or_else(Self::default, |parent| {
            Self::begin(&parent, kind, name.into(), None)
        })
    }

    /// What another process has begun goes on here, since `began` or now, where that is recorded.
    pub fn after(
        parent: TraceParent,
        kind: Kind,
        name: impl Into<Cow<'static, str>>,
        began: Option<SystemTime>,
    ) -> Self {
        if !parent.sampled {
            return Self::default();
        }
        let parent = remote(parent, TraceState::default());
        let parent = Context::new().with_remote_span_context(parent);
        Self::begin(&parent, kind, name.into(), began)
    }

    fn begin(
        parent: &Context,
        kind: Kind,
        name: Cow<'static, str>,
        began: Option<SystemTime>,
    ) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self::default();
        };
        let mut builder = SpanBuilder::from_name(name).with_kind(kind.into());
        builder.start_time = began;
        let span = tracer.build_with_context(builder, parent);
        // A sampler that does not ask its parent may still say no.
        let context = parent.with_span(span);
        Self(context.span().is_recording().then_some(context.clone()))
    }

    /// Whether it is recorded. If not, nobody need compute what it would say.
    pub fn is_recorded(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|context| context.span().is_recording())
    }

    /// Names it anew: what it is is known only now.
    pub fn is_called(&self, name: String) {
        self.on(|context| context.span().update_name(name));
    }

    /// Says something of it. Never content, an address, or a path with ids.
    pub fn says(&self, attribute: &'static str, value: impl Into<Value>) {
        self.on(|context| {
            let value = KeyValue::new(attribute, value);
            context.span().set_attribute(value);
        });
    }

    /// It failed: what kind of failure, one of few.
    pub fn fails(&self, kind: impl Into<Value>) {
        self.on(|context| {
            let span = context.span();
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(""));
        });
    }

    /// Names a span of another trace that it is about.
    pub fn links(&self, to: TraceParent) {
        let to = remote(to, TraceState::default());
        self.on(|context| context.span().add_link(to, Vec::new()));
    }

    fn on(&self, act: impl FnOnce(&Context)) {
        if let Some(context) = &self.0 {
            act(context);
        }
    }

    /// For whoever goes on with it; `None` where it has no identity.
    pub fn told(&self) -> Option<TraceParent> {
        self.0.as_ref().and_then(told)
    }

    /// Does the work as this span's: what it calls can be parts of it.
    pub fn around<F: Future>(&self, work: F) -> Within<F> {
        Within {
            work,
            context: self.0.clone(),
        }
    }

    /// The same for what does not wait.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        let _within = self.0.clone().map(Context::attach);
        act()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.on(|context| context.span().end());
    }
}

/// Does the work as a part of the work at hand; its error is the span's.
pub async fn part<T, E>(
    kind: Kind,
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let span = Span::part(kind, name);
    let outcome = span.around(work).await;
    if outcome.is_err() {
        span.fails("failed");
    }
    outcome
}

/// Has a task of its own belong to the work at hand.
pub fn carry<F: Future>(work: F) -> Within<F> {
    Within {
        work,
        context: is_on().then(Context::current),
    }
}

pin_project! {
    /// Work within a span, or within none.
    #[derive(Debug)]
    pub struct Within<F> {
        #[pin]
        work: F,
        context: Option<Context>,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, waker: &mut Waker<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _within = this.context.clone().map(Context::attach);
        this.work.poll(waker)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::Sampler;

    use super::*;

    fn span(sampler: Sampler) -> Context {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let tracer = provider.tracer("test");
        let span = tracer.build_with_context(SpanBuilder::from_name("span"), &Context::new());
        Context::new().with_span(span)
    }

    #[test]
    fn what_goes_on_after_a_recorded_span_has_ended_is_recorded() {
        let recorded = span(Sampler::AlwaysOn);
        assert!(is_recorded(&recorded));
        recorded.span().end();
        assert!(is_recorded(&recorded) && !recorded.span().is_recording());
        assert!(!is_recorded(&span(Sampler::AlwaysOff)));
        assert!(!is_recorded(&Context::new()));
    }
}
