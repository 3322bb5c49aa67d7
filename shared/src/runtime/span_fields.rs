//! What a layer of the log keeps of spans: their fields, each layer in a form of its own.

use tracing::Event;
use tracing::Subscriber;
use tracing::field::Visit;
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// A span begins: its fields are kept with it.
pub fn begin<F, S>(attributes: &Attributes<'_>, id: &Id, context: &Context<'_, S>)
where
    F: Visit + Default + Send + Sync + 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if let Some(span) = context.span(id) {
        let mut fields = F::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }
}

/// A span learns more of itself.
pub fn record<F, S>(id: &Id, values: &Record<'_>, context: &Context<'_, S>)
where
    F: Visit + 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if let Some(span) = context.span(id)
        && let Some(fields) = span.extensions_mut().get_mut::<F>()
    {
        values.record(fields);
    }
}

/// The fields of all spans around a line, from the innermost on: what a part says of itself holds,
/// not what the whole says.
pub fn around<F, S>(event: &Event<'_>, context: &Context<'_, S>, mut take: impl FnMut(&F))
where
    F: 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    for span in context.event_scope(event).into_iter().flatten() {
        if let Some(fields) = span.extensions().get::<F>() {
            take(fields);
        }
    }
}
