//! One machine of the local cloud, and what can be seen of it from outside.

use serde_json::Value;
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::{Cloud, Computer, Folder, Ran, cloud};

static CASES: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);

/// A kernel that is not the usual one: it takes a reboot.
pub const KERNEL: &str = "boot.kernelPackages = pkgs.linuxPackages_6_18;";

/// Says how the suite stands. Not by a macro: what those print is kept back where a test succeeds.
fn tally(name: &str, case: &str) {
    let (cases, lost) = (CASES.load(Ordering::Relaxed), LOST.load(Ordering::Relaxed));
    let _ = writeln!(std::io::stderr(), "switch suite: {cases} cases, {lost} machines lost ({name}: {case})");
}

/// A machine that is taken down when the test ends, however it ends.
pub struct Machine {
    pub cloud: Cloud,
    pub folder: Folder,
    /// What it runs on, if that is no instance of the cloud
    pub computer: Option<Computer>,
    name: &'static str,
    /// The record that ec2-up wrote
    record: Value,
    /// What its configurations import besides
    imports: String,
    pushed: AtomicUsize,
}

/// What decides whether a machine is lost.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    pub running: String,
    pub profile: String,
    pub entry: String,
    pub etc: String,
    /// The greeter's state and text
    pub greeter: String,
    /// What a deployment left: units, lists, roots, notes
    pub left: String,
}

/// Prints a line for each member of [`State`].
const LOOK: &str = r#"
left() {
    systemctl list-units 'nixpipe*' --all --plain --no-legend | cut -d' ' -f1
    find /run/nixos -name '*list' -size +0
    (cd /nix/var/nix/gcroots/nixpipe 2>/dev/null && for root in *; do [ ! -e $root ] || echo $root; done | grep -v pushed)
    ls /nix/var/nix/profiles/system-profiles 2>/dev/null
    ls /etc/systemd/system.control 2>/dev/null
    grub-editenv /boot/grub/grubenv list 2>/dev/null
    grep -o "Profile 'nixpipe'" /boot/grub/grub.cfg 2>/dev/null
    ls /boot/loader/entries /sys/firmware/efi/efivars 2>/dev/null | grep -e nixpipe -e OneShot
    ls /var/lib/nixpipe 2>/dev/null | grep -v secrets-dirs
    ls /run/nixpipe 2>/dev/null | grep -v -e lock -e last -e proven
}
left=$(left)
while [ -n "$left" ] && [ $patience -gt 0 ]; do
    patience=$((patience - 1))
    sleep 0.2
    left=$(left)
done
readlink -f /run/current-system
readlink -f /nix/var/nix/profiles/system
menu=/boot/grub/grub.cfg
[ -e $menu ] || menu=/boot/loader/entries/$(sed -n 's/^default //p' /boot/loader/loader.conf)
sed -n 's|.*init=\(/nix/store/[^ /]*\)/.*|\1|p' $menu | sed -n 1p
readlink -f /etc/static
echo $(systemctl is-active greeter) $(cat /etc/greeting 2>/dev/null)
echo $left
true"#;

impl Machine {
    pub fn new(name: &'static str) -> Machine {
        let cloud = cloud();
        let folder = Folder::new(name);
        down(&folder, name);
        let script = format!(
            "nixos-ami -n --release 20.09 --region eu-central-1 --name {name} | keygen | ec2-up --deployment switch-{name} --open 2222"
        );
        let record = folder.sh(&script, "").ok().record();
        Machine { cloud, folder, computer: None, name, record, imports: String::new(), pushed: AtomicUsize::new(0) }
    }

    /// A machine with a kernel of its own.
    pub fn computer(name: &'static str) -> Machine {
        Machine::with_kernel(name, false)
    }

    /// One that boots by UEFI and systemd-boot.
    pub fn uefi(name: &'static str) -> Machine {
        Machine::with_kernel(name, true)
    }

    fn with_kernel(name: &'static str, uefi: bool) -> Machine {
        let (cloud, folder) = (cloud(), Folder::new(name));
        let (computer, record) = Computer::new(&folder, name, uefi);
        let imports = tests::project().join("tests/cloud/uefi/configuration.nix").display().to_string();
        let machine = Machine {
            cloud,
            folder,
            computer: Some(computer),
            name,
            record,
            imports: if uefi { imports } else { String::new() },
            pushed: AtomicUsize::new(0),
        };
        machine.wait();
        machine
    }

    /// A machine whose disk is a file system of its own: a loss of power takes what is not yet written.
    pub fn with_disk(name: &'static str) -> Machine {
        cloud().run(&["set", "disk", "1500", name]);
        Machine::new(name)
    }

    pub fn id(&self) -> String {
        self.record["instance"]["id"].as_str().unwrap().into()
    }

    /// Builds a system and puts it on the machine; the record says which it is.
    pub fn push(&self, body: &str) -> Value {
        let file = format!("{}.nix", self.pushed.fetch_add(1, Ordering::Relaxed));
        let text = format!(
            "{{ lib, pkgs, ... }}: {{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> {} ({{ {body} }}) ]; }}",
            self.imports
        );
        std::fs::write(self.folder.path().join(&file), text).unwrap();
        // Under emulation beside others even a login takes minutes.
        let patience = if self.computer.is_some() { "--timeout 5m" } else { "" };
        self.folder.sh(&format!("nix-push {patience} {file}"), format!("{}\n", self.record)).ok().record()
    }

    /// A system with a service that says `text` and takes a while to start.
    pub fn push_greeter(&self, text: &str, more: &str) -> Value {
        self.push(&format!(
            "environment.etc.greeting.text = \"{text}\";
             systemd.services.greeter = {{
               wantedBy = [ \"multi-user.target\" ];
               preStart = \"sleep 0.3\";
               script = \"echo {text}; exec sleep infinity\";
             }};
             {more}"
        ))
    }

    /// Runs nixos-switch to its end.
    pub fn switch(&self, record: &Value, flags: &str) -> Ran {
        self.folder.sh(&format!("nixos-switch {} {flags}", client()), format!("{record}\n"))
    }

    /// Runs it after a disturbance. What it joins may be about to go back: then it is asked once more.
    #[track_caller]
    pub fn switch_again(&self, record: &Value, flags: &str, case: &str) {
        let mut ran = self.switch(record, flags);
        if said(&ran).1 == "rolled-back" {
            ran = self.switch(record, flags);
        }
        assert_eq!(ran.status, 0, "{case}: {}", ran.stderr);
    }

    /// Starts nixos-switch.
    pub fn begin(&self, record: &Value, flags: &str) -> Child {
        let mut command = self.folder.command(&format!("exec nixos-switch {} {flags}", client()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(tests::unread()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{record}\n").as_bytes()).unwrap();
        child
    }

    /// Runs a command over plain ssh, with the pinned host key.
    pub fn ssh(&self, command: &str) -> Ran {
        let ssh = &self.record["ssh"];
        let address = ssh["host"].as_str().unwrap();
        let port = ssh["port"].as_u64().unwrap_or(22);
        let name = if port == 22 { address.to_string() } else { format!("[{address}]:{port}") };
        let known = format!("{name} {}\n", ssh["hostKeys"][0].as_str().unwrap());
        std::fs::write(self.folder.path().join("known_hosts"), known).unwrap();
        let patience = if self.computer.is_some() { 30 } else { 5 };
        let key = self.record["keyPair"]["privateKeyFile"].as_str().unwrap();
        self.folder.sh(
            &format!(
                "ssh -F none -o KexAlgorithms=curve25519-sha256 -i {key} -o UserKnownHostsFile=known_hosts -o StrictHostKeyChecking=yes -o BatchMode=yes \
                 -o ConnectTimeout={patience} -o LogLevel=ERROR -p {port} root@{address} 'exec /bin/sh -s'"
            ),
            command,
        )
    }

    /// From now on it is asked at this port.
    pub fn listens_at(&mut self, port: u16) {
        self.record["ssh"]["port"] = port.into();
    }

    /// Cuts the power and turns it on again.
    pub fn power_cycle(&self) {
        if let Some(computer) = &self.computer {
            computer.cut();
            computer.turn_on();
        } else {
            self.cloud.run(&["kill", &self.id()]);
            self.cloud.run(&["heal", &self.id()]);
        }
        self.wait();
    }

    fn console(&self) -> String {
        self.computer.as_ref().map_or_else(|| self.cloud.run(&["console", &self.id()]), |computer| computer.console(0))
    }

    /// Waits until a login works: a machine that nobody can enter is lost.
    pub fn wait(&self) {
        self.see("true");
    }

    /// What a command says once the machine has booted.
    fn see(&self, command: &str) -> String {
        // A boot under emulation takes some 35 s, and minutes beside others.
        let end = Instant::now() + Duration::from_secs(if self.computer.is_some() { 1200 } else { 300 });
        loop {
            let ran = self.ssh(&format!("systemctl is-system-running --wait >/dev/null 2>&1\n{command}"));
            if ran.status == 0 {
                return ran.stdout;
            }
            if Instant::now() > end {
                LOST.fetch_add(1, Ordering::Relaxed);
                tally(self.name, "nobody can log in");
                panic!("LOST: nobody can log in to {}\n{}", self.name, self.console());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    pub fn state(&self) -> State {
        self.state_after(0)
    }

    /// What it is after what a run has left is gone, or after so many fifths of a second.
    pub fn state_after(&self, patience: u32) -> State {
        // The status is that of the last line: a login that was lost half-way is tried again.
        let seen = self.see(&format!("patience={patience}\n{LOOK}"));
        let mut lines = seen.lines().map(str::to_string);
        let mut next = || lines.next().unwrap_or_default();
        State { running: next(), profile: next(), entry: next(), etc: next(), greeter: next(), left: next() }
    }

    /// Expects the machine to run and boot this record's system, the whole of it, and nothing else to be left.
    #[track_caller]
    pub fn assert_keeps(&self, record: &Value, text: &str, case: &str) {
        let toplevel = toplevel(record);
        // A unit that has just ended is collected in a moment.
        let state = self.state_after(25);
        // The store is this computer's, too: the system was built here.
        let etc = std::fs::canonicalize(format!("{toplevel}/etc")).unwrap().display().to_string();
        let expected = State {
            running: toplevel.clone(),
            profile: toplevel.clone(),
            entry: toplevel,
            etc,
            greeter: format!("active {text}"),
            left: String::new(),
        };
        assert_eq!(state, expected, "{case}\n{}", self.ssh("cat /run/nixpipe/*/log").stdout);
        CASES.fetch_add(1, Ordering::Relaxed);
        tally(self.name, case);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.computer.is_none() {
            down(&self.folder, self.name);
        }
    }
}

fn down(folder: &Folder, name: &str) {
    folder.sh(&format!("ec2-down --all --deployment switch-{name} --region eu-central-1 < /dev/null"), "");
}

pub fn toplevel(record: &Value) -> String {
    record["closure"]["toplevel"].as_str().unwrap().into()
}

/// What a run said: outcome, and kind of error.
pub fn said(ran: &Ran) -> (String, String) {
    let record = ran.record();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    (text(&record["activation"]["outcome"]), text(&record["error"]["kind"]))
}

/// The flag for OpenSSH's client: `NIXPIPE_TEST_SSH=ssh` runs the suite over it.
pub fn client() -> String {
    std::env::var("NIXPIPE_TEST_SSH").map_or(String::new(), |program| format!("--ssh {program}"))
}
