//! Posts, likes, reposts.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::{HeaderName, HeaderValue, LOCATION};
use actix_web::web::{Data, Path};
use serde::{Deserialize, Serialize};
use shared::contract::ids::{EntryId, PostId, UserId};
use shared::contract::time::Timestamp;
use shared::runtime::public_url::PublicUrl;
use shared::web::problem::{Code, Problem};
use shared::web::routes::BASE;
use utoipa::ToSchema;

use super::errors::RateLimit;
use super::extract::{Body, Caller, IdempotencyKey, OptionalJson, Trace};
use super::responses::{Answer, accepted, no_content};
use super::texts;
use super::views::Reposter;
use crate::app::{App, CommandError, Created, NewPost, Reacted};
use crate::domain::Fault;
use crate::domain::text::Content;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A post to be written.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewPost)]
#[serde(deny_unknown_fields)]
pub struct CreatePostBody {
    #[schema(schema_with = texts::content)]
    content: String,
    /// The post that this one answers.
    reply_to_post_id: Option<PostId>,
}

/// Names the acting user once more; it must be the token's.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = Actor)]
#[serde(deny_unknown_fields)]
pub struct ReactBody {
    user_id: Option<UserId>,
}

/// A post, as an entry of a list shows it.
// Here, as its author sees it the moment it is written. The query service has the same schema.
#[derive(Serialize, ToSchema)]
#[schema(as = Post)]
pub struct PostView {
    /// The post's own id, or that of the repost.
    entry_id: EntryId,
    post_id: PostId,
    /// Its author.
    user_id: UserId,
    username: String,
    display_name: String,
    content: String,
    created_at: Timestamp,
    /// The post that it answers, or null.
    #[schema(required)]
    reply_to_post_id: Option<PostId>,
    #[schema(value_type = i64)]
    likes_count: u64,
    #[schema(value_type = i64)]
    reposts_count: u64,
    #[schema(value_type = i64)]
    replies_count: u64,
    /// Whether the caller likes it; null without a token.
    #[schema(value_type = Option<bool>, required)]
    liked: bool,
    /// Whether the caller has reposted it; null without a token.
    #[schema(value_type = Option<bool>, required)]
    reposted: bool,
    /// Null, but on the entry of a repost.
    #[schema(value_type = Option<Reposter>, required)]
    reposted_by: Option<()>,
}

impl From<Created> for PostView {
    fn from(created: Created) -> Self {
        Self {
            entry_id: created.id.cast(),
            post_id: created.id,
            user_id: created.author.id,
            username: created.author.username.clone(),
            display_name: created.author.display_name.clone(),
            content: created.content,
            created_at: created.at,
            reply_to_post_id: created.reply_to,
            likes_count: 0,
            reposts_count: 0,
            replies_count: 0,
            liked: false,
            reposted: false,
            reposted_by: None,
        }
    }
}

/// A like, or its end.
#[derive(Serialize, ToSchema)]
#[schema(as = Liked)]
pub struct LikedView {
    success: bool,
    /// As last projected, with this command in it.
    likes_count: i64,
}

/// A repost, or its end.
#[derive(Serialize, ToSchema)]
#[schema(as = Reposted)]
pub struct RepostedView {
    success: bool,
    /// As last projected, with this command in it.
    reposts_count: i64,
}

impl From<Reacted> for LikedView {
    fn from(reacted: Reacted) -> Self {
        Self {
            success: true,
            likes_count: reacted.count,
        }
    }
}

impl From<Reacted> for RepostedView {
    fn from(reacted: Reacted) -> Self {
        Self {
            success: true,
            reposts_count: reacted.count,
        }
    }
}

pub async fn create(
    app: Data<App>,
    public_url: Data<PublicUrl>,
    caller: Caller,
    trace: Trace,
    key: IdempotencyKey,
    body: Body<CreatePostBody>,
) -> Answer {
    let content = Content::parse(&body.0.content);
    let content =
        content.map_err(|error| CommandError::Invalid(vec![Fault::of("content", &error)]))?;
    let new = NewPost {
        content,
        reply_to: body.0.reply_to_post_id,
        key: key.0,
    };
    let work = move |app: Arc<App>| async move { app.create_post(caller.0, new).await };
    let created = app.run("create_post", trace.0, work).await?;
    let mut response = HttpResponse::Created();
    let path = format!("{BASE}/posts/{}", created.value.id);
    response.insert_header((LOCATION, public_url.to(&path)));
    if created.value.replayed {
        response.insert_header((REPLAYED, HeaderValue::from_static("true")));
    }
    let allowance = created.value.allowance;
    let mut response = accepted(response, created, PostView::from);
    if let Some(allowance) = &allowance {
        RateLimit::of(allowance).add_to(response.headers_mut());
    }
    Ok(response)
}

pub async fn delete(app: Data<App>, caller: Caller, trace: Trace, post: Path<PostId>) -> Answer {
    let post = post.into_inner();
    let work = move |app: Arc<App>| async move { app.delete_post(caller.0, post).await };
    let deleted = app.run("delete_post", trace.0, work).await?;
    Ok(no_content(&deleted))
}

pub async fn like(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    post: Path<PostId>,
    body: OptionalJson<ReactBody>,
) -> Answer {
    let post = post.into_inner();
    require_agreement(&body.0, caller.0)?;
    let work = move |app: Arc<App>| async move { app.like(caller.0, post).await };
    let liked = app.run("like", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), liked, LikedView::from))
}

pub async fn unlike(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    post: Path<PostId>,
    body: OptionalJson<ReactBody>,
) -> Answer {
    let post = post.into_inner();
    require_agreement(&body.0, caller.0)?;
    let work = move |app: Arc<App>| async move { app.unlike(caller.0, post).await };
    let unliked = app.run("unlike", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), unliked, LikedView::from))
}

pub async fn repost(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    post: Path<PostId>,
    body: OptionalJson<ReactBody>,
) -> Answer {
    let post = post.into_inner();
    require_agreement(&body.0, caller.0)?;
    let work = move |app: Arc<App>| async move { app.repost(caller.0, post).await };
    let reposted = app.run("repost", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), reposted, RepostedView::from))
}

pub async fn unrepost(
    app: Data<App>,
    caller: Caller,
    trace: Trace,
    post: Path<PostId>,
    body: OptionalJson<ReactBody>,
) -> Answer {
    let post = post.into_inner();
    require_agreement(&body.0, caller.0)?;
    let work = move |app: Arc<App>| async move { app.unrepost(caller.0, post).await };
    let unreposted = app.run("unrepost", trace.0, work).await?;
    Ok(accepted(HttpResponse::Ok(), unreposted, RepostedView::from))
}

fn require_agreement(body: &ReactBody, caller: UserId) -> Result<(), Problem> {
    let agrees = body.user_id.is_none_or(|id| id == caller);
    agrees
        .then_some(())
        .ok_or_else(|| Problem::new(Code::ActorMismatch, "user_id is the caller's, or not sent"))
}
