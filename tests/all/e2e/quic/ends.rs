//! The two ends of QUIC connections: servers whose connection ids name them, and clients that move.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::topology::{FAMILIES, Family, Topology};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig,
};
use socket2::{Domain, Socket, Type};

/// Of the services that read server ids ...
pub(super) const NAMED_PORT: u16 = 4433;
/// ... and of those that do not, at the same servers.
pub(super) const PLAIN_PORT: u16 = 4434;
/// Under which connection ids name their server.
pub(super) const CONFIG_ID: u8 = 2;
/// Of a message, which comes back with the server's name at its beginning.
const MESSAGE: usize = 16_384;
/// For clients whose server does not hear them any more.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of backend `b<n>`.
pub(super) fn server_id(n: u8) -> [u8; 2] {
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
pub(super) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    pub(super) fn new() -> Self {
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
pub(super) fn socket(topology: &Topology, host: &str, at: SocketAddr) -> UdpSocket {
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

pub(super) fn unspecified(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => ([0; 4], port).into(),
        Family::V6 => ([0_u16; 8], port).into(),
    }
}

/// One for each backend, family and port, until its runtime ends.
pub(super) fn serve(topology: &Topology, identity: &Identity) {
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
pub(super) struct Client {
    endpoint: Endpoint,
    _connection: Connection,
    send: SendStream,
    receive: RecvStream,
    said: u8,
}

impl Client {
    pub(super) async fn connect(
        topology: &Topology,
        identity: &Identity,
        target: SocketAddr,
    ) -> Result<Self> {
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
    pub(super) async fn ask(&mut self) -> Result<u8> {
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
    pub(super) async fn move_while_asking(
        &mut self,
        topology: &Topology,
        to: IpAddr,
    ) -> Result<u8> {
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
