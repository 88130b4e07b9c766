//! What the tests share: the tools' binaries, run as a shell would, and the local cloud.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

mod cloud;
mod computer;
pub use cloud::{Cloud, cloud, control};
pub use computer::{Computer, PATIENCE};

/// The root of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into()
}

/// A tool's binary, built from the sources as they are.
///
/// `cargo test` builds no other member's binaries and would quietly run stale ones.
pub fn tool(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // scripts/test has built them, or is about to: it starts tests as soon as what they run is there.
        if std::env::var_os("NIXPIPE_TEST_BUILT").is_none() {
            let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--workspace", "--bins"])
                .current_dir(project())
                .status()
                .unwrap();
            assert!(built.success(), "the tools do not build");
        }
        // This binary is target/PROFILE/deps/NAME.
        std::env::current_exe().unwrap().ancestors().nth(2).unwrap().into()
    });
    folder.join(name)
}

/// How many points of a long suite to try: all with `scripts/test --all`, else a few.
pub fn sample(all: usize, few: usize) -> usize {
    if std::env::var("NIXPIPE_TEST_ALL").is_ok_and(|value| !value.is_empty()) { all } else { few }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The records on stdout.
    pub fn records(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no record: {line}")))
            .collect()
    }

    /// The only record on stdout.
    pub fn record(&self) -> Value {
        let mut records = self.records();
        assert_eq!(records.len(), 1, "{self:?}");
        records.remove(0)
    }

    /// Fails the test unless the status is 0.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.status, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("nixpipe-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a shell command here, with the tools on the PATH and, once a test has asked for
    /// [`cloud`], its environment. Stdin is a pipe that holds `input`.
    pub fn sh(&self, script: &str, input: impl AsRef<[u8]>) -> Ran {
        run(self.command(script), input.as_ref())
    }

    /// The same as a command that is yet to be started.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -o pipefail; {script}")]).current_dir(&self.0);
        // Another home, but the same Rust, which is looked for there.
        let home = std::env::home_dir().unwrap();
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            command.env(name, std::env::var_os(name).unwrap_or(home.join(folder).into()));
        }
        command.env("HOME", &self.0);
        // Everything is on this computer, whatever proxy leads out of it.
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "127.0.0.1,localhost");
        }
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "SSH_AUTH_SOCK"] {
            command.env_remove(name);
        }
        cloud::environment(&mut command);
        let tools = tool("");
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", tools.display()));
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A command that stops reading is no fault of the test's.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let ran = Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    heard(&ran.stderr);
    heard(&ran.stdout);
    ran
}

/// Notes what tools have said in the file NIXPIPE_SEEN, for `tests/unseen.py`.
pub fn heard(said: &str) {
    if let Some(mut file) = seen() {
        file.write_all(said.as_bytes()).unwrap();
    }
}

/// The stderr of a tool whose words the test does not read.
pub fn unread() -> Stdio {
    seen().map_or(Stdio::null(), Stdio::from)
}

fn seen() -> Option<std::fs::File> {
    let path = std::env::var_os("NIXPIPE_SEEN")?;
    Some(std::fs::File::options().create(true).append(true).open(path).unwrap())
}
