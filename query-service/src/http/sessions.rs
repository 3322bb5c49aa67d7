//! `GET /auth/sessions`: where its user is signed in. Read from the account, as it is now.

use actix_web::web::Data;
use serde::Serialize;
use shared::contract::ids::UserId;
use shared::contract::sessions::{OwnSession, SessionId};
use shared::contract::time::Timestamp;
use shared::web::openapi::schemas::session_id;
use shared::web::problem::{Code, Problem};
use utoipa::ToSchema;

use super::extract::ReadRequest;
use super::responses::Response;
use crate::accounts::OwnAccounts;
use crate::reads::executor::Read;

#[derive(Serialize)]
struct SessionsView {
    sessions: Vec<SessionView>,
}

/// Where its user is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    #[schema(schema_with = session_id)]
    id: SessionId,
    /// Null for one that an earlier version began.
    created_at: Option<Timestamp>,
    last_used_at: Timestamp,
    expires_at: Timestamp,
    /// Whether the access token of the request was issued for it.
    current: bool,
}

pub async fn list(request: ReadRequest<UserId>, own: Data<OwnAccounts>) -> Response {
    let found = own.sessions(request.caller).await;
    let found =
        found.ok_or_else(|| Problem::new(Code::Unavailable, "the account cannot be read now"))?;
    let view = |session: OwnSession| SessionView {
        id: session.id,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at,
        current: request.session == Some(session.id),
    };
    let item = SessionsView {
        sessions: found.into_iter().map(view).collect(),
    };
    request.shown(Read {
        item: Some(item),
        stale: false,
    })
}
