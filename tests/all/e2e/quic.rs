//! QUIC whose connection ids name their server, with a real implementation: transfers go on at the same server while the
//! client moves. And datagrams that are scheduled one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::daemon::{Config, Protocol, Service, Traffic};
use lb_tests::server::{ECHO_PORT, NAME_BYTES, Server};
use lb_tests::topology::{FAMILIES, Family, Forwarding, Shape, Topology, vip};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig,
};
use socket2::{Domain, Socket, Type};

use crate::stage::{SHAPES, Stage, figure};

/// Of the services that read server ids ...
const NAMED_PORT: u16 = 4433;
/// ... and of those that do not, at the same servers.
const PLAIN_PORT: u16 = 4434;
/// Under which connection ids name their server.
const CONFIG_ID: u8 = 2;
/// Each from a socket of its own: that all of them reach the same server by chance after they moved happens once in
/// 3^20.
const CONNECTIONS: usize = 20;
/// Of a message, which comes back with the server's name at its beginning.
const MESSAGE: usize = 16_384;
/// For clients whose server does not hear them any more.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of backend `b<n>`.
fn server_id(n: u8) -> [u8; 2] {
    [0x5e, n]
}

/// Config id and length, server id, eight bytes of nobody's concern.
struct Named(u8);

impl ConnectionIdGenerator for Named {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce = RandomState::new().build_hasher().finish();
        let first = CONFIG_ID << 5 | (self.cid_len() - 1) as u8;
        let bytes = [&[first][..], &server_id(self.0), &nonce.to_be_bytes()].concat();
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        11
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// What both ends know.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["quic.test".to_owned()]).unwrap();
        Self {
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der().into(),
        }
    }

    fn server(&self) -> ServerConfig {
        let chain = vec![self.certificate.clone()];
        ServerConfig::with_single_cert(chain, self.key.clone_key().into()).unwrap()
    }

    fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(Some(PATIENCE.try_into().unwrap()));
        config.transport_config(Arc::new(transport));
        config
    }
}

/// A socket of one family in a namespace.
fn socket(topology: &Topology, host: &str, at: SocketAddr) -> UdpSocket {
    let socket = topology.run_in(host, || {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&at.into())?;
        std::io::Result::Ok(socket)
    });
    socket.unwrap().into()
}

fn unspecified(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => ([0; 4], port).into(),
        Family::V6 => ([0_u16; 8], port).into(),
    }
}

/// One for each backend, family and port, until its runtime ends.
fn serve(topology: &Topology, identity: &Identity) {
    for n in 1..=topology.shape().backends {
        for family in FAMILIES {
            for port in [NAMED_PORT, PLAIN_PORT] {
                let mut config = EndpointConfig::default();
                config.cid_generator(move || Box::new(Named(n)));
                let at = unspecified(family, port);
                let socket = socket(topology, &format!("b{n}"), at);
                let endpoint = Endpoint::new(
                    config,
                    Some(identity.server()),
                    socket,
                    Arc::new(TokioRuntime),
                );
                tokio::spawn(accept(endpoint.unwrap(), n));
            }
        }
    }
}

async fn accept(endpoint: Endpoint, n: u8) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            // A client that goes is no concern of the server's.
            let Ok(connection) = incoming.await else {
                return;
            };
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(echo(send, receive, n));
            }
        });
    }
}

async fn echo(mut send: SendStream, mut receive: RecvStream, n: u8) -> Result<()> {
    let mut message = vec![0; MESSAGE];
    loop {
        receive.read_exact(&mut message).await?;
        message[0] = n;
        send.write_all(&message).await?;
    }
}

/// A client with one connection and one stream, in which a transfer goes on.
struct Client {
    endpoint: Endpoint,
    _connection: Connection,
    send: SendStream,
    receive: RecvStream,
    said: u8,
}

impl Client {
    async fn connect(topology: &Topology, identity: &Identity, target: SocketAddr) -> Result<Self> {
        let family = if target.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let socket = socket(topology, "client", unspecified(family, 0));
        let config = EndpointConfig::default();
        let endpoint = Endpoint::new(config, None, socket, Arc::new(TokioRuntime))?;
        let connection = endpoint
            .connect_with(identity.client(), target, "quic.test")?
            .await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self {
            endpoint,
            _connection: connection,
            send,
            receive,
            said: 0,
        })
    }

    fn message(&mut self) -> Vec<u8> {
        self.said = self.said.wrapping_add(1);
        vec![self.said; MESSAGE]
    }

    /// Who answers a message.
    async fn ask(&mut self) -> Result<u8> {
        let said = self.message();
        self.send.write_all(&said).await?;
        self.heard(&said).await
    }

    async fn heard(&mut self, said: &[u8]) -> Result<u8> {
        let mut heard = vec![0; MESSAGE];
        self.receive.read_exact(&mut heard).await?;
        ensure!(heard[1..] == said[1..], "another message came back");
        Ok(heard[0])
    }

    /// Who answers a message in whose middle the client moves to another address and port.
    async fn move_while_asking(&mut self, topology: &Topology, to: IpAddr) -> Result<u8> {
        let said = self.message();
        self.send.write_all(&said[..MESSAGE / 2]).await?;
        let before = self.endpoint.local_addr()?;
        let new = socket(topology, "client", (to, 0).into());
        ensure!(before.port() != new.local_addr()?.port());
        self.endpoint.rebind(new)?;
        self.send.write_all(&said[MESSAGE / 2..]).await?;
        self.heard(&said).await
    }
}

/// An address that the client has besides its own.
fn second_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 10, 0, 3].into(),
        Family::V6 => [0xfd00, 0x10, 0, 0, 0, 0, 0, 3].into(),
    }
}

fn give_second_addresses(topology: &Topology) {
    for (family, length) in FAMILIES.into_iter().zip([24, 64]) {
        let address = second_address(family);
        topology
            .add_address("client", "eth0", address, length)
            .unwrap();
    }
}

fn with_quic(topology: &Topology, mut config: Config) -> Config {
    for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
        let new = |name: &str, port| {
            let name = format!("{name}{digit}");
            Service::new(topology, &name, family, 1, Protocol::Udp, port)
        };
        let mut named = new("named", NAMED_PORT);
        named.extra += &format!("\nquic-config-ids = [{CONFIG_ID}]");
        for (n, backend) in (1..).zip(&mut named.backends) {
            let [a, b] = server_id(n);
            backend.extra = format!("server-id = \"{a:02x}{b:02x}\"");
        }
        config.services.extend([named, new("plain", PLAIN_PORT)]);
    }
    config
}

fn stage(shape: Shape) -> Stage {
    let topology = |config: Config, topology: &Topology| with_quic(topology, config);
    Stage::with_topology(shape, Server::threads, topology)
}

async fn connected(stage: &Stage, identity: &Identity, service: &str) -> Vec<(u8, Client)> {
    let target = stage.daemon.config().service(service).target();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(&stage.topology, identity, target).await;
        let mut client = client.with_context(|| service.to_owned()).unwrap();
        clients.push((client.ask().await.unwrap(), client));
    }
    clients
}

/// Who answers each client after it moved; `None`: its connection is lost.
async fn all_move(stage: &Stage, clients: &mut [(u8, Client)], to: IpAddr) -> Vec<Option<u8>> {
    let moving = clients
        .iter_mut()
        .map(|(_, client)| client.move_while_asking(&stage.topology, to));
    let answers = futures_util::future::join_all(moving).await;
    answers.into_iter().map(Result::ok).collect()
}

#[test]
fn transfer_goes_on_at_its_server_while_the_client_moves_and_without_server_ids_it_does_not() {
    for shape in [SHAPES[0], SHAPES[3], SHAPES[4]] {
        let stage = stage(shape);
        give_second_addresses(&stage.topology);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(both_ways(&stage));
        // Sockets close, and who still sends is told so.
        drop(runtime);
        stage.end();
    }
}

/// Connections to all three servers. Twenty miss one of them once in a thousand times.
async fn connected_to_all(stage: &Stage, identity: &Identity, service: &str) -> Vec<(u8, Client)> {
    for _ in 0..4 {
        let clients = connected(stage, identity, service).await;
        let different: BTreeSet<_> = clients.iter().map(|(n, _)| *n).collect();
        if different.len() == 3 {
            return clients;
        }
    }
    panic!("four times {CONNECTIONS} connections to {service} did not reach all servers")
}

async fn both_ways(stage: &Stage) {
    let identity = Identity::new();
    serve(&stage.topology, &identity);
    for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
        let shape = stage.topology.shape();
        let [own, second] = [lb_tests::topology::client(family), second_address(family)];
        let mut clients = connected_to_all(stage, &identity, &format!("named{digit}")).await;
        let servers: Vec<Option<u8>> = clients.iter().map(|(n, _)| Some(*n)).collect();
        let before = stage.daemon.status().unwrap().data_plane;
        assert_eq!(
            all_move(stage, &mut clients, second).await,
            servers,
            "{shape:?}"
        );
        // Draining, a server keeps its connections, and they may still move.
        let key = format!("named{digit}/b1");
        let drained = stage.daemon.cli(&["drain", &key]).unwrap();
        drained.succeeded().unwrap();
        stage.wait("b1 drains", |status| {
            status.backend(&key).admin == "draining"
        });
        assert_eq!(
            all_move(stage, &mut clients, own).await,
            servers,
            "{shape:?}"
        );
        let after = stage.daemon.status().unwrap().data_plane;
        assert!(after.by_server_id > before.by_server_id + 2 * CONNECTIONS as u64);
        assert_eq!(after.no_server_id, 0, "{after:?}");
        drop(clients);

        let mut clients = connected(stage, &identity, &format!("plain{digit}")).await;
        let servers: Vec<Option<u8>> = clients.iter().map(|(n, _)| Some(*n)).collect();
        let moved = all_move(stage, &mut clients, second).await;
        // Two of three reach a server that does not know them.
        let lost = moved.iter().filter(|who| who.is_none()).count();
        figure!(
            "{shape:?} {family:?}: {lost} of {CONNECTIONS} connections lost without server ids, 0 of {CONNECTIONS} with"
        );
        assert!(lost >= 3, "{lost} of {CONNECTIONS} lost");
        for (now, before) in moved.iter().zip(&servers) {
            assert!(now.is_none() || now == before);
        }
    }
}

#[test]
fn datagrams_of_one_client_reach_all_servers_where_each_is_scheduled_by_itself() {
    for shape in [SHAPES[2], SHAPES[5]] {
        assert_ne!(shape.forwarding, Forwarding::Dnat);
        let with_spread = |mut config: Config, topology: &Topology| {
            for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
                let name = format!("alone{digit}");
                let mut service =
                    Service::new(topology, &name, family, 1, Protocol::Udp, ECHO_PORT);
                service.extra += "\nudp-spread = \"datagram\"";
                config.services.push(service);
            }
            config
        };
        let stage = Stage::with_topology(shape, Server::threads, with_spread);
        for family in FAMILIES {
            let client = socket(&stage.topology, "client", unspecified(family, 0));
            client.connect((vip(family, 1), ECHO_PORT)).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let mut servers: BTreeMap<String, u32> = BTreeMap::new();
            for _ in 0..60 {
                client.send(&[7; 100]).unwrap();
                let mut heard = [0; 200];
                let length = client.recv(&mut heard).unwrap();
                assert_eq!(length, 100);
                let name = String::from_utf8(heard[..NAME_BYTES].to_vec()).unwrap();
                *servers.entry(name).or_default() += 1;
            }
            figure!("{shape:?}: 60 datagrams of one socket reached {servers:?}");
            assert_eq!(servers.len(), 3);
            // Half of a fair share is five standard deviations away.
            assert!(servers.values().all(|count| *count >= 4), "{servers:?}");
        }
        let status = stage.daemon.status().unwrap();
        for service in ["alone4", "alone6"] {
            let backends = &status.service(service).unwrap().backends;
            let sum =
                |of: fn(&Traffic) -> u64| backends.iter().map(|b| of(&b.traffic)).sum::<u64>();
            assert_eq!((sum(|t| t.packets), sum(|t| t.new_flows)), (60, 0));
        }
        assert_eq!(status.data_plane.untracked, 0);
        stage.end();
    }
}
