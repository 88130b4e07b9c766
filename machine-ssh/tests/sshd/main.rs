//! Sessions with a real sshd on the loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use machine_record::Kind;
use machine_ssh::Session;
use server::{SECONDS, Sshd, failure};

mod ends;
mod keys;
mod server;
mod ways;

#[test]
fn a_command_gets_its_input_and_gives_output_errors_and_status() {
    let sshd = Sshd::start("run");
    for address in sshd.addresses() {
        let session = Session::connect(&address, SECONDS).unwrap();
        let output = session.run("cat; echo oops >&2; exit 7", b"hello\0\xFF").unwrap();
        assert_eq!((output.status, &output.stdout[..], &output.stderr[..]), (7, &b"hello\0\xFF"[..], &b"oops\n"[..]));
        assert_eq!(session.run("kill -9 $$", b"").unwrap().status, -1);
        assert_eq!(session.run("true", b"").unwrap().status, 0);
        let quiet = session.run("exec >&- 2>&-; sleep 0.2; exit 5", b"").unwrap();
        assert_eq!(quiet.status, 5, "a command that says nothing more still has a status");
    }
}

#[test]
fn megabytes_go_both_ways_at_once_through_new_keys() {
    let mut sshd = Sshd::start("stream");
    sshd.restart("RekeyLimit 1M\n");
    for address in sshd.addresses() {
        let session = Session::connect(&address, SECONDS).unwrap();
        let sent: Vec<u8> = (0..10_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
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
}

#[test]
fn a_conversation_goes_back_and_forth() {
    let sshd = Sshd::start("talk");
    for address in sshd.addresses() {
        let session = Session::connect(&address, SECONDS).unwrap();
        let mut channel = session.open("while read line; do echo \"got $line\"; done; exit 3").unwrap();
        // Another command at the same time, over the same connection.
        let other = session.run("echo $SSH_CONNECTION", b"").unwrap().stdout;
        assert_eq!(other, session.run("echo $SSH_CONNECTION", b"").unwrap().stdout);
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
}

#[test]
fn a_command_that_takes_no_more_input_is_an_error_with_its_last_words() {
    let sshd = Sshd::start("full");
    for address in sshd.addresses() {
        let session = Session::connect(&address, SECONDS).unwrap();
        let mut channel = session.open("echo 'no room' >&2; exit 1").unwrap();
        let lost = failure(channel.write_all(&vec![0; 50_000_000]));
        assert_eq!(lost.kind, Kind::Unreachable, "{}", lost.message);
        assert_eq!(lost.message, "the connection to 127.0.0.1 was lost: its command takes no more input");
        assert_eq!(channel.take_stderr(), b"no room\n");
    }
}
