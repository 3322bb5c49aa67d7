//! The W3C `traceparent`: which trace a request, a stored event or a message belongs to.
//!
//! Strict where the SDK's own reader is not: opentelemetry_sdk 0.33.1 takes ids that are too short
//! or begin with `+`, and any version up to `fe` whatever stands behind its flags.

use std::fmt;
use std::str::FromStr;

/// The header, of HTTP and of messages alike.
pub const TRACEPARENT: &str = "traceparent";
/// What other vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// A span of a trace, as told to whoever goes on with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    /// Whether its spans are recorded.
    pub sampled: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a traceparent")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// `None` where an id is 0, which is no id.
    pub fn new(trace: u128, span: u64, sampled: bool) -> Option<Self> {
        (trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            sampled,
        })
    }

    pub fn trace(self) -> u128 {
        self.trace
    }

    pub fn span(self) -> u64 {
        self.span
    }

    /// The trace's id, as logs and problem bodies show it.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// `<version>-<32 hex>-<16 hex>-<2 hex>`, in small letters. What follows is for versions after
    /// the first, as is any flag but the one for *sampled*.
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        const LENGTH: usize = 55;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let bytes = text.as_bytes();
        let (head, rest) = bytes.split_at_checked(LENGTH).ok_or(InvalidTraceParent)?;
        let fits = head.iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => hex(*byte),
        });
        let is_known = match &head[..2] {
            b"00" => rest.is_empty(),
            b"ff" => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        if !(fits && is_known) {
            return Err(InvalidTraceParent);
        }
        let number = |from: usize, to: usize| u128::from_str_radix(&text[from..to], 16);
        let trace = number(3, 35).map_err(|_| InvalidTraceParent)?;
        let span = u64::from_str_radix(&text[36..52], 16).map_err(|_| InvalidTraceParent)?;
        let flags = number(53, LENGTH).map_err(|_| InvalidTraceParent)?;
        Self::new(trace, span, flags & 1 == 1).ok_or(InvalidTraceParent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn it_is_read_as_w3c_says_and_written_as_it_was_read() {
        let read: TraceParent = GOOD.parse().unwrap();
        assert!(read.sampled);
        assert_eq!(read.to_string(), GOOD);
        assert_eq!(read.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let unsampled: TraceParent = GOOD.replace("-01", "-00").parse().unwrap();
        assert!(!unsampled.sampled);
        // A later version: its first four parts are ours to read, whatever follows.
        for later in [
            GOOD.replacen("00", "01", 1),
            GOOD.replacen("00", "fe", 1) + "-x",
        ] {
            assert_eq!(later.parse(), Ok(read), "{later}");
        }
        // Flags that this version does not know are not handed on.
        let flags: TraceParent = GOOD.replace("-01", "-ff").parse().unwrap();
        assert_eq!(flags, read);
    }

    #[test]
    fn what_w3c_calls_invalid_is_no_traceparent() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_span = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
        for bad in [
            "",
            "everything",
            "00-1-2-3",
            &zero_trace,
            &zero_span,
            &GOOD.to_uppercase(),
            &GOOD[..54],
            &format!("{GOOD}-x"),
            &format!("{GOOD}0"),
            &format!(" {GOOD}"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0", 1),
            &(GOOD.replacen("00", "01", 1) + "x"),
            &GOOD.replacen("4bf9", "+bf9", 1),
            &GOOD.replacen("-00f0", "_00f0", 1),
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(InvalidTraceParent), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_one_or_none(text in "\\PC{0,80}") {
            let _ = text.parse::<TraceParent>();
        }

        #[test]
        fn every_one_reads_back(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let told = TraceParent::new(trace, span, sampled).unwrap();
            prop_assert_eq!(told.to_string().parse(), Ok(told));
        }
    }
}
