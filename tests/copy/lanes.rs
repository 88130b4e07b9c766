//! A machine that is far: the stream goes on two channels of the connection.

use crate::machine::{Machines, noise};
use crate::relay::{Relay, Rule};
use crate::torn::again;
use serde_json::Value;
use std::time::{Duration, Instant};

/// One way. In both directions together it is a round trip that pays.
const FAR: Option<Duration> = Some(Duration::from_millis(60));
/// What `-v` says of the second channel.
const TWO: &str = "on two channels";

#[test]
#[ignore = "long: scripts/test --all"]
fn a_far_machine_is_sent_to_on_two_channels_and_what_is_cut_can_be_sent_again() {
    // OpenSSH's client gets all on one.
    if std::env::var_os("NIXPIPE_TEST_SSH").is_some() {
        return;
    }
    let machines = Machines::new("far", 1);
    // As many paths as those that torn pushes are tried with.
    let top = machines.build(&noise("far", 40, 600_000));
    let whole = {
        let relay = Relay::new(machines.address(0), Rule { delay: FAR, ..Rule::default() });
        let ran = machines.push(&top, "-v", &[machines.record_at(relay.port)]).ok();
        assert!(ran.stderr.contains(TWO), "{}", ran.stderr);
        relay.to_machine()
    };
    machines.assert_has(0, &top);
    nothing_is_left(&machines);
    machines.forget(0, &top);

    // By way of another, here the machine itself, the round trip is that of the whole way.
    let relay = Relay::new(machines.address(0), Rule { delay: FAR, ..Rule::default() });
    let ran = machines.push_by(relay.port, &top, "-v").ok();
    assert!(ran.stderr.contains(TWO), "{}", ran.stderr);
    assert!(relay.to_machine() > whole / 2, "all goes by way of it");
    machines.assert_has(0, &top);
    nothing_is_left(&machines);
    machines.forget(0, &top);

    // Slow enough for a login meanwhile.
    let slow = Rule { delay: FAR, rate: Some(2_000_000), ..Rule::default() };
    let relay = Relay::new(machines.address(0), slow);
    let kill = "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' < $p/cmdline)\" != 'cat ' ] || kill -9 ${p##*/}; done 2>/dev/null";
    let ran = std::thread::scope(|scope| {
        let push = scope.spawn(|| machines.push(&top, "-v", &[machines.record_at(relay.port)]));
        let end = Instant::now() + Duration::from_secs(120);
        while relay.to_machine() < whole / 4 && !push.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        machines.ssh(0, kill);
        push.join().unwrap()
    });
    failed(&ran.record(), "the second channel was killed");
    again(&machines, &top, "the second channel was killed");
    nothing_is_left(&machines);

    let cut = Rule { delay: FAR, cut_after: Some(whole / 2), ..Rule::default() };
    let relay = Relay::new(machines.address(0), cut);
    failed(&machines.push(&top, "", &[machines.record_at(relay.port)]).record(), "the connection was cut");
    again(&machines, &top, "the connection was cut");
    nothing_is_left(&machines);

    // The second one becomes root as the first one does.
    machines.add_user("ops");
    machines.ssh(0, "echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers; chmod 440 /etc/sudoers").ok();
    machines.forget(0, &top);
    let relay = Relay::new(machines.address(0), Rule { delay: FAR, ..Rule::default() });
    let mut record = machines.record_at(relay.port);
    record["ssh"]["user"] = "ops".into();
    let ran = machines.push(&top, "-v --elevate sudo", &[record]).ok();
    assert!(ran.stderr.contains(TWO), "{}", ran.stderr);
    machines.assert_has(0, &top);
    nothing_is_left(&machines);
    machines.forget(0, &top);

    // Two commands at a time are what a push needs; an sshd may take no more.
    let few = "set -e; cd /etc/ssh; { echo MaxSessions 2; cat sshd_config; } > new; mv new sshd_config; systemctl restart sshd";
    machines.ssh(0, few);
    let relay = Relay::new(machines.address(0), Rule { delay: FAR, ..Rule::default() });
    let ran = machines.push(&top, "-v", &[machines.record_at(relay.port)]).ok();
    assert!(!ran.stderr.contains(TWO), "{}", ran.stderr);
    machines.assert_has(0, &top);
    nothing_is_left(&machines);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn what_the_machine_says_is_heard_while_the_second_channel_is_waited_for() {
    if std::env::var_os("NIXPIPE_TEST_SSH").is_some() {
        return;
    }
    let machines = Machines::new("heard", 1);
    let top = machines.build(&noise("heard", 40, 600_000));
    let relay = Relay::new(machines.address(0), Rule { delay: FAR, ..Rule::default() });
    // Stops what reads the second channel once it does.
    let stop = "i=0; until for p in /proc/[0-9]*; do
            [ \"$(tr '\\0' ' ' < $p/cmdline)\" != 'cat ' ] || { kill -STOP ${p##*/}; echo ${p##*/}; break; }
        done | grep . || [ $i = 3000 ]; do i=$((i+1)); sleep 0.01; done 2>/dev/null";
    // All that the first channel feeds, so that it ends and says so; then what was stopped.
    let kill = "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' < $p/cmdline) in 'head -c '*) kill -9 ${p##*/};; esac; done 2>/dev/null; sleep 2";
    let ran = std::thread::scope(|scope| {
        let push = scope.spawn(|| machines.push(&top, "-v --delta off", &[machines.record_at(relay.port)]));
        let stopped = machines.ssh(0, stop).ok().stdout;
        // Until both channels take no more.
        let mut went = 0;
        while went < relay.to_machine() {
            went = relay.to_machine();
            std::thread::sleep(Duration::from_secs(2));
        }
        machines.ssh(0, &format!("{kill}; kill -9 {stopped}")).ok();
        push.join().unwrap()
    });
    let error = &ran.record()["error"];
    assert!(ran.stderr.contains(TWO), "{}", ran.stderr);
    assert_eq!(error["kind"], "copy", "{error}");
    assert!(error["message"].as_str().unwrap().contains("the machine said: "), "{error}");
    again(&machines, &top, "the second channel was waited for");
}

#[track_caller]
fn failed(record: &Value, case: &str) {
    let kind = &record["error"]["kind"];
    assert!(["unreachable", "copy"].iter().any(|wanted| kind == wanted), "{case}: {record}");
}

/// Neither a process of a push nor a folder, once the machine has noticed its end.
#[track_caller]
fn nothing_is_left(machines: &Machines) {
    let script = "i=0
        while { ls -d /var/tmp/nix-push.* || grep -qsa -e 'nix-push[.:]' /proc/[0-9]*/cmdline; } >/dev/null 2>&1 && [ $i -lt 600 ]
        do sleep 0.1; i=$((i+1)); done
        ls -d /var/tmp/nix-push.* 2>/dev/null; grep -lsa -e 'nix-push[.:]' /proc/[0-9]*/cmdline; true";
    assert_eq!(machines.ssh(0, script).ok().stdout, "");
}
