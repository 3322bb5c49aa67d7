//! What all answers have in common: the consistency token they carry.

use actix_web::http::header::HeaderName;
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use shared::contract::consistency::{self, ConsistencyToken};

use super::errors::ApiError;
use crate::app::Accepted;

const CONSISTENCY_TOKEN: HeaderName = HeaderName::from_static(consistency::HEADER);

pub(super) type Answer = Result<HttpResponse, ApiError>;

/// The answer to a command: its value, as `view` shows it, and the token to read it by.
pub(super) fn accepted<T, V: Serialize>(
    mut response: HttpResponseBuilder,
    accepted: Accepted<T>,
    view: impl FnOnce(T) -> V,
) -> HttpResponse {
    sign(&mut response, &accepted.token);
    response.json(view(accepted.value))
}

pub(super) fn no_content(accepted: &Accepted<impl Sized>) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    sign(&mut response, &accepted.token);
    response.finish()
}

pub(super) fn sign(response: &mut HttpResponseBuilder, token: &ConsistencyToken) {
    response.insert_header((CONSISTENCY_TOKEN, token.encode()));
}
