//! Sessions with a real sshd on the loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use machine_record::{Failure, Kind};
use machine_ssh::{Address, Session, fingerprint, host_key};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(10);

/// A sshd of its own, with keys of its own; it ends with the test.
struct Sshd {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Sshd {
    fn start(test: &str) -> Sshd {
        let folder = std::env::temp_dir().join(format!("machine-ssh-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (file, kind) in [("host", "ed25519"), ("host_rsa", "rsa"), ("user", "ed25519"), ("stranger", "ed25519")] {
            let status = Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-t", kind, "-f"])
                .arg(folder.join(file))
                .status()
                .expect("ssh-keygen (install openssh-client)");
            assert!(status.success());
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = folder.display();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host\nHostKey {at}/host_rsa\nPidFile none\nStrictModes no\n\
             AuthorizedKeysFile {at}/user.pub\nPermitRootLogin prohibit-password\nUsePAM no\n"
        );
        fs::write(folder.join("config"), config).unwrap();
        fs::create_dir_all("/run/sshd").expect("/run/sshd (these tests need root)");
        let process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(folder.join("config"))
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd (install openssh-server)");
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < SECONDS, "sshd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Sshd { process, folder, port }
    }

    fn public_key(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file).with_extension("pub")).unwrap()
    }

    fn address(&self) -> Address {
        Address {
            machine: "test".into(),
            host: "127.0.0.1".into(),
            port: self.port,
            user: "root".into(),
            host_keys: vec![self.public_key("host")],
            private_key: Some(self.folder.join("user")),
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn failure<T>(result: anyhow::Result<T>) -> Failure {
    Failure::of(&result.err().expect("a failure"))
}

#[test]
fn a_command_gets_its_input_and_gives_output_errors_and_status() {
    let sshd = Sshd::start("run");
    let session = Session::connect(&sshd.address(), SECONDS).unwrap();
    let output = session.run("cat; echo oops >&2; exit 7", b"hello\0\xFF").unwrap();
    assert_eq!((output.status, &output.stdout[..], &output.stderr[..]), (7, &b"hello\0\xFF"[..], &b"oops\n"[..]));
    assert_eq!(session.run("kill -9 $$", b"").unwrap().status, -1);
    assert_eq!(session.run("true", b"").unwrap().status, 0);
}

#[test]
fn megabytes_go_both_ways_at_once() {
    let sshd = Sshd::start("stream");
    let session = Session::connect(&sshd.address(), SECONDS).unwrap();
    let sent: Vec<u8> = (0..30_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // An echo: it stops reading when nobody reads it, so a sender that only sends would hang.
    let mut channel = session.open("tee /dev/stderr").unwrap();
    channel.write_all(&sent).unwrap();
    channel.finish_input().unwrap();
    let mut echoed = Vec::new();
    let mut piece = vec![0; 100_000];
    loop {
        match channel.read_some(&mut piece).unwrap() {
            0 => break,
            count => echoed.extend_from_slice(&piece[..count]),
        }
    }
    assert!(echoed == sent, "{} bytes came back", echoed.len());
    assert!(channel.take_stderr() == sent);
    assert_eq!(channel.wait().unwrap(), 0);
}

#[test]
fn a_conversation_goes_back_and_forth() {
    let sshd = Sshd::start("talk");
    let session = Session::connect(&sshd.address(), SECONDS).unwrap();
    let mut channel = session.open("while read line; do echo \"got $line\"; done; exit 3").unwrap();
    let mut buffer = [0; 100];
    assert_eq!(channel.try_read(&mut buffer).unwrap(), None);
    for word in ["one", "two"] {
        channel.write_all(format!("{word}\n").as_bytes()).unwrap();
        let count = channel.read_some(&mut buffer).unwrap();
        assert_eq!(buffer[..count], *format!("got {word}\n").as_bytes());
    }
    channel.finish_input().unwrap();
    assert_eq!(channel.read_some(&mut buffer).unwrap(), 0);
    assert_eq!(channel.wait().unwrap(), 3);
}

#[test]
fn only_the_pinned_machine_is_logged_in_to() {
    let sshd = Sshd::start("pin");
    let mut address = sshd.address();
    address.host_keys = vec![fingerprint(&sshd.public_key("host")).unwrap()];
    Session::connect(&address, SECONDS).unwrap();
    address.host_keys = vec![sshd.public_key("host_rsa")];
    Session::connect(&address, SECONDS).unwrap();
    for pins in [vec![], vec![sshd.public_key("stranger")]] {
        address.host_keys = pins;
        assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::HostKey);
    }
}

#[test]
fn a_host_key_is_seen_without_a_login() {
    let sshd = Sshd::start("key");
    let words = |file| sshd.public_key(file).split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(host_key("127.0.0.1", sshd.port, &[], SECONDS).unwrap(), words("host"));
    assert_eq!(host_key("127.0.0.1", sshd.port, &["ssh-rsa"], SECONDS).unwrap(), words("host_rsa"));
}

#[test]
fn failures_have_their_kinds() {
    let sshd = Sshd::start("kinds");
    let mut address = sshd.address();
    address.private_key = Some(sshd.folder.join("stranger"));
    assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::Denied);
    address.private_key = Some(sshd.folder.join("absent"));
    assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::Input);

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    address = sshd.address();
    address.port = silent.local_addr().unwrap().port();
    assert_eq!(failure(Session::connect(&address, Duration::from_millis(300))).kind, Kind::Timeout);
    drop(silent);
    assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::Unreachable);
    address.host = "no such host".into();
    assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::Unreachable);
}

#[test]
fn a_lost_connection_and_a_silent_machine_are_told_apart() {
    let sshd = Sshd::start("lost");
    let session = Session::connect(&sshd.address(), SECONDS).unwrap();
    // The command's parent is the sshd process of this connection.
    let lost = failure(session.run("kill -9 $PPID; sleep 5", b""));
    assert_eq!(lost.kind, Kind::Unreachable, "{}", lost.message);

    let session = Session::connect(&sshd.address(), SECONDS).unwrap();
    session.set_timeout(Duration::from_millis(300));
    let silent = failure(session.run("kill -STOP $PPID; sleep 1; kill -CONT $PPID", b""));
    assert_eq!(silent.kind, Kind::Timeout, "{}", silent.message);
}
