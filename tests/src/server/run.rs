//! Runs a server: as a thread of this process, or as a process that can be killed and stopped.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

use super::http::State;
use super::{Config, ECHO_PORT, HTTP_PORT, Health, control, echo, http};
use crate::topology::{FAMILIES, Namespace, Process, Topology, VIPS, backend, vip};

/// A running server; stopped when dropped.
pub struct Server {
    namespace: Namespace,
    /// Its name.
    pub name: String,
    running: Option<Running>,
}

enum Running {
    Thread {
        stop: Option<oneshot::Sender<()>>,
        thread: Option<JoinHandle<()>>,
    },
    Process(Process),
}

/// The sockets of a server.
struct Sockets {
    http: std::net::TcpListener,
    echo: std::net::TcpListener,
    udp: Vec<std::net::UdpSocket>,
}

impl Config {
    /// The server of backend `b<n>`: it answers on its own addresses and, where replies go straight
    /// to the client, on the VIPs.
    pub fn backend(topology: &Topology, n: u8) -> Self {
        let mut udp = FAMILIES.map(|family| backend(family, n)).to_vec();
        if topology.shape().returns_directly() {
            udp.extend(
                FAMILIES
                    .into_iter()
                    .flat_map(|f| (0..VIPS).map(move |n| vip(f, n))),
            );
        }
        Self {
            name: format!("b{n}"),
            udp,
            backlog: Self::BACKLOG,
        }
    }
}

impl Server {
    /// Starts a server for every backend as threads, which is lean.
    pub fn threads(topology: &Topology) -> Result<Vec<Self>> {
        (1..=topology.shape().backends)
            .map(|n| {
                Self::thread(
                    topology.namespace(&format!("b{n}")),
                    Config::backend(topology, n),
                )
            })
            .collect()
    }

    /// Starts a server for every backend as processes.
    pub fn processes(topology: &Topology) -> Result<Vec<Self>> {
        (1..=topology.shape().backends)
            .map(|n| {
                Self::process(
                    topology.namespace(&format!("b{n}")),
                    &Config::backend(topology, n),
                )
            })
            .collect()
    }

    /// Starts a server as a thread; it answers when this returns.
    pub fn thread(namespace: &Namespace, config: Config) -> Result<Self> {
        let sockets = namespace.run(|| Sockets::open(&config))?;
        let (stop, stopped) = oneshot::channel();
        let inside = namespace.clone();
        let name = config.name.clone();
        let thread = std::thread::Builder::new()
            .name(format!("server {name}"))
            .spawn(move || {
                inside.enter().expect("enter the server's namespace");
                drop(inside);
                run(&config, sockets, stopped).expect("run a server");
            })
            .context("start a server thread")?;
        let running = Running::Thread {
            stop: Some(stop),
            thread: Some(thread),
        };
        Ok(Self {
            namespace: namespace.clone(),
            name,
            running: Some(running),
        })
    }

    /// Starts a server as a process; it answers when this returns.
    pub fn process(namespace: &Namespace, config: &Config) -> Result<Self> {
        let mut server = Self {
            namespace: namespace.clone(),
            name: config.name.clone(),
            running: None,
        };
        server.start(config)?;
        Ok(server)
    }

    /// Starts the process again after [`Self::kill`].
    pub fn start(&mut self, config: &Config) -> Result<()> {
        let mut command = Command::new(lab_binary()?);
        command.args(["server", "--name", &config.name]);
        command.args(["--backlog", &config.backlog.to_string()]);
        for address in &config.udp {
            command.args(["--udp", &address.to_string()]);
        }
        command.stdin(Stdio::null());
        let mut process = self.namespace.spawn(command)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while control::ask(&self.namespace, "GET", "/", "").is_err() {
            if let Some(status) = process.ended()? {
                bail!("server {} ended at its start: {status}", self.name);
            }
            if Instant::now() > deadline {
                bail!("server {} does not answer", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.running = Some(Running::Process(process));
        Ok(())
    }

    /// Switches what `/health` answers.
    pub fn set_health(&self, health: &Health) -> Result<()> {
        let text = serde_json::to_string(health)?;
        control::ask(&self.namespace, "POST", "/control", &text)
            .with_context(|| format!("switch the health of {}", self.name))?;
        Ok(())
    }

    /// Stops the server: a process by SIGKILL, a thread by asking it. Its sockets close, so that
    /// its port refuses connections.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Freezes the process; the kernel still accepts connections for it.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match &self.running {
            Some(Running::Process(process)) => process.signal(signal),
            _ => bail!(
                "server {} is not a process: start it with Server::process",
                self.name
            ),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self {
            Self::Thread { stop, thread } => {
                drop(stop.take());
                if let Some(thread) = thread.take()
                    && thread.join().is_err()
                {
                    eprintln!("a server thread panicked");
                }
            }
            Self::Process(process) => process.kill(),
        }
    }
}

impl Sockets {
    /// Opens them on the standard ports of the namespace that the thread is in.
    fn open(config: &Config) -> Result<Self> {
        let addresses = config.udp.iter();
        Ok(Self {
            http: listen(HTTP_PORT, config.backlog)?,
            echo: listen(ECHO_PORT, config.backlog)?,
            udp: addresses
                .map(|address| bind_udp(*address))
                .collect::<Result<_>>()?,
        })
    }
}

fn listen(port: u16, backlog: i32) -> Result<std::net::TcpListener> {
    let open = || -> std::io::Result<_> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(backlog)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().with_context(|| format!("listen on port {port}"))
}

fn bind_udp(address: IpAddr) -> Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((address, ECHO_PORT))
        .with_context(|| format!("bind UDP port {ECHO_PORT} of {address}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The main function of a server process: serves until it is killed.
pub fn serve(config: &Config) -> Result<()> {
    let (_never, stopped) = oneshot::channel();
    run(config, Sockets::open(config)?, stopped)
}

fn run(config: &Config, sockets: Sockets, stopped: oneshot::Receiver<()>) -> Result<()> {
    let local = tokio::task::LocalSet::new();
    let name: Rc<str> = config.name.as_str().into();
    local.block_on(&crate::topology::namespace::runtime(), async {
        let state = Rc::new(State {
            name: name.clone(),
            health: Health::default().into(),
        });
        let http = tokio::net::TcpListener::from_std(sockets.http)?;
        tokio::task::spawn_local(http::serve(http, state));
        let echo = tokio::net::TcpListener::from_std(sockets.echo)?;
        tokio::task::spawn_local(echo::tcp(echo, name.clone()));
        for socket in sockets.udp {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::task::spawn_local(echo::udp(socket, name.clone()));
        }
        // Either a message or the other end's drop.
        drop(stopped.await);
        Ok(())
    })
}

/// The lab's binary: `FAIRLEAD_LAB_BIN`, or the one that cargo built beside the running program.
pub fn lab_binary() -> Result<PathBuf> {
    binary("FAIRLEAD_LAB_BIN", "fairlead-lab")
}

/// A binary: what the environment says, or the one beside the running program, whose folder is
/// that of cargo's binaries or, for tests, one below.
pub(crate) fn binary(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find the running program")?;
    let folders = own.ancestors().skip(1).take(2);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("no {name} near {} (set {variable})", own.display()))
}
