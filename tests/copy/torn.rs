//! Pushes that are torn: killed, cut, spoiled, out of room, and with garbage collected meanwhile.

use crate::machine::{Machines, nix_push, noise};
use crate::relay::{Relay, Rule};
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::sample;

const PATHS: usize = 40;

/// After a torn push: the store is sound, and the second push sends what is missing, no more.
pub fn again(machines: &Machines, top: &str, case: &str) {
    // What the machine still works on belongs to the torn push.
    let wait =
        "i=0; while grep -qsa -e '-[-]serve' /proc/[0-9]*/cmdline && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done";
    machines.ssh(0, wait).ok();
    machines.assert_store_is_sound(0, case);
    let there = machines.valid(0, &machines.closure(top)).len();
    let closure = machines.pushed(top, "");
    assert_eq!(closure["sentPaths"], PATHS - there, "{case}");
    machines.assert_has(0, top);
    machines.forget(0, top);
    assert_eq!(machines.valid(0, &machines.closure(top)).len(), 0, "{case}");
}

/// Bytes to the machine of an undisturbed push.
fn whole(machines: &Machines, top: &str) -> u64 {
    let relay = Relay::new(machines.address(0), Rule::default());
    machines.push(top, "", &[machines.record_at(relay.port)]).ok();
    machines.forget(0, top);
    relay.to_machine()
}

#[test]
fn killed_at_any_point_and_run_again_only_what_is_missing_goes() {
    let machines = Machines::new("killed", 1);
    let top = machines.build(&noise("killed", PATHS, 150_000));
    let whole = whole(&machines, &top);
    let points = sample(20, 2);
    for point in 0..points {
        let after = whole * (2 * point as u64 + 1) / (2 * points as u64);
        let relay = Relay::new(machines.address(0), Rule::default());
        let mut command = machines.folder.command(&format!("exec {} -q --toplevel {top}", nix_push()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(tests::unread()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(machines.record_at(relay.port).to_string().as_bytes()).unwrap();
        let end = Instant::now() + Duration::from_secs(120);
        while relay.to_machine() < after && child.try_wait().unwrap().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        again(&machines, &top, &format!("killed after {after} of {whole} bytes"));
    }

    // The other side's turn: all but the first that began, which holds what is to come. Slow enough for a login meanwhile.
    let relay = Relay::new(machines.address(0), Rule { rate: Some(200_000), ..Rule::default() });
    let kill = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q -e '^nix-store [-]-serve --write' && echo ${p##*/}
        done | sort -n | tail -n +2 | xargs kill -9";
    let ran = std::thread::scope(|scope| {
        let push = scope.spawn(|| machines.push(&top, "", &[machines.record_at(relay.port)]));
        let end = Instant::now() + Duration::from_secs(120);
        while relay.to_machine() < whole / 10 && !push.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        machines.ssh(0, kill).ok();
        push.join().unwrap()
    });
    assert_eq!(ran.record()["error"]["kind"], "copy", "{}", ran.stdout);
    let closure = &ran.record()["closure"];
    assert!(closure["sentPaths"].is_null() && closure["sentBytes"].is_null(), "some have arrived: {closure}");
    drop(relay);
    again(&machines, &top, "the machine's nix-store was killed");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn cut_at_any_point_and_run_again_only_what_is_missing_goes() {
    let machines = Machines::new("cut", 1);
    let top = machines.build(&noise("cut", PATHS, 150_000));
    let whole = whole(&machines, &top);
    let points = sample(20, 2);
    for point in 0..points {
        let after = whole * (2 * point as u64 + 1) / (2 * points as u64);
        let relay = Relay::new(machines.address(0), Rule { cut_after: Some(after), ..Rule::default() });
        let ran = machines.push(&top, "", &[machines.record_at(relay.port)]);
        let case = format!("cut after {after} of {whole} bytes");
        let kind = ran.record()["error"]["kind"].clone();
        assert!(["unreachable", "copy"].map(Value::from).contains(&kind), "{case}: {}", ran.stdout);
        again(&machines, &top, &case);
    }
}

#[test]
fn a_byte_spoiled_on_the_way_is_never_taken() {
    let machines = Machines::new("spoiled", 1);
    let top = machines.build(&noise("spoiled", PATHS, 150_000));
    let spoil_at = Some(whole(&machines, &top) / 2);
    let relay = Relay::new(machines.address(0), Rule { spoil_at, ..Rule::default() });
    let ran = machines.push(&top, "", &[machines.record_at(relay.port)]);
    assert_eq!(ran.record()["error"]["tool"], "nix-push", "{}", ran.stdout);
    again(&machines, &top, "a byte was spoiled");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_machine_that_loses_its_power_in_the_middle_can_be_pushed_to_again() {
    let machines = Machines::new("power", 1);
    let top = machines.build(&noise("power", PATHS, 150_000));
    let half = whole(&machines, &top) / 2;
    // Slow enough that the second half takes longer than it takes to say so to the cloud.
    let relay = Relay::new(machines.address(0), Rule { rate: Some(500_000), ..Rule::default() });
    let id = machines.records[0]["instance"]["id"].as_str().unwrap().to_string();
    let mut command = machines.folder.command(&format!("exec {} -q --timeout 5s --toplevel {top}", nix_push()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(tests::unread()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(machines.record_at(relay.port).to_string().as_bytes()).unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while relay.to_machine() < half && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    machines.cloud.run(&["kill", &id]);
    let output = child.wait_with_output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["error"]["tool"], "nix-push", "{record}");
    machines.cloud.run(&["heal", &id]);
    let end = Instant::now() + Duration::from_secs(120);
    while machines.ssh(0, "true").status != 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(300));
    }
    again(&machines, &top, "the power was lost");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn garbage_that_is_collected_meanwhile_breaks_no_push() {
    let machines = Machines::new("garbage", 1);
    let top = machines.build(&noise("garbage", PATHS, 150_000));
    let collect = "(while [ ! -e /tmp/enough ]; do nix-store --gc >/dev/null 2>>/tmp/gc.log && echo >>/tmp/rounds; done) >/dev/null 2>&1 & true";
    machines.ssh(0, collect).ok();
    let pushes = sample(20, 2);
    for round in 0..pushes {
        let relay = Relay::new(machines.address(0), Rule { rate: Some(4_000_000), ..Rule::default() });
        let ran = machines.push(&top, "", &[machines.record_at(relay.port)]);
        assert_eq!(ran.status, 0, "round {round}: {}{}", ran.stdout, ran.stderr);
        machines.assert_has(0, &top);
        // Rooted, so that it stays; without its root it goes with the next collection.
        let gone = format!(
            "rm /nix/var/nix/gcroots/nixpipe/pushed; i=0; while nix-store --check-validity {top} 2>/dev/null && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done"
        );
        machines.ssh(0, &gone).ok();
        assert!(machines.valid(0, std::slice::from_ref(&top)).is_empty(), "the collector does collect");
    }
    let rounds = machines.ssh(0, "touch /tmp/enough; wc -l < /tmp/rounds").ok().stdout;
    assert!(rounds.trim().parse::<usize>().unwrap() >= pushes / 2, "{rounds}");
}

#[test]
fn a_collector_that_has_looked_for_roots_already_is_told_of_the_new_one() {
    let machines = Machines::new("looked", 1);
    let top = machines.build(&noise("looked", 3, 1000));
    machines.ssh(0, "i=0; while [ $i -lt 400 ]; do sleep 600 & i=$((i+1)); done >/dev/null 2>&1").ok();
    // It looks at the roots, then at every process; there it is stopped, with many of them to look at.
    let stop = "rm /nix/var/nix/gcroots/nixpipe/pushed
        nix-store --gc >/tmp/gc.log 2>&1 & gc=$!
        until ls -l /proc/$gc/fd | grep -q ' /proc/'; do [ -e /proc/$gc ] || exit 1; done
        kill -STOP $gc; echo $gc";
    let stopped = || {
        machines.pushed(&top, "");
        Some(machines.ssh(0, stop)).filter(|ran| ran.status == 0).map(|ran| ran.stdout)
    };
    let collector = (0..20).find_map(|_| stopped()).expect("the collector is faster than the loop that waits for it");
    let mut command = machines.folder.command(&format!("exec {} -q --toplevel {top}", nix_push()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(tests::unread()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(machines.records[0].to_string().as_bytes()).unwrap();
    // While the collector stands still it can only ask Nix, which may wait for the collector by its socket, or end without.
    let asks = "grep -lx nix-store /proc/[0-9]*/comm 2>/dev/null | while read -r p; do
            p=${p%/comm}; grep -qs unix_stream $p/wchan || grep -qsa realise $p/cmdline && echo $p
        done | grep -q .";
    while child.try_wait().unwrap().is_none() && machines.ssh(0, asks).status != 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    machines.ssh(0, &format!("kill -CONT {collector}")).ok();
    assert!(child.wait().unwrap().success());
    machines.ssh(0, &format!("while [ -e /proc/{} ]; do sleep 0.1; done", collector.trim())).ok();
    machines.assert_has(0, &top);
    assert!(machines.ssh(0, "cat /tmp/gc.log").ok().stdout.contains("deleting"), "it did collect");
}

#[test]
fn a_full_disk_is_seen_before_anything_is_sent_or_said_clearly_when_it_fills() {
    let machines = Machines::new("full", 1);
    // A store with little room: what is written goes to a small file system in memory.
    let small = "set -e; mkdir -p /small; mount -t tmpfs -o size=24m small /small; mkdir /small/up /small/work
        mount -t overlay -o lowerdir=/nix/store,upperdir=/small/up,workdir=/small/work store /nix/store";
    machines.ssh(0, small).ok();
    let top = machines.build(&noise("full", 4, 10_000_000));
    let before = machines.counted(0)[2];
    let ran = machines.push(&top, "", &machines.records);
    let error = ran.record()["error"].clone();
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["kind"], "copy", "{error}");
    assert!(message.contains("38.1 MiB are to come") && message.contains("are free"), "{message}");
    assert!(machines.counted(0)[2] - before < 100_000, "nothing was sent");

    // On a file system that packs what it holds, that shows on the way.
    let stat =
        "stat=$(readlink -f $(command -v stat)); printf '#!/bin/sh\necho btrfs\n' > /root/stat; chmod 755 /root/stat
        mount --bind /root/stat $stat";
    machines.ssh(0, stat).ok();
    let ran = machines.push(&top, "", &machines.records);
    machines.ssh(0, "umount $(readlink -f $(command -v stat))").ok();
    assert!(ran.stderr.contains("are free in the machine's store: btrfs may make them fit"), "{}", ran.stderr);
    let error = ran.record()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("No space left on device"), "{error}");
    machines.forget(0, &top);

    // A NAR does not tell how many blocks its files take.
    let many = machines.build(
        "path \"full-of-files\" [ ] \"os.mkdir(out)\\nfor i in range(9000): open(out + '/' + str(i), 'w').write('x')\"",
    );
    let ran = machines.push(&many, "", &machines.records);
    let error = ran.record()["error"].clone();
    assert_eq!(error["kind"], "copy", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("No space left on device") && message.contains("free"), "{message}");
    assert!(error["hint"].as_str().unwrap().contains("make room"), "{error}");
    machines.ssh(0, "nix-collect-garbage >/dev/null 2>&1; true");
    machines.assert_store_is_sound(0, "the disk was full");
    let fits = machines.build(&noise("full-fits", 2, 1_000_000));
    machines.pushed(&fits, "");
    machines.assert_has(0, &fits);
}
