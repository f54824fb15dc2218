//! Shows a child's output as it comes, and hands its lines on.

use std::{
    io::{self, Read, Write},
    process::{Command, ExitStatus},
};

use anyhow::Context;

use crate::shell::display;

/// Runs `command` and shows what it prints on `screen`. Its standard output and error go through one pipe, so that cargo's lines and
/// the test binaries' lines keep their order; each whole line is also given to `each_line`.
pub(crate) fn show(
    command: &mut Command,
    screen: &mut impl Write,
    mut each_line: impl FnMut(&str),
) -> anyhow::Result<ExitStatus> {
    eprintln!("+ {}", display(command));
    let (mut reader, writer) = io::pipe().context("make a pipe")?;
    let second = writer.try_clone().context("make a pipe")?;
    let mut child = command
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("start `{}`", display(command)))?;
    // The command owns the pipe's write ends; while they are open the reader sees no end.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());

    let mut line = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let length = reader.read(&mut chunk).context("read a child's output")?;
        let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        screen
            .write_all(bytes)
            .and_then(|()| screen.flush())
            .context("show a child's output")?;
        for byte in bytes {
            if *byte == b'\n' {
                each_line(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        each_line(&String::from_utf8_lossy(&line));
    }
    child.wait().context("wait for a child")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_arrive_in_order_and_the_status_too() {
        let (mut screen, mut lines) = (Vec::new(), Vec::new());
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; printf three; exit 7"]);
        let status = show(&mut command, &mut screen, |line| {
            lines.push(line.to_owned())
        })
        .unwrap();
        assert_eq!(screen, b"one\ntwo\nthree");
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(status.code(), Some(7));
    }
}
