//! Where the next page is.

use actix_web::HttpRequest;
use actix_web::web::Data;
use reqwest::Url;
use shared::runtime::public_url::PublicUrl;

/// What else a caller wrote into the query is kept as long as the link is no longer than this, in
/// bytes: proxies take 4 KiB of head by default.
const LONGEST: usize = 2_048;
/// Parameters that the next page needs.
const NEEDED: [&str; 2] = ["limit", "user_id"];

/// The request's own path and query with the next cursor, as a `Link` header says it (RFC 8288):
/// below `PUBLIC_URL` where that is set, else relative. Which scheme and host the caller used, only
/// a trusted proxy could tell.
///
/// The query is decoded and encoded again, so that nothing of it can end the link early.
pub fn to_next_page(request: &HttpRequest, cursor: &str) -> String {
    let none = PublicUrl::default();
    let public = request.app_data::<Data<PublicUrl>>();
    let public = public.map_or(&none, |public| public);
    let target = |query| public.to(&format!("{}?{query}", request.path()));
    let whole = target(next_query(request.query_string(), cursor, |_| true));
    let url = if whole.len() <= LONGEST {
        whole
    } else {
        let needed = |name: &str| NEEDED.contains(&name);
        target(next_query(request.query_string(), cursor, needed))
    };
    format!("<{url}>; rel=\"next\"")
}

fn next_query(query: &str, cursor: &str, keep: impl Fn(&str) -> bool) -> String {
    // Only its query is used.
    let Ok(mut given) = Url::parse("http://localhost/") else {
        return String::new();
    };
    let mut next = given.clone();
    given.set_query(Some(query));
    let others = given
        .query_pairs()
        .filter(|(name, value)| name != "cursor" && !value.is_empty() && keep(name));
    next.query_pairs_mut()
        .extend_pairs(others)
        .append_pair("cursor", cursor);
    next.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;

    fn link(uri: &str, public: &str) -> String {
        let public = PublicUrl::parse(public).unwrap();
        let request = TestRequest::with_uri(uri)
            .app_data(Data::new(public))
            .insert_header(("forwarded", "host=evil.example;proto=https"))
            .insert_header(("x-forwarded-host", "evil.example"))
            .to_http_request();
        to_next_page(&request, "new")
    }

    #[test]
    fn the_next_page_is_where_this_one_was_whatever_a_caller_claims_of_the_host() {
        assert_eq!(
            link("/api/v1/timeline?limit=2&cursor=old", ""),
            "</api/v1/timeline?limit=2&cursor=new>; rel=\"next\""
        );
    }

    #[test]
    fn it_is_below_the_public_url_where_there_is_one() {
        for public in ["https://example.org/social", "https://example.org/social/"] {
            assert_eq!(
                link("/api/v1/timeline", public),
                "<https://example.org/social/api/v1/timeline?cursor=new>; rel=\"next\""
            );
        }
    }

    #[test]
    fn other_parameters_are_kept_and_encoded_and_empty_ones_are_not() {
        assert_eq!(
            link(
                "/t?limit=2&fields=a,b&cursor=&q=%3E%22%3C+x&empty=&flag&c%75rsor=old",
                ""
            ),
            "</t?limit=2&fields=a%2Cb&q=%3E%22%3C+x&cursor=new>; rel=\"next\""
        );
        let long = "x".repeat(LONGEST);
        assert_eq!(
            link(&format!("/t?a={long}&limit=2&user_id=7"), ""),
            "</t?limit=2&user_id=7&cursor=new>; rel=\"next\""
        );
    }

    proptest! {
        #[test]
        fn whatever_the_query_is_there_is_one_cursor_and_nothing_ends_the_link(query in "\\PC{0,80}") {
            let query = next_query(&format!("limit=3&{query}"), "new", |_| true);
            let inner = format!("/t?{query}");
            prop_assert!(inner.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\",;".contains(&byte)));
            let url = Url::parse(&format!("http://localhost{inner}")).unwrap();
            let cursors: Vec<_> = url.query_pairs().filter(|(name, _)| name == "cursor").collect();
            prop_assert_eq!(cursors.len(), 1);
            prop_assert_eq!(&cursors[0].1, "new");
        }
    }
}
