//! A region of EC2 for one test.

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tests::{Folder, Ran, control, project};

pub const UP: &str = "ec2-up -q --wait running --elastic-ip --call-timeout 1s";
pub const DOWN: &str = "ec2-down -q --call-timeout 1s";

/// An EC2 region without machines.
///
/// A server takes two seconds to start, so those of tests that are done serve the next ones, emptied.
pub struct Region {
    pub folder: Folder,
    pub port: u16,
}

struct Servers {
    /// Ports of those that no test has
    free: Vec<u16>,
    /// How many tests have one
    taken: u16,
}

static SERVERS: Mutex<Servers> = Mutex::new(Servers { free: Vec::new(), taken: 0 });

fn servers() -> MutexGuard<'static, Servers> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Region {
    pub fn new(test: &str) -> Region {
        let (started, port) = {
            let mut servers = servers();
            servers.taken += 1;
            let free = servers.free.pop();
            // Suites that run beside each other have servers of their own.
            let first = if env!("CARGO_CRATE_NAME") == "ec2" { 5600 } else { 5650 };
            (free.is_some(), free.unwrap_or(first + servers.taken))
        };
        let region = Region { folder: Folder::new(test), port };
        if started {
            region.reset();
        } else {
            region.cloud("down");
            region.cloud("up --api-only");
        }
        region.sh("nixos-ami -q -n --release 25.11 --name web-1 | keygen -q > web-1.json", "").ok();
        region
    }

    pub fn cloud(&self, command: &str) -> String {
        let script = format!("scripts/local-cloud --port {} {command}", self.port);
        let ran = Command::new("bash").args(["-c", &script]).current_dir(project()).output().unwrap();
        assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Runs a shell command in the environment of this region.
    pub fn sh(&self, script: &str, input: &str) -> Ran {
        self.folder.sh(&self.script(script), input)
    }

    /// The same, not yet begun.
    pub fn command(&self, script: &str) -> Command {
        self.folder.command(&self.script(script))
    }

    fn script(&self, script: &str) -> String {
        let keys = "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true";
        let place = format!("AWS_ENDPOINT_URL=http://127.0.0.1:{} AWS_REGION=eu-central-1", self.port);
        format!("export {keys} {place}; {script}")
    }

    /// Runs Python with `ec2`, a client of boto3: what somebody else does in the account.
    pub fn boto(&self, code: &str) -> String {
        self.sh(&self.python(code), "").ok().stdout.trim().to_string()
    }

    /// The same as a shell command.
    pub fn python(&self, code: &str) -> String {
        let code = format!("import boto3\nec2 = boto3.client('ec2', region_name='eu-central-1')\n{code}\n");
        let file = self.folder.path().join("boto.py");
        std::fs::write(&file, code).unwrap();
        format!("/var/lib/nixpipe-cloud/venv/bin/python {}", file.display())
    }

    /// The calls so far that change something.
    pub fn changes(&self) -> Vec<String> {
        let actions = self.log().into_iter().map(|entry| entry["action"].as_str().unwrap().to_string());
        actions.filter(|action| !action.starts_with("Describe")).collect()
    }

    pub fn log(&self) -> Vec<Value> {
        control(self.port, "GET", "log").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Everything that a call has made since the log was cleared.
    pub fn made(&self, action: &str, prefix: &str) -> BTreeSet<String> {
        let log = self.log();
        let calls = log.iter().filter(|entry| entry["action"] == action);
        let ids = calls.flat_map(|entry| entry["made"].as_array().unwrap().iter());
        ids.filter_map(|id| id.as_str()).filter(|id| id.starts_with(prefix)).map(String::from).collect()
    }

    /// How often a call was made.
    pub fn count(&self, action: &str) -> usize {
        self.log().iter().filter(|entry| entry["action"] == action).count()
    }

    pub fn reset(&self) {
        control(self.port, "POST", "reset");
        control(self.port, "POST", "clear-log");
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let mut servers = servers();
        servers.taken -= 1;
        servers.free.push(self.port);
        // Nobody is told which test is the last one.
        for port in if servers.taken == 0 { std::mem::take(&mut servers.free) } else { Vec::new() } {
            let script = format!("scripts/local-cloud --port {port} down");
            let _ = Command::new("bash").args(["-c", &script]).current_dir(project()).output();
        }
    }
}
