//! A machine of the local cloud that closures are pushed to, and closures to push.

use serde_json::{Value, json};
use std::path::Path;
use tests::{Cloud, Folder, Ran, cloud};

/// Machines that are taken down when the test ends, however it ends.
pub struct Machines {
    pub cloud: Cloud,
    pub folder: Folder,
    name: &'static str,
    pub records: Vec<Value>,
}

impl Machines {
    pub fn new(name: &'static str, count: usize) -> Machines {
        let cloud = cloud();
        let folder = Folder::new(name);
        down(&folder, name);
        let wishes: Vec<String> =
            (0..count).map(|at| json!({ "name": format!("{name}-{at}"), "release": "20.09" }).to_string()).collect();
        let script = format!("nixos-ami --region eu-central-1 | keygen | ec2-up --deployment copy-{name}");
        let mut records = folder.sh(&script, wishes.join("\n")).ok().records();
        records.sort_by_key(|record| record["name"].as_str().unwrap().to_string());
        Machines { cloud, folder, name, records }
    }

    /// Builds `expression`, in which `path NAME REFERENCES CODE` is a path that Python makes at `out`.
    pub fn build(&self, expression: &str) -> String {
        let text = format!(
            "let path = name: references: code: derivation {{ inherit name references; system = builtins.currentSystem; \
             builder = \"/usr/bin/python3\"; args = [ \"-I\" \"-c\" (\"import os, random\\nout = os.environ['out']\\n\" + code) ]; }}; \
             in {expression}"
        );
        let file = self.folder.path().join("closure.nix");
        std::fs::write(&file, text).unwrap();
        self.folder.sh("nix-build --no-out-link closure.nix", "").ok().stdout.trim().into()
    }

    /// The paths of a closure.
    pub fn closure(&self, top: &str) -> Vec<String> {
        self.folder.sh(&format!("nix-store -qR {top}"), "").ok().stdout.lines().map(String::from).collect()
    }

    /// Pushes a built path to machines.
    pub fn push(&self, top: &str, flags: &str, records: &[Value]) -> Ran {
        let input: Vec<String> = records.iter().map(Value::to_string).collect();
        self.folder.sh(&format!("{} --toplevel {top} {flags}", nix_push()), input.join("\n"))
    }

    /// Pushes to the first machine by way of what is at a port of this computer: a jump host with the machine's key pair.
    pub fn push_by(&self, port: u16, top: &str, flags: &str) -> Ran {
        let mut record = self.records[0].clone();
        record["ssh"]["jump"] = "way".into();
        let (key, pin) =
            (record["keyPair"]["privateKeyFile"].as_str().unwrap(), record["ssh"]["hostKeys"][0].as_str().unwrap());
        let at = self.path().display();
        std::fs::write(self.path().join("known"), format!("[127.0.0.1]:{port} {pin}\n")).unwrap();
        let config = format!(
            "Host way\nHostName 127.0.0.1\nPort {port}\nUser root\nIdentityFile {key}\nUserKnownHostsFile {at}/known\n"
        );
        std::fs::write(self.path().join("ssh_config"), config).unwrap();
        let script = format!(
            "mkdir -p bin; printf '#!/bin/sh\nexec /usr/bin/ssh -F {at}/ssh_config \"$@\"\n' > bin/ssh; chmod +x bin/ssh
             PATH=$PWD/bin:$PATH nix-push --toplevel {top} {flags}"
        );
        self.folder.sh(&script, format!("{record}\n"))
    }

    /// Pushes to the first machine and expects it to succeed.
    #[track_caller]
    pub fn pushed(&self, top: &str, flags: &str) -> Value {
        self.push(top, flags, &self.records[..1]).ok().record()["closure"].clone()
    }

    /// Runs a script on a machine over plain ssh, with the pinned host key.
    pub fn ssh(&self, at: usize, script: &str) -> Ran {
        self.ssh_input(at, "exec /bin/sh -s", script.as_bytes())
    }

    /// Runs a command there with `input` on its stdin.
    pub fn ssh_input(&self, at: usize, command: &str, input: &[u8]) -> Ran {
        let record = &self.records[at];
        let address = record["ssh"]["host"].as_str().unwrap();
        let known = format!("{address} {}\n", record["ssh"]["hostKeys"][0].as_str().unwrap());
        let file = format!("known_hosts_{at}");
        std::fs::write(self.folder.path().join(&file), known).unwrap();
        let key = record["keyPair"]["privateKeyFile"].as_str().unwrap();
        self.folder.sh(
            &format!(
                "ssh -F none -o KexAlgorithms=curve25519-sha256 -i {key} -o UserKnownHostsFile={file} -o StrictHostKeyChecking=yes -o BatchMode=yes \
                 -o LogLevel=ERROR root@{address} '{command}'"
            ),
            input,
        )
    }

    /// Which of the paths are valid on a machine.
    pub fn valid(&self, at: usize, paths: &[String]) -> Vec<String> {
        let script = format!(
            "for p in {}; do nix-store --check-validity $p 2>/dev/null && echo $p; done; true",
            paths.join(" ")
        );
        self.ssh(at, &script).ok().stdout.lines().map(String::from).collect()
    }

    /// Expects every path of the closure on a machine, whole, and the root where it belongs.
    #[track_caller]
    pub fn assert_has(&self, at: usize, top: &str) {
        let paths = self.closure(top);
        let script =
            format!("nix-store --verify-path {} && readlink /nix/var/nix/gcroots/nixpipe/pushed", paths.join(" "));
        assert_eq!(self.ssh(at, &script).ok().stdout.trim(), top);
    }

    /// Expects the whole store of a machine to be what its database says.
    #[track_caller]
    pub fn assert_store_is_sound(&self, at: usize, case: &str) {
        let ran = self.ssh(at, "nix-store --verify --check-contents 2>&1");
        let complaint = ran
            .stdout
            .lines()
            .any(|line| line.contains("error") || line.contains("modified") || line.contains("disappeared"));
        assert!(ran.status == 0 && !complaint, "{case}: {}{}", ran.stdout, ran.stderr);
    }

    /// Makes a user on the first machine who logs in with root's key and is nobody in particular.
    pub fn add_user(&self, name: &str) {
        let script = format!(
            "set -e; echo '{name}:x:1500:100::/home/{name}:/bin/sh' >> /etc/passwd; echo '{name}:*:1::::::' >> /etc/shadow
             mkdir -p /home/{name}/.ssh
             cat /root/.ssh/authorized_keys /etc/ssh/authorized_keys.d/root > /home/{name}/.ssh/authorized_keys 2>/dev/null || true
             chown -R 1500:100 /home/{name}; chmod 700 /home/{name} /home/{name}/.ssh; chmod 600 /home/{name}/.ssh/authorized_keys"
        );
        self.ssh(0, &script).ok();
    }

    /// Takes the closure from a machine again.
    pub fn forget(&self, at: usize, top: &str) {
        let script = format!(
            "rm -f /nix/var/nix/gcroots/nixpipe/pushed; nix-store --delete {} 2>&1",
            self.closure(top).join(" ")
        );
        self.ssh(at, &script);
    }

    /// What the cloud counted of a machine's port 22: connections, turns, bytes to it.
    pub fn counted(&self, at: usize) -> [u64; 3] {
        let status: Value = serde_json::from_str(&self.cloud.run(&["raw", "GET", "status"])).unwrap();
        let machines = status["machines"].as_array().unwrap();
        let id = &self.records[at]["instance"]["id"];
        let machine = machines.iter().find(|machine| machine["id"] == *id).unwrap();
        ["connections", "turns", "bytesToMachine"].map(|name| machine[name].as_u64().unwrap())
    }

    /// The first machine's record with another address.
    pub fn record_at(&self, port: u16) -> Value {
        let mut record = self.records[0].clone();
        record["ssh"]["host"] = "127.0.0.1".into();
        record["ssh"]["port"] = port.into();
        record
    }

    pub fn address(&self, at: usize) -> String {
        format!("{}:22", self.records[at]["ssh"]["host"].as_str().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        down(&self.folder, self.name);
    }
}

/// The tool with the flag for its client: `NIXPIPE_TEST_SSH=ssh` runs the suite over OpenSSH's.
pub fn nix_push() -> String {
    std::env::var("NIXPIPE_TEST_SSH").map_or("nix-push".into(), |program| format!("nix-push --ssh {program}"))
}

fn down(folder: &Folder, name: &str) {
    folder.sh(&format!("ec2-down --all --deployment copy-{name} --region eu-central-1 < /dev/null"), "");
}

/// Paths in a list: `count` of `bytes` each that do not compress, the later ones referring to earlier ones.
pub fn noise(seed: &str, count: usize, bytes: usize) -> String {
    format!(
        "let at = i: path \"{seed}-${{toString i}}\" (if i == 0 then [ ] else [ (at (i - 1)) ]) \
           \"os.mkdir(out); open(out + '/data', 'wb').write(random.Random('{seed}-${{toString i}}').randbytes({bytes})); \
             open(out + '/needs', 'w').write(os.environ['references'])\"; \
         in at {}",
        count - 1
    )
}
