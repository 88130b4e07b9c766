//! How a login, a command or a connection ends.

use crate::server::{SECONDS, Sshd, failure};
use machine_record::{Failure, Kind};
use machine_ssh::{Client, Session};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[test]
fn failures_have_their_kinds() {
    let sshd = Sshd::start("kinds");
    for original in sshd.addresses() {
        let mut address = original.clone();
        address.private_key = Some(sshd.folder.join("stranger"));
        let denied = failure(Session::connect(&address, SECONDS));
        assert_eq!(denied.kind, Kind::Denied, "{}", denied.message);
        address.private_key = Some(sshd.folder.join("absent"));
        assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::Input);

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        address = original.clone();
        address.port = silent.local_addr().unwrap().port();
        let timeout = failure(Session::connect(&address, Duration::from_millis(300)));
        assert_eq!(timeout.kind, Kind::Timeout, "{}", timeout.message);
        if let Client::Libssh2 = address.client {
            assert_eq!(timeout.message, "no key exchange with 127.0.0.1: it says nothing");
        }
        drop(silent);
        let refused = failure(Session::connect(&address, SECONDS));
        assert_eq!(refused.kind, Kind::Unreachable, "{}", refused.message);
        address.host = "no-such-host.invalid".into();
        assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::Unreachable);
    }
    let mut address = sshd.address();
    address.client = sshd.open_ssh("Nonsense yes\n");
    let nonsense = failure(Session::connect(&address, SECONDS));
    assert_eq!(nonsense.kind, Kind::Input, "{}", nonsense.message);
    address.client = Client::OpenSsh("/nowhere/ssh".into());
    assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::Input);
}

#[test]
fn a_lost_connection_and_a_silent_machine_are_told_apart() {
    let sshd = Sshd::start("lost");
    for address in sshd.addresses() {
        let session = Session::connect(&address, SECONDS).unwrap();
        // The command's parent is the sshd process of this connection.
        let lost = failure(session.run("kill -9 $PPID; sleep 5", b""));
        assert_eq!(lost.kind, Kind::Unreachable, "{}", lost.message);
        let again = failure(session.run("true", b""));
        assert_eq!(again.kind, Kind::Unreachable, "no other connection takes its place: {}", again.message);
        if let Client::Libssh2 = address.client {
            let words = "cannot open a channel: the connection to 127.0.0.1 was lost: ";
            assert!(again.message.starts_with(words), "{}", again.message);
        }

        let session = Session::connect(&address, Duration::from_secs(3)).unwrap();
        let silent = failure(session.run("kill -STOP $PPID; sleep 30; kill -CONT $PPID", b""));
        assert_eq!(silent.kind, Kind::Timeout, "{}", silent.message);
        let hint = "look at the machine's console and network, then run the pipe again";
        assert_eq!(silent.hint.as_deref(), Some(hint), "{}", silent.message);
    }
}

#[test]
fn a_command_that_is_quiet_for_longer_than_a_silence_is_borne_is_waited_for() {
    let sshd = Sshd::start("quiet");
    for address in sshd.addresses() {
        for limit in [3, 6] {
            let session = Session::connect(&address, Duration::from_secs(limit)).unwrap();
            let output = session.run("sleep 9; echo here", b"").unwrap();
            assert_eq!((output.status, &output.stdout[..]), (0, &b"here\n"[..]), "{limit} s");
        }
    }
}

#[test]
fn a_connection_that_waits_lives_for_as_long_as_it_is_kept() {
    let mut sshd = Sshd::start("kept");
    // One that asks for nothing is asked, at this limit every two seconds.
    let session = Session::connect(&sshd.address(), Duration::from_secs(3)).unwrap();
    let mut channel = session.open_ahead("cat").unwrap();
    let mut lives = 0;
    let began = Instant::now();
    while lives < 3 {
        lives += usize::from(channel.keep().unwrap());
        assert!(began.elapsed() < SECONDS, "the machine says that it lives");
        std::thread::sleep(Duration::from_millis(100));
    }
    // It gives up a silent client after six seconds.
    sshd.restart("ClientAliveInterval 1\nClientAliveCountMax 2\n");
    for address in sshd.addresses() {
        let session = Session::connect(&address, Duration::from_secs(3)).unwrap();
        let mut channel = session.open_ahead("cat").unwrap();
        let lives = (0..90).filter(|_| {
            std::thread::sleep(Duration::from_millis(100));
            channel.keep().unwrap()
        });
        assert!(lives.count() > 1, "the machine says that it lives");
        channel.write_all(b"here").unwrap();
        assert_eq!(channel.read_some(&mut [0; 9]).unwrap(), 4);
        // The channel that was asked for ahead came meanwhile.
        assert!(session.run("kill -9 $PPID; sleep 5", b"").is_err());
        let began = Instant::now();
        while channel.keep().is_some() {
            assert!(began.elapsed() < SECONDS, "it is lost");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let session = Session::connect(&sshd.address(), Duration::from_secs(3)).unwrap();
    let mut channel = session.open("cat").unwrap();
    std::thread::sleep(Duration::from_secs(9));
    assert!(
        channel.write_all(b"here").and_then(|()| channel.read_some(&mut [0; 9])).unwrap_or(0) == 0,
        "nobody kept it"
    );
    assert_eq!(channel.keep(), None);
}

#[test]
fn an_sshd_that_lets_nobody_run_commands_or_one_at_a_time_says_so() {
    let mut sshd = Sshd::start("sessions");
    let check = |refused: Failure| {
        let words = "the sshd of 127.0.0.1 opens no channel for a command: ";
        assert!(refused.message.starts_with(words), "{}", refused.message);
        assert_eq!(refused.kind, Kind::Denied, "{}", refused.message);
        assert_eq!(refused.hint.as_deref(), Some("set MaxSessions in its sshd_config to 2 or more"));
    };
    // The first that sshd finds counts.
    sshd.restart("MaxSessions 1\n");
    let session = Session::connect(&sshd.address(), SECONDS).unwrap();
    let mut first = session.open_ahead("cat").unwrap();
    check(failure(session.open("true")));
    first.write_all(b"here").unwrap();
    assert_eq!(first.read_some(&mut [0; 9]).unwrap(), 4, "the first one goes on");
    sshd.restart("MaxSessions 0\n");
    check(failure(Session::connect(&sshd.address(), SECONDS).unwrap().run("true", b"")));
}

#[test]
fn nothing_is_left_when_a_session_ends() {
    let sshd = Sshd::start("left");
    let [_, address] = sshd.addresses();
    let session = Session::connect(&address, SECONDS).unwrap();
    let mine = |name: &str| name.starts_with(&format!("nixpipe-ssh-{}-", std::process::id()));
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or(std::env::temp_dir(), PathBuf::from);
    let count = || {
        fs::read_dir(&folder)
            .unwrap()
            .filter(|entry| mine(&entry.as_ref().unwrap().file_name().to_string_lossy()))
            .count()
    };
    assert!(count() > 0);
    let pid = String::from_utf8(session.run("echo $PPID", b"").unwrap().stdout).unwrap();
    drop(session);
    let began = Instant::now();
    while Path::new(&format!("/proc/{}", pid.trim())).exists() {
        assert!(began.elapsed() < SECONDS, "its sshd is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
