//! Signing in, staying signed in, signing out.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use shared::contract::names;
use shared::runtime::settings::Secret;
use shared::web::problem::Problem;

use super::extract::{Body, ClientAddress, Trace};
use super::responses::{Answer, accepted, sign};
use crate::app::ports::AccountName;
use crate::app::{App, SignIn, Tokens};
use crate::domain::text::Password;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInBody {
    username: Option<String>,
    email: Option<String>,
    password: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshBody {
    refresh_token: Secret,
}

#[derive(Serialize)]
struct TokensView {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    refresh_token: String,
}

impl From<Tokens> for TokensView {
    fn from(tokens: Tokens) -> Self {
        Self {
            access_token: tokens.access,
            token_type: "Bearer",
            expires_in: tokens.expires_in.as_secs(),
            refresh_token: tokens.refresh,
        }
    }
}

/// How the caller names the account: one way, not both. What keyboards and password managers add
/// around it is no part of it, and who types an address where a name is asked for is understood:
/// no name has an `@`.
fn account_name(body: &SignInBody) -> Result<AccountName, Problem> {
    match (&body.username, &body.email) {
        (Some(name), None) if name.contains('@') => Ok(AccountName::Email(named(name))),
        (Some(name), None) => Ok(AccountName::Username(named(name))),
        (None, Some(email)) => Ok(AccountName::Email(named(email))),
        (None, None) => Err(Problem::field("username", "missing", "or email is needed")),
        (Some(_), Some(_)) => Err(Problem::field(
            "email",
            "ambiguous",
            "or username, not both",
        )),
    }
}

fn named(text: &str) -> String {
    names::fold(text.trim())
}

pub async fn sign_in(
    app: Data<App>,
    trace: Trace,
    address: ClientAddress,
    body: Body<SignInBody>,
) -> Answer {
    let claim = SignIn {
        account: account_name(&body.0)?,
        password: Password::guess(body.0.password.expose()),
        address: address.0,
    };
    let work = |app: std::sync::Arc<App>| async move { app.sign_in(claim).await };
    let signed_in = app.run("sign_in", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), signed_in, TokensView::from))
}

pub async fn refresh(
    app: Data<App>,
    trace: Trace,
    address: ClientAddress,
    body: Body<RefreshBody>,
) -> Answer {
    let token = body.0.refresh_token;
    let work = move |app: std::sync::Arc<App>| async move { app.refresh(token, address.0).await };
    let refreshed = app.run("refresh", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), refreshed, TokensView::from))
}

pub async fn sign_out(app: Data<App>, trace: Trace, body: Body<RefreshBody>) -> Answer {
    let token = body.0.refresh_token;
    let work = |app: std::sync::Arc<App>| async move { app.sign_out(token).await };
    let token = app.run("sign_out", trace.0, work).await?;
    let mut response = HttpResponse::NoContent();
    if let Some(token) = token {
        sign(&mut response, &token);
    }
    Ok(response.finish())
}
