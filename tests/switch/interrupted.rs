//! The switch is disturbed from outside, at many points spread over it.

use crate::machine::Machine;
use serde_json::Value;
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
        let machine = Machine::new(name);
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
        let points = sample(all, few);
        for point in 0..points {
            let new = 1 - self.running;
            let after = self.whole.mul_f64(1.1 * (point as f64 + 0.5) / points as f64);
            let child = self.machine.begin(&self.systems[new].0, "--confirm-timeout 4s");
            std::thread::sleep(after);
            disturb(&self.machine, child);
            let case = format!("{what} after {:.2} s of {:.2} s", after.as_secs_f64(), self.whole.as_secs_f64());
            let (record, text) = &self.systems[new];
            // Right after: it may be under way, and then it is joined.
            let ran = self.machine.switch(record, "");
            assert_eq!(ran.status, 0, "{case}: {}", ran.stderr);
            self.machine.assert_keeps(record, text, &case);
            self.running = new;
        }
    }
}

#[test]
fn a_killed_client_can_be_run_again() {
    Pair::new("client").disturb(20, 3, "client killed", |_, mut child| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_cut_connection_is_made_again() {
    Pair::new("cut").disturb(20, 3, "connection cut", |machine, child| {
        machine.cloud.run(&["cut", &machine.id()]);
        std::thread::sleep(Duration::from_millis(700));
        machine.cloud.run(&["heal", &machine.id()]);
        child.wait_with_output().unwrap();
    });
}

#[test]
fn a_power_cut_boots_one_of_the_two() {
    Pair::new("power").disturb(20, 3, "power cut", |machine, mut child| {
        machine.power_cycle();
        let state = machine.state();
        assert_eq!(state.running, state.entry);
        // The client sees it by itself.
        child.wait().unwrap();
    });
}

#[test]
fn a_machine_out_of_reach_goes_back_and_waits() {
    let mut pair = Pair::new("silence");
    let (machine, systems) = (&pair.machine, &pair.systems);
    let child = machine.begin(&systems[0].0, "--confirm-timeout 3s");
    std::thread::sleep(pair.whole.mul_f64(0.4));
    machine.cloud.run(&["cut", &machine.id()]);
    std::thread::sleep(Duration::from_secs(8));
    machine.cloud.run(&["heal", &machine.id()]);
    let output = child.wait_with_output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["activation"]["outcome"], "rolled-back", "{record}");
    assert_eq!(record["error"]["kind"], "rolled-back");
    machine.assert_keeps(&systems[1].0, "two", "out of reach for the whole window");
    pair.running = 1;
}

#[test]
fn a_machine_that_nobody_comes_back_to_reboots_into_the_old_system() {
    let pair = Pair::new("alone");
    let machine = &pair.machine;
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id").ok().stdout;
    let mut child = machine.begin(&pair.systems[0].0, "--confirm-timeout 3s --return-timeout 10s");
    std::thread::sleep(pair.whole.mul_f64(0.4));
    child.kill().unwrap();
    child.wait().unwrap();
    // The window, the time for a login, and a boot.
    let end = Instant::now() + Duration::from_secs(180);
    while Instant::now() < end && machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout == boot {
        std::thread::sleep(Duration::from_secs(2));
    }
    assert_ne!(machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout, boot);
    machine.assert_keeps(&pair.systems[1].0, "two", "left alone");
}
