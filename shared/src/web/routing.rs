//! Routes of either service: every path answers what it does not know with an error body, where
//! the framework would answer in plain text.

use actix_web::error::{PathError, QueryPayloadError};
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::web::ServiceConfig;
use actix_web::{HttpRequest, HttpResponse, Resource, ResponseError, Route, guard, web};

use crate::web::problem::{Code, Problem};
use crate::web::routes::{self, Service};

/// The largest request body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;

/// What a service answers a method of a path with.
pub type Endpoint = (Method, &'static str, Route);

/// Serves a service's endpoints, and answers every other method of every path that either service
/// has with 405, and all other paths with 404. The endpoints must be what [`routes::ROUTES`] says
/// that the service has: what stands there alone is not served, and a path that does not is not found.
pub fn serve_routes(config: &mut ServiceConfig, mut endpoints: Vec<Endpoint>) {
    config.app_data(path_config());
    for path in routes::paths() {
        let own = endpoints.extract_if(.., |(_, of, _)| *of == path);
        let own = own.map(|(method, _, route)| (method, route));
        config.service(allowing(path, routes::allow(path), own));
    }
    config.default_service(web::to(no_such_path));
}

/// For tests of the services.
///
/// # Panics
/// The endpoints are not those that [`routes::ROUTES`] says the service has.
pub fn assert_complete(service: Service, endpoints: &[Endpoint]) {
    let mut served: Vec<_> = endpoints
        .iter()
        .map(|(method, path, _)| (method.as_str(), *path))
        .collect();
    let mut listed: Vec<_> = routes::of(service).collect();
    served.sort_unstable();
    listed.sort_unstable();
    assert_eq!(served, listed);
}

/// A path that answers GET, and any other method with 405 and `Allow`.
pub fn get_only(path: &str, route: Route) -> Resource {
    allowing(path, "GET, HEAD".to_owned(), [(Method::GET, route)])
}

/// A resource that answers any other method with 405 and `allow`.
///
/// What answers GET answers HEAD: the server leaves the body out.
fn allowing(
    path: &str,
    allow: String,
    routes: impl IntoIterator<Item = (Method, Route)>,
) -> Resource {
    let mut resource = web::resource(path);
    for (method, route) in routes {
        resource = resource.route(if method == Method::GET {
            route.guard(guard::Any(guard::Get()).or(guard::Head()))
        } else {
            route.method(method)
        });
    }
    resource.default_service(web::to(move |request: HttpRequest| {
        let allow = allow.clone();
        async move {
            let method = request.method().as_str();
            let detail = if allow.split(", ").any(|allowed| allowed == method) {
                format!("the other service answers {method} here; behind the gateway both do")
            } else {
                format!("this path answers {allow}")
            };
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
fn path_config() -> web::PathConfig {
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
