//! Where clients find the services: what `PUBLIC_URL` says.

use reqwest::Url;

/// The absolute URL below which clients reach both services, if the operator has set one. It is
/// not taken from requests, because a caller may claim any host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PublicUrl(Option<String>);

impl PublicUrl {
    /// Reads `http` or `https`, a host, perhaps a path; an empty text means that none is set. A
    /// query, a fragment or a password is refused: nothing could be appended to such a URL.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        let url = Url::parse(text).ok()?;
        let absolute = ["http", "https"].contains(&url.scheme()) && url.has_host();
        let plain = url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let base = url.as_str().trim_end_matches('/').to_owned();
        (absolute && plain).then_some(Self(Some(base)))
    }

    /// Where a path of ours, which begins with a slash, is reached: absolute if that is known.
    pub fn to(&self, path: &str) -> String {
        let base = self.0.as_deref().unwrap_or_default();
        format!("{base}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(base: &str) -> Option<String> {
        PublicUrl::parse(base).map(|url| url.to("/api/v1/posts/1"))
    }

    #[test]
    fn paths_are_below_what_is_public() {
        assert_eq!(to("").unwrap(), "/api/v1/posts/1");
        for (base, prefix) in [
            ("https://example.org", "https://example.org"),
            ("https://EXAMPLE.org:443/", "https://example.org"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://example.org/social", "https://example.org/social"),
            (
                "https://example.org/a b/\"/",
                "https://example.org/a%20b/%22",
            ),
        ] {
            assert_eq!(to(base).unwrap(), format!("{prefix}/api/v1/posts/1"));
        }
    }

    #[test]
    fn what_is_no_base_is_refused() {
        for base in [
            "example.org",
            "//example.org",
            "/social",
            "https://",
            "ftp://example.org",
            "https://example.org?a=b",
            "https://example.org/#top",
            "https://me:secret@example.org",
            "https://me@example.org",
        ] {
            assert_eq!(to(base), None, "{base}");
        }
    }
}
