//! The web page at `/`. Its files are part of the program, and say nothing that depends on who asks:
//! what it shows, its scripts fetch from the API as every client does.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use actix_web::web::{Bytes, Path};
use actix_web::{HttpRequest, HttpResponse};

use super::errors::not_found;
use super::etag;
use super::responses::Response;

pub const INDEX: &str = "/";
pub const FILE: &str = "/web/{file}";

/// Nothing but what comes from here, no script or style within the page, and no form that the browser
/// itself sends. Text of users never becomes HTML: Trusted Types forbid every way to try.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../web/", $name)))),*]
    };
}

const INDEX_FILE: (&str, &str) = ("index.html", include_str!("../../web/index.html"));

const FILES: [(&str, &str); 15] = files![
    "account.mjs",
    "api.mjs",
    "app.mjs",
    "compose.mjs",
    "dom.mjs",
    "entries.mjs",
    "feed.mjs",
    "icon.svg",
    "live.mjs",
    "people.mjs",
    "post.mjs",
    "session.mjs",
    "sse.mjs",
    "style.css",
    "thread.mjs",
];

pub async fn index(request: HttpRequest) -> HttpResponse {
    shown(&request, INDEX_FILE)
}

pub async fn file(request: HttpRequest, name: Path<String>) -> Response {
    let found = FILES.into_iter().find(|(known, _)| *known == *name);
    let found = found.ok_or_else(not_found)?;
    Ok(shown(&request, found))
}

/// Asked for again each time, and sent again only where it is another one: after an upgrade no
/// browser goes on with half of the files from before.
fn shown(request: &HttpRequest, (name, text): (&str, &'static str)) -> HttpResponse {
    let body = Bytes::from_static(text.as_bytes());
    etag::answer(request, kind(name), body, |answer| {
        answer
            .insert_header((CACHE_CONTROL, "no-cache"))
            .insert_header((CONTENT_SECURITY_POLICY, POLICY));
    })
}

/// The media type, by the end of the name.
fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use actix_web::body::to_bytes;
    use actix_web::http::StatusCode;
    use actix_web::http::header::{CONTENT_TYPE, ETAG, HeaderName};
    use actix_web::test::TestRequest;

    use super::*;

    fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
        std::iter::once(INDEX_FILE).chain(FILES)
    }

    /// What stands between `before` and the next `"` or `'`, each time.
    fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
        let rest = text.split(before).skip(1);
        rest.map(|rest| rest.split(['"', '\'']).next().unwrap_or_default())
            .collect()
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_every_file_that_one_names_is_there() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| {
                entry
                    .expect("a file")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .collect();
        let served: BTreeSet<String> = all().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(served, there);
        let mut named = 0;
        for (name, text) in all() {
            for other in quoted(text, "\"/web/")
                .into_iter()
                .chain(quoted(text, " from './"))
            {
                assert!(served.contains(other), "{name} wants {other}");
                named += 1;
            }
        }
        // The page names its scripts ahead, so that none waits for another's imports.
        let scripts = FILES.iter().filter(|(name, _)| name.ends_with(".mjs"));
        for (name, _) in scripts {
            assert!(INDEX_FILE.1.contains(&format!("\"/web/{name}\"")), "{name}");
        }
        assert!(named > 20, "{named}");
    }

    /// What the policy would refuse in a browser, and what it could not.
    #[test]
    fn no_file_needs_another_host_or_a_way_around_the_policy() {
        for (name, text) in all() {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "<style",
                " style=",
                " onclick=",
                "@import",
                "url(",
            ] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
            let hosts = text.split("://").skip(1).map(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !".-:".contains(c));
                &rest[..end.unwrap_or(rest.len())]
            });
            // The name of SVG's elements, and the address that `make run` prints.
            let known = ["", "www.w3.org", "127.0.0.1:8080"];
            for host in hosts {
                assert!(known.contains(&host), "{name}: {host}");
            }
        }
    }

    #[actix_web::test]
    async fn a_file_has_its_type_its_policy_and_a_tag_that_is_answered_304() {
        for (name, text) in all() {
            let answer = shown(&TestRequest::default().to_http_request(), (name, text));
            assert_eq!(answer.status(), StatusCode::OK);
            let header = |of: &HttpResponse, name: HeaderName| {
                let value = of.headers().get(name);
                value
                    .map_or("", |value| value.to_str().unwrap_or_default())
                    .to_owned()
            };
            assert_eq!(header(&answer, CONTENT_TYPE), kind(name));
            assert_eq!(header(&answer, CONTENT_SECURITY_POLICY), POLICY);
            let tag = header(&answer, ETAG);
            assert_eq!(to_bytes(answer.into_body()).await.unwrap(), text);
            let again = TestRequest::default().insert_header(("If-None-Match", tag.as_str()));
            let again = shown(&again.to_http_request(), (name, text));
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
            assert_eq!(header(&again, ETAG), tag);
        }
        let request = || TestRequest::default().to_http_request();
        for name in ["", "nothing.css", "index.html", "../Cargo.toml", "APP.MJS"] {
            let answer = file(request(), Path::from(name.to_owned())).await;
            assert!(answer.is_err(), "{name}");
        }
    }
}
