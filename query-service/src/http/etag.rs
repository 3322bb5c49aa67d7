//! Entity tags, as they are sent, and as they come back from clients: through proxies that compress,
//! weaken and merge.

use actix_web::http::header::{ETAG, IF_NONE_MATCH};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use xxhash_rust::xxh3::xxh3_64;

/// What proxies that compress write behind a tag, after a separator: `W/"x"` comes back as
/// `W/"x-gzip"` (Apache), `"x;gzip"`, `"x--br"` (Jetty), or with two of them where two compress.
const CODINGS: [&[u8]; 7] = [b"br", b"compress", b"deflate", b"gzip", b"x", b"zstd", b""];

/// 200 with the body and a weak entity tag of it, or 304 without it where the caller has just that.
/// `describe` puts headers on either.
pub fn answer(
    request: &HttpRequest,
    media: &'static str,
    body: Bytes,
    describe: impl FnOnce(&mut HttpResponseBuilder),
) -> HttpResponse {
    let tag = format!("{:016x}", xxh3_64(&body));
    let is_known = is_known(request, &tag);
    let mut answer = if is_known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    answer.insert_header((ETAG, format!("W/\"{tag}\"")));
    describe(&mut answer);
    if is_known {
        answer.finish()
    } else {
        answer.content_type(media).body(body)
    }
}

/// Whether the caller has what `tag` names, by any of its `If-None-Match` lines. `tag` is the
/// opaque part, without quotes; it holds no separator.
///
/// Which of the two tags is weak does not matter (RFC 9110, 13.1.2), nor whether a proxy has sent
/// this content compressed: the content is the same.
fn is_known(request: &HttpRequest, tag: &str) -> bool {
    let mut lines = request.headers().get_all(IF_NONE_MATCH);
    lines.any(|line| names(line.as_bytes(), tag.as_bytes()))
}

/// Whether one line names the tag. Bytes: a tag may hold others than ASCII, and commas.
fn names(line: &[u8], ours: &[u8]) -> bool {
    let mut rest = line.trim_ascii();
    if rest == b"*" {
        return true;
    }
    while let Some(byte) = rest.first() {
        let quoted = rest.strip_prefix(b"W/").unwrap_or(rest);
        let quoted = quoted.strip_prefix(b"\"").and_then(|tag| {
            let end = tag.iter().position(|byte| *byte == b'"')?;
            Some((&tag[..end], &tag[end + 1..]))
        });
        rest = match quoted {
            Some((tag, _)) if is_same(tag, ours) => return true,
            Some((_, behind)) => behind,
            // Between two tags, or no tag: on to the next comma.
            None if *byte == b',' || byte.is_ascii_whitespace() => &rest[1..],
            None => match rest.iter().position(|byte| *byte == b',') {
                Some(comma) => &rest[comma..],
                None => return false,
            },
        };
    }
    false
}

fn is_same(tag: &[u8], ours: &[u8]) -> bool {
    let is_separator = |byte: &u8| b"-;:+".contains(byte);
    let Some(behind) = tag.strip_prefix(ours) else {
        return false;
    };
    let Some(first) = behind.first() else {
        return true;
    };
    is_separator(first)
        && behind
            .split(is_separator)
            .all(|coding| CODINGS.contains(&coding))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "00ff00ff00ff00ff";

    fn known(lines: &[&str]) -> bool {
        let mut request = TestRequest::default();
        for line in lines {
            request = request.append_header((IF_NONE_MATCH, line.replace('T', TAG)));
        }
        is_known(&request.to_http_request(), TAG)
    }

    #[test]
    fn tags_are_compared_weakly_in_every_line_and_place() {
        for line in [
            "W/\"T\"",
            "\"T\"",
            "*",
            " * ",
            "\"b\", W/\"T\"",
            "W/\"b\",,\t\"T\" ",
            "unquoted, \"T\"",
            "\"with, a comma\", \"T\"",
            "\"b\"\"T\"",
        ] {
            assert!(known(&[line]), "{line}");
        }
        assert!(known(&["\"b\"", "W/\"c\", \"T\""]));
        assert!(known(&["\u{e9}", "\"\u{e9}\"", "\"T\""]));
    }

    #[test]
    fn what_compressing_proxies_make_of_a_tag_is_the_tag() {
        for made in [
            "T-gzip",
            "T-br",
            "T-zstd",
            "T-deflate",
            "T;gzip",
            "T;br",
            "T--gzip",
            "T:gzip",
            "T-x-gzip",
            "T-gzip-gzip",
        ] {
            assert!(known(&[&format!("W/\"{made}\"")]), "{made}");
            assert!(known(&[&format!("\"b\", \"{made}\"")]), "{made}");
        }
    }

    #[test]
    fn what_is_another_tag_is_not_ours() {
        for line in [
            "",
            "T",
            "\"b\"",
            "W/\"b\", \"c\"",
            "\"T",
            "T\"",
            "\"Tgzip\"",
            "\"T-lz4\"",
            "\"T0\"",
            "\"a T\"",
            "\"gzip-T\"",
            "\"x, \\\"T\\\"\"",
            "w/\"b\", *",
            "W/",
        ] {
            assert!(!known(&[line]), "{line}");
        }
        assert!(!known(&[]));
    }

    proptest! {
        #[test]
        fn any_bytes_end_and_a_listed_tag_is_found(before in "[ -!#-~]{0,40}", after in ".{0,40}") {
            names(after.as_bytes(), TAG.as_bytes());
            let line = format!("\"{before}\", \"{TAG}\", {after}");
            prop_assert!(names(line.as_bytes(), TAG.as_bytes()));
        }
    }
}
