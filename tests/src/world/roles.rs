//! Two processes of each role, as the manifests have them, behind the gateway.

use std::path::Path;
use std::sync::Arc;

use super::{PATIENCE, Service, World, free_ports, needed};
use crate::api::Api;
use crate::process::{Process, describe};
use crate::{eventually, http_client, root};

/// Which half of which service a process runs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Role {
    CommandApi,
    Relay,
    QueryApi,
    Projector,
}

impl Role {
    pub const ALL: [Self; 4] = [
        Self::CommandApi,
        Self::Relay,
        Self::QueryApi,
        Self::Projector,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::CommandApi => "command-api",
            Self::Relay => "command-relay",
            Self::QueryApi => "query-api",
            Self::Projector => "query-projector",
        }
    }

    /// The service of which it is a half.
    pub fn service(self) -> &'static str {
        match self {
            Self::CommandApi | Self::Relay => "command-service",
            Self::QueryApi | Self::Projector => "query-service",
        }
    }

    fn argument(self) -> &'static str {
        match self {
            Self::CommandApi | Self::QueryApi => "api",
            Self::Relay => "relay",
            Self::Projector => "projector",
        }
    }
}

/// The eight processes, the engines beneath and the gateway in front.
pub struct Roles {
    pub world: World,
    pub gateway: Arc<Process>,
    /// Where the gateway listens, `http://host:port`.
    pub address: String,
    services: Vec<(Role, [Service; 2])>,
}

impl Roles {
    /// Starts everything, and waits until the gateway passes requests on. `extra` goes into the
    /// services' environment, as for [`World::start`].
    pub async fn start(extra: &[(&str, &str)]) -> Self {
        Self::start_from(None, extra).await
    }

    /// With the binaries in `folder`, or this build's.
    pub async fn start_from(folder: Option<&Path>, extra: &[(&str, &str)]) -> Self {
        let roles = Self::idle(extra);
        for (role, both) in &roles.services {
            for service in both {
                if let Some(folder) = folder {
                    service.process.becomes(&folder.join(role.service()));
                }
            }
        }
        roles.world.start_mongodb().await;
        roles.world.nats.start();
        roles.started().await
    }

    /// Nothing runs yet. The test starts the engines.
    pub fn idle(extra: &[(&str, &str)]) -> Self {
        let [port] = free_ports();
        let address = format!("http://127.0.0.1:{port}");
        // As the Service of the command apis does in a cluster, it finds one that is there.
        let jwks = format!("{address}/.well-known/jwks.json");
        let mut all = vec![
            ("JWKS_URL", jwks.as_str()),
            ("TRUSTED_PROXIES", "127.0.0.0/8"),
            ("DRAIN_SECS", "2"),
        ];
        all.extend(extra);
        let world = World::idle(&all);
        let [command, query, command_ops, query_ops] = free_ports();
        let of_role = |role: Role| {
            let (of, ports) = match role {
                Role::CommandApi => (&world.command, [command, command_ops]),
                Role::QueryApi => (&world.query, [query, query_ops]),
                Role::Relay => (&world.command, free_ports()),
                Role::Projector => (&world.query, free_ports()),
            };
            let one = |number: usize| {
                let name = format!("{}-{number}", role.name());
                // As pods do, replicas have an address of their own and the same ports: the gateway
                // asks for the health of all of them at one port.
                let host = format!("127.0.0.{number}");
                world.another_at(
                    &name,
                    (host.as_str(), ports),
                    of,
                    &["--role", role.argument()],
                    &[],
                )
            };
            (role, [one(1), one(2)])
        };
        let services = Role::ALL.map(of_role).to_vec();
        let gateway = gateway_of_both(&world, port, [command_ops, query_ops], &services);
        Self {
            gateway,
            world,
            address,
            services,
        }
    }

    /// Starts all but the engines, and waits until the gateway passes requests on.
    pub async fn started(self) -> Self {
        self.gateway.start();
        for service in self.all() {
            service.process.start();
        }
        for service in self.all() {
            service.ready().await;
        }
        self.gateway_serves().await;
        self
    }

    /// Both processes of a role.
    pub fn of(&self, role: Role) -> &[Service; 2] {
        both(&self.services, role)
    }

    pub fn all(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flat_map(|(_, both)| both)
    }

    /// The API as clients see it.
    pub fn api(&self) -> Api {
        Api::new(&self.address, &self.address)
    }

    /// Waits until reads and commands pass through the gateway.
    pub async fn gateway_serves(&self) {
        let http = http_client(None);
        for path in ["/api/v1/users/1", "/.well-known/jwks.json"] {
            let url = format!("{}{path}", self.address);
            eventually(
                &format!("the gateway passes {path} on"),
                PATIENCE,
                async || {
                    if let Some(status) = self.gateway.ended() {
                        panic!("the gateway ended by itself: {}", describe(status));
                    }
                    let answer = http.get(&url).send().await.ok()?;
                    let from_service = answer.headers().contains_key("x-request-id");
                    (from_service && answer.status().as_u16() < 500).then_some(())
                },
            )
            .await;
        }
    }
}

fn both(services: &[(Role, [Service; 2])], role: Role) -> &[Service; 2] {
    let found = services.iter().find(|(of, _)| *of == role);
    let (_, both) = found.expect("all roles are there");
    both
}

/// `scripts/gateway.py` below `root`, which is the workspace or a copy, not started yet.
pub fn gateway(root: &Path, folder: &Path, arguments: &[&str]) -> Process {
    let traefik = needed("MICROBLOG_TRAEFIK_BIN");
    let script = root.join("scripts/gateway.py").display().to_string();
    Process::new("gateway", Path::new("python3"), folder)
        .arguments([script.as_str(), "--program", &traefik])
        .arguments(arguments)
}

/// The gateway of `make run`, with its configuration, in front of the replicas of both APIs.
fn gateway_of_both(
    world: &World,
    port: u16,
    [command_ops, query_ops]: [u16; 2],
    services: &[(Role, [Service; 2])],
) -> Arc<Process> {
    let urls = |role| {
        let [one, two] = both(services, role);
        format!("{},{}", one.api, two.api)
    };
    let folder = world.folder.path();
    let arguments = [
        ("--addr", format!("127.0.0.1:{port}")),
        // All clients here have one address.
        ("--rate", "0".to_owned()),
        ("--commands", urls(Role::CommandApi)),
        ("--commands-ops-port", command_ops.to_string()),
        ("--queries", urls(Role::QueryApi)),
        ("--queries-ops-port", query_ops.to_string()),
        ("--log", folder.join("traefik.log").display().to_string()),
    ];
    let arguments: Vec<&str> = arguments
        .iter()
        .flat_map(|(name, value)| [*name, value.as_str()])
        .collect();
    let process = Arc::new(gateway(&root(), folder, &arguments));
    world.remember(process.clone());
    process
}
