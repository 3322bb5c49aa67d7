//! What every request passes through: a span with its id in the log and one in its trace, metrics by
//! route, headers that harden answers, and a limit on the size of its headers.
//!
//! By hand and not by tracing-actix-web, whose spans carry what callers wrote (paths, user agents).

use std::collections::BTreeSet;

use actix_web::body::{self, BodySize, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderValue;
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::{DefaultHeaders, Next};
use actix_web::web::Data;
use actix_web::{Error, ResponseError};
use metrics::SharedString;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field};

use crate::contract::trace_parent::TraceParent;
use crate::runtime::metric_rows::{HTTP_DURATION, HTTP_REQUESTS};
use crate::runtime::metric_table::UNMATCHED;
use crate::runtime::telemetry::Measured;
use crate::web::access_log;
use crate::web::gateway_errors;
use crate::web::problem::{Code, Problem};
use crate::web::request_id::{self, REQUEST_ID};
use crate::web::server_span::{self, ServerSpan};

/// The largest head of a request that is looked at: names and values of its headers, in bytes.
pub const MAX_HEADERS: usize = 16 * 1024;

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Begins the faults and the durations of every route at 0, so that `increase()` sees the first.
pub(super) fn begin_at_zero(measured: &Measured) {
    let statuses = Code::ALL.iter().map(|code| code.status());
    let faults: BTreeSet<_> = statuses.filter(|it| it.is_server_error()).collect();
    for (method, path) in &measured.routes {
        drop(HTTP_DURATION.of([*path, *method]));
        for status in &faults {
            let series = [*path, method, status.as_str()].map(str::to_owned);
            HTTP_REQUESTS.of(series).increment(0);
        }
    }
}

/// The outermost middleware. Labels: `route` (the pattern), `method`, `status`: closed sets.
pub async fn request_telemetry(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody, body::None>>, Error> {
    let id = request_id::of(&request);
    let route = request
        .match_pattern()
        .unwrap_or_else(|| UNMATCHED.to_owned());
    // What a page tells of is in the gateway's log, and whoever asks for one must not look like a
    // fault of ours.
    let is_page = gateway_errors::is_page(request.method(), request.path());
    let (method, is_head) = (
        method_label(request.method()),
        request.method() == Method::HEAD,
    );
    let caller = server_span::caller(request.headers());
    let traced = if is_page {
        ServerSpan::none()
    } else {
        ServerSpan::begin(&request, caller)
    };
    traced.asks(&request, (method, &route, &id));
    let trace = traced.told().or(caller).map(TraceParent::trace_id);
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        http.method = method,
        http.route = %route,
        actor = field::Empty,
        trace.id = trace,
    );
    let mut line = access_log::Request::begin(span.clone(), &route);
    let served = request_id::scope(id.clone(), trace, next.call(request)).instrument(span);
    let served = line.serve(traced.around(served)).await;
    // Handlers' errors are answers by now; what is left are faults of other middleware.
    let mut response = served?;
    let took = traced.within(|| line.answered(response.status()));
    traced.answered(response.status(), line.actor());
    let status = response.status().as_u16().to_string();
    if !is_page {
        let (route, method) = (SharedString::from(route), SharedString::from(method));
        let answered = [route.clone(), method.clone(), status.into()];
        HTTP_REQUESTS.of(answered).increment(1);
        HTTP_DURATION.of([route, method]).record(took.as_secs_f64());
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    Ok(response.map_body(|_, sent| {
        // The server sends no body to a HEAD, but would wait for the end of a stream.
        if is_head && sent.size() == BodySize::Stream {
            EitherBody::right(body::None::new())
        } else {
            EitherBody::left(sent)
        }
    }))
}

/// Fires when the process begins to end.
#[derive(Clone, Debug)]
pub struct Draining(pub CancellationToken);

/// Makes every answer of a process that is asked to stop the last of its connection. A gateway then
/// keeps none on which it could send a command at the moment when the process closes it: such a
/// command may have been carried out, so nobody can send it again.
pub async fn last_answers<B: MessageBody>(
    draining: Data<Draining>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let mut response = next.call(request).await?;
    if draining.0.is_cancelled() {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Refuses requests whose headers are too large, before any other code reads them.
pub async fn limit_header_size(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody>>, Error> {
    let headers = request.headers().iter();
    let size: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if size > MAX_HEADERS {
        let detail = format!("headers have at most {MAX_HEADERS} bytes together");
        let problem = Problem::new(Code::HeadersTooLarge, detail).error_response();
        return Ok(request.into_response(problem).map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// Adds headers to every answer that does not have them: browsers must not show it in a frame or
/// guess another media type, and caches must not keep it.
pub fn security_headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add(("x-content-type-options", "nosniff"))
        .add(("x-frame-options", "DENY"))
        .add(("referrer-policy", "no-referrer"))
        .add((
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ))
        .add(("cache-control", "no-store"))
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::http::header::ALLOW;
    use actix_web::middleware::from_fn;
    use actix_web::{App, HttpResponse, test, web};

    use super::*;
    use crate::web::routing::get_only;

    #[actix_web::test]
    async fn what_answers_get_answers_head_and_waits_for_no_stream() {
        let whole = || async { "whole" };
        let endless = || async {
            let never = futures_util::stream::pending::<Result<web::Bytes, Error>>();
            HttpResponse::Ok().streaming(never)
        };
        let app = App::new()
            .wrap(from_fn(request_telemetry))
            .service(get_only("/whole", web::to(whole)))
            .service(get_only("/endless", web::to(endless)));
        let app = test::init_service(app).await;
        let call = async |method: Method, path| {
            let request = test::TestRequest::with_uri(path).method(method);
            test::call_service(&app, request.to_request()).await
        };
        let answer = call(Method::HEAD, "/whole").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.response().body().size(), BodySize::Sized(5));
        let answer = call(Method::HEAD, "/endless").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.response().body().size(), BodySize::None);
        let answer = call(Method::PUT, "/whole").await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers().get(ALLOW).unwrap(), "GET, HEAD");
    }

    #[actix_web::test]
    async fn answers_are_the_last_of_their_connections_once_it_is_to_stop() {
        let draining = CancellationToken::new();
        let app = App::new()
            .app_data(Data::new(Draining(draining.clone())))
            .wrap(from_fn(last_answers))
            .route("/", web::get().to(|| async { "answer" }));
        let app = test::init_service(app).await;
        for stopping in [false, true] {
            if stopping {
                draining.cancel();
            }
            let request = test::TestRequest::default().to_request();
            let answer = test::call_service(&app, request).await;
            let head = answer.response().head();
            let closes = head.connection_type() == ConnectionType::Close;
            assert_eq!(closes, stopping);
        }
    }
}
