//! Routes of either service: every path answers what it does not know with an error body, where
//! the framework would answer in plain text.

use actix_web::error::{PathError, QueryPayloadError};
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, Resource, ResponseError, Route, guard, web};

use crate::web::problem::{Code, Problem};

/// The largest request body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;

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
