//! Host keys and keys of a login.

use crate::server::{SECONDS, Sshd, failure};
use machine_record::{Failure, Kind};
use machine_ssh::{Address, Client, Session, fingerprint, host_key};
use std::fs;
use std::io::{Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn only_the_pinned_machine_is_logged_in_to() {
    let sshd = Sshd::start("pin");
    let print = |file| fingerprint(&sshd.public_key(file)).unwrap();
    for mut address in sshd.addresses() {
        address.host_keys = vec![print("host")];
        Session::connect(&address, SECONDS).unwrap();
        address.host_keys = vec![print("stranger"), format!("{} a comment", sshd.public_key("host").trim())];
        Session::connect(&address, SECONDS).unwrap();
        // Of a type that is not the one that the machine shows by itself.
        for pins in
            [vec![sshd.public_key("host_rsa")], vec![print("host_rsa")], vec![print("stranger"), print("host_rsa")]]
        {
            address.host_keys = pins;
            Session::connect(&address, SECONDS).unwrap();
        }
        for pins in [vec![], vec![sshd.public_key("stranger")], vec![print("stranger")], vec!["*".into()]] {
            address.host_keys = pins;
            let refused = failure(Session::connect(&address, SECONDS));
            assert_eq!(refused.kind, Kind::HostKey);
            assert!(refused.message.contains(&print("host")), "{}", refused.message);
        }
    }
}

#[test]
fn another_key_at_the_same_address_is_refused() {
    let mut sshd = Sshd::start("changed");
    let [first, second] = sshd.addresses();
    for address in [&first, &second] {
        Session::connect(address, SECONDS).unwrap();
    }
    let (config, at) = (sshd.folder.join("config"), sshd.folder.display());
    let old = fs::read_to_string(&config).unwrap();
    fs::write(&config, old.replace(&format!("HostKey {at}/host\n"), &format!("HostKey {at}/stranger\n"))).unwrap();
    sshd.restart("");
    for address in [first, second] {
        let refused = failure(Session::connect(&address, SECONDS));
        assert_eq!(refused.kind, Kind::HostKey, "{}", refused.message);
    }
}

#[test]
fn a_server_that_somebody_makes_newer_than_it_is_is_refused() {
    let sshd = Sshd::start("newer");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut address = sshd.address();
    let port = std::mem::replace(&mut address.port, listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            // A line that does not begin with SSH- is passed over, and not signed: this one begins before anybody looks.
            let _ = client.write_all(b"x");
            std::thread::sleep(Duration::from_millis(100));
            let _ = client.write_all(b"SSH-2.0-OpenSSH_9.9\r\n");
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    // Where it comes too late, the line is no version at all, and the login is as with any old server.
    let found = (0..200).find_map(|_| Session::connect(&address, SECONDS).err()).unwrap();
    let failure = Failure::of(&found);
    assert!(
        failure.message.ends_with("somebody on the way gives it another version than its own"),
        "{}",
        failure.message
    );
    assert_eq!(failure.kind, Kind::Unreachable);
}

#[test]
fn a_configuration_weakens_no_pin_and_lends_no_connection() {
    let sshd = Sshd::start("config");
    let at = sshd.folder.display();
    let other = sshd.folder.join("shared");
    let trusting = format!(
        "Host *\nStrictHostKeyChecking no\nUserKnownHostsFile {at}/trusted\nNoHostAuthenticationForLocalhost yes\n\
         KnownHostsCommand /bin/echo test {}\nUpdateHostKeys yes\nControlMaster auto\nControlPath {}\n\
         ControlPersist 60\nRemoteCommand echo mine\nRequestTTY force\nLocalForward 1 127.0.0.1:1\nLogLevel QUIET\n",
        sshd.public_key("host").trim(),
        other.display()
    );
    let client = sshd.open_ssh(&trusting);
    let Client::OpenSsh(program) = &client else { panic!() };
    // The user's own connection, kept warm.
    let key = sshd.folder.join("user");
    let warm = Command::new(program)
        .args(["-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", "-fN", "-p", &sshd.port.to_string(), "-i"])
        .arg(&key)
        .arg("127.0.0.1")
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(warm.success() && other.exists());
    let address = Address { client: client.clone(), ..sshd.address() };
    let session = Session::connect(&address, SECONDS).unwrap();
    let ours = session.run("echo $SSH_CONNECTION; ps -o comm= -p $PPID", b"").unwrap();
    let again = Session::connect(&address, SECONDS).unwrap().run("echo $SSH_CONNECTION", b"").unwrap();
    assert_eq!((ours.status, again.status), (0, 0));
    assert_ne!(ours.stdout.split(|byte| *byte == b'\n').next(), again.stdout.split(|byte| *byte == b'\n').next());
    let strange = Address { host_keys: vec![sshd.public_key("stranger")], ..address.clone() };
    assert_eq!(failure(Session::connect(&strange, SECONDS)).kind, Kind::HostKey);
    let ended = Command::new(program)
        .args([
            "-o",
            "RemoteCommand=none",
            "-o",
            "ClearAllForwardings=yes",
            "-O",
            "exit",
            "-p",
            &sshd.port.to_string(),
            "127.0.0.1",
        ])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(ended.success(), "the user's own connection is untouched");
    let known = fs::read_to_string(sshd.folder.join("trusted")).unwrap_or_default();
    assert!(!known.contains("test"), "nothing is remembered: {known}");
}

#[test]
fn a_key_of_the_agent_opens_the_machine() {
    // What libssh2 asks is in the environment, so this test is one of the real tools: tests/ssh.rs.
    let sshd = Sshd::start("agent");
    let socket = sshd.folder.join("agent");
    let mut agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    for key in ["stranger", "user"] {
        let added = Command::new("ssh-add").arg("-q").arg(sshd.folder.join(key)).env("SSH_AUTH_SOCK", &socket).status();
        assert!(added.unwrap().success());
    }
    let client = sshd.open_ssh(&format!("IdentityAgent {}\n", socket.display()));
    let mut address = Address { client, private_key: None, ..sshd.address() };
    for public_key in [None, Some(sshd.public_key("user"))] {
        address.public_key = public_key;
        Session::connect(&address, SECONDS).unwrap();
    }
    address.public_key = Some(sshd.public_key("stranger"));
    let refused = failure(Session::connect(&address, SECONDS));
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(refused.kind, Kind::Denied, "{}", refused.message);
}

#[test]
fn nobody_is_asked_for_the_passphrase_of_a_key() {
    const AGAIN: &str = "TEST_PASSPHRASE";
    let name = std::env::temp_dir().join(format!("machine-ssh-records-{}", std::process::id()));
    if std::env::var_os(AGAIN).is_none() {
        // Where there is no terminal, a question would take a line of stdin, which holds a tool's records.
        fs::write(&name, "secret\nsecret\n").unwrap();
        let mut records = fs::File::open(&name).unwrap();
        let mut again = Command::new("setsid");
        again.args(["-w", "timeout", "60"]).arg(std::env::current_exe().unwrap()).arg("nobody_is_asked");
        again.env(AGAIN, "1").env_remove("SSH_AUTH_SOCK").stdin(records.try_clone().unwrap());
        let output = again.output().unwrap();
        fs::remove_file(&name).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(records.stream_position().unwrap(), 0, "a record was taken for a passphrase");
        return;
    }
    let sshd = Sshd::start("passphrase");
    let mut address = sshd.address();
    for (kind, format) in [("ed25519", "RFC4716"), ("rsa", "RFC4716"), ("rsa", "PEM"), ("rsa", "PKCS8")] {
        let file = sshd.folder.join(format!("{kind}-{format}"));
        let mut make = Command::new("ssh-keygen");
        make.args(["-q", "-N", "secret", "-t", kind, "-m", format, "-f"]).arg(&file);
        assert!(make.status().unwrap().success());
        address.private_key = Some(file.clone());
        let refused = failure(Session::connect(&address, SECONDS));
        let words = format!("the private key {} is protected by a passphrase", file.display());
        assert_eq!((refused.kind, refused.message), (Kind::Input, words));
        let hint = "ssh-add it, and let keyPair.privateKeyFile be null: then the ssh-agent is asked for the key pair";
        assert_eq!(refused.hint.as_deref(), Some(hint));
        // One that ssh_config names is passed over.
        let identities = vec![file, sshd.folder.join("user")];
        Session::connect(&Address { private_key: None, identities, ..address.clone() }, SECONDS).unwrap();
    }
    address.private_key = Some(sshd.folder.join("config"));
    let refused = failure(Session::connect(&address, SECONDS));
    let words = format!("cannot use the private key {}/config: ", sshd.folder.display());
    assert!(refused.kind == Kind::Input && refused.message.starts_with(&words), "{}", refused.message);
}

#[test]
fn a_host_key_is_seen_without_a_login() {
    let sshd = Sshd::start("key");
    let words = |file| sshd.public_key(file).split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(host_key("127.0.0.1", sshd.port, None, &[], SECONDS).unwrap(), words("host"));
    assert_eq!(host_key("127.0.0.1", sshd.port, None, &["ssh-rsa"], SECONDS).unwrap(), words("host_rsa"));
}
