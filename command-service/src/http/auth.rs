//! Signing in, staying signed in, signing out.

use std::borrow::Cow;

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use shared::contract::names;
use shared::runtime::settings::Secret;
use shared::web::openapi::schemas::{object, string};
use shared::web::problem::Problem;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::extract::{Body, ClientAddress, Trace};
use super::responses::{Answer, accepted, sign};
use super::texts;
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

/// A name and a password: the account by its username or by its e-mail address, not by both.
impl PartialSchema for SignInBody {
    fn schema() -> RefOr<Schema> {
        let either = OneOfBuilder::new()
            .description(Some("An account, and the proof that it is the caller's."))
            .item(Ref::from_schema_name(BY_USERNAME))
            .item(Ref::from_schema_name(BY_EMAIL));
        RefOr::T(Schema::OneOf(either.build()))
    }
}

const BY_USERNAME: &str = "SignInByUsername";
const BY_EMAIL: &str = "SignInByEmail";

fn sign_in_by(name: &str) -> RefOr<Schema> {
    let by = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property(name, string())
        .property("password", texts::password())
        .required(name)
        .required("password")
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    object(by)
}

impl ToSchema for SignInBody {
    fn name() -> Cow<'static, str> {
        "SignIn".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((BY_USERNAME.to_owned(), sign_in_by("username")));
        schemas.push((BY_EMAIL.to_owned(), sign_in_by("email")));
    }
}

/// A session, by its latest token.
#[derive(Deserialize, ToSchema)]
#[schema(as = RefreshToken)]
#[serde(deny_unknown_fields)]
pub struct RefreshBody {
    #[schema(schema_with = texts::refresh_token)]
    refresh_token: Secret,
}

/// What a session is carried on with.
#[derive(Serialize, ToSchema)]
#[schema(as = Tokens)]
pub struct TokensView {
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds for which the access token is good.
    expires_in: u64,
    #[schema(schema_with = texts::refresh_token)]
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
