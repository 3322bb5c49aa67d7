//! Every request that clients send, counted by what it was and how it was answered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests by kind and answer. A client that asks again sends another request.
#[derive(Debug, Default)]
pub struct Requests(Mutex<Counted>);

/// How many there were of each kind with each answer, and what the first failures said.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    counts: BTreeMap<(&'static str, String), usize>,
    failures: Vec<String>,
}

/// The answer of a request that was answered as it should be.
const DONE: &str = "done";
/// What a read with a token is answered as long as its write is not visible: no failure, and told.
const NOT_YET: &str = "not yet visible";
/// So many failures are kept in full.
const KEPT: usize = 2_000;

impl Requests {
    pub fn done(&self, kind: &'static str) {
        self.count(kind, DONE.to_owned());
    }

    /// A read whose write is not visible yet.
    pub fn not_yet(&self, kind: &'static str) {
        self.count(kind, NOT_YET.to_owned());
    }

    /// A request that was not answered as it should be, and what was said instead.
    pub fn failed(&self, kind: &'static str, said: &str) {
        self.count(kind, label(said));
        let mut counted = self.counted();
        if counted.failures.len() < KEPT {
            counted.failures.push(format!("{kind}: {said}"));
        }
    }

    fn count(&self, kind: &'static str, answer: String) {
        *self.counted().counts.entry((kind, answer)).or_default() += 1;
    }

    /// All until now.
    pub fn so_far(&self) -> Counted {
        self.counted().clone()
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The status and the code of an answer, or that there was none: what is different each time, such
/// as ids, is left out.
fn label(said: &str) -> String {
    let (status, body) = said.split_once(": ").unwrap_or((said, ""));
    let is_status = status.get(..3).is_some_and(|it| it.parse::<u16>().is_ok());
    if !is_status {
        return "no answer".to_owned();
    }
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match problem["code"].as_str() {
        Some(code) => format!("{} {code}", &status[..3]),
        None => format!("{} without a problem", &status[..3]),
    }
}

impl Counted {
    /// What has come since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut counts = self.counts.clone();
        for (what, count) in &before.counts {
            if let Some(now) = counts.get_mut(what) {
                *now -= count;
            }
        }
        counts.retain(|_, count| *count > 0);
        Self {
            counts,
            failures: self.failures[before.failures.len()..].to_vec(),
        }
    }

    pub fn all(&self) -> usize {
        self.counts.values().sum()
    }

    pub fn failed(&self) -> usize {
        let failed = self.counts.iter();
        let failed = failed.filter(|((_, answer), _)| answer != DONE && answer != NOT_YET);
        failed.map(|(_, count)| count).sum()
    }

    /// Of a hundred requests, how many failed.
    pub fn failed_percent(&self) -> f64 {
        100.0 * self.failed() as f64 / self.all().max(1) as f64
    }

    /// The first failures, each as it was told.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.failed_percent();
        write!(
            f,
            "{} requests, {} failed ({percent:.2} %)",
            self.all(),
            self.failed()
        )?;
        for ((kind, answer), count) in &self.counts {
            if answer != DONE {
                write!(f, "; {kind} {answer} {count}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_answer_and_a_part_can_be_told() {
        let requests = Requests::default();
        requests.done("read");
        requests.failed("post", "502 Bad Gateway: <html>");
        let before = requests.so_far();
        requests.failed("post", r#"503 Service Unavailable: {"code":"overloaded"}"#);
        requests.failed(
            "read",
            "error sending request for url (http://127.0.0.1:1/x): closed",
        );
        requests.done("read");
        requests.not_yet("read");
        let since = requests.so_far().since(&before);
        assert_eq!((since.all(), since.failed()), (4, 2));
        assert_eq!(since.failures().len(), 2);
        let told = since.to_string();
        assert!(told.contains("post 503 overloaded 1"), "{told}");
        assert!(told.contains("read no answer 1"), "{told}");
        assert!(told.contains("read not yet visible 1"), "{told}");
        assert!(before.to_string().contains("post 502 without a problem 1"));
    }
}
