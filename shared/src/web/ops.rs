//! The operator's port: `/livez`, `/readyz`, `/metrics`, `/keys`. Nothing internal is on the public one.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::json;

use crate::auth::keys_in_use::KeysInUse;
use crate::runtime::metric_rows::READY;
use crate::runtime::tasks::Tasks;
use crate::runtime::telemetry::{self, Measured};
use crate::web::middleware;
use crate::web::routing::{get_only, no_such_path};

/// Whether a process is ready: every condition must hold. Beside the conditions it keeps what is
/// degraded: background work that stands still while the process still answers requests.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<String, Result<(), String>>>>,
    degraded: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Readiness {
    fn conditions(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that something does not work, and why. The process stays ready; the body of
    /// `/readyz` lists it. `None` records that it works again.
    pub fn degrade(&self, what: impl Into<String>, why: Option<String>) {
        let mut degraded = self.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => degraded.insert(what.into(), why),
            None => degraded.remove(&what.into()),
        };
    }

    /// What is degraded, with the reason.
    pub fn degraded(&self) -> BTreeMap<String, String> {
        let degraded = self.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        degraded.clone()
    }

    /// Names a condition that does not hold yet.
    pub fn expect(&self, condition: impl Into<String>) {
        self.conditions()
            .insert(condition.into(), Err("not yet".to_owned()));
    }

    pub fn set(&self, condition: impl Into<String>, state: Result<(), String>) {
        self.conditions().insert(condition.into(), state);
    }

    /// The process shuts down: it is not ready from here on.
    pub fn withdraw(&self) {
        self.set("running", Err("shutting down".to_owned()));
    }

    /// The conditions that do not hold, with the reason.
    pub fn missing(&self) -> BTreeMap<String, String> {
        let conditions = self.conditions();
        let missing = conditions
            .iter()
            .filter_map(|(name, state)| Some((name, state.as_ref().err()?)));
        missing
            .map(|(name, why)| (name.clone(), why.clone()))
            .collect()
    }
}

/// The server of the operator's port. It outlives all else of the process, so that operators see
/// how that ends.
#[derive(Debug)]
pub struct OpsServer {
    handle: ServerHandle,
    tasks: Tasks,
}

impl OpsServer {
    /// Serves with one worker: probes must answer when the data path is saturated.
    pub fn start(
        listener: TcpListener,
        readiness: Readiness,
        keys: KeysInUse,
        measured: &Measured,
    ) -> std::io::Result<Self> {
        let metrics = telemetry::init_metrics(measured);
        middleware::begin_at_zero(measured);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(readiness.clone()))
                .app_data(web::Data::new(metrics.clone()))
                .app_data(web::Data::new(keys.clone()))
                .service(get_only("/livez", web::to(live)))
                .service(get_only("/readyz", web::to(ready)))
                .service(get_only("/metrics", web::to(render)))
                .service(get_only("/keys", web::to(keys_in_use)))
                .default_service(web::to(no_such_path))
        });
        let server = server.workers(1).disable_signals().listen(listener)?.run();
        let (handle, tasks) = (server.handle(), Tasks::default());
        tasks.run(server);
        Ok(Self { handle, tasks })
    }

    /// Ends it at once.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        self.tasks.stop_and_join(Duration::from_secs(1)).await;
    }
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "live" }))
}

async fn ready(readiness: web::Data<Readiness>) -> HttpResponse {
    let (missing, degraded) = (readiness.missing(), readiness.degraded());
    let status = match (missing.is_empty(), degraded.is_empty()) {
        (false, _) => "not ready",
        (true, false) => "degraded",
        (true, true) => "ready",
    };
    let mut body = json!({ "status": status });
    if !missing.is_empty() {
        body["missing"] = json!(missing);
    }
    if !degraded.is_empty() {
        body["degraded"] = json!(degraded);
    }
    if missing.is_empty() {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

/// Ids alone: fingerprints of what is published anyway.
async fn keys_in_use(keys: web::Data<KeysInUse>) -> HttpResponse {
    HttpResponse::Ok().json(keys.ids())
}

async fn render(
    metrics: web::Data<metrics_exporter_prometheus::PrometheusHandle>,
    readiness: web::Data<Readiness>,
) -> HttpResponse {
    let is_ready = readiness.missing().is_empty();
    READY.only().set(f64::from(u8::from(is_ready)));
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(telemetry::render(&metrics))
}
