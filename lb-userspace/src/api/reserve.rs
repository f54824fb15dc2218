//! A control socket that answers although all descriptors are in use: [`Reserved`].

use std::fs::File;
use std::io;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// Descriptors that are kept for it.
const KEPT: usize = 4;

/// After a failure that giving one up does not help against.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket, and descriptors that stand for nothing: where there is none left for a connection, one of them is given up. So who asks what
/// is wrong has an answer when checks have taken all that there are.
#[derive(Debug)]
pub(super) struct Reserved {
    listener: UnixListener,
    kept: Vec<File>,
}

impl Reserved {
    pub(super) fn new(listener: UnixListener) -> Self {
        let mut reserved = Self {
            listener,
            kept: Vec::new(),
        };
        reserved.fill();
        reserved
    }

    /// Takes back what was given up, as far as there is some.
    fn fill(&mut self) {
        while self.kept.len() < KEPT {
            match File::open("/dev/null") {
                Ok(file) => self.kept.push(file),
                Err(_none_is_left) => break,
            }
        }
    }
}

impl Listener for Reserved {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.fill();
                    return accepted;
                }
                Err(error) if is_lack(&error) && self.kept.pop().is_some() => {}
                Err(error) => {
                    tracing::debug!(%error, "accept on the control socket");
                    tokio::time::sleep(PAUSE).await;
                    self.fill();
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// No descriptor is left, of this process or of the system.
fn is_lack(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
