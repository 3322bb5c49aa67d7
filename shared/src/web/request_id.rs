//! The id of a request and that of its trace: in its log lines, in every error body.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::HeaderName;

/// The header that carries it, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: (String, Option<String>);
}

/// The id of the request that this task is serving, and of its trace, if it has one; empty outside a
/// request.
pub fn current() -> (String, Option<String>) {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Runs `work` as a part of the request with this id, in this trace: see [`current`].
pub fn scope<F: Future>(
    id: String,
    trace: Option<String>,
    work: F,
) -> impl Future<Output = F::Output> {
    CURRENT.scope((id, trace), work)
}

/// The caller's own id if it is short and plain, else a new one.
pub fn of(request: &ServiceRequest) -> String {
    let plain = |id: &&str| {
        (1..=64).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    given
        .filter(plain)
        .map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned)
}
