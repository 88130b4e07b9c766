//! A machine with a kernel, a clock and a disk of its own, which tests/cloud/computer.py makes and runs.

use crate::{Folder, project};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long whatever happens by itself may take: a processor in software has its own pace.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// One computer; when it is dropped its power is off.
pub struct Computer {
    folder: PathBuf,
    port: u16,
    power: Mutex<Option<Child>>,
}

impl Computer {
    /// Makes it and turns it on; gives the record of it, as a user would write it. With `uefi` its boot is real.
    pub fn new(folder: &Folder, name: &str, uefi: bool) -> (Computer, Value) {
        let mut record = folder.sh(&format!("keygen -n --name {name}"), "").ok().record();
        let public = folder.path().join("key.pub");
        std::fs::write(&public, record["keyPair"]["publicKey"].as_str().unwrap()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let computer = Computer { folder: folder.path().into(), port, power: Mutex::new(None) };
        let mut make = computer.command("make", &public.display().to_string());
        let made = make.args(uefi.then_some("uefi")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let host_key = String::from_utf8(made.stdout).unwrap();
        record["ssh"] = json!({ "host": "127.0.0.1", "port": port, "user": "root", "hostKeys": [host_key.trim()] });
        computer.turn_on();
        (computer, record)
    }

    fn command(&self, what: &str, argument: &str) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").arg(project().join("tests/cloud/computer.py"));
        command.args([what, &self.folder.display().to_string(), argument]);
        command
    }

    pub fn turn_on(&self) {
        *self.power.lock().unwrap() = Some(self.command("run", &self.port.to_string()).spawn().unwrap());
    }

    /// Cuts the power, in the middle of whatever is going on.
    pub fn cut(&self) {
        if let Some(mut power) = self.power.lock().unwrap().take() {
            power.kill().unwrap();
            power.wait().unwrap();
        }
    }

    /// What is on the console after its first `skip` bytes.
    pub fn console(&self, skip: usize) -> String {
        let text = std::fs::read(self.folder.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&text[skip..]).into_owned()
    }

    /// Bytes on the console so far.
    pub fn said(&self) -> usize {
        std::fs::metadata(self.folder.join("console.log")).map_or(0, |file| file.len() as usize)
    }

    /// Waits until the console says it, after what it had said before.
    #[track_caller]
    pub fn await_word(&self, before: usize, word: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.console(before).contains(word) {
            assert!(Instant::now() < end, "{word:?} is not on the console:\n{}", self.console(before));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Computer {
    fn drop(&mut self) {
        self.cut();
    }
}
