//! What a request carries: the caller, the write it wants to see, how much it asks for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use serde::{Deserialize, Deserializer};
use shared::consistency::{self, ConsistencyToken};
use shared::http::bearer;
use shared::ids::UserId;
use shared::problem::{Code, Problem};
use shared::resilience::Gate;
use shared::token::{TokenError, TokenVerifier};

use super::answers::load;
use crate::read_model::{CurrentViews, Views};

/// The user whose access token came with the request; without one the answer is 401.
pub struct Caller(pub UserId);

/// The caller if there is a token; a bad one is refused even where none is needed.
pub struct MaybeCaller(pub Option<UserId>);

type Extraction<T> = Pin<Box<dyn Future<Output = Result<T, Problem>>>>;

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = caller(request);
        Box::pin(async move {
            let missing = || {
                Problem::new(
                    Code::Unauthorized,
                    "send an access token: Authorization: Bearer …",
                )
            };
            caller.await?.map(Self).ok_or_else(missing)
        })
    }
}

impl FromRequest for MaybeCaller {
    type Error = Problem;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = caller(request);
        Box::pin(async move { caller.await.map(Self) })
    }
}

fn caller(request: &HttpRequest) -> impl Future<Output = Result<Option<UserId>, Problem>> + use<> {
    let given = request.headers().contains_key("authorization");
    let token = bearer(request).map(str::to_owned);
    let verifier = request
        .app_data::<Data<TokenVerifier>>()
        .map(|data| Arc::clone(data));
    let views = request
        .app_data::<Data<CurrentViews>>()
        .map(|views| views.borrow().cached());
    let gate = request.app_data::<Data<Gate>>().cloned();
    async move {
        let invalid = || Problem::new(Code::Unauthorized, TokenError::Invalid.to_string());
        let Some(token) = token else {
            return if given { Err(invalid()) } else { Ok(None) };
        };
        let Some(verifier) = verifier else {
            return Err(Problem::new(Code::Internal, "something went wrong here"));
        };
        match verifier.verify(&token).await {
            Ok(user) if left(views, gate, user).await? => Err(invalid()),
            Ok(user) => Ok(Some(user)),
            Err(TokenError::Invalid) => Err(invalid()),
            Err(error @ TokenError::NoKeys) => {
                Err(Problem::new(Code::Unavailable, error.to_string()))
            }
        }
    }
}

/// Whether the views know that the user was deactivated: from memory at once, else past the gate.
/// While the database is away, who is not remembered is told to come back.
async fn left(
    views: Option<Views>,
    gate: Option<Data<Gate>>,
    user: UserId,
) -> Result<bool, Problem> {
    let (Some(views), Some(gate)) = (views, gate) else {
        return Err(Problem::new(Code::Internal, "something went wrong here"));
    };
    if let Some(known) = views.remembered_as_deactivated(user) {
        return Ok(known);
    }
    let asking = views.clone();
    let asked = load(&gate, || async move { asking.is_deactivated(user).await });
    match asked.await {
        Err(problem) if problem.code == Code::Unavailable => {
            views.stale().remembered_as_deactivated(user).ok_or(problem)
        }
        answer => answer,
    }
}

/// What every read goes through, and the write that its answer must reflect, if one is named.
pub struct Reading {
    pub after: Option<ConsistencyToken>,
    pub gate: Data<Gate>,
    pub views: Data<CurrentViews>,
    pub request: HttpRequest,
}

impl FromRequest for Reading {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(Self::of(request))
    }
}

impl Reading {
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let after = request.headers().get(consistency::HEADER).map(|value| {
            let text = value.to_str().unwrap_or_default();
            ConsistencyToken::decode(text)
                .map_err(|error| Problem::new(Code::BadConsistencyToken, error.to_string()))
        });
        let missing = || Problem::new(Code::Internal, "something went wrong here");
        Ok(Self {
            after: after.transpose()?,
            gate: request.app_data().cloned().ok_or_else(missing)?,
            views: request.app_data().cloned().ok_or_else(missing)?,
            request: request.clone(),
        })
    }
}

const MOST: usize = 100;

/// How many items a page has: 1 to 100, 20 if nothing is said.
#[derive(Clone, Copy)]
pub struct Limit(usize);

impl Limit {
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(20)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limit = usize::deserialize(deserializer)?;
        if !(1..=MOST).contains(&limit) {
            return Err(serde::de::Error::custom(format!(
                "limit is a number from 1 to {MOST}"
            )));
        }
        Ok(Self(limit))
    }
}
