//! `GET /gateway/errors/{status}`: problem bodies for what a gateway answers by itself.
//!
//! A gateway fetches the page from either service when it has no answer of a service to pass on, and
//! so its clients get what `docs/api.md` promises. It sends the headers of its client's request along:
//! the page bears that request's id, and a browser's page may read it.
//!
//! It is on the public port, and no route of the API. A page is answered with 200, since it is there;
//! its gateway answers with the status that it shows. So nobody can have a gateway count failures of
//! ours, or take a replica out for them, by asking for pages.

use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Path};
use actix_web::{Resource, ResponseError};

use super::problem::{Code, Problem};
use super::routing::get_only;

const PATH: &str = "/gateway/errors/{status}";

/// Whether this asks for an error page. A gateway's own request for one takes nothing from a bucket:
/// its client has paid for the request that failed.
pub fn is_page(method: &Method, path: &str) -> bool {
    let folder = PATH.trim_end_matches("{status}");
    let status = path.strip_prefix(folder);
    *method == Method::GET && status.is_some_and(|status| problem(status).is_some())
}

pub fn page() -> Resource {
    get_only(PATH, web::to(show))
}

async fn show(status: Path<String>) -> actix_web::HttpResponse {
    let Some(problem) = problem(&status) else {
        let none = Problem::new(Code::NotFound, "no gateway answers with such a status");
        return none.error_response();
    };
    let mut page = problem.error_response();
    *page.status_mut() = StatusCode::OK;
    page
}

/// The problem of a gateway that answers with this status.
fn problem(status: &str) -> Option<Problem> {
    let (code, detail) = match status {
        "400" => (Code::Invalid, "the gateway cannot read the request"),
        "403" => (Code::Forbidden, "the gateway refuses the request"),
        "404" => (Code::NotFound, "the gateway knows no such path"),
        "408" => (
            Code::RequestTimeout,
            "the request did not reach the gateway in time",
        ),
        "413" => (Code::BodyTooLarge, "the body is too large for the gateway"),
        "429" => (
            Code::TooManyRequests,
            "the gateway takes no more requests of this address now",
        ),
        "431" => (
            Code::HeadersTooLarge,
            "the headers are too large for the gateway",
        ),
        "500" => (Code::Internal, "the gateway failed"),
        "502" => (
            Code::BadGateway,
            "the gateway has no answer from the service: a command may have been carried out",
        ),
        "503" => (Code::Unavailable, "the gateway has no service to ask"),
        "504" => (
            Code::GatewayTimeout,
            "the gateway has waited long enough: a command may have been carried out",
        ),
        _ => return None,
    };
    let mut problem = Problem::new(code, detail);
    if code == Code::TooManyRequests {
        problem.retry_after = Some(1);
    }
    Some(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_status_that_it_is_asked_for() {
        for status in 0..=999 {
            let Some(problem) = problem(&status.to_string()) else {
                continue;
            };
            assert_eq!(problem.code.status().as_u16(), status);
        }
        for (status, again) in [("429", true), ("502", false), ("503", true), ("504", false)] {
            let after = problem(status).unwrap().retry_after;
            assert_eq!(after.is_some(), again, "{status}");
        }
        for status in ["", "200", "0502", " 502", "+502", "418", "five"] {
            assert_eq!(problem(status), None, "{status}");
        }
    }
}
