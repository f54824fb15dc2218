//! nginx from the distribution: a server that we did not write.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Content, HTTP_PORT};
use crate::topology::{Process, Topology};

/// A running nginx on port [`HTTP_PORT`]; ended when dropped.
pub struct Nginx {
    process: Process,
    root: PathBuf,
}

impl Nginx {
    /// Starts it in a host; it answers when this returns. It serves its name at `/` and `/health`,
    /// and what [`Self::add_file`] adds.
    pub fn start(topology: &Topology, host: &str) -> Result<Self> {
        let home = topology.directory().join(format!("nginx-{host}"));
        let root = home.join("www");
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let config = home.join("nginx.conf");
        fs::write(&config, configuration(&home, &root, host)).context("write nginx.conf")?;
        // The configuration decides everything; one process, so that none can be orphaned.
        let mut command = Command::new("nginx");
        command
            .arg("-e")
            .arg(home.join("error.log"))
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null());
        let mut process = topology
            .spawn_in(host, command)
            .context("is nginx installed? (try: apt-get install nginx-light)")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
        while topology.run_in(host, connect).is_err() {
            if let Some(status) = process.ended()? {
                let log = fs::read_to_string(home.join("error.log")).unwrap_or_default();
                bail!("nginx ended at its start: {status}\n{log}");
            }
            if Instant::now() > deadline {
                bail!("nginx does not listen on port {HTTP_PORT} at {host}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { process, root })
    }

    /// Adds a file of [`Content`].
    pub fn add_file(&self, name: &str, length: usize, seed: u64) -> Result<()> {
        let path = self.root.join(name);
        let bytes: Vec<u8> = Content::new(length, seed).flatten().collect();
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    }

    /// Serves a file that is there already, on the same file system, under this name.
    pub fn link_file(&self, name: &str, file: &Path) -> Result<()> {
        let path = self.root.join(name);
        fs::hard_link(file, &path).with_context(|| format!("link {}", path.display()))
    }

    /// Where a file stands that a client has put under this name (`/put/NAME`), if it has come in whole.
    pub fn was_put(&self, name: &str) -> Option<PathBuf> {
        let path = self.root.join("put").join(name);
        path.exists().then_some(path)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn configuration(home: &std::path::Path, root: &std::path::Path, host: &str) -> String {
    let (home, root) = (home.display(), root.display());
    format!(
        "daemon off;
master_process off;
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
    server {{
        listen [::]:{HTTP_PORT} ipv6only=off;
        root {root};
        add_header x-backend {host};
        location = / {{ return 200 \"{host}\"; }}
        location = /health {{ return 200 \"ok\\n\"; }}
        location /put/ {{ dav_methods PUT; create_full_put_path on; client_max_body_size 0; }}
    }}
}}
"
    )
}
