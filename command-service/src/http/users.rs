//! Users, and who follows whom.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path};
use serde::{Deserialize, Serialize};
use shared::contract::ids::UserId;
use shared::contract::time::Timestamp;
use shared::runtime::public_url::PublicUrl;
use shared::runtime::settings::Secret;
use shared::web::problem::{Code, Problem};
use shared::web::routes::BASE;
use utoipa::ToSchema;

use super::errors::RateLimit;
use super::extract::{Body, Caller, ClientAddress, OptionalJson, Trace};
use super::responses::{Answer, accepted, no_content};
use super::texts;
use crate::app::{App, CommandError, Edited, Followed};
use crate::domain::text::Password;
use crate::domain::user::{ProfileChange, RegistrationForm};

/// An account to be made.
#[derive(Deserialize, ToSchema)]
#[schema(as = Registration)]
#[serde(deny_unknown_fields)]
pub struct RegisterBody {
    #[schema(schema_with = texts::username)]
    username: String,
    #[schema(schema_with = texts::email)]
    email: String,
    #[schema(schema_with = texts::new_password)]
    password: Secret,
    #[schema(schema_with = texts::first_display_name)]
    display_name: Option<String>,
    #[schema(schema_with = texts::bio)]
    bio: Option<String>,
}

/// What a profile is to be.
#[derive(Deserialize, ToSchema)]
#[schema(as = ProfileChange)]
#[serde(deny_unknown_fields)]
pub struct EditProfileBody {
    #[schema(schema_with = texts::display_name)]
    display_name: Option<String>,
    #[schema(schema_with = texts::bio)]
    bio: Option<String>,
}

/// Proof that it is the user who leaves.
#[derive(Deserialize, ToSchema)]
#[schema(as = Deactivation)]
#[serde(deny_unknown_fields)]
pub struct DeactivateBody {
    #[schema(schema_with = texts::password)]
    password: Secret,
}

/// Names the edge once more; it must be the one of token and path.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = FollowEnds)]
#[serde(deny_unknown_fields)]
pub struct FollowBody {
    follower_id: Option<UserId>,
    followee_id: Option<UserId>,
}

/// A user, as shown to others and to themselves.
// The query service has the same schema.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserView {
    user_id: UserId,
    username: String,
    display_name: String,
    bio: String,
    verified: bool,
    created_at: Timestamp,
    followers_count: i64,
    following_count: i64,
    /// Without reposts.
    posts_count: i64,
    /// Shown to the user alone; left out while the accounts cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    email: Option<String>,
}

impl From<Edited> for UserView {
    fn from(edited: Edited) -> Self {
        let Edited {
            user,
            address,
            counts,
            ..
        } = edited;
        Self {
            user_id: user.id,
            username: user.username,
            display_name: user.display_name,
            bio: user.bio,
            email: address,
            verified: user.verified,
            created_at: user.registered_at,
            followers_count: counts.followers,
            following_count: counts.following,
            posts_count: counts.posts,
        }
    }
}

/// A follow that is there.
#[derive(Serialize, ToSchema)]
#[schema(as = Followed)]
pub struct FollowedView {
    success: bool,
    relationship: RelationshipView,
}

/// Who follows whom, since when.
#[derive(Serialize, ToSchema)]
#[schema(as = Follow)]
pub struct RelationshipView {
    follower_id: UserId,
    followee_id: UserId,
    created_at: Timestamp,
}

impl From<Followed> for FollowedView {
    fn from(followed: Followed) -> Self {
        Self {
            success: true,
            relationship: RelationshipView {
                follower_id: followed.follower,
                followee_id: followed.followee,
                created_at: followed.since,
            },
        }
    }
}

/// It is so.
#[derive(Serialize, ToSchema)]
#[schema(as = Success)]
pub struct SuccessView {
    success: bool,
}

pub async fn register(
    app: Data<App>,
    public_url: Data<PublicUrl>,
    trace: Trace,
    body: Body<RegisterBody>,
) -> Answer {
    let body = body.0;
    let form = RegistrationForm {
        username: body.username,
        email: body.email,
        password: Some(body.password),
        display_name: body.display_name,
        bio: body.bio,
    };
    let work = |app: Arc<App>| async move { app.register(form).await };
    let registered = app.run("register", trace.0, work).await?;
    let mut response = HttpResponse::Created();
    let path = format!("{BASE}/users/{}", registered.value.user.id);
    response.insert_header((LOCATION, public_url.to(&path)));
    Ok(accepted(response, registered, UserView::from))
}

pub async fn edit_profile(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    body: Body<EditProfileBody>,
) -> Answer {
    let change = ProfileChange::parse(body.0.display_name.as_deref(), body.0.bio.as_deref());
    let change = change.map_err(CommandError::Invalid)?;
    let work = move |app: Arc<App>| async move { app.edit_profile(caller.0, change).await };
    let edited = app.run("edit_profile", trace.0, work).await?;
    let allowance = edited.value.allowance;
    let mut response = accepted(HttpResponse::Ok(), edited, UserView::from);
    if let Some(allowance) = &allowance {
        RateLimit::of(allowance).add_to(response.headers_mut());
    }
    Ok(response)
}

pub async fn deactivate(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    address: ClientAddress,
    body: Body<DeactivateBody>,
) -> Answer {
    let password = Password::guess(body.0.password.expose());
    let work =
        move |app: Arc<App>| async move { app.deactivate(caller.0, password, address.0).await };
    let deactivated = app.run("deactivate", trace.0, work).await?;
    Ok(no_content(&deactivated))
}

pub async fn follow(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    followee: Path<UserId>,
    body: OptionalJson<FollowBody>,
) -> Answer {
    let followee = followee.into_inner();
    require_agreement(&body.0, caller.0, followee)?;
    let work = move |app: Arc<App>| async move { app.follow(caller.0, followee).await };
    let followed = app.run("follow", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), followed, FollowedView::from))
}

pub async fn unfollow(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    followee: Path<UserId>,
    body: OptionalJson<FollowBody>,
) -> Answer {
    let followee = followee.into_inner();
    require_agreement(&body.0, caller.0, followee)?;
    let work = move |app: Arc<App>| async move { app.unfollow(caller.0, followee).await };
    let unfollowed = app.run("unfollow", trace.0, work).await?;
    let view = |()| SuccessView { success: true };
    Ok(accepted(HttpResponse::Ok(), unfollowed, view))
}

fn require_agreement(body: &FollowBody, caller: UserId, followee: UserId) -> Result<(), Problem> {
    let agrees = body.follower_id.is_none_or(|id| id == caller)
        && body.followee_id.is_none_or(|id| id == followee);
    let detail = "follower_id is the caller's, followee_id the path's, or neither is sent";
    agrees
        .then_some(())
        .ok_or_else(|| Problem::new(Code::ActorMismatch, detail))
}
