//! The local cloud as tests use it. `scripts/test` brings it up and takes it down.

use crate::{Ran, project};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::OnceLock;

static ENVIRONMENT: OnceLock<Vec<(String, String)>> = OnceLock::new();

/// The running local cloud.
pub struct Cloud;

/// The local cloud; from now on the commands of this test binary run in its environment.
///
/// # Panics
/// If it is not up.
pub fn cloud() -> Cloud {
    ENVIRONMENT.get_or_init(|| {
        let status = command(&["status"]);
        assert_eq!(
            status.status, 0,
            "the local cloud is not up: run scripts/test, or scripts/local-cloud up\n{}",
            status.stderr
        );
        let script = "eval \"$(scripts/local-cloud env)\"; env -0";
        let output = Command::new("bash").args(["-c", script]).current_dir(project()).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let wanted = |name: &str| name.starts_with("AWS_") || name.starts_with("NIX_");
        text.split('\0')
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    });
    Cloud
}

pub(crate) fn environment(command: &mut Command) {
    for (name, value) in ENVIRONMENT.get().into_iter().flatten() {
        command.env(name, value);
    }
}

impl Cloud {
    /// Runs `scripts/local-cloud` and expects it to succeed.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let ran = command(args);
        assert_eq!(ran.status, 0, "local-cloud {args:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// The log of EC2 requests so far.
    pub fn requests(&self) -> Vec<Value> {
        control(5566, "GET", "log").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Asks the control endpoint of the cloud at `port`, as `scripts/local-cloud` does, without starting a shell and Python.
///
/// # Panics
/// If it does not answer, or answers with an error.
pub fn control(port: u16, method: &str, verb: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "{method} /local-cloud/{verb} HTTP/1.0\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1);
    assert_eq!(status, Some("200"), "{method} {verb}: {body}");
    body.into()
}

fn command(args: &[&str]) -> Ran {
    let output = Command::new(project().join("scripts/local-cloud")).args(args).output().expect("scripts/local-cloud");
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
