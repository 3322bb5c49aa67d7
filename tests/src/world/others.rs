//! More processes of the services of a world, each different from the first one in one way.

use std::path::PathBuf;

use super::environment::{binary_named, owned};
use super::{Service, World, free_ports};
use crate::process::Process;

impl World {
    /// Another process of a service, with ports of its own; not started yet.
    pub fn another(&self, of: &Service) -> Service {
        self.another_with(of, &[])
    }

    /// Another process of a service, started with arguments.
    pub fn another_with(&self, of: &Service, arguments: &[&str]) -> Service {
        self.another_in(of, arguments, &[])
    }

    /// Another process of a service, with the clock of [`World::set_clock`]; `None` where
    /// libfaketime is not installed.
    pub fn another_with_clock(&self, of: &Service) -> Option<Service> {
        let environment = self.clock_environment()?;
        let environment: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.set_clock(0.0);
        Some(self.another_in(of, &[], &environment))
    }

    /// The environment of a process with such a clock; `None` where libfaketime is not installed.
    pub fn clock_environment(&self) -> Option<Vec<(String, String)>> {
        let library = std::env::var("MICROBLOG_FAKETIME").ok()?;
        let offset = self.clock_file().display().to_string();
        Some(owned(&[
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &offset),
            ("FAKETIME_NO_CACHE", "1"),
            // A clock that is set does not change how long things take.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]))
    }

    /// Sets those clocks so many seconds off.
    pub fn set_clock(&self, seconds: f64) {
        let next = self.file("clock.next", &format!("{seconds:+.3}"));
        std::fs::rename(next, self.clock_file()).expect("files of one folder");
    }

    fn clock_file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Another process of a service, that reaches the broker at another port.
    pub fn another_to_broker(&self, of: &Service, port: u16) -> Service {
        let url = format!("nats://127.0.0.1:{port}");
        self.another_in(of, &[], &[("NATS_URL", &url)])
    }

    /// A process of another deployment, with a database of its own and the same broker and prefix.
    pub fn of_another_deployment(&self, of: &Service) -> Service {
        let (server, options) = self
            .mongodb_uri()
            .split_once("/?")
            .expect("no database is named");
        let uri = format!("{server}/another?{options}");
        self.another_in(of, &[], &[("MONGODB_URI", &uri)])
    }

    /// Another process of a service, with arguments and with `extra` in its environment.
    pub fn another_in(&self, of: &Service, arguments: &[&str], extra: &[(&str, &str)]) -> Service {
        let number = self.others().len();
        let name = format!("{}-other-{number}", of.process.name());
        let place = ("127.0.0.1", free_ports());
        self.another_at(&name, place, of, arguments, extra)
    }

    /// Another process of a service, with a name, an address and two ports.
    pub(super) fn another_at(
        &self,
        name: &str,
        (host, [port, ops]): (&str, [u16; 2]),
        of: &Service,
        arguments: &[&str],
        extra: &[(&str, &str)],
    ) -> Service {
        let program = if of.process.name().starts_with("command") {
            "COMMAND"
        } else {
            "QUERY"
        };
        let binary = format!("{}-service", program.to_lowercase());
        let mut environment = self.environment.clone();
        for (name, value) in &mut environment {
            if *name == format!("{program}_ADDR") {
                *value = format!("{host}:{port}");
            } else if *name == format!("{program}_OPS_ADDR") {
                *value = format!("{host}:{ops}");
            }
        }
        let process = Process::new(name, &binary_named(&binary), self.folder.path())
            .arguments(arguments.iter().copied())
            .environment(environment)
            .environment(owned(extra));
        let other = Service::new(process, host, port, ops);
        self.remember(other.process.clone());
        other
    }
}
