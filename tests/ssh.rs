//! The ways to a machine: both clients, jump hosts, agents, other users, and plain ssh beside them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use machine::{Machine, said};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::{Folder, cloud, project};

#[allow(dead_code)]
#[path = "switch/machine.rs"]
mod machine;

/// An sshd of this computer that lies on the way to the machines.
struct Bastion {
    process: Child,
    folder: PathBuf,
}

impl Bastion {
    /// Starts it, and writes `bin/ssh`: OpenSSH's client as a user has set it up.
    fn start(folder: &Path) -> Bastion {
        let at = folder.display();
        for file in ["bastion", "own"] {
            let mut made = Command::new("ssh-keygen");
            made.args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(folder.join(file));
            assert!(made.status().unwrap().success());
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/bastion\nPidFile none\nStrictModes no\nUsePAM no\n\
             AuthorizedKeysFile {at}/own.pub\nLogLevel VERBOSE\n"
        );
        fs::write(folder.join("sshd_config"), config).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-E"]).arg(folder.join("log")).arg("-f").arg(folder.join("sshd_config"));
        let process = command.stderr(Stdio::null()).spawn().expect("sshd (install openssh-server)");
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "sshd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        let key = fs::read_to_string(folder.join("bastion.pub")).unwrap();
        fs::write(folder.join("known"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        let config = format!(
            "Host bastion second\nHostName 127.0.0.1\nPort {port}\nUser root\nIdentityFile {at}/own\nUserKnownHostsFile {at}/known\n\
             StrictHostKeyChecking yes\nHost *\nControlMaster auto\nControlPath {at}/shared-%C\nControlPersist 20\n"
        );
        fs::write(folder.join("ssh_config"), config).unwrap();
        fs::create_dir(folder.join("bin")).unwrap();
        let program = folder.join("bin/ssh");
        fs::write(&program, format!("#!/bin/sh\nexec /usr/bin/ssh -F {at}/ssh_config \"$@\"\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Bastion { process, folder: folder.into() }
    }

    /// How many connections it let in, and forgets them.
    fn logins(&self) -> usize {
        let log = fs::read_to_string(self.folder.join("log")).unwrap();
        fs::File::options().write(true).open(self.folder.join("log")).unwrap().set_len(0).unwrap();
        log.matches("Accepted publickey").count()
    }
}

impl Drop for Bastion {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_machine_is_reached_by_both_clients_and_by_way_of_a_jump_host() {
    let machine = Machine::new("clients");
    let at = machine.folder.path();
    let bastion = Bastion::start(at);
    let run = |script: &str, record: &Value| {
        machine.folder.sh(&format!("PATH=$PWD/bin:$PATH; {script}"), format!("{record}\n"))
    };

    // OpenSSH's client, with a configuration that would share connections.
    let greeter = machine.push_greeter("openssh", "");
    let pushed = run("nix-push --ssh ssh 0.nix", &greeter).ok().record();
    assert_eq!(pushed["closure"]["toplevel"], greeter["closure"]["toplevel"]);
    let switched = run("nixos-switch --ssh ssh", &pushed).ok();
    assert_eq!(said(&switched).0, "switched");
    machine.assert_keeps(&greeter, "openssh", "over OpenSSH's client");
    assert_eq!(said(&run("nixos-switch --ssh ssh", &pushed).ok()).0, "unchanged");
    assert_eq!(said(&run("nixos-switch", &pushed).ok()).0, "unchanged");
    assert_eq!(bastion.logins(), 0);
    let shared = fs::read_dir(at)
        .unwrap()
        .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("shared-"));
    assert_eq!(shared.count(), 0, "none of ours is shared with others");

    // By way of the bastion, in both.
    let mut behind = pushed.clone();
    // What the user's configuration shares on the way is shared; here each is to be seen.
    let fresh = || {
        run("ssh -O exit bastion; ssh -O exit second", &json!({}));
        bastion.logins();
    };
    for (jump, logins) in [("second,root@bastion", 2), ("bastion", 1)] {
        behind["ssh"]["jump"] = json!(jump);
        for flags in ["", "--ssh ssh"] {
            fresh();
            let pushed = run(&format!("nix-push {flags} 0.nix"), &behind).ok().record();
            assert_eq!(pushed["closure"]["sentPaths"], 0);
            assert_eq!(said(&run(&format!("nixos-switch {flags}"), &pushed).ok()).0, "unchanged");
            assert!(bastion.logins() >= logins, "{jump} {flags}");
        }
    }
    fresh();
    let up = run("ec2-up --deployment switch-clients", &behind).ok().record();
    assert_eq!(up["ssh"], behind["ssh"]);
    assert!(bastion.logins() >= 1, "ec2-up looks at the host key by way of it");
    // The machine's key is pinned on the way, too, and so is the bastion's.
    let mut strange = behind.clone();
    strange["ssh"]["hostKeys"] = json!([fs::read_to_string(at.join("bastion.pub")).unwrap().trim()]);
    for flags in ["", "--ssh ssh"] {
        let ran = run(&format!("nixos-switch {flags}"), &strange);
        assert_eq!((ran.status, said(&ran).1.as_str()), (1, "host-key"), "{}", ran.stderr);
    }
    let known = fs::read_to_string(at.join("known")).unwrap();
    fs::write(at.join("known"), "").unwrap();
    // A connection of the user's that is still open would need no key.
    fresh();
    for flags in ["", "--ssh ssh"] {
        let ran = run(&format!("nixos-switch {flags}"), &behind);
        assert_eq!((ran.status, said(&ran).1.as_str()), (1, "host-key"), "{}", ran.stderr);
    }
    fs::write(at.join("known"), known).unwrap();
    behind["ssh"]["jump"] = json!("-oProxyCommand=touch${IFS}owned");
    assert_eq!(said(&run("nixos-switch", &behind)).1, "input");

    // What the record does not say, the configuration says: the pins hold all the same.
    let (key, host) = (at.join("id_ed25519"), greeter["ssh"]["host"].as_str().unwrap());
    let configured = fs::read_to_string(at.join("ssh_config")).unwrap();
    let configure = |lines: &str| {
        let text = format!("Host web\nHostName {host}\nIdentityFile {}\n{lines}\n{configured}", key.display());
        fs::write(at.join("ssh_config"), text).unwrap();
        fresh();
    };
    let by_hand = json!({"name": "web", "ssh": {"host": "web", "hostKeys": greeter["ssh"]["hostKeys"]}});
    for flags in ["", "--ssh ssh"] {
        for (lines, logins) in [
            ("Port 22", 0),
            ("ProxyJump bastion", 1),
            ("ProxyJump second,bastion", 2),
            ("ProxyCommand ssh -o BatchMode=yes -W [%h]:%p %r@bastion", 1),
            // The login is root's before the configuration says who.
            ("Match originalhost web user root\nProxyJump %r@bastion", 1),
            ("Match user nobody\nPort 1", 0),
        ] {
            configure(lines);
            run(&format!("nixos-switch --status {flags}"), &by_hand).ok();
            assert!(bastion.logins() >= logins, "{lines} {flags}");
        }
        for (lines, kind) in [("User nobody", "denied"), ("Port 1", "unreachable"), ("Nonsense yes", "input")] {
            configure(lines);
            let ran = run(&format!("nixos-switch --status {flags}"), &by_hand);
            assert_eq!((ran.status, said(&ran).1.as_str()), (1, kind), "{lines} {flags}: {}", ran.stderr);
        }
        configure("");
        let mut strange = by_hand.clone();
        strange["ssh"]["hostKeys"] = json!([fs::read_to_string(at.join("bastion.pub")).unwrap().trim()]);
        let ran = run(&format!("nixos-switch --status {flags}"), &strange);
        assert_eq!(said(&ran).1, "host-key", "{}", ran.stderr);
        // And what the record says wins.
        let mut said_all = by_hand.clone();
        (said_all["ssh"]["user"], said_all["ssh"]["port"]) = (json!("root"), json!(22));
        configure("User nobody\nPort 1");
        run(&format!("nixos-switch --status {flags}"), &said_all).ok();
    }
    // A key by tokens and in quotes, from a file that is included; then one of an agent of the host's own.
    let host_only = |lines: &str| {
        fs::write(at.join("included"), format!("Host web\nHostName {host}\n{lines}\n")).unwrap();
        fs::write(at.join("ssh_config"), format!("Include {}/included\n{configured}", at.display())).unwrap();
    };
    fs::copy(&key, at.join("the web key")).unwrap();
    host_only(&format!("IdentityFile \"{}/the %n key\"\nIdentitiesOnly yes", at.display()));
    run("nixos-switch --status", &by_hand).ok();
    host_only(&format!("IdentityAgent {}/%n-agent\nIdentityFile /nowhere", at.display()));
    let agent = "unset SSH_AUTH_SOCK; eval \"$(ssh-agent -a $PWD/web-agent)\" >&2; trap 'ssh-agent -k >&2' EXIT
         ssh-add -q id_ed25519; unset SSH_AUTH_SOCK; nixos-switch --status";
    run(agent, &by_hand).ok();
    host_only("IdentityAgent none\nIdentityFile /nowhere");
    let ran = run("nixos-switch --status", &by_hand);
    assert!(said(&ran).1 == "denied" && ran.stderr.contains("ssh_config has no IdentityAgent"), "{}", ran.stderr);
    configure("ProxyCommand nc %d");
    let ran = run("nixos-switch --status", &by_hand);
    assert!(said(&ran).1 == "input" && ran.stderr.contains("say --ssh ssh"), "{}", ran.stderr);
    fs::write(at.join("ssh_config"), configured).unwrap();

    // Plain ssh, as the examples say: in a mount namespace, ~/.ssh is a folder of our own.
    let gone = json!({"name": "gone", "ssh": {"jump": "bastion"}});
    fs::write(at.join("machines.json"), format!("{pushed}\n{gone}\n")).unwrap();
    fs::create_dir(at.join("dot-ssh")).unwrap();
    let text = fs::read_to_string(project().join("examples/ssh-config.jq")).unwrap();
    let lines = |wanted: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .filter(|line| line.starts_with(wanted))
            .map(String::from)
            .collect()
    };
    let (commands, include) = (lines("jq").join("\n"), lines("Include").join("\n"));
    assert!(commands.lines().count() == 2 && !include.is_empty());
    let script = format!(
        "set -e; home=$(getent passwd root | cut -d: -f6); mkdir -p $home/.ssh; mount --bind dot-ssh $home/.ssh; HOME=$home
         ln -s {} examples; {commands}; echo '{include}' > ~/.ssh/config
         if grep gone ~/.ssh/machines.*; then exit 6; fi
         ssh -o BatchMode=yes clients readlink /run/current-system </dev/null
         sed -i 's/AAAA/AAAB/' ~/.ssh/machines.known_hosts; ssh -o BatchMode=yes clients true </dev/null 2>&1 && exit 7 || true",
        project().join("examples").display()
    );
    let ran = machine.folder.sh(&format!("unshare --mount bash -c {}", quote(&script)), "").ok();
    assert_eq!(ran.stdout.lines().next(), greeter["closure"]["toplevel"].as_str(), "{}", ran.stdout);
    assert!(ran.stdout.contains("verification failed"), "{}", ran.stdout);
}

#[test]
fn a_login_becomes_root_by_sudo_or_doas() {
    let machine = Machine::new("people");
    let at = machine.folder.path();
    let key = machine.folder.sh("ssh-keygen -y -f id_ed25519", "").ok().stdout;
    let hash = machine.folder.sh("openssl passwd -6 -salt nixpipe 'open sesame'", "").ok().stdout;
    let (key, hash) = (key.trim(), hash.trim());
    let system = |text: &str, more: &str| {
        let user = |name: &str, groups: &str| {
            format!(
                "users.users.{name} = {{ isNormalUser = true; extraGroups = [ {groups} ]; hashedPassword = \"{hash}\";
                   openssh.authorizedKeys.keys = [ \"{key}\" ]; }};"
            )
        };
        machine.push_greeter(text, &format!("{} {} {more}", user("alice", "\"wheel\""), user("bob", "")))
    };
    let asks = system("asks", "security.doas.enable = true;");
    machine.switch(&asks, "").ok();
    let as_user = |record: &Value, user: &str| {
        let mut record = record.clone();
        record["ssh"]["user"] = json!(user);
        record
    };
    let refused = |record: &Value, script: &str, words: &str| {
        let ran = machine.folder.sh(script, format!("{record}\n"));
        assert_eq!((ran.status, said(&ran).1.as_str()), (1, "denied"), "{script}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{script}: {}", ran.stderr);
        assert!(!ran.stderr.contains("sesame") && !ran.stdout.contains("sesame"));
    };
    let alice = as_user(&asks, "alice");
    refused(&alice, "nixos-switch", "cannot switch as alice");
    refused(&alice, "nixos-switch --elevate sudo", "--ask-elevate-password");
    refused(&alice, "nixos-switch --elevate doas", "noPass");
    refused(&alice, "nixos-switch --elevate sudo --elevate-password-fd 3 3<<<wrong", "incorrect password");
    refused(&as_user(&asks, "bob"), "nixos-switch --elevate sudo --elevate-password-fd 3 3<<<'open sesame'", "bob");

    // The whole of it, with the password, over both clients; -v shows every command.
    let next = as_user(&system("elevated", "security.doas.enable = true;"), "alice");
    for flags in ["", "--ssh ssh"] {
        let script = format!("nix-push -v {flags} --elevate sudo --elevate-password-fd 3 1.nix 3<<<'open sesame'");
        let ran = machine.folder.sh(&script, format!("{next}\n")).ok();
        assert_eq!(ran.record()["closure"]["sentPaths"], 0);
        let script = format!("nixos-switch -v {flags} --elevate sudo --elevate-password-fd 3 3<<<'open sesame'");
        let ran = machine.folder.sh(&script, format!("{next}\n")).ok();
        assert_eq!(said(&ran).0, if flags.is_empty() { "switched" } else { "unchanged" });
        assert!(!ran.stderr.contains("sesame") && !ran.stdout.contains("sesame"));
    }
    machine.assert_keeps(&next, "elevated", "as alice with a password");
    let found = machine.ssh("journalctl --no-pager | grep -c 'open sesame'; grep -rl 'open sesame' /run /var/lib /tmp 2>/dev/null; true").ok();
    assert_eq!(found.stdout, "0\n", "the password is nowhere on the machine");

    // At a terminal, and where there is none.
    fs::write(at.join("record"), format!("{next}\n")).unwrap();
    // What is typed before the question is thrown away, as everywhere.
    let script = "mkfifo keys; exec 5<>keys
        script -qefc 'nixos-switch --elevate sudo --ask-elevate-password < record > out' seen <&5 >/dev/null &
        for n in {1..300}; do grep -q 'password for sudo' seen 2>/dev/null && break; sleep 0.1; done
        printf 'open sesamx\\x7fe\\r' >&5; wait $!; status=$?; cat seen; exit $status";
    let typed = machine.folder.sh(script, "").ok();
    assert!(typed.stdout.contains("password for sudo") && !typed.stdout.contains("sesam"), "{}", typed.stdout);
    assert!(fs::read_to_string(at.join("out")).unwrap().contains("unchanged"));
    let ran = machine.folder.sh("setsid -w nixos-switch --elevate sudo --ask-elevate-password < record", "");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("--elevate-password-fd"), "{}", ran.stderr);
    let ran = machine.folder.sh("nixos-switch --elevate doas --elevate-password-fd 3 3<<<x < record", "");
    assert_eq!(ran.status, 2, "{}", ran.stderr);

    // A password at hand that nobody asks for is not sent, and must not end up as a command.
    let free = as_user(
        &system(
            "free",
            "security.sudo.wheelNeedsPassword = false; security.doas = { enable = true; wheelNeedsPassword = false; };",
        ),
        "alice",
    );
    let script = "nixos-switch --elevate sudo --elevate-password-fd 3 3<<<'open sesame'";
    assert_eq!(said(&machine.folder.sh(script, format!("{free}\n")).ok()).0, "switched");
    for flags in [
        "--elevate sudo",
        "--elevate doas",
        "--elevate doas --ssh ssh",
        "--elevate sudo --elevate-password-fd 3 3<<<no",
    ] {
        assert_eq!(said(&machine.switch(&free, flags).ok()).0, "unchanged", "{flags}");
    }
    machine.assert_keeps(&free, "free", "as alice without a password");
}

#[test]
fn a_key_of_the_ssh_agent_opens_a_machine() {
    cloud();
    let folder = Folder::new("agent");
    let down = || folder.sh("ec2-down --all --deployment ssh-agent --region eu-central-1 < /dev/null", "");
    down();
    // More keys than sshd lets anybody try; the machine's is not the first.
    let pipe = "eval \"$(ssh-agent)\" >&2; trap 'ssh-agent -k >&2' EXIT
        ssh-keygen -q -N '' -t ed25519 -f mine; ssh-add -q mine; rm mine
        nixos-ami -n --release 20.09 --region eu-central-1 --name agent | keygen --from-agent > key.json
        ssh-add -q -D; for n in 1 2 3 4 5 6 7 8; do ssh-keygen -q -N '' -t ed25519 -f other$n; ssh-add -q other$n; done";
    let refused = folder
        .sh(&format!("{pipe}; ec2-up --deployment ssh-agent < key.json | tee up.json | nixos-switch --status"), "");
    assert_eq!(refused.record()["error"]["kind"], "denied", "{}", refused.stderr);
    let ran = folder.sh(
        "eval \"$(ssh-agent)\" >&2; trap 'ssh-agent -k >&2' EXIT
         for n in 1 2 3 4 5 6 7 8; do ssh-add -q other$n; done
         ec2-down --all --deployment ssh-agent --region eu-central-1 < /dev/null >&2
         ssh-keygen -q -N '' -t rsa -b 2048 -f rsa; mkdir only; mv rsa only
         (eval \"$(ssh-agent)\" >&2; trap 'ssh-agent -k >&2' EXIT; ssh-add -q only/rsa
          nixos-ami -n --release 20.09 --region eu-central-1 --name agent | keygen --from-agent > key.json)
         ssh-add -q only/rsa; rm only/rsa; ec2-up --deployment ssh-agent < key.json > up.json
         for flags in '' '--ssh ssh'; do
           nixos-switch --status $flags < up.json
           ec2-ls --deployment ssh-agent --region eu-central-1 | nixos-switch --status $flags
         done",
        "",
    );
    down();
    let records = ran.ok().records();
    assert_eq!(records.len(), 4);
    assert!(
        records.iter().all(|record| record.get("error").is_none() && record["keyPair"]["algorithm"] == "rsa"),
        "{records:?}"
    );
}

#[test]
fn profiles_are_those_of_the_aws_command_line() {
    cloud();
    let folder = Folder::new("profiles");
    fs::create_dir(folder.path().join(".aws")).unwrap();
    let endpoint = folder.sh("echo -n $AWS_ENDPOINT_URL", "").ok().stdout;
    fs::write(
        folder.path().join("helper"),
        "#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":\"AKIDFROMHELPER\",\"SecretAccessKey\":\"s\"}'\n",
    )
    .unwrap();
    fs::set_permissions(folder.path().join("helper"), fs::Permissions::from_mode(0o755)).unwrap();
    let at = folder.path().display();
    let config = format!(
        "[default]\nregion = eu-west-3\nendpoint_url = {endpoint}\n\
         [profile keys]\nregion = eu-north-1\nendpoint_url = {endpoint}\n\
         [profile helper]\nregion = eu-west-1\nendpoint_url = {endpoint}\ncredential_process = {at}/helper\n\
         [profile services]\nregion = eu-west-2\nservices = local\naws_access_key_id = AKIDSERVICES\naws_secret_access_key = s\n\
         [services local]\nec2 =\n  endpoint_url = {endpoint}\n\
         [profile sso]\nregion = eu-west-1\nendpoint_url = {endpoint}\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = admin\n\
         [profile living]\nregion = eu-west-1\nservices = local\nsso_session = living\nsso_account_id = 123456789012\nsso_role_name = admin\n\
         [sso-session living]\nsso_region = eu-west-1\nsso_start_url = https://example.awsapps.com/start\n\
         [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://example.awsapps.com/start\n"
    );
    fs::write(folder.path().join(".aws/config"), &config).unwrap();
    fs::write(folder.path().join(".aws/credentials"), "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = s\n[keys]\naws_access_key_id = AKIDKEYS\naws_secret_access_key = s\n").unwrap();
    let clean = "unset AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN; export AWS_EC2_METADATA_DISABLED=true";
    let asks =
        |settings: &str| folder.sh(&format!("{clean}; {settings} nixos-ami -n --release 20.09 --verify --name x"), "");
    for (settings, region) in [
        ("", "eu-west-3"),
        ("AWS_PROFILE=keys", "eu-north-1"),
        ("AWS_PROFILE=helper", "eu-west-1"),
        ("AWS_PROFILE=services", "eu-west-2"),
        ("AWS_DEFAULT_PROFILE=helper AWS_PROFILE=keys", "eu-north-1"),
        ("AWS_DEFAULT_PROFILE=keys AWS_PROFILE=", "eu-north-1"),
        ("AWS_PROFILE=keys AWS_REGION=eu-central-1", "eu-central-1"),
    ] {
        let record = asks(settings).ok().record();
        assert_eq!(record["ami"]["region"], region, "{settings}");
        let ran = folder.sh(&format!("{clean}; {settings} ec2-ls --deployment profiles"), "").ok();
        assert!(ran.stderr.contains(&format!("no machines in {region}")), "{settings}: {}", ran.stderr);
    }
    // A session that lives, in the file of the AWS command line, named by the SHA-1 of the session's name.
    let token = r#"{"startUrl":"https://example.awsapps.com/start","region":"eu-west-1","accessToken":"token-of-the-session","expiresAt":"2099-01-01T00:00:00Z"}"#;
    fs::create_dir_all(folder.path().join(".aws/sso/cache")).unwrap();
    let name = folder.sh("printf living | sha1sum | cut -d' ' -f1", "").ok().stdout;
    fs::write(folder.path().join(format!(".aws/sso/cache/{}.json", name.trim())), token).unwrap();
    let (portal, asked) = portal();
    let record = asks(&format!("AWS_ENDPOINT_URL_SSO={portal} AWS_PROFILE=living")).ok().record();
    assert_eq!(record["ami"]["region"], "eu-west-1");
    let asked = asked.join().unwrap().to_lowercase();
    assert!(asked.starts_with("get /federation/credentials?") && asked.contains("role_name=admin"), "{asked}");
    assert!(asked.contains("x-amz-sso_bearer_token: token-of-the-session"), "{asked}");
    // The files may be elsewhere.
    fs::rename(folder.path().join(".aws"), folder.path().join("elsewhere")).unwrap();
    let elsewhere =
        "AWS_PROFILE=keys AWS_CONFIG_FILE=elsewhere/config AWS_SHARED_CREDENTIALS_FILE=elsewhere/credentials";
    assert_eq!(asks(elsewhere).ok().record()["ami"]["region"], "eu-north-1");
    // A session that nobody has begun: what to do is said.
    let ran = asks("AWS_PROFILE=sso AWS_CONFIG_FILE=elsewhere/config");
    let record = ran.record();
    assert_eq!(record["error"]["kind"], "denied", "{}", ran.stderr);
    assert!(ran.stderr.contains("aws sso login"), "{}", ran.stderr);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(
        left.iter().all(|name| ["helper", "elsewhere"].iter().any(|known| name == known)),
        "nothing is left in the home folder: {left:?}"
    );
}

/// The portal of AWS IAM Identity Center, for one request: gives credentials, and then what it was asked.
fn portal() -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&piece[..count]);
        }
        let body = r#"{"roleCredentials":{"accessKeyId":"AKIDFROMSSO","secretAccessKey":"s","sessionToken":"t","expiration":4070908800000}}"#;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
        stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, asked)
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
