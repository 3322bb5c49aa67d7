//! The name of one log. What it is for: [`crate::connections::log_identity`].

use std::fmt;
use std::str::FromStr;

/// The identity of one log: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct LogId(u128);

impl LogId {
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("32 hexadecimal digits")]
pub struct InvalidLogId;

impl FromStr for LogId {
    type Err = InvalidLogId;

    fn from_str(text: &str) -> Result<Self, InvalidLogId> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidLogId);
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidLogId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_32_digits_and_reads_back() {
        let log = LogId::random();
        assert_eq!(log.to_string().parse(), Ok(log));
        assert_eq!("7".parse::<LogId>(), Err(InvalidLogId));
        assert_eq!("+".repeat(32).parse::<LogId>(), Err(InvalidLogId));
    }
}
