//! What every request of either service passes through: a request id, metrics by route, headers
//! that harden answers, and error bodies for all that frameworks answer in plain text.

use std::time::Instant;

use actix_web::body::{self, BodySize, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::{PathError, QueryPayloadError};
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, Resource, ResponseError, Route, guard, web};
use metrics::{Label, counter, histogram};
use tracing::Instrument;

use crate::problem::{Code, Problem};
use crate::request_id::{self, REQUEST_ID};

/// The largest request body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;
/// The largest head of a request that is looked at: names and values of its headers, in bytes.
pub const MAX_HEADERS: usize = 16 * 1024;
/// The route label of a request that no route matches: one series, whatever the path.
const UNMATCHED: &str = "unmatched";

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

/// The outermost middleware. Labels: `route` (the pattern), `method`, `status`: closed sets.
pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody, body::None>>, Error> {
    let started = Instant::now();
    let id = request_id::of(&request);
    let route = request
        .match_pattern()
        .unwrap_or_else(|| UNMATCHED.to_owned());
    let (method, is_head) = (
        method_label(request.method()),
        request.method() == Method::HEAD,
    );
    let span =
        tracing::info_span!("request", request.id = %id, http.method = method, http.route = %route);
    // Handlers' errors are answers by now; what is left are faults of other middleware.
    let served = request_id::scope(id.clone(), next.call(request));
    let mut response = served.instrument(span).await?;
    let labels = vec![
        Label::new("route", route),
        Label::new("method", method),
        Label::new("status", response.status().as_u16().to_string()),
    ];
    counter!("http_requests_total", labels.clone()).increment(1);
    histogram!("http_request_duration_seconds", labels).record(started.elapsed().as_secs_f64());
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    if !headers.contains_key("cache-control") {
        let value = HeaderValue::from_static("no-store");
        headers.insert(HeaderName::from_static("cache-control"), value);
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

/// Refuses requests with more headers than anybody needs, before anything looks at them.
pub async fn bound_headers(
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

/// A resource that answers any other method with 405 and `Allow`. What answers GET answers HEAD:
/// the server leaves the body out.
pub fn resource<const N: usize>(path: &str, routes: [(Method, Route); N]) -> Resource {
    let allow = routes
        .iter()
        .map(|(method, _)| match *method {
            Method::GET => "GET, HEAD",
            _ => method.as_str(),
        })
        .collect::<Vec<_>>()
        .join(", ");
    let mut resource = web::resource(path);
    for (method, route) in routes {
        resource = resource.route(if method == Method::GET {
            route.guard(guard::Any(guard::Get()).or(guard::Head()))
        } else {
            route.method(method)
        });
    }
    resource.default_service(web::to(move || {
        let allow = allow.clone();
        async move {
            let detail = format!("this path answers {allow}");
            let mut response = Problem::new(Code::MethodNotAllowed, detail).error_response();
            if let Ok(value) = HeaderValue::from_str(&allow) {
                response.headers_mut().insert(ALLOW, value);
            }
            response
        }
    }))
}

/// Answers for paths that no resource has.
pub async fn no_such_path() -> HttpResponse {
    Problem::new(Code::NotFound, "no such path").error_response()
}

/// Path segments that are not what the route wants name nothing that exists.
pub fn path_config() -> web::PathConfig {
    web::PathConfig::default().error_handler(|error, _| {
        #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
        let detail = match error {
            PathError::Deserialize(fault) => format!("the path is not valid: {fault}"),
            _ => "the path is not valid".to_owned(),
        };
        Problem::new(Code::Invalid, detail).into()
    })
}

/// The answer to a query string that is not what the route wants.
pub fn bad_query(error: &QueryPayloadError) -> Problem {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
    let detail = match error {
        QueryPayloadError::Deserialize(fault) => format!("the query is not valid: {fault}"),
        _ => "the query is not valid".to_owned(),
    };
    Problem::new(Code::Invalid, detail)
}

/// The bearer token of a request, if it has one.
pub fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether an answer says that somebody should look: metrics and logs count these.
pub fn is_fault(status: StatusCode) -> bool {
    status.is_server_error()
}

#[cfg(test)]
mod tests {
    use actix_web::middleware::from_fn;
    use actix_web::{App, test};

    use super::*;

    #[actix_web::test]
    async fn what_answers_get_answers_head_and_waits_for_no_stream() {
        let whole = || async { "whole" };
        let endless = || async {
            let never = futures_util::stream::pending::<Result<web::Bytes, Error>>();
            HttpResponse::Ok().streaming(never)
        };
        let app = App::new()
            .wrap(from_fn(observe))
            .service(resource("/whole", [(Method::GET, web::to(whole))]))
            .service(resource("/endless", [(Method::GET, web::to(endless))]));
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
}
