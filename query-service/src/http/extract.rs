//! What a request carries: the caller, the write it wants to see, how much it asks for.

use std::collections::HashSet;
use std::future::{Future, Ready, ready};
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::web::{Data, Query};
use actix_web::{FromRequest, HttpRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use shared::auth::token::{TokenError, TokenVerifier, Verified};
use shared::contract::consistency::{self, ConsistencyToken};
use shared::contract::ids::{Id, InvalidId, UserId};
use shared::contract::sessions::SessionId;
use shared::web::access_log;
use shared::web::problem::{Code, Problem};
use shared::web::rate_limit::IpRateLimiter;
use shared::web::routing::{bad_query, bearer};

use super::errors::{internal, invalid_token};
use crate::reads::admission::{Admission, Asker};
use crate::reads::executor::ReadExecutor;
use crate::reads::model::CurrentViews;

/// A request to read: who asks, and how it is read.
///
/// A bad access token is refused even where none is needed, and so is one whose user has left, as
/// far as the views know.
pub struct ReadRequest<C = Option<UserId>> {
    pub caller: C,
    /// The session that the access token was issued for, where it was for one.
    pub session: Option<SessionId>,
    pub executor: ReadExecutor,
    pub request: HttpRequest,
}

/// Who may ask: anybody (`Option<UserId>`), or only a user (`UserId`).
pub trait Caller: Sized + 'static {
    fn of(caller: Option<UserId>) -> Result<Self, Problem>;
}

impl Caller for Option<UserId> {
    fn of(caller: Option<UserId>) -> Result<Self, Problem> {
        Ok(caller)
    }
}

impl Caller for UserId {
    fn of(caller: Option<UserId>) -> Result<Self, Problem> {
        let missing = "send an access token: Authorization: Bearer …";
        caller.ok_or_else(|| Problem::new(Code::Unauthorized, missing))
    }
}

impl<C: Caller> FromRequest for ReadRequest<C> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        Box::pin(Self::of(request.clone()))
    }
}

impl<C: Caller> ReadRequest<C> {
    async fn of(request: HttpRequest) -> Result<Self, Problem> {
        let verified = authenticated(&request).await?;
        let user = verified.map(|verified| verified.user);
        let caller = C::of(user)?;
        let after = write_to_reflect(&request)?;
        let admission: Data<Admission> = provided(&request)?;
        let addresses: Data<IpRateLimiter> = provided(&request)?;
        let asker = Asker::new(user, addresses.of(&request));
        let views: Data<CurrentViews> = provided(&request)?;
        let (views, admission) = (views.into_inner(), admission.into_inner());
        let executor = ReadExecutor::begin(views, admission, asker, user, after).await?;
        Ok(Self {
            caller,
            session: verified.and_then(|verified| verified.session),
            executor,
            request,
        })
    }

    /// The same for a list, which costs more than other reads.
    pub fn expensive(self) -> Self {
        Self {
            executor: self.executor.expensive(),
            ..self
        }
    }
}

/// Whose access token came with the request.
async fn authenticated(request: &HttpRequest) -> Result<Option<Verified>, Problem> {
    let Some(token) = bearer(request) else {
        let given = request.headers().contains_key("authorization");
        return if given {
            Err(invalid_token())
        } else {
            Ok(None)
        };
    };
    let verifier: Data<TokenVerifier> = provided(request)?;
    match verifier.verified(token).await {
        Ok(verified) => {
            access_log::acts(verified.user);
            Ok(Some(verified))
        }
        Err(TokenError::Invalid) => Err(invalid_token()),
        Err(error @ TokenError::NoKeys) => Err(Problem::new(Code::Unavailable, error.to_string())),
    }
}

/// A header without a value is one that was not filled in, as with parameters of a query.
pub(super) fn write_to_reflect(request: &HttpRequest) -> Result<Option<ConsistencyToken>, Problem> {
    let given = request.headers().get(consistency::HEADER);
    let Some(value) = given.filter(|value| !value.as_bytes().trim_ascii().is_empty()) else {
        return Ok(None);
    };
    // What is no text is no token.
    let token = ConsistencyToken::decode(value.to_str().unwrap_or("?"));
    let token = token.map_err(|bad| Problem::new(Code::BadConsistencyToken, bad.to_string()))?;
    Ok(Some(token))
}

fn provided<T: Clone + 'static>(request: &HttpRequest) -> Result<T, Problem> {
    request.app_data().cloned().ok_or_else(internal)
}

/// The parameters of a query. One without a value counts as absent, as forms and many clients send
/// what was not filled in.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Params<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let has_value = |pair: &&str| {
            let value = pair.split_once('=').map(|(_, value)| value);
            value.is_some_and(|value| !value.is_empty())
        };
        let given = request.query_string().split('&').filter(has_value);
        let given = given.collect::<Vec<_>>().join("&");
        let read = Query::<T>::from_query(&given);
        ready(
            read.map(|query| Self(query.into_inner()))
                .map_err(|error| bad_query(&error)),
        )
    }
}

/// Items of a page, and ids in a list of them.
const MOST: usize = 100;

/// The parameter `ids`: 1 to 100 different ids with commas between them, in the order in which each
/// was named first. The parameter may also be there more than once, as some clients send lists.
#[derive(Debug)]
pub struct Ids<K>(pub Vec<Id<K>>);

impl<K: 'static> FromRequest for Ids<K> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request.query_string()))
    }
}

impl<K> Ids<K> {
    fn of(query: &str) -> Result<Self, Problem> {
        let refused = |code, detail: String| Problem::field("ids", code, detail);
        let given = Query::<Vec<(String, String)>>::from_query(query);
        let given = given.map_err(|error| bad_query(&error))?.into_inner();
        let lists = given
            .iter()
            .filter(|(name, list)| name == "ids" && !list.is_empty());
        let (mut ids, mut seen) = (Vec::new(), HashSet::new());
        for text in lists.flat_map(|(_, list)| list.split(',')) {
            let id: Id<K> = text
                .parse()
                .map_err(|bad: InvalidId| refused("bad_form", bad.to_string()))?;
            if seen.insert(id) {
                ids.push(id);
            }
        }
        match ids.len() {
            0 => Err(refused(
                "missing",
                format!("name 1 to {MOST} ids, with commas between them"),
            )),
            1..=MOST => Ok(Self(ids)),
            many => Err(refused(
                "too_many",
                format!("{many} ids: {MOST} are the most"),
            )),
        }
    }
}

/// How many items a page has: 1 to 100, 20 if nothing is said.
#[derive(Clone, Copy, Debug)]
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

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use actix_web::test::TestRequest;
    use shared::contract::ids::UserKind;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Given {
        #[serde(default)]
        limit: Option<Limit>,
        cursor: Option<String>,
        user_id: Option<UserId>,
    }

    fn read(query: &str) -> Result<(usize, Option<String>, Option<UserId>), Code> {
        let request = TestRequest::with_uri(&format!("/?{query}")).to_http_request();
        let read = Params::<Given>::from_request(&request, &mut Payload::None).into_inner();
        let given = read.map_err(|problem| problem.code)?.0;
        let limit = given.limit.unwrap_or_default().get();
        Ok((limit, given.cursor, given.user_id))
    }

    #[test]
    fn a_parameter_without_a_value_counts_as_absent() {
        for query in [
            "",
            "&",
            "limit=&cursor=&user_id=",
            "limit&cursor&user_id",
            "other=1&limit=",
        ] {
            assert_eq!(read(query), Ok((20, None, None)), "{query}");
        }
        let user = UserId::new(7);
        assert_eq!(
            read("limit=5&cursor=&cursor=a%3D&user_id=7"),
            Ok((5, Some("a=".into()), user))
        );
    }

    #[test]
    fn a_consistency_token_without_a_value_counts_as_absent_and_a_bad_one_does_not() {
        let read = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            let request = TestRequest::default().insert_header((consistency::HEADER, value));
            write_to_reflect(&request.to_http_request()).map_err(|problem| problem.code)
        };
        assert_eq!(read(b"").map(|token| token.is_none()), Ok(true));
        for bad in [&b"x"[..], b"\xff", b"\xc3\xa9"] {
            assert_eq!(read(bad).err(), Some(Code::BadConsistencyToken));
        }
    }

    #[test]
    fn ids_keep_their_order_and_are_taken_once_and_what_is_wrong_is_told() {
        let of = |query: &str| {
            let ids = Ids::<UserKind>::of(query).map(|ids| ids.0);
            let ids = ids.map(|ids| ids.into_iter().map(UserId::get).collect::<Vec<_>>());
            ids.map_err(|problem| {
                assert_eq!(problem.code, Code::Invalid, "{query}");
                let [fault] = &problem.errors[..] else {
                    panic!("one fault of one field, not {:?}", problem.errors)
                };
                assert_eq!(fault.field, "ids");
                fault.code.clone()
            })
        };
        assert_eq!(of("ids=3"), Ok(vec![3]));
        assert_eq!(of("x=9&ids=3,1,3%2C2&ids=&ids=1,4"), Ok(vec![3, 1, 2, 4]));
        for none in ["", "ids=", "ids", "id=3"] {
            assert_eq!(of(none), Err("missing".into()), "{none}");
        }
        for bad in [
            "3,",
            ",",
            "3,,4",
            "0",
            "-3",
            "3;4",
            "3, 4",
            "x",
            "03",
            "9223372036854775808",
        ] {
            assert_eq!(of(&format!("ids={bad}")), Err("bad_form".into()), "{bad}");
        }
        let numbers = |count: usize| {
            let all: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
            format!("ids={0},{0}", all.join(","))
        };
        assert_eq!(of(&numbers(MOST)).map(|ids| ids.len()), Ok(MOST));
        assert_eq!(of(&numbers(MOST + 1)), Err("too_many".into()));
    }

    #[test]
    fn a_value_that_is_none_is_refused() {
        for query in ["limit=0", "limit=101", "limit=x", "limit=%20", "user_id=x"] {
            assert_eq!(read(query), Err(Code::Invalid), "{query}");
        }
    }
}
