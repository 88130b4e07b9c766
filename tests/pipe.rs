//! The whole pipe, from a release number to a switched machine, on the local cloud.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::{Folder, cloud, project, sample};

/// A deployment that is taken down when the test ends, however it ends.
struct Deployment {
    folder: Folder,
    name: &'static str,
}

impl Deployment {
    fn new(name: &'static str) -> Deployment {
        cloud();
        let deployment = Deployment { folder: Folder::new(name), name };
        deployment.down();
        let example = project().join("examples/tutorial");
        for file in ["configuration.nix", "changed.nix"] {
            std::fs::copy(example.join(file), deployment.folder.path().join(file)).unwrap();
        }
        deployment
    }

    fn down(&self) {
        self.folder
            .sh(&format!("ec2-down --all --deployment {} --region eu-central-1 < /dev/null", self.name), "")
            .ok();
    }

    /// The tutorial's pipe after its first tool, which `start` is.
    fn pipe(&self, start: &str, configuration: &str) -> String {
        let name = self.name;
        format!(
            "{start} | keygen --type rsa | ec2-up --deployment {name} --instance-type t3.micro --volume-size 50 \
             | nix-push {configuration} | nixos-switch"
        )
    }

    /// Starts the tools of a pipe as children of ours, in one group, which the first leads.
    fn spawn(&self, pipe: &str) -> Vec<Child> {
        let mut tools: Vec<Child> = Vec::new();
        for tool in pipe.split(" | ") {
            let mut command = self.folder.command(&format!("exec {tool}"));
            let input = tools.last_mut().and_then(|before| before.stdout.take()).map_or(Stdio::null(), Stdio::from);
            command.process_group(tools.first().map_or(0, |first| first.id() as i32));
            tools.push(command.stdin(input).stdout(Stdio::piped()).stderr(tests::unread()).spawn().unwrap());
        }
        tools
    }

    /// Runs a pipe, and gives its record, and when each of its tools came to its end.
    fn timed(&self, pipe: &str) -> (Value, Vec<Duration>) {
        let began = Instant::now();
        let mut tools = self.spawn(pipe);
        let mut ends = vec![None; tools.len()];
        while ends.contains(&None) {
            std::thread::sleep(Duration::from_millis(1));
            for (tool, end) in tools.iter_mut().zip(&mut ends) {
                if end.is_none() && tool.try_wait().unwrap().is_some() {
                    *end = Some(began.elapsed());
                }
            }
        }
        // One record is less than what a pipe holds.
        let record = serde_json::from_reader(tools.last_mut().unwrap().stdout.take().unwrap()).unwrap();
        (record, ends.into_iter().flatten().collect())
    }

    fn machines(&self) -> Vec<Value> {
        let script = format!("ec2-ls --deployment {} --region eu-central-1", self.name);
        self.folder.sh(&script, "").ok().records()
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // A failure here must not hide the test's own.
        let script = format!("ec2-down --all --deployment {} --region eu-central-1 < /dev/null", self.name);
        self.folder.sh(&script, "");
    }
}

/// A number from 0 to 1 that differs from call to call.
fn fraction() -> f64 {
    let bits = RandomState::new().hash_one(0) >> 32;
    bits as f64 / f64::from(u32::MAX)
}

#[test]
fn the_demo_succeeds() {
    cloud();
    // After a demo that was interrupted, and with settings of a user for other work.
    let folder = Folder::new("demo");
    let before =
        "nixos-ami -n --release 20.09 --region eu-central-1 | keygen | ec2-up --deployment demo --wait running";
    folder.sh(before, "").ok();
    let mut demo = Command::new(project().join("scripts/demo"));
    demo.env("CARGO_TARGET_DIR", folder.path()).env("AWS_REGION", "eu-west-1").env("http_proxy", "http://127.0.0.1:1");
    let output = demo.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Every step was verified."), "{text}");
}

#[test]
fn what_the_user_added_reaches_the_end_and_the_configuration() {
    let deployment = Deployment::new("facts");
    let facts = r#""role":"it's a \"${db}\"","big":12345678901234567890123,"list":[1,2.50,null,{"ü":"😀"}]"#;
    std::fs::write(
        deployment.folder.path().join("facts.nix"),
        r#"{ machine, ... }: {
             imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
             networking.hostName = machine.name;
             environment.etc."role".text = machine.role;
             environment.etc."facts".text = builtins.toJSON [ machine.list machine.instance.id machine.ami.id ];
           }"#,
    )
    .unwrap();
    let record = format!(
        "{{\"name\":\"db-1\",\"release\":\"20.09\",\"region\":\"eu-central-1\",{}}}",
        facts.replace("\"big\":12345678901234567890123,", "")
    );
    let ran = deployment.folder.sh(&deployment.pipe("nixos-ami", "facts.nix"), &record).ok();
    assert!(ran.stdout.contains(r#""role":"it's a \"${db}\"","list":[1,2.50,null,{"ü":"😀"}]"#), "{}", ran.stdout);
    let record = ran.record();
    let address = record["ssh"]["host"].as_str().unwrap();
    let script = format!(
        "printf '%s %s\\n' {address} '{}' > known_hosts
         ssh -i id_rsa.pem -o UserKnownHostsFile=known_hosts -o StrictHostKeyChecking=yes root@{address} 'cat /etc/role; echo; cat /etc/facts; echo; cat /proc/sys/kernel/hostname' < /dev/null",
        record["ssh"]["hostKeys"][0].as_str().unwrap()
    );
    let there = deployment.folder.sh(&script, "").ok().stdout;
    let mut lines = there.lines();
    assert_eq!(lines.next(), Some(r#"it's a "${db}""#));
    let facts: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(facts[0][3]["ü"], "😀");
    assert_eq!((&facts[1], &facts[2]), (&record["instance"]["id"], &record["ami"]["id"]));
    assert_eq!(lines.next(), Some("db-1"));
}

#[test]
fn one_bad_machine_of_three_stops_nobody() {
    let deployment = Deployment::new("three");
    let stream =
        r#"{"name":"good-1","release":"20.09"} {"name":"bad","release":"99.99"} {"name":"good-2","release":"20.09"}"#;
    let ran = deployment
        .folder
        .sh(&deployment.pipe("nixos-ami --region eu-central-1 --source table", "configuration.nix"), stream);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let outcome = |name: &str| {
        let record = ran.records().into_iter().find(|record| record["name"] == name).unwrap();
        (record["activation"]["outcome"].clone(), record["error"]["tool"].clone(), record["error"]["kind"].clone())
    };
    assert_eq!(outcome("good-1").0, "switched", "{}", ran.stderr);
    assert_eq!(outcome("good-2").0, "switched", "{}", ran.stderr);
    assert_eq!(outcome("bad"), (Value::Null, "nixos-ami".into(), "not-found".into()));
    let ids: BTreeSet<_> = deployment.machines().iter().map(|machine| machine["instance"]["id"].to_string()).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn killed_anywhere_and_run_again_the_pipe_ends_as_if_undisturbed() {
    let deployment = Deployment::new("killed-pipe");
    let start = "nixos-ami -n --release 20.09 --region eu-central-1 --name k";
    let pipe = deployment.pipe(start, "changed.nix");
    let (undisturbed, ends) = deployment.timed(&pipe);
    assert_eq!(undisturbed["activation"]["outcome"], "switched");
    let points = sample(20, 2);
    // All of them at once, or one of them while it works: from the end of the tool before to its own.
    let whole = ends.len();
    let victims = [whole, 3, 2, 4, 1, 0];
    for point in 0..points {
        let victim = victims[point % victims.len()];
        let mut from = if victim == 0 || victim == whole { Duration::ZERO } else { ends[victim - 1] };
        let mut to = ends[victim.min(whole - 1)];
        let at = loop {
            deployment.down();
            if victim == 1 {
                // It has something to do.
                std::fs::remove_file(deployment.folder.path().join("id_rsa.pem")).unwrap();
            }
            let mut tools = deployment.spawn(&pipe);
            let after = from + (to - from).mul_f64(fraction());
            std::thread::sleep(after);
            match tools.get_mut(victim) {
                Some(tool) => tool.kill().unwrap(),
                None => {
                    let group = tools[0].id().to_string();
                    Command::new("pkill").args(["-KILL", "-g", &group]).status().unwrap();
                }
            }
            let killed = tools.iter_mut().map(|tool| tool.wait().unwrap().signal() == Some(9)).collect::<Vec<_>>();
            if killed.contains(&true) {
                break format!("{victim} of the pipe killed after {after:?} ({killed:?})");
            }
            // It was quicker this time: nobody was left.
            (from, to) = (from.min(after / 2), after);
        };
        println!("{at}");
        let again = deployment.folder.sh(&pipe, "").ok().record();
        let at = format!("{at}: {again}");
        assert!(
            ["switched", "unchanged"].contains(&again["activation"]["outcome"].as_str().unwrap_or_default()),
            "{at}"
        );
        assert_eq!(again["ami"], undisturbed["ami"], "{at}");
        assert_eq!(again["closure"]["toplevel"], undisturbed["closure"]["toplevel"], "{at}");
        let key = deployment.folder.sh("keygen -q -n --type rsa", "").ok().record();
        assert_eq!(again["keyPair"], key["keyPair"], "{at}");
        let machines = deployment.machines();
        assert_eq!(machines.len(), 1, "{at}");
        for member in ["id", "securityGroupId"] {
            assert_eq!(machines[0]["instance"][member], again["instance"][member], "{at}");
        }
        // No second group, and no key that no machine has.
        let left = format!("ec2-ls -q --orphans --deployment {} --region eu-central-1", deployment.name);
        assert_eq!(deployment.folder.sh(&left, "").ok().stdout, "", "{at}");
        // The tools say the same of it when they look once more.
        let settled = deployment.folder.sh(&pipe, "").ok().record();
        assert_eq!(settled["activation"]["outcome"], "unchanged", "{at}");
        assert_eq!(settled["activation"]["current"], settled["closure"]["toplevel"], "{at}");
        assert_eq!(settled["instance"]["id"], again["instance"]["id"], "{at}");
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn an_ssh_server_in_the_place_of_the_machines_is_named() {
    cloud();
    let folder = Folder::new("taken");
    let server = project().join("tests/cloud/server.py");
    let script = format!(
        "unshare -n bash -c 'ip link set lo up
         exec 3< <(exec python3 -c \"import socket, time; s = socket.create_server((str(), 22)); print(1, flush=True); time.sleep(60)\")
         read -r <&3; /var/lib/nixpipe-cloud/venv/bin/python -B {} --folder $PWD --run $PWD/run; status=$?; kill $!; exit $status'",
        server.display()
    );
    let ran = folder.sh(&script, "");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("cannot listen on 127.0.0.2 port 22: Address already in use. "), "{}", ran.stderr);
    assert!(ran.stderr.contains("give it its own with ListenAddress in /etc/ssh/sshd_config"), "{}", ran.stderr);
}

/// Asks a machine's metadata service with nothing but bash: a machine has no curl of its own.
const ASK: &str = r#"
ask() {
    exec 3<>/dev/tcp/169.254.169.254/80
    printf '%s /latest/%s HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n%s\r\n\r\n' $1 $2 "$3" >&3
    cat <&3
}
token=$(ask PUT api/token 'X-aws-ec2-metadata-token-ttl-seconds: 60')
for what in user-data meta-data/public-keys/ meta-data/public-keys/0/openssh-key; do
    ask GET $what "X-aws-ec2-metadata-token: ${token##*$'\n'}"
done
"#;

/// What EC2 says of an instance's user data.
const USER_DATA: &str = "
import base64, boto3, sys
data = boto3.client('ec2').describe_instance_attribute(InstanceId=sys.argv[1], Attribute='userData')['UserData']['Value']
print(base64.b64decode(data).decode())";

#[test]
fn the_private_key_is_in_no_record_log_argument_list_store_path_or_metadata() {
    let deployment = Deployment::new("secret");
    deployment.folder.sh("keygen -n --type rsa", "").ok();
    let key = std::fs::read_to_string(deployment.folder.path().join("id_rsa.pem")).unwrap();
    // Any line of the key gives it away.
    let needles: Vec<String> = key.lines().filter(|line| !line.starts_with('-')).map(String::from).collect();
    let holds = |text: &str| needles.iter().any(|needle| text.contains(needle));

    // What the user data holds is there for all in the machine: here a host key.
    let done = AtomicBool::new(false);
    let script = deployment.pipe("nixos-ami -v -n --release 20.09 --region eu-central-1", "changed.nix");
    let script = script
        .replace("| keygen", "| keygen -v")
        .replace("| ec2-up", "| ec2-up -v --host-key user-data")
        .replace("| nix-push", "| nix-push -v")
        .replace("| nixos-switch", "| nixos-switch -v");
    let (ran, seen) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::SeqCst) {
                for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                    for file in ["cmdline", "environ"] {
                        if let Ok(text) = std::fs::read(entry.path().join(file)) {
                            seen.insert(String::from_utf8_lossy(&text).into_owned());
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        let ran = deployment.folder.sh(&script, "");
        done.store(true, Ordering::SeqCst);
        (ran, watch.join().unwrap())
    });
    let ran = ran.ok();
    assert!(seen.iter().any(|text| text.contains("nix-push")), "the tools' argument lists were seen");
    assert!(!seen.iter().any(|text| holds(text)), "an argument list or environment holds the key");
    assert!(!holds(&ran.stdout) && !holds(&ran.stderr));
    assert!(!holds(&cloud().run(&["log"])), "a request to EC2 holds the key");
    assert!(!holds(&cloud().run(&["console", ran.record()["instance"]["id"].as_str().unwrap()])));
    let record = ran.record();
    let (address, host_key) = (record["ssh"]["host"].as_str().unwrap(), record["ssh"]["hostKeys"][0].as_str().unwrap());
    std::fs::write(deployment.folder.path().join("known_hosts"), format!("{address} {host_key}\n")).unwrap();
    std::fs::write(deployment.folder.path().join("ask.sh"), ASK).unwrap();
    let ssh =
        format!("ssh -i id_rsa.pem -o UserKnownHostsFile=known_hosts -o StrictHostKeyChecking=yes root@{address}");
    let inside = deployment.folder.sh(&format!("{ssh} bash < ask.sh"), "").ok().stdout;
    assert!(inside.contains("ssh-rsa ") && inside.contains("SSH_HOST_"), "the metadata service answered: {inside}");
    assert!(!holds(&inside), "the metadata service has the key");
    let id = record["instance"]["id"].as_str().unwrap();
    let outside =
        deployment.folder.sh(&format!("/var/lib/nixpipe-cloud/venv/bin/python -c \"{USER_DATA}\" {id}"), "").ok();
    assert!(outside.stdout.contains("SSH_HOST_") && !holds(&outside.stdout), "{}", outside.stdout);
    let needle = &needles[needles.len() / 2];
    let toplevel = ran.record()["closure"]["toplevel"].as_str().unwrap().to_string();
    let drv = ran.record()["closure"]["drv"].as_str().unwrap().to_string();
    let store =
        deployment.folder.sh(&format!("grep -rFl -e '{needle}' $(nix-store -qR {toplevel} {drv}); true"), "").ok();
    assert_eq!(store.stdout, "", "the store holds the key");
}
