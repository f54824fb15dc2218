//! What a TLS client trusts and who it is, read from files: [`Clients`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::time::Instant;

use crate::apart::{NoThread, on_thread};
use crate::model::TlsCheck;

/// Files are read again after this, so that renewed ones are used without a reload.
const FRESH: Duration = Duration::from_secs(10);

type Key = (TlsCheck, &'static [&'static str]);

/// Clients by what they are to do. Reading the system's authorities takes milliseconds: too long for each probe.
#[derive(Debug, Default)]
pub struct Clients {
    kept: Mutex<BTreeMap<Key, (Instant, Arc<ClientConfig>)>>,
}

impl Clients {
    /// The client, or which file cannot be used and why.
    pub(super) async fn get(
        &self,
        check: &TlsCheck,
        protocols: &'static [&'static str],
    ) -> Result<Arc<ClientConfig>, String> {
        let key = (check.clone(), protocols);
        if let Some(client) = self.fresh(&key) {
            return Ok(client);
        }
        let check = check.clone();
        let made = on_thread("certificates", move || build(&check, protocols)).await;
        // Without a thread, somebody waits some milliseconds for the disk; without a client, no target would be checked.
        let client = Arc::new(made.unwrap_or_else(NoThread::here)?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (read, _)| read.elapsed() < FRESH);
        kept.insert(key, (Instant::now(), Arc::clone(&client)));
        Ok(client)
    }

    fn fresh(&self, key: &Key) -> Option<Arc<ClientConfig>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, client) = kept.get(key)?;
        (read.elapsed() < FRESH).then(|| Arc::clone(client))
    }
}

fn build(check: &TlsCheck, protocols: &[&str]) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = match check.verify {
        false => Arc::new(Anyone(provider)),
        true => WebPkiServerVerifier::builder_with_provider(Arc::new(roots(&check.ca)?), provider)
            .build()
            .map_err(|error| format!("ca '{}': {error}", check.ca.display()))?,
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut client = match &check.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                chain("client-certificate", certificate)?,
                PrivateKeyDer::from_pem_file(key).map_err(|e| unusable("client-key", key, &e))?,
            )
            .map_err(|error| format!("client-key '{}': {error}", key.display()))?,
    };
    client.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    // A resumed session would prove nothing about the certificate.
    client.resumption = Resumption::disabled();
    Ok(client)
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = chain("ca", path)?;
    let (added, _) = roots.add_parsable_certificates(certificates);
    match added {
        0 => Err(format!("ca '{}': no certificate in it", path.display())),
        _ => Ok(roots),
    }
}

fn chain(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(key, path, &error))
}

fn unusable(key: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{key} '{}': {error}", path.display())
}

/// Takes any certificate. The handshake still proves that the target has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
