//! Sessions with a real sshd on the loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use machine_record::{Failure, Kind};
use machine_ssh::{Address, Client, Elevation, Session, fingerprint, host_key, quote};
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// More than any of this takes on a busy computer.
const SECONDS: Duration = Duration::from_secs(30);

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
        let process = run(&folder);
        wait_for(port);
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
            public_key: None,
            identities: Vec::new(),
            identities_only: false,
            jump: None,
            client: Client::Libssh2,
            elevation: Elevation::None,
        }
    }

    /// OpenSSH's client with this configuration in place of the user's.
    fn open_ssh(&self, configuration: &str) -> Client {
        let config = self.folder.join("ssh_config");
        fs::write(&config, configuration).unwrap();
        let script = format!("#!/bin/sh\nexec ssh -F {} \"$@\"\n", config.display());
        Client::OpenSsh(self.write_program("ssh", &script))
    }

    fn write_program(&self, name: &str, script: &str) -> PathBuf {
        let (program, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        // Written elsewhere and moved: another thread's child may hold a file that is written open.
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &program).unwrap();
        program
    }

    /// The same address for each of the clients.
    fn addresses(&self) -> [Address; 2] {
        [self.address(), Address { client: self.open_ssh(""), ..self.address() }]
    }

    /// Ends sshd and starts it again with more configuration in front.
    fn restart(&mut self, first: &str) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let config = self.folder.join("config");
        let old = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{first}\n{old}")).unwrap();
        self.process = run(&self.folder);
        wait_for(self.port);
    }
}

fn run(folder: &Path) -> Child {
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(folder.join("config")).stderr(Stdio::null());
    command.spawn().expect("sshd (install openssh-server)")
}

fn wait_for(port: u16) {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < SECONDS, "sshd does not answer");
        std::thread::sleep(Duration::from_millis(20));
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
fn megabytes_go_both_ways_at_once() {
    let sshd = Sshd::start("stream");
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

/// The way there is a socket that a few whole packets fill: what opens the window often finds it full.
#[test]
fn megabytes_come_back_by_way_of_a_jump_host_that_is_slower_than_what_is_sent() {
    const FOLDER: &str = "TEST_JUMP_FOLDER";
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        // libssh2 is given its jump host by the ssh of PATH.
        let folder = std::env::temp_dir().join(format!("machine-ssh-back-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // Slow in one direction.
        let slow = "python3 -c \"import os, select, time
while select.select([0], [], []) and (piece := os.read(0, 16384)): os.write(1, piece); time.sleep(.001)\"";
        let script = format!("#!/bin/sh\n{slow} | /usr/bin/ssh -F {}/ssh_config \"$@\"\n", folder.display());
        fs::write(folder.join("ssh"), script).unwrap();
        fs::set_permissions(folder.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut again = Command::new("timeout");
        again.arg("60").arg(std::env::current_exe().unwrap()).arg("megabytes_come_back").env(FOLDER, &folder);
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let output = again.env("PATH", path).output().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    };
    let sshd = Sshd::start("back");
    let at = sshd.folder.display();
    fs::write(sshd.folder.join("known"), format!("[127.0.0.1]:{} {}", sshd.port, sshd.public_key("host"))).unwrap();
    let config = format!(
        "Host bastion\nHostName 127.0.0.1\nPort {}\nUser root\nIdentityFile {at}/user\nUserKnownHostsFile {at}/known\n",
        sshd.port
    );
    fs::write(folder.join("ssh_config"), config).unwrap();
    let address = Address { jump: Some("bastion".parse().unwrap()), ..sshd.address() };
    let session = Session::connect(&address, SECONDS).unwrap();
    let script = "while printf %065536d 0; do sleep 0.003; done & cat >/dev/null; kill $!";
    let mut channel = session.open(script).unwrap();
    let (mut piece, mut back) = (vec![0; 256_000], 0);
    for round in 0..200 {
        // Packets of SSH: as many as it takes to fill the way, sooner or later.
        channel.write_all(&piece[..32_000 * (1 + round % 8)]).unwrap();
        while let Some(count) = channel.try_read(&mut piece).unwrap() {
            back += count;
        }
    }
    channel.finish_input().unwrap();
    while let count @ 1.. = channel.read_some(&mut piece).unwrap() {
        back += count;
    }
    assert!(back > 10_000_000, "{back} bytes came back");
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
fn a_jump_host_is_logged_in_to_with_the_users_own_keys() {
    let sshd = Sshd::start("jump");
    let at = sshd.folder.display();
    let known = format!("[127.0.0.1]:{} {}", sshd.port, sshd.public_key("host"));
    fs::write(sshd.folder.join("known"), known).unwrap();
    let config = format!(
        "Host bastion\nHostName 127.0.0.1\nPort {}\nUser root\nIdentityFile {at}/user\nUserKnownHostsFile {at}/known\n",
        sshd.port
    );
    let client = sshd.open_ssh(&config);
    // The machine has another host key than the bastion: the pins are its own.
    let machine = Sshd::start("jumped");
    let mut address = Address { client, jump: Some("bastion".parse().unwrap()), ..machine.address() };
    let session = Session::connect(&address, SECONDS).unwrap();
    assert_eq!(session.run("cat", b"through").unwrap().stdout, b"through");
    let from = String::from_utf8(session.run("ps -o args= -p $PPID", b"").unwrap().stdout).unwrap();
    assert!(from.contains("sshd"), "{from}");
    address.host_keys = vec![sshd.public_key("host")];
    assert_eq!(failure(Session::connect(&address, SECONDS)).kind, Kind::HostKey);
    address.host_keys = vec![machine.public_key("host")];
    // Without a jump in the record: the configuration's.
    address.jump = None;
    address.client = sshd.open_ssh(&format!("{config}Host 127.0.0.1\nProxyJump bastion\n"));
    Session::connect(&address, SECONDS).unwrap();
    // The bastion's own key is checked, too.
    fs::write(sshd.folder.join("known"), "").unwrap();
    address.jump = Some("bastion".parse().unwrap());
    let refused = failure(Session::connect(&address, SECONDS));
    assert_eq!(refused.kind, Kind::HostKey, "{}", refused.message);
}

#[test]
fn an_odd_login_shell_and_an_ipv6_address_are_no_hindrance() {
    let mut sshd = Sshd::start("fish");
    for program in ["sudo", "doas"] {
        sshd.write_program(program, "#!/bin/sh\nshift\nexec \"$@\"\n");
    }
    let path = sshd.folder.display().to_string();
    sshd.restart(&format!("ListenAddress ::1\nForceCommand PATH={path}:$PATH fish -c \"$SSH_ORIGINAL_COMMAND\""));
    // Quotes within quotes, as a script of a tool is in the command that becomes root.
    let sh = |script: &str| format!("exec /bin/sh -c {}", quote(script));
    let command = sh(&sh(r#"printf '<%s>\n\n\\\n' "$(cat)"; printf "it's"; exit 4"#));
    for mut address in sshd.addresses() {
        address.host = "::1".into();
        for elevation in [Elevation::None, Elevation::Sudo(None), Elevation::Doas] {
            address.elevation = elevation;
            let session = Session::connect(&address, SECONDS).unwrap();
            let output = session.run(&command, b"hello").unwrap();
            assert_eq!((output.status, &output.stdout[..]), (4, &b"<hello>\n\n\\\nit's"[..]), "{output:?}");
        }
        address.elevation = Elevation::None;
        let session = Session::connect(&address, SECONDS).unwrap();
        assert_eq!(session.run("set x 1; test $x = 1; and echo fish", b"").unwrap().stdout, b"fish\n");
    }
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
fn a_host_key_is_seen_without_a_login() {
    let sshd = Sshd::start("key");
    let words = |file| sshd.public_key(file).split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(host_key("127.0.0.1", sshd.port, None, &[], SECONDS).unwrap(), words("host"));
    assert_eq!(host_key("127.0.0.1", sshd.port, None, &["ssh-rsa"], SECONDS).unwrap(), words("host_rsa"));
}

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
fn a_way_that_says_much_while_it_carries_the_connection_does_not_stand_still() {
    let sshd = Sshd::start("loud");
    let loud = "import os, select, socket, sys
way = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
while True:
    for one in select.select([0, way], [], [])[0]:
        piece = way.recv(65536) if one is way else os.read(0, 65536)
        if not piece: sys.exit()
        os.write(2, b'x' * 1000 + b'\\n')
        sys.stdout.buffer.write(piece) if one is way else way.sendall(piece)
        sys.stdout.flush()
";
    fs::write(sshd.folder.join("loud"), loud).unwrap();
    let client = sshd.open_ssh(&format!("ProxyCommand python3 {}/loud {}\n", sshd.folder.display(), sshd.port));
    let address = Address { client, ..sshd.address() };
    let session = Session::connect(&address, Duration::from_secs(5)).unwrap();
    let output = session.run("head -c 30000000 /dev/zero", b"").unwrap();
    assert_eq!((output.status, output.stdout.len()), (0, 30_000_000));
}

#[test]
fn a_lost_connection_and_a_silent_machine_are_told_apart() {
    let sshd = Sshd::start("lost");
    for address in sshd.addresses() {
        let session = Session::connect(&address, SECONDS).unwrap();
        // The command's parent is the sshd process of this connection.
        let lost = failure(session.run("kill -9 $PPID; sleep 5", b""));
        assert_eq!(lost.kind, Kind::Unreachable, "{}", lost.message);
        assert!(session.run("true", b"").is_err(), "no other connection takes its place");

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
fn an_sshd_that_lets_nobody_run_commands_says_so() {
    let mut sshd = Sshd::start("sessions");
    sshd.restart("MaxSessions 0\n");
    let session = Session::connect(&sshd.address(), SECONDS).unwrap();
    let refused = failure(session.run("true", b""));
    assert!(refused.message.starts_with("cannot open a channel: "), "{}", refused.message);
    assert!(refused.hint.is_some(), "{}", refused.message);
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
