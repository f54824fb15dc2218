//! Certificates, files of them, and TLS servers for the tests of all checks over TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::model::TlsCheck;

const DAY: Duration = Duration::from_secs(86_400);

/// A folder that is removed with everything in it.
pub(crate) struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fairlead-tls-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// An authority, and what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) folder: Folder,
    /// Its certificate.
    pub(crate) file: PathBuf,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key()).unwrap();
        let folder = Folder::new();
        let file = folder.write("ca.pem", &issuer.pem());
        Self {
            issuer,
            folder,
            file,
        }
    }

    /// A certificate for these names that began a day ago and ends in so many days (or ended: below 0).
    pub(crate) fn sign(&self, names: &[&str], days: i64) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let span = DAY * u32::try_from(days.unsigned_abs()).unwrap();
        let now = SystemTime::now();
        params.not_before = (now - DAY * 100).into();
        params.not_after = match days < 0 {
            true => now - span,
            false => now + span + Duration::from_secs(60),
        }
        .into();
        let key = key();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Files of a client's certificate and key.
    pub(crate) fn client(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.sign(&["client"], 30);
        let files = &self.folder;
        (
            files.write("client.pem", &certificate.pem()),
            files.write("client.key", &key.serialize_pem()),
        )
    }

    /// A server for a certificate of these names.
    pub(crate) fn server(
        &self,
        names: &[&str],
        days: i64,
        protocols: &[&str],
        asks: bool,
    ) -> TlsAcceptor {
        let (certificate, key) = self.sign(names, days);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match asks {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(self.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A check that trusts this authority and asks for this name.
    pub(crate) fn check(&self, name: Option<&str>) -> TlsCheck {
        TlsCheck {
            server_name: name.map(ToOwned::to_owned),
            ca: self.file.clone(),
            client: None,
            verify: true,
            warn_before_expiry: DAY * 14,
        }
    }
}

/// Accepts, shakes hands, and hands each connection on.
pub(crate) async fn serve<F>(
    acceptor: TlsAcceptor,
    mut handle: impl FnMut(TlsStream<TcpStream>) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not like the certificate is gone.
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(handle(stream));
            }
        }
    });
    address
}
