//! What one's own account is signed in with: password, e-mail address, sessions.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde::Deserialize;
use shared::contract::sessions::SessionId;
use shared::runtime::settings::Secret;
use utoipa::ToSchema;

use super::extract::{Body, Caller, CallerInSession, ClientAddress, Trace};
use super::responses::{Answer, accepted, no_content};
use super::texts;
use super::users::UserView;
use crate::app::{AddressChange, App, CommandError, PasswordChange};
use crate::domain::Fault;
use crate::domain::text::{Email, Password};

/// Another password, and proof that it is the user who wants it.
#[derive(Deserialize, ToSchema)]
#[schema(as = PasswordChange)]
#[serde(deny_unknown_fields)]
pub struct ChangePasswordBody {
    #[schema(schema_with = texts::password)]
    password: Secret,
    #[schema(schema_with = texts::new_password)]
    new_password: Secret,
}

/// Another e-mail address, and proof that it is the user who wants it.
#[derive(Deserialize, ToSchema)]
#[schema(as = EmailChange)]
#[serde(deny_unknown_fields)]
pub struct ChangeEmailBody {
    #[schema(schema_with = texts::password)]
    password: Secret,
    #[schema(schema_with = texts::email)]
    email: String,
}

pub async fn change_password(
    app: Data<App>,
    caller: CallerInSession,
    trace: Trace,
    address: ClientAddress,
    body: Body<ChangePasswordBody>,
) -> Answer {
    let new_password = Password::parse(body.0.new_password.expose());
    let new_password = new_password.map_err(|error| invalid(Fault::of("new_password", &error)))?;
    let change = PasswordChange {
        password: Password::guess(body.0.password.expose()),
        new_password,
        session: caller.session,
        address: address.0,
    };
    let work = move |app: Arc<App>| async move { app.change_password(caller.user, change).await };
    let changed = app.run("change_password", trace.0, work).await?;
    Ok(no_content(&changed))
}

pub async fn change_email(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    address: ClientAddress,
    body: Body<ChangeEmailBody>,
) -> Answer {
    let email = Email::parse(&body.0.email);
    let change = AddressChange {
        password: Password::guess(body.0.password.expose()),
        email: email.map_err(|error| invalid(Fault::of("email", &error)))?,
        address: address.0,
    };
    let work = move |app: Arc<App>| async move { app.change_address(caller.0, change).await };
    let changed = app.run("change_email", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), changed, UserView::from))
}

pub async fn end_session(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    session: Path<SessionId>,
) -> Answer {
    let session = session.into_inner();
    let work = move |app: Arc<App>| async move { app.end_sessions(caller.0, Some(session)).await };
    let ended = app.run("end_session", trace.0, work).await?;
    Ok(no_content(&ended))
}

pub async fn end_sessions(app: Data<App>, caller: Caller, trace: Trace) -> Answer {
    let work = move |app: Arc<App>| async move { app.end_sessions(caller.0, None).await };
    let ended = app.run("end_sessions", trace.0, work).await?;
    Ok(no_content(&ended))
}

fn invalid(fault: Fault) -> CommandError {
    CommandError::Invalid(vec![fault])
}
