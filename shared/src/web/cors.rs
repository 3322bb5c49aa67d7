//! Cross-origin requests: browsers on the origins of `CORS_ORIGINS` may call.
//!
//! By hand and not by actix-cors (0.7), which answers a preflight with 200 rather than 204, one for
//! another method or header with 400 in plain text, and names two request headers more in `Vary`.
//!
//! No cookies are used, so that credentials are never allowed to go along; the bearer token is a
//! header that a page must add itself.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpResponse};

use crate::runtime::settings::CorsOrigins;

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
/// What clients of ours send, and what libraries add on their own: `cache-control` and `pragma`
/// (EventSource in fetch, a reload), `x-requested-with`, and those of tracing.
const ALLOWED: &str = "accept, accept-language, authorization, baggage, cache-control, \
    content-language, content-type, idempotency-key, if-modified-since, if-none-match, \
    last-event-id, pragma, sentry-trace, traceparent, tracestate, user-agent, \
    x-consistency-token, x-request-id, x-requested-with";
const EXPOSED: &str = "etag, idempotent-replayed, link, location, ratelimit, ratelimit-policy, \
    retry-after, x-consistency-token, x-request-id, x-served";
/// Browsers cap it lower.
const MAX_AGE_SECS: &str = "7200";

/// Middleware: `.wrap(from_fn(cors))` with `Data<CorsOrigins>` as application data.
pub async fn cors(
    origins: Data<CorsOrigins>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody>>, Error> {
    let allowed = request
        .headers()
        .get(ORIGIN)
        .and_then(|origin| allowed(&origins, origin));
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if preflight && **origins != CorsOrigins::None {
        let mut response = HttpResponse::NoContent().finish();
        if let Some(origin) = allowed {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(
                ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static(METHODS),
            );
            headers.insert(
                ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static(ALLOWED),
            );
            headers.insert(
                ACCESS_CONTROL_MAX_AGE,
                HeaderValue::from_static(MAX_AGE_SECS),
            );
        }
        vary(&origins, response.headers_mut());
        return Ok(request.into_response(response).map_into_right_body());
    }
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    if let Some(origin) = allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
    }
    vary(&origins, headers);
    Ok(response.map_into_left_body())
}

fn allowed(origins: &CorsOrigins, origin: &HeaderValue) -> Option<HeaderValue> {
    match origins {
        CorsOrigins::None => None,
        CorsOrigins::Any => Some(HeaderValue::from_static("*")),
        CorsOrigins::List(list) => {
            let text = origin.to_str().ok()?;
            // Browsers write scheme and host in small letters, people do not.
            list.iter()
                .any(|known| known.eq_ignore_ascii_case(text))
                .then(|| origin.clone())
        }
    }
}

/// With a list of origins the answer depends on `Origin`, so caches must keep one for each.
fn vary(origins: &CorsOrigins, headers: &mut HeaderMap) {
    if let CorsOrigins::List(_) = origins {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::ACCESS_CONTROL_REQUEST_HEADERS;
    use actix_web::middleware::from_fn;
    use actix_web::{App, test, web};

    async fn answer(
        origins: CorsOrigins,
        request: test::TestRequest,
    ) -> ServiceResponse<impl MessageBody> {
        let app = App::new()
            .app_data(Data::new(origins))
            .wrap(from_fn(cors))
            .route("/", web::get().to(HttpResponse::Ok));
        test::call_service(&test::init_service(app).await, request.to_request()).await
    }

    fn from(origin: &'static str) -> test::TestRequest {
        test::TestRequest::get().insert_header((ORIGIN, origin))
    }

    fn listed() -> CorsOrigins {
        CorsOrigins::List(vec!["https://A.example".into()])
    }

    #[actix_web::test]
    async fn only_listed_origins_may_read() {
        let seen = answer(listed(), from("https://a.example")).await;
        let origin = seen.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).unwrap();
        assert_eq!(origin, "https://a.example");
        assert_eq!(seen.headers().get(VARY).unwrap(), "Origin");
        let other = answer(listed(), from("https://b.example")).await;
        assert!(!other.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        let none = answer(CorsOrigins::None, from("https://a.example")).await;
        assert!(!none.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[actix_web::test]
    async fn a_preflight_is_answered_without_the_handler() {
        let preflight = test::TestRequest::with_uri("/")
            .method(Method::OPTIONS)
            .insert_header((ORIGIN, "https://a.example"))
            .insert_header((ACCESS_CONTROL_REQUEST_METHOD, "POST"));
        let answer = answer(CorsOrigins::Any, preflight).await;
        assert_eq!(answer.status(), 204);
        assert_eq!(
            answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).unwrap(),
            "*"
        );
    }

    /// As the Fetch standard has a browser compare them: each name by itself, whatever its case.
    /// `*` would not do: it never covers `Authorization`.
    #[actix_web::test]
    async fn a_preflight_allows_what_clients_send_in_any_order_and_case() {
        for asked in [
            "authorization,cache-control,last-event-id",
            "Last-Event-ID, Accept, Cache-Control, Authorization, X-Consistency-Token",
            "content-type,idempotency-key,traceparent,tracestate,baggage,x-request-id",
            "authorization,if-none-match,pragma,x-requested-with",
        ] {
            let preflight = test::TestRequest::with_uri("/")
                .method(Method::OPTIONS)
                .insert_header((ORIGIN, "https://a.example"))
                .insert_header((ACCESS_CONTROL_REQUEST_METHOD, "GET"))
                .insert_header((ACCESS_CONTROL_REQUEST_HEADERS, asked));
            let answer = answer(listed(), preflight).await;
            let allowed = answer.headers().get(ACCESS_CONTROL_ALLOW_HEADERS).unwrap();
            let allowed: Vec<&str> = allowed.to_str().unwrap().split(", ").collect();
            for name in asked.split(',').map(str::trim) {
                let known = |allowed: &&str| allowed.eq_ignore_ascii_case(name);
                assert!(allowed.iter().any(known), "{name}");
            }
        }
    }
}
