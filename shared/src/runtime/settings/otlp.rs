//! Where traces and logs are sent: the variables that the OpenTelemetry specification names, all
//! read here. The SDK ignores some of them, and would read others behind our back.
//!
//! As the specification has it, a variable that is empty counts as not set.

use reqwest::Url;

use super::environment::Environment;
use super::secret::Secret;
use super::values::number;
use super::variables::{self, Text};

/// What is sent where. Nothing, unless an endpoint is set.
#[derive(Clone, Debug, Default)]
pub struct OtlpSettings {
    /// Spans are sent there.
    pub traces: Option<String>,
    /// Log lines are sent there.
    pub logs: Option<String>,
    /// Of every request with spans, names in small letters.
    pub traces_headers: Vec<(String, Secret)>,
    /// Of every request with log lines.
    pub logs_headers: Vec<(String, Secret)>,
    pub sampler: Sampler,
    pub service_name: Option<String>,
    pub resource: Vec<(String, String)>,
    /// Variables of the specification that are set and have no effect here.
    pub unread: Vec<String>,
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampler {
    /// Whoever began the trace has decided; `root` decides on those that begin here.
    pub parent_based: bool,
    pub root: RootSampler,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RootSampler {
    #[default]
    AlwaysOff,
    AlwaysOn,
    /// This share of all traces, from 0 to 1.
    Ratio(f64),
}

const SAMPLERS: &str = "always_on, always_off, traceidratio, parentbased_always_on, \
    parentbased_always_off or parentbased_traceidratio";
const ENDPOINT: &str = "a URL that begins with http:// or https://, without user, query and \
    fragment: credentials stand in OTEL_EXPORTER_OTLP_HEADERS";
const PAIRS: &str = "pairs as in name=value,other=value, percent-encoded";
const SERVICE_NAME: &str = "1 to 100 of letters, digits, -, _ and .";

/// What is set: not what is empty.
fn given(env: &Environment, variable: &Text) -> Option<String> {
    let text = env.text(variable)?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What is set, else the default; a fault where it cannot be read.
fn one<T>(
    env: &mut Environment,
    variable: &Text,
    wants: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = given(env, variable).unwrap_or_else(|| variable.default.to_owned());
    if text.is_empty() {
        return None;
    }
    let value = parse(&text);
    if value.is_none() {
        env.faults.say(variable.name, wants);
    }
    value
}

pub(super) fn read(env: &mut Environment) -> OtlpSettings {
    let disabled = one(env, &variables::OTEL_SDK_DISABLED, "true or false", truth);
    if disabled == Some(true) {
        // Whatever else is set means nothing, and hinders nobody.
        return OtlpSettings::default();
    }
    let traced = one(env, &variables::OTEL_TRACES_EXPORTER, "otlp or none", otlp);
    let logged = one(env, &variables::OTEL_LOGS_EXPORTER, "otlp or none", otlp);
    one(
        env,
        &variables::OTEL_EXPORTER_OTLP_PROTOCOL,
        "http/protobuf",
        |text| (text == "http/protobuf").then_some(()),
    );
    let both = one(
        env,
        &variables::OTEL_EXPORTER_OTLP_ENDPOINT,
        ENDPOINT,
        endpoint,
    );
    // The two are taken as they are; the one for both is a base.
    let below = |path: &str| Some(format!("{}{path}", both.as_deref()?.trim_end_matches('/')));
    let traces = one(
        env,
        &variables::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
        ENDPOINT,
        endpoint,
    );
    let traces = traces.or_else(|| below("/v1/traces"));
    let logs = one(
        env,
        &variables::OTEL_EXPORTER_OTLP_LOGS_ENDPOINT,
        ENDPOINT,
        endpoint,
    );
    let logs = logs.or_else(|| below("/v1/logs"));
    let is_on = |exporter: Option<bool>| exporter == Some(true);
    if is_on(logged) && logs.is_none() && env.faults.is_empty() {
        env.faults.say(
            variables::OTEL_LOGS_EXPORTER.name,
            "none, unless OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is set",
        );
    }
    let mut headers = |variable| one(env, variable, PAIRS, headers);
    let of_both = headers(&variables::OTEL_EXPORTER_OTLP_HEADERS).unwrap_or_default();
    let of_traces = headers(&variables::OTEL_EXPORTER_OTLP_TRACES_HEADERS);
    let of_logs = headers(&variables::OTEL_EXPORTER_OTLP_LOGS_HEADERS);
    let resource = one(env, &variables::OTEL_RESOURCE_ATTRIBUTES, PAIRS, pairs);
    OtlpSettings {
        traces: traces.filter(|_| is_on(traced)),
        logs: logs.filter(|_| is_on(logged)),
        traces_headers: of_traces.unwrap_or_else(|| of_both.clone()),
        logs_headers: of_logs.unwrap_or(of_both),
        sampler: sampler(env),
        service_name: one(
            env,
            &variables::OTEL_SERVICE_NAME,
            SERVICE_NAME,
            service_name,
        ),
        resource: resource.unwrap_or_default(),
        unread: std::mem::take(&mut env.unread),
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Whether it is sent by OTLP.
fn otlp(text: &str) -> Option<bool> {
    match text {
        "otlp" => Some(true),
        "none" => Some(false),
        _ => None,
    }
}

fn endpoint(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain;
    fits.then(|| text.to_owned())
}

fn service_name(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (text.len() <= 100 && text.bytes().all(plain)).then(|| text.to_owned())
}

/// `name=value`, with commas between; what is percent-encoded is decoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (name, value) = item.split_once('=')?;
        let (name, value) = (decoded(name.trim())?, decoded(value.trim())?);
        (!name.is_empty()).then_some((name, value))
    };
    items.map(pair).collect()
}

fn headers(text: &str) -> Option<Vec<(String, Secret)>> {
    use reqwest::header::{HeaderName, HeaderValue};
    let header = |(name, value): (String, String)| {
        let name: HeaderName = name.parse().ok()?;
        value.parse::<HeaderValue>().ok()?;
        Some((name.as_str().to_owned(), Secret::new(value)))
    };
    pairs(text)?.into_iter().map(header).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let code = digit()? * 16 + digit()?;
        plain.push(u8::try_from(code).ok()?);
    }
    String::from_utf8(plain).ok()
}

fn sampler(env: &mut Environment) -> Sampler {
    let ratio = one(
        env,
        &variables::OTEL_TRACES_SAMPLER_ARG,
        "a number from 0 to 1, as in 0.1",
        ratio,
    );
    let named = |text: &str| {
        let (parent_based, root) = match text.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, text),
        };
        let root = match root {
            "always_on" => RootSampler::AlwaysOn,
            "always_off" => RootSampler::AlwaysOff,
            "traceidratio" => RootSampler::Ratio(ratio.unwrap_or_default()),
            _ => return None,
        };
        Some(Sampler { parent_based, root })
    };
    one(env, &variables::OTEL_TRACES_SAMPLER, SAMPLERS, named).unwrap_or_default()
}

/// A plain decimal number: no sign, no exponent.
fn ratio(text: &str) -> Option<f64> {
    let digits = text.replacen('.', "", 1);
    number::<u128>(&digits)?;
    let ratio: f64 = text.parse().ok()?;
    (0.0..=1.0).contains(&ratio).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, SettingsError};
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<OtlpSettings, SettingsError> {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::from_vars(vars).map(|settings| settings.otlp)
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4318/");

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_set() {
        let otlp = read(&[]).unwrap();
        assert_eq!((otlp.traces, otlp.logs), (None, None));
        let otlp = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap();
        assert_eq!((otlp.traces, otlp.logs), (None, None));
        let SettingsError(faults) = read(&[("OTEL_LOGS_EXPORTER", "otlp")]).unwrap_err();
        assert!(faults[0].starts_with("OTEL_LOGS_EXPORTER must be none, unless"));
    }

    #[test]
    fn the_base_gets_the_signal_s_path_and_the_endpoint_of_one_signal_is_taken_as_it_is() {
        let otlp = read(&[BASE]).unwrap();
        assert_eq!(otlp.traces.as_deref(), Some("http://jaeger:4318/v1/traces"));
        assert_eq!(otlp.logs, None, "logs are sent only where it is said");
        let loki = "http://loki:3100/otlp/v1/logs";
        let vars = [
            BASE,
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", loki),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ];
        let otlp = read(&vars).unwrap();
        assert_eq!((otlp.traces, otlp.logs.as_deref()), (None, Some(loki)));
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://a/b");
        assert_eq!(
            read(&[traces]).unwrap().traces.as_deref(),
            Some("https://a/b")
        );
    }

    #[test]
    fn disabled_sends_nothing_whatever_else_is_set() {
        let vars = |disabled| {
            let logs = ("OTEL_LOGS_EXPORTER", "otlp");
            read(&[BASE, logs, ("OTEL_SDK_DISABLED", disabled)]).unwrap()
        };
        let off = vars("TRUE");
        assert_eq!((off.traces, off.logs), (None, None));
        let on = vars("false");
        assert!(on.traces.is_some() && on.logs.is_some());
        let bad = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere"),
        ];
        for one in bad {
            assert!(read(&[one]).is_err(), "{one:?}");
            let off = read(&[one, ("OTEL_SDK_DISABLED", "true")]).unwrap();
            assert_eq!((off.traces, off.logs), (None, None), "{one:?}");
        }
    }

    #[test]
    fn what_is_set_and_not_read_is_named() {
        let vars = [
            BASE,
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10000"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ""),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
            ("OTHER", "1"),
        ];
        let unread = read(&vars).unwrap().unread;
        let wanted = [
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        ];
        assert_eq!(unread, wanted);
    }

    #[test]
    fn the_headers_of_one_signal_replace_those_of_both() {
        let of = |vars: &[_]| {
            let otlp = read(vars).unwrap();
            [otlp.traces_headers, otlp.logs_headers].map(|headers| {
                let headers = headers.into_iter();
                let texts = headers.map(|(name, value)| format!("{name}={}", value.expose()));
                texts.collect::<Vec<_>>().join(",")
            })
        };
        let both = ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=2");
        assert_eq!(of(&[both]), ["a=1,b=2", "a=1,b=2"]);
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=3");
        assert_eq!(of(&[both, traces]), ["a=3", "a=1,b=2"]);
        let logs = ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "c=4");
        assert_eq!(of(&[traces, logs]), ["a=3", "c=4"]);
    }

    #[test]
    fn all_six_samplers_are_known_and_one_in_ten_is_the_default() {
        let of = |vars: &[_]| read(vars).unwrap().sampler;
        let parent_based = |root| Sampler {
            parent_based: true,
            root,
        };
        assert_eq!(of(&[]), parent_based(RootSampler::Ratio(0.1)));
        let named = |name| of(&[("OTEL_TRACES_SAMPLER", name)]);
        let alone = |root| Sampler {
            parent_based: false,
            root,
        };
        assert_eq!(named("always_on"), alone(RootSampler::AlwaysOn));
        assert_eq!(named("always_off"), alone(RootSampler::AlwaysOff));
        assert_eq!(named("traceidratio"), alone(RootSampler::Ratio(0.1)));
        assert_eq!(
            named("parentbased_always_on"),
            parent_based(RootSampler::AlwaysOn)
        );
        assert_eq!(
            named("parentbased_always_off"),
            parent_based(RootSampler::AlwaysOff)
        );
        let half = [
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ];
        assert_eq!(of(&half), parent_based(RootSampler::Ratio(0.5)));
        for bad in ["1.5", "-0", "+1", "1e-3", "NaN", "inf", ".", "x"] {
            assert!(read(&[("OTEL_TRACES_SAMPLER_ARG", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_and_attributes_are_decoded_and_headers_are_never_printed() {
        let vars = [
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Basic%20canary, x=1",
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "deployment.environment.name=a%2Cb,",
            ),
        ];
        let otlp = read(&vars).unwrap();
        let headers = otlp.logs_headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value.expose()))
            .collect();
        assert_eq!(headers, [("authorization", "Basic canary"), ("x", "1")]);
        let attribute = ("deployment.environment.name".to_owned(), "a,b".to_owned());
        assert_eq!(otlp.resource, [attribute]);
        assert!(!format!("{otlp:?}").contains("canary"));
        for bad in ["a", "=b", "a=%", "a=%zz", "a b=c", "a=%0a"] {
            assert!(
                read(&[("OTEL_EXPORTER_OTLP_HEADERS", bad)]).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn an_endpoint_holds_no_credentials() {
        for bad in [
            "http://",
            "ftp://a",
            "http://u:p@a",
            "http://a?b",
            "http://a#b",
            "a:4318",
        ] {
            assert!(
                read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", bad)]).is_err(),
                "{bad}"
            );
        }
    }
}
