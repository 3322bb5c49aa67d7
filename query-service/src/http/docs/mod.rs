//! `GET /openapi.json` and `GET /docs`: the HTTP contract, for programs and for people.
//!
//! Both are made of the document of both services that is checked in, and need neither a database
//! nor anything from another host. The page has no script: it is written here once, at its first
//! request, so that its policy allows one style sheet and nothing else.

mod markup;
mod page;

use std::sync::LazyLock;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::runtime::public_url::PublicUrl;

use super::etag;

pub const DOCUMENT: &str = "/openapi.json";
pub const PAGE: &str = "/docs";

const CHECKED_IN: &str = include_str!("../../../../docs/openapi/microblog.json");
const STYLE: &str = include_str!("style.css");

/// The same for everybody, until another version of the service is there.
const UNTIL_ANOTHER_VERSION: (HeaderName, &str) = (CACHE_CONTROL, "no-cache");

static WHOLE: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(CHECKED_IN).unwrap_or_default());
/// What every deployment serves alike: the document without its servers, behind its first brace.
static ALIKE: LazyLock<String> = LazyLock::new(|| {
    let mut document = WHOLE.clone();
    if let Some(members) = document.as_object_mut() {
        members.remove("servers");
    }
    document.to_string().split_off(1)
});
static SHOWN: LazyLock<Bytes> = LazyLock::new(|| page::of(&WHOLE, STYLE).into());
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
});

/// The document. Its server is where clients reach it: `PUBLIC_URL`, if that is set.
pub async fn document(request: HttpRequest, public_url: Data<PublicUrl>) -> HttpResponse {
    let base = public_url.to("");
    let servers = if base.is_empty() {
        WHOLE["servers"].clone()
    } else {
        json!([{ "url": base }])
    };
    let body = format!("{{\"servers\":{servers},{}", *ALIKE);
    etag::answer(&request, "application/json", body.into(), |answer| {
        answer.insert_header(UNTIL_ANOTHER_VERSION);
    })
}

pub async fn page(request: HttpRequest) -> HttpResponse {
    let body = SHOWN.clone();
    etag::answer(&request, "text/html; charset=utf-8", body, |answer| {
        answer
            .insert_header(UNTIL_ANOTHER_VERSION)
            .insert_header((CONTENT_SECURITY_POLICY, POLICY.as_str()));
    })
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::http::header::{ETAG, IF_NONE_MATCH};
    use actix_web::test::TestRequest;

    use super::*;

    #[actix_web::test]
    async fn the_document_says_where_it_is_served() {
        for (public, server) in [("", "/"), ("https://a.example/b/", "https://a.example/b")] {
            let public = Data::new(PublicUrl::parse(public).unwrap());
            let answer = document(TestRequest::default().to_http_request(), public.clone()).await;
            let tag = answer.headers().get(ETAG).unwrap().clone();
            let body = to_bytes(answer.into_body()).await.unwrap();
            let served: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(served["servers"][0]["url"], server);
            assert_eq!(served["paths"], WHOLE["paths"]);
            let again = TestRequest::default().insert_header((IF_NONE_MATCH, tag));
            let again = document(again.to_http_request(), public).await;
            assert_eq!(again.status(), 304);
        }
    }

    /// Whoever reads the page finds every operation and every schema, and whatever it links to.
    #[actix_web::test]
    async fn the_page_shows_everything_asks_nobody_and_runs_nothing() {
        let answer = page(TestRequest::default().to_http_request()).await;
        let policy = answer.headers().get(CONTENT_SECURITY_POLICY).unwrap();
        assert!(
            policy
                .to_str()
                .unwrap()
                .starts_with("default-src 'none'; style-src 'sha256-")
        );
        let html = to_bytes(answer.into_body()).await.unwrap();
        let html = std::str::from_utf8(&html).unwrap();
        for (path, item) in WHOLE["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(html.contains(&format!("id=\"{id}\"")), "{path}");
                let summary = operation["summary"].as_str().unwrap();
                assert!(html.contains(&markup::escaped(summary)), "{path}");
            }
        }
        for link in html.split("href=\"").skip(1) {
            let target = link.split('"').next().unwrap();
            let there = match target.strip_prefix('#') {
                Some(anchor) => html.contains(&format!("id=\"{anchor}\"")),
                None => target == "openapi.json",
            };
            assert!(there, "{target}");
        }
        for forbidden in ["<script", "style=\"", " src=", "http:", "https:", "onclick"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }
}
