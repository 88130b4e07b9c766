//! Machines of the local cloud to push to.

use serde_json::Value;
use tests::{Folder, Ran, cloud};

/// Some machines of one deployment, taken down when the test ends, however it ends.
pub struct Machines {
    pub folder: Folder,
    deployment: String,
    pub records: Vec<Value>,
}

impl Machines {
    pub fn new(name: &str, count: usize) -> Machines {
        cloud();
        let folder = Folder::new(&format!("evaluate-{name}"));
        let deployment = format!("evaluate-{name}");
        let script = format!(
            "ec2-down --all --deployment {deployment} --region eu-central-1 < /dev/null
             for i in $(seq {count}); do echo '{{\"name\":\"'{name}-$i'\"}}'; done \
             | nixos-ami --release 20.09 --region eu-central-1 | keygen | ec2-up --deployment {deployment}"
        );
        let mut records = folder.sh(&script, "").ok().records();
        records.sort_by_key(|record| record["name"].to_string());
        assert_eq!(records.len(), count);
        Machines { folder, deployment, records }
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Pushes to the first machine, whose record has some more members.
    pub fn push(&self, flags: &str, more: &Value) -> Ran {
        self.run(&format!("nix-push {flags}"), more)
    }

    /// The same with any command.
    pub fn run(&self, command: &str, more: &Value) -> Ran {
        let mut record = self.records[0].clone();
        for (name, value) in more.as_object().unwrap() {
            record[name] = value.clone();
        }
        self.folder.sh(command, format!("{record}\n"))
    }

    /// Runs a shell command on one of the machines.
    pub fn ssh(&self, machine: usize, command: &str) -> Ran {
        let record = &self.records[machine];
        let address = record["ssh"]["host"].as_str().unwrap();
        let known = format!("{address} {}\n", record["ssh"]["hostKeys"][0].as_str().unwrap());
        self.write("known_hosts", &known);
        let key = record["keyPair"]["privateKeyFile"].as_str().unwrap();
        self.folder.sh(
            &format!(
                "ssh -F none -o KexAlgorithms=curve25519-sha256 -i {key} -o UserKnownHostsFile=known_hosts -o StrictHostKeyChecking=yes -o BatchMode=yes \
                 -o LogLevel=ERROR root@{address} 'PATH=/run/current-system/sw/bin:$PATH exec /bin/sh -s'"
            ),
            command,
        )
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let script = format!("ec2-down --all --deployment {} --region eu-central-1 < /dev/null", self.deployment);
        self.folder.sh(&script, "");
    }
}

/// The toplevel of the only record.
pub fn toplevel(ran: &Ran) -> String {
    ran.record()["closure"]["toplevel"].as_str().unwrap().into()
}
