//! Sends spans and log lines by OTLP: protobuf over HTTP.
//!
//! * `queue`: what waits to be sent, bounded: what does not fit is counted and lost.
//! * `exporter`: a thread that sends it, and says when that begins to fail and when it works again.
//! * `log_lines`: a layer of the log that makes records of its lines.
//!
//! Nobody waits for any of it: neither a request nor a fold, and the end of a process for two
//! seconds at most. The SDK makes the spans and decides which are recorded; what carries them away
//! is ours, because the SDK's own processor neither counts what it loses nor tells whether what it
//! sent has arrived.

mod exporter;
mod log_lines;
mod queue;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler as SdkSampler, SdkTracerProvider, Span, SpanData, SpanProcessor,
};
use prost::Message;
use tracing::warn;

use self::exporter::Exporter;
pub use self::log_lines::{LogLines, SENDERS};
use self::queue::{Queue, Waits};
use crate::runtime::settings::{OtlpSettings, RootSampler, Sampler, VERSION};
use crate::runtime::trace;

/// Spans that wait: about a kilobyte each.
const MOST_SPANS: usize = 4_096;
const MOST_LINES: usize = 8_192;
/// The end of a process waits so long for the last of them.
const LAST: Duration = Duration::from_secs(2);

/// The queues of this process.
static QUEUES: OnceLock<Vec<Arc<dyn Waits>>> = OnceLock::new();

/// Begins to send what `settings` say, for the process `service` that calls itself `instance`. The
/// log's layer, where its lines are sent.
pub fn begin(settings: &OtlpSettings, service: &str, instance: &str) -> Option<LogLines> {
    let mut queues: Vec<Arc<dyn Waits>> = Vec::new();
    let resource = resource(settings, service, instance);
    let told = ResourceAttributesWithSchema::from(&resource);
    if let Some(url) = &settings.traces {
        let queue = Arc::new(Queue::new("traces", MOST_SPANS));
        let attributes = ResourceAttributesWithSchema::from(&resource);
        let encode = move |spans: Vec<SpanData>| {
            let resource_spans = group_spans_by_resource_and_scope(spans, &attributes);
            ExportTraceServiceRequest { resource_spans }.encode_to_vec()
        };
        Exporter::new(url, &settings.traces_headers).start(queue.clone(), encode);
        // All limits: the SDK reads each that it is not told from the environment.
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler(settings.sampler))
            .with_max_attributes_per_span(MOST_ATTRIBUTES)
            .with_max_events_per_span(MOST_ATTRIBUTES)
            .with_max_attributes_per_event(MOST_ATTRIBUTES)
            .with_max_links_per_span(MOST_LINKS)
            .with_max_attributes_per_link(MOST_ATTRIBUTES)
            .with_resource(resource)
            .with_span_processor(Hand(queue.clone()))
            .build();
        trace::begin(&provider, settings.sampler.parent_based);
        queues.push(queue);
    }
    let mut lines = None;
    if let Some(url) = &settings.logs {
        let queue = Arc::new(Queue::new("logs", MOST_LINES));
        let encode = move |records| request(records, &told).encode_to_vec();
        Exporter::new(url, &settings.logs_headers).start(queue.clone(), encode);
        lines = Some(LogLines::new(queue.clone()));
        queues.push(queue);
    }
    // The first start of a process holds, as with its log.
    let _ = QUEUES.set(queues);
    lines
}

/// Spans that a batch of the fold may be about: one for each of its messages.
const MOST_LINKS: u32 = 512;
/// The specification's default, and far above what any span of ours has.
const MOST_ATTRIBUTES: u32 = 128;

/// Sends what is left and ends; gives up if the receiver takes too long. Blocks: for a process that
/// has nothing else to do.
pub fn finish() {
    let Some(queues) = QUEUES.get() else { return };
    let until = Instant::now() + LAST;
    for queue in queues {
        queue.close();
    }
    for queue in queues {
        let left = queue.wait_until_empty(until);
        if left > 0 {
            warn!(
                signal = queue.signal(),
                left, "OTLP: the last of the process were not taken within {LAST:?}"
            );
        }
    }
}

/// Which process it is.
fn resource(settings: &OtlpSettings, service: &str, instance: &str) -> Resource {
    let name = settings.service_name.as_deref().unwrap_or(service);
    let more = settings.resource.iter();
    let more = more.map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    // The last one wins: as the specification has it, OTEL_SERVICE_NAME over the attributes.
    let attributes = [
        KeyValue::new("service.instance.id", instance.to_owned()),
        KeyValue::new("service.version", VERSION),
        KeyValue::new("service.namespace", "microblog"),
    ];
    let mut all: Vec<KeyValue> = attributes.into_iter().chain(more).collect();
    let is_named = settings.service_name.is_some();
    if is_named || !all.iter().any(|it| it.key.as_str() == "service.name") {
        all.push(KeyValue::new("service.name", name.to_owned()));
    }
    all.push(KeyValue::new("telemetry.sdk.language", "rust"));
    all.push(KeyValue::new("telemetry.sdk.name", "opentelemetry"));
    Resource::builder_empty().with_attributes(all).build()
}

fn sampler(sampler: Sampler) -> SdkSampler {
    let root = match sampler.root {
        RootSampler::AlwaysOn => SdkSampler::AlwaysOn,
        RootSampler::AlwaysOff => SdkSampler::AlwaysOff,
        RootSampler::Ratio(ratio) => SdkSampler::TraceIdRatioBased(ratio),
    };
    if sampler.parent_based {
        SdkSampler::ParentBased(Box::new(root))
    } else {
        root
    }
}

fn request(
    log_records: Vec<LogRecord>,
    resource: &ResourceAttributesWithSchema,
) -> ExportLogsServiceRequest {
    let resource = opentelemetry_proto::tonic::resource::v1::Resource {
        attributes: resource.attributes.0.clone(),
        ..Default::default()
    };
    let scope = InstrumentationScope {
        name: "microblog".to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_logs = ScopeLogs {
        scope: Some(scope),
        log_records,
        ..ScopeLogs::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![scope_logs],
            ..ResourceLogs::default()
        }],
    }
}

/// Hands the spans that have ended to their queue.
#[derive(Debug)]
struct Hand(Arc<Queue<SpanData>>);

impl SpanProcessor for Hand {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
