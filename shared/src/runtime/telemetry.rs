//! Logs and metrics, and the beginning of traces.

use std::io::{BufWriter, IsTerminal};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Subscriber, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::runtime::json_lines::JsonLines;
use crate::runtime::metric_rows;
use crate::runtime::metric_table::Row;
use crate::runtime::otlp;
use crate::runtime::refused_lines::{CountRefused, Refused};
use crate::runtime::settings::{LogFormat, Settings, VERSION};

/// The commit that was built, where the build was told.
const REVISION: &str = match option_env!("MICROBLOG_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// They log an error for each connection that a live stream breaks off, as it means to, and for
/// each peer that speaks no HTTP; and what the server is made of, where we say what it is.
const QUIET: [&str; 3] = [
    "actix_server=warn",
    "actix_http::h1::dispatcher=off",
    "actix_http::h2::dispatcher=off",
];

/// Lines of JSON that wait to be written; of a request, one has some 400 bytes.
const LINES_WAITING: usize = 16 * 1024;

/// How many lines did not fit, and how many standard error did not take.
static LOST: OnceLock<(ErrorCounter, Refused)> = OnceLock::new();
static REST: Mutex<Option<WorkerGuard>> = Mutex::new(None);

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Logs to standard error, so that standard output is a command's own; and, where the settings say
/// so, sends log lines and spans by OTLP. As JSON, every field stands at the top of its line, those
/// of the request as well, so that `| json | request_id="…"` finds a request's lines.
pub fn init(service: &str, settings: &Settings) {
    let instance = instance();
    let lines = otlp::begin(&settings.otlp, service, &instance);
    let filter = &settings.log_filter;
    let lines = lines.map(|lines| lines.with_filter(filter_of(filter, &otlp::SENDERS)));
    let registry = tracing_subscriber::registry().with(lines);
    // Tests start several services in one process: the first one's choice holds.
    let _ = match settings.log_format {
        LogFormat::Json => {
            let lines = JsonLines::new(written(), service, &instance, VERSION);
            registry
                .with(lines.with_filter(filter_of(filter, &[])))
                .try_init()
        }
        LogFormat::Pretty => registry.with(pretty(filter)).try_init(),
    };
    let otlp = &settings.otlp;
    let is_sent = otlp.traces.is_some() || otlp.logs.is_some();
    if is_sent && !otlp.unread.is_empty() {
        let names = otlp.unread.join(", ");
        warn!(
            names,
            "OTLP: these variables have no effect here, see docs/settings.md: {names}"
        );
    }
}

/// Standard error, written to by a thread of its own: a reader who is slow, or stands still, holds no
/// request up. What does not fit is counted, as is what it does not take: its disk may be full.
/// [`finish`] waits for the rest.
fn written() -> NonBlocking {
    let refused = Refused::default();
    let lines = BufWriter::new(std::io::stderr());
    let (written, rest) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_WAITING)
        .thread_name("log")
        .finish(CountRefused::new(lines, refused.clone()));
    // Nothing else sets them.
    let _ = LOST.set((written.error_counter(), refused));
    *REST.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    written
}

/// Writes the lines that wait, for a second at most. Lines after that are lost.
pub fn finish() {
    drop(REST.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// The log of a test that runs parts of a service.
pub fn init_test_log(filter: &str) {
    let _ = tracing_subscriber::registry()
        .with(pretty(filter))
        .try_init();
}

/// Lines for people.
fn pretty<S: Subscriber + for<'a> LookupSpan<'a>>(filter: &str) -> impl Layer<S> {
    tracing_subscriber::fmt::layer()
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_filter(filter_of(filter, &[]))
}

fn filter_of(filter: &str, more_quiet: &[&str]) -> EnvFilter {
    let mut filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    for quiet in QUIET.iter().chain(more_quiet) {
        if let Ok(directive) = quiet.parse() {
            filter = filter.add_directive(directive);
        }
    }
    filter
}

/// This process among all: its host (in a container, the container) and its number there.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "localhost",
        host => host,
    };
    format!("{host}:{}", std::process::id())
}

/// What a service measures, beside what both do.
#[derive(Clone, Debug)]
pub struct Measured {
    pub service: &'static str,
    /// What this process does of it.
    pub role: &'static str,
    pub rows: &'static [&'static Row],
    /// Method and path of each route.
    pub routes: Vec<(&'static str, &'static str)>,
    pub partitions: u16,
}

impl Measured {
    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        metric_rows::ROWS.iter().chain(self.rows).copied()
    }

    /// Describes everything, and begins every counter at 0 whose series are known.
    fn begin(&self) {
        for row in self.rows() {
            row.describe();
            row.begin_at_zero(self.partitions);
        }
        let build = [self.service, self.role, VERSION, REVISION];
        metric_rows::BUILD.of(build).set(1.0);
        metrics_process::Collector::default().describe();
    }
}

/// Installs the recorder once for the process, with the buckets of the first service; then says
/// what `measured` measures.
pub fn init_metrics(measured: &Measured) -> PrometheusHandle {
    let handle = METRICS
        .get_or_init(|| {
            let mut builder = PrometheusBuilder::new();
            for row in measured.rows().filter(|row| !row.buckets.is_empty()) {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(row.name.to_owned()), row.buckets)
                    .expect("the buckets are not empty");
            }
            let handle = builder
                .install_recorder()
                .expect("no other recorder is installed in this process");
            let upkeep = handle.clone();
            // Histograms grow until they are drained, and a process may not be scraped.
            let _ = std::thread::Builder::new()
                .name("metrics-upkeep".into())
                .spawn(move || {
                    loop {
                        std::thread::sleep(Duration::from_secs(5));
                        upkeep.run_upkeep();
                    }
                });
            handle
        })
        .clone();
    measured.begin();
    handle
}

/// All metrics by now, as Prometheus reads them.
pub fn render(handle: &PrometheusHandle) -> String {
    metrics_process::Collector::default().collect();
    if let Some((dropped, refused)) = LOST.get() {
        let dropped = u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX);
        let lost = dropped.saturating_add(refused.lines());
        metric_rows::LOG_LOST.only().absolute(lost);
    }
    handle.render()
}
