//! The switch is disturbed from outside, at many points spread over it.

use crate::machine::{Machine, client};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::sample;

/// Two systems, how long a switch between them takes, and which of them runs.
struct Pair {
    machine: Machine,
    systems: [(Value, &'static str); 2],
    whole: Duration,
    running: usize,
}

impl Pair {
    fn new(name: &'static str) -> Pair {
        Pair::on(Machine::new(name))
    }

    fn on(machine: Machine) -> Pair {
        let systems = [(machine.push_greeter("one", ""), "one"), (machine.push_greeter("two", ""), "two")];
        machine.switch(&systems[0].0, "").ok();
        let start = Instant::now();
        machine.switch(&systems[1].0, "").ok();
        let whole = start.elapsed();
        machine.assert_keeps(&systems[1].0, "two", "undisturbed");
        Pair { machine, systems, whole, running: 1 }
    }

    /// Disturbs a switch at each of several points, expects one of the two states, and then a
    /// second run to end as if nothing had happened.
    fn disturb(&mut self, all: usize, few: usize, what: &str, disturb: impl Fn(&Machine, std::process::Child)) {
        self.disturb_with("--confirm-timeout 4s", all, few, what, disturb);
    }

    fn disturb_with(
        &mut self,
        flags: &str,
        all: usize,
        few: usize,
        what: &str,
        disturb: impl Fn(&Machine, std::process::Child),
    ) {
        let points = sample(all, few);
        for point in 0..points {
            let new = 1 - self.running;
            let after = self.whole.mul_f64(1.1 * (point as f64 + 0.5) / points as f64);
            let child = self.machine.begin(&self.systems[new].0, flags);
            std::thread::sleep(after);
            disturb(&self.machine, child);
            let case = format!("{what} after {:.2} s of {:.2} s", after.as_secs_f64(), self.whole.as_secs_f64());
            let (record, text) = &self.systems[new];
            // Right after: it may be under way, and then it is joined.
            self.machine.switch_again(record, "", &case);
            self.machine.assert_keeps(record, text, &case);
            self.running = new;
        }
    }
}

#[test]
fn a_killed_client_can_be_run_again_and_a_cut_connection_is_made_again() {
    let mut pair = Pair::new("client");
    let signals = std::cell::Cell::new(["KILL", "INT", "HUP"]);
    pair.disturb(20, 2, "client killed", |_, mut child| {
        let [first, second, third] = signals.get();
        signals.set([second, third, first]);
        Command::new("kill").args(["-s", first, &child.id().to_string()]).status().unwrap();
        child.wait().unwrap();
    });
    pair.disturb(20, 2, "connection cut", |machine, child| {
        machine.cloud.run(&["cut", &machine.id()]);
        std::thread::sleep(Duration::from_millis(700));
        machine.cloud.run(&["heal", &machine.id()]);
        child.wait_with_output().unwrap();
    });
    goes_back_by_itself(&pair);
}

#[test]
fn a_power_cut_boots_one_of_the_two() {
    Pair::new("power").disturb(20, 2, "power cut", cut_the_power);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_power_cut_that_takes_the_page_cache_boots_one_of_the_two() {
    let mut pair = Pair::on(Machine::with_disk("cache"));
    // Whoever says sync to this kernel writes the cache of every machine: another try then.
    let left = |_| {
        pair.machine.ssh("rm -f /root/lost; echo kept > /root/kept; sync; echo lost > /root/lost").ok();
        pair.machine.power_cycle();
        pair.machine.ssh("cd /root; echo $(cat kept lost 2>/dev/null)").ok().stdout
    };
    assert!((0..10).map(left).any(|left| left == "kept\n"), "no cache is lost");
    pair.disturb(20, 2, "power cut, page cache lost", cut_the_power);
    pair.whole = pair.whole.mul_f64(0.5);
    pair.disturb_with(
        "--action boot",
        20,
        2,
        "power cut, page cache lost, while the boot entry changes",
        cut_the_power,
    );
}

fn cut_the_power(machine: &Machine, mut child: std::process::Child) {
    machine.power_cycle();
    let state = machine.state();
    assert_eq!(state.running, state.entry);
    // The client sees it by itself.
    child.wait().unwrap();
}

/// Out of reach for the whole window, and somebody logs in later: no reboot.
fn goes_back_by_itself(pair: &Pair) {
    let (machine, systems) = (&pair.machine, &pair.systems);
    let child = machine.begin(&systems[1 - pair.running].0, "--confirm-timeout 6s --health 'sleep 2'");
    machine.ssh("until ls /run/nixpipe/* 2>/dev/null | grep -q '^armed-'; do sleep 0.02; done").ok();
    machine.cloud.run(&["cut", &machine.id()]);
    // However long the activation takes on a busy computer, and then the window.
    std::thread::sleep(Duration::from_secs(10) + pair.whole.mul_f64(2.0));
    machine.cloud.run(&["heal", &machine.id()]);
    let output = child.wait_with_output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["activation"]["outcome"], "rolled-back", "{record}");
    assert_eq!(record["error"]["kind"], "rolled-back");
    let (record, text) = &systems[pair.running];
    machine.assert_keeps(record, text, "out of reach for the whole window");
}

#[test]
fn a_machine_that_nobody_comes_back_to_reboots_into_the_old_system() {
    let pair = Pair::new("alone");
    let machine = &pair.machine;
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id").ok().stdout;
    // It has begun for sure, and cannot end, where a check fails. The signal is Ctrl-C's brother, which no shell ignores.
    let record = machine.folder.path().join("alone.json");
    std::fs::write(&record, pair.systems[0].0.to_string()).unwrap();
    let ran = machine.folder.sh(
        &format!(
            "nixos-switch {} --health false --confirm-timeout 10s --return-timeout 10s < alone.json 2> alone.log & \
             while kill -0 $! && ! grep -q 'not healthy yet' alone.log; do sleep 0.05; done; kill $!; wait $!; status=$?; cat alone.log >&2; exit $status",
            client()
        ),
        "",
    );
    assert_eq!(ran.status, 128 + 15, "{}", ran.stderr);
    let words = "interrupted: what was begun on the machine goes on by itself, and is undone 10 s after the activation";
    let (_, end) = ran.stderr.split_once(words).unwrap_or_else(|| panic!("{}", ran.stderr));
    assert!(end.contains("hint: the same command again follows it to its end"), "{end}");
    // The window, the time for a login, and a boot.
    let end = Instant::now() + Duration::from_secs(180);
    while Instant::now() < end
        && [boot.as_str(), ""].contains(&machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout.as_str())
    {
        std::thread::sleep(Duration::from_secs(2));
    }
    assert_ne!(machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout, boot);
    machine.assert_keeps(&pair.systems[1].0, "two", "left alone");
}

#[test]
fn who_is_interrupted_before_the_first_answer_hears_that_something_may_have_begun() {
    let machine = Machine::new("unsure");
    let record = machine.push("environment.etc.unsure.text = \"x\";");
    // Somebody else holds the lock, which is waited for without a word: the command is there, and no answer comes.
    machine
        .ssh("mkdir -p /run/nixpipe; systemd-run -q --unit=holder flock /run/nixpipe/lock $(command -v sleep) 1000")
        .ok();
    let wait = |count: usize| {
        let flocks = "$(grep -lx flock /proc/[0-9]*/comm | wc -l)";
        machine
            .ssh(&format!("for i in $(seq 600); do [ {flocks} != {count} ] || exit 0; sleep 0.1; done; exit 1"))
            .ok();
    };
    wait(1);
    std::fs::write(machine.folder.path().join("unsure.json"), record.to_string()).unwrap();
    let script = format!("exec nixos-switch {} < unsure.json > switched.json 2> unsure.log", client());
    let mut child = machine.folder.command(&script).spawn().unwrap();
    wait(2);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    child.wait().unwrap();
    let words = machine.folder.sh("cat unsure.log >&2", "").stderr;
    assert!(words.contains("interrupted: what may have been begun on the machine goes on by itself"), "{words}");
    machine.ssh("systemctl stop holder").ok();
    machine.switch(&record, "").ok();
}
