//! What is between this computer and a command: jump hosts, login shells.

use crate::server::{SECONDS, Sshd, failure};
use machine_record::Kind;
use machine_ssh::{Address, Elevation, Session, quote};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

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
