//! A control socket that answers although all descriptors are in use: [`Reserved`].

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use axum::serve::Listener;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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

    /// Somebody has connected and is not accepted yet.
    fn is_waited_for(&self) -> bool {
        let mut socket = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut socket, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
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
            let short = self.kept.len() < KEPT;
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => return accepted,
                    // The kernel takes a descriptor before it looks whether somebody waits.
                    Err(error) if is_lack(&error) && self.is_waited_for() && self.kept.pop().is_some() => {}
                    Err(error) => {
                        tracing::debug!(%error, "accept on the control socket");
                        tokio::time::sleep(PAUSE).await;
                        self.fill();
                    }
                },
                () = tokio::time::sleep(PAUSE), if short => self.fill(),
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

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    /// Set in a process that has this test to itself.
    const ALONE: &str = "FAIRLEAD_RESERVE_ALONE";

    #[test]
    fn who_asks_is_accepted_without_a_free_descriptor() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "api::reserve::tests::without_a_free_descriptor_alone",
            ])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn without_a_free_descriptor_alone() {
        if std::env::var_os(ALONE).is_none() {
            return;
        }
        let place = std::env::temp_dir().join(format!("fairlead-reserve-{}", std::process::id()));
        let mut reserved = Reserved::new(UnixListener::bind(&place).unwrap());
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 200, hard).unwrap();
        let mut clients = Vec::new();
        for _ in 0..4 * KEPT {
            clients.push(UnixStream::connect(&place).await.unwrap());
        }
        std::fs::remove_file(&place).unwrap();
        // Checks take what is free, and what becomes free later.
        let mut checks = Vec::new();
        let take = |checks: &mut Vec<File>| {
            checks.extend(std::iter::from_fn(|| File::open("/dev/null").ok()))
        };
        take(&mut checks);
        assert!(checks.len() > 50);
        let mut asked = Vec::new();
        for n in 0..KEPT {
            let accepted = tokio::time::timeout(Duration::from_secs(30), reserved.accept()).await;
            asked.push(
                accepted
                    .unwrap_or_else(|_| panic!("{n} of {KEPT} were accepted"))
                    .0,
            );
            take(&mut checks);
        }
        // More than are kept have to wait; when there are some again, it takes them back, so that a later one has its turn too.
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, reserved.accept()).await.is_err());
        checks.truncate(checks.len() - 2 * KEPT);
        for _ in 0..KEPT {
            let accepted = tokio::time::timeout(Duration::from_secs(30), reserved.accept()).await;
            asked.push(accepted.unwrap().0);
        }
        assert!(tokio::time::timeout(wait, reserved.accept()).await.is_ok());
    }
}
