//! nginx from the distribution: a server that we did not write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::program::{End, Program, Start};
use super::{Content, HTTP_PORT};
use crate::topology::{Process, Topology};

/// A running nginx; ended when dropped.
pub struct Nginx {
    program: Program,
    home: PathBuf,
}

impl Nginx {
    /// Starts it in a host on port [`HTTP_PORT`], as one process; it answers when this returns. It serves its name at
    /// `/` and `/health`, and what [`Self::add_file`] adds.
    pub fn start(topology: &Topology, host: &str) -> Result<Self> {
        let home = home(topology, host)?;
        let servers = usual(&home.join("www"), host);
        Self::run(topology, host, home, HTTP_PORT, End::Kill, &servers)
    }

    /// Starts it in a host with these `server` blocks, of which one listens on `port`.
    pub fn serving(topology: &Topology, host: &str, port: u16, servers: &str) -> Result<Self> {
        let home = home(topology, host)?;
        Self::run(topology, host, home, port, End::Ask, servers)
    }

    fn run(
        topology: &Topology,
        host: &str,
        home: PathBuf,
        port: u16,
        end: End,
        servers: &str,
    ) -> Result<Self> {
        write_configuration(&home, end, servers)?;
        let mut command = Command::new("nginx");
        let log = home.join("error.log");
        command.arg("-e").arg(&log);
        command.arg("-c").arg(home.join("nginx.conf"));
        let start = Start {
            command,
            port,
            log,
            package: "nginx-light",
            end,
        };
        Ok(Self {
            program: Program::start(topology, host, start)?,
            home,
        })
    }

    /// Serves by other blocks soon, after [`Self::serving`]; no connection is refused meanwhile.
    pub fn serve(&self, servers: &str) -> Result<()> {
        write_configuration(&self.home, End::Ask, servers)?;
        self.program.read_again()
    }

    /// Adds a file of [`Content`].
    pub fn add_file(&self, name: &str, length: usize, seed: u64) -> Result<()> {
        let path = self.root().join(name);
        let bytes: Vec<u8> = Content::new(length, seed).flatten().collect();
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    }

    /// Serves a file that is there already, on the same file system, under this name.
    pub fn link_file(&self, name: &str, file: &Path) -> Result<()> {
        let path = self.root().join(name);
        fs::hard_link(file, &path).with_context(|| format!("link {}", path.display()))
    }

    /// Where a file stands that a client has put under this name (`/put/NAME`), if it has come in whole.
    pub fn was_put(&self, name: &str) -> Option<PathBuf> {
        let path = self.root().join("put").join(name);
        path.exists().then_some(path)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.program.process()
    }

    fn root(&self) -> PathBuf {
        self.home.join("www")
    }
}

fn home(topology: &Topology, host: &str) -> Result<PathBuf> {
    let home = topology.directory().join(format!("nginx-{host}"));
    let root = home.join("www");
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    Ok(home)
}

fn write_configuration(home: &Path, end: End, servers: &str) -> Result<()> {
    // One process cannot be left behind when it is killed; only a master can change what it serves.
    let processes = match end {
        End::Kill => "master_process off",
        End::Ask => "worker_processes 1",
    };
    let text = configuration(&home.display().to_string(), processes, servers);
    fs::write(home.join("nginx.conf"), text).context("write nginx.conf")
}

fn configuration(home: &str, processes: &str, servers: &str) -> String {
    format!(
        "daemon off;
{processes};
user root;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
{servers}
}}
"
    )
}

fn usual(root: &Path, host: &str) -> String {
    let root = root.display();
    format!(
        "    server {{
        listen [::]:{HTTP_PORT} ipv6only=off;
        root {root};
        add_header x-backend {host};
        location = / {{ return 200 \"{host}\"; }}
        location = /health {{ return 200 \"ok\\n\"; }}
        location /put/ {{ dav_methods PUT; create_full_put_path on; client_max_body_size 0; }}
    }}"
    )
}
