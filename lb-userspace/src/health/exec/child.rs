//! Starts the command of a check with nothing of ours.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::OFlag;
use nix::unistd::{User, pipe2};

use super::Environment;
use crate::health::descriptors::give_back;
use crate::model::ExecCheck;

/// The child, and the end of the pipe that its output and errors come from (non-blocking); or why there is none.
pub(super) fn start(
    check: &ExecCheck,
    environment: Environment,
    input: &[u8],
) -> Result<(Child, OwnedFd), String> {
    let path = check.command.display();
    let say = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => format!("'{path}': there is no such file, or not its interpreter"),
        Some(libc::EACCES) => format!("'{path}': may not be executed"),
        // Of fork(2), and of execve(2) as a user who has too many.
        Some(libc::EAGAIN) => format!(
            "'{path}': no process can be started (raise TasksMax of the service, pids.max, or its user's limit of processes)"
        ),
        _ => format!("'{path}': {error}"),
    };
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| say(error.into()))?;
    nonblocking(&read).map_err(say)?;
    let mut command = Command::new(&check.command);
    command
        .args(&check.arguments)
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .stdin(stdin(input).map_err(say)?)
        .stdout(write.try_clone().map_err(say)?)
        .stderr(write)
        .process_group(0);
    if let Some(name) = &check.user {
        let user = User::from_name(name)
            .map_err(|error| format!("user '{name}': {error}"))?
            .ok_or_else(|| format!("user '{name}': there is no such user"))?;
        // The library drops all supplementary groups with it.
        command.gid(user.gid.as_raw()).uid(user.uid.as_raw());
    }
    // SAFETY: runs in the child between fork and exec, where only async-signal-safe calls are allowed: four system calls,
    // no memory is allocated and no lock taken.
    unsafe { command.pre_exec(confine) };
    let child = command.spawn().map_err(say)?;
    Ok((child, read))
}

/// What a command reads. All of it is in the pipe before the command is there, so that nobody need wait for it to read.
fn stdin(input: &[u8]) -> io::Result<Stdio> {
    if input.is_empty() {
        return Ok(Stdio::null());
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    nonblocking(&write)?;
    match nix::unistd::write(&write, input)? {
        written if written == input.len() => Ok(read.into()),
        _ => Err(io::Error::other("its input does not fit into a pipe")),
    }
}

fn nonblocking(pipe: &OwnedFd) -> io::Result<()> {
    nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// No descriptor from 3 on survives exec, as many may be opened as before we raised that, and nothing that is executed gains privileges.
fn confine() -> io::Result<()> {
    // SAFETY: plain numbers. The descriptors stay open until exec, since the library reports a failed exec by one.
    let closed = unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC.cast_signed(),
        )
    };
    if closed != 0 {
        return Err(io::Error::last_os_error());
    }
    give_back()?;
    // SAFETY: plain numbers (PR_SET_NO_NEW_PRIVS takes 1 and three zeros).
    let confined = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    match confined {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
