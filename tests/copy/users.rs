//! Who may push, what must be signed, and what machines fetch from caches by themselves.

use crate::machine::{Machines, noise};
use serde_json::Value;
use tests::Ran;

/// Adds lines to the machine's nix.conf.
pub fn configure(machines: &Machines, lines: &str) {
    let script = format!(
        "set -e; cp -L /etc/nix/nix.conf /etc/nix/new.conf; chmod u+w /etc/nix/new.conf
         cat >> /etc/nix/new.conf <<'END'\n{lines}\nEND
         mv /etc/nix/new.conf /etc/nix/nix.conf; systemctl stop nix-daemon.service"
    );
    machines.ssh(0, &script).ok();
}

/// Makes a key pair and gives its public half.
fn key(machines: &Machines) -> String {
    machines
        .folder
        .sh("nix-store --generate-binary-cache-key test-1 key.sec key.pub; cat key.pub", "")
        .ok()
        .stdout
        .trim()
        .into()
}

#[test]
fn users_other_than_root_push_through_the_daemon_what_is_signed() {
    let machines = Machines::new("users", 1);
    machines.add_user("alice");
    let mut record = machines.records[0].clone();
    record["ssh"]["user"] = "alice".into();
    let records = [record];
    let top = machines.build(&noise("users", 8, 20_000));

    let error = machines.push(&top, "", &records).record()["error"].clone();
    assert_eq!(error["kind"], "copy", "{error}");
    assert!(error["message"].as_str().unwrap().contains("signature"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--sign-key"), "{error}");
    let public = key(&machines);
    let error = machines.push(&top, "--sign-key key.sec", &records).record()["error"].clone();
    assert_eq!(error["kind"], "copy", "signed by a key that the machine does not know: {error}");
    assert!(machines.valid(0, &machines.closure(&top)).is_empty());

    configure(&machines, &format!("trusted-public-keys = {public}"));
    let pushed = machines.push(&top, "--sign-key key.sec", &records).ok().record();
    assert_eq!(pushed["closure"]["sentPaths"], 8);
    let again = machines.push(&top, "--sign-key key.sec", &records).ok().record();
    assert_eq!(again["closure"]["sentPaths"], 0);
    let kept = format!(
        "nix-store --gc >/dev/null 2>&1; nix-store --check-validity {top} && readlink /home/alice/.local/state/nixpipe/pushed"
    );
    assert_eq!(machines.ssh(0, &kept).ok().stdout.trim(), top, "the system is kept");

    configure(&machines, "trusted-users = root alice");
    let other = machines.build(&noise("users-trusted", 3, 20_000));
    machines.push(&other, "", &records).ok();
    assert_eq!(machines.valid(0, std::slice::from_ref(&other)), [other]);

    std::fs::write(machines.path().join("no.sec"), "test-1:c2VjcmV0").unwrap();
    let ran = machines.push(&top, "--sign-key no.sec", &machines.records);
    assert_eq!(ran.record()["error"]["kind"], "input");
    assert!(!ran.stdout.contains("c2VjcmV0") && !ran.stderr.contains("c2VjcmV0"));

    // What the machine's Nix says instead of an answer is said of a plan, too.
    configure(&machines, "store = unix:///nowhere");
    let error = machines.push(&top, "--plan", &machines.records).record()["error"].clone();
    let words = "cannot ask the machine what it has: the machine said: cannot connect to socket at '/nowhere'";
    assert_eq!(error["kind"], "copy", "{error}");
    assert!(error["message"].as_str().unwrap().starts_with(words), "{error}");
    assert_eq!(error["hint"], "does it run there? Try: ssh MACHINE nix-store --gc --print-roots");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn machines_fetch_from_caches_what_they_can_and_are_sent_the_rest() {
    let machines = Machines::new("caches", 1);
    // A folder of the machine that this computer sees at the same place.
    let id = machines.records[0]["instance"]["id"].as_str().unwrap();
    let folder = format!("/var/lib/nixpipe-cloud/run/machines/{id}");
    let holder = std::fs::read_to_string(format!("{folder}/pids")).unwrap();
    let holder = holder.split_whitespace().next().unwrap();
    let cache = format!("/tmp/nixpipe-cache-{id}");
    machines.ssh(0, &format!("mkdir {cache}")).ok();
    std::os::unix::fs::symlink(format!("/proc/{holder}/root{folder}/root{cache}"), &cache).unwrap();
    let url = format!("file://{cache}");

    let public = key(&machines);
    let top = machines.build(&noise("caches", 20, 20_000));
    let half = machines.closure(&top).into_iter().find(|path| path.ends_with("-caches-9")).unwrap();
    let copy = format!("nix --extra-experimental-features nix-command copy --to '{url}?secret-key=key.sec' {half}");
    machines.folder.sh(&copy, "").ok();
    configure(&machines, &format!("substituters = {url}\ntrusted-public-keys = {public}"));
    let ran = machines.push(&top, "--substitute-on-destination --log-format json", &machines.records).ok();
    assert_eq!(ran.record()["closure"]["sentPaths"], 10, "the other half comes from the machine's cache");
    assert!(ran.stderr.contains("fetching from caches took"), "{}", ran.stderr);
    let told = |ran: &Ran, words: &str| -> Value {
        let line = ran.stderr.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{}", ran.stderr));
        serde_json::from_str(line).unwrap()
    };
    let mut is = told(&ran, "sending 10 of 20 paths");
    let closure = ran.record()["closure"].clone();
    assert_eq!((&is["paths"], &is["bytes"]), (&closure["sentPaths"], &closure["sentBytes"]), "{is}");
    assert_eq!((&is["closurePaths"], &is["closureBytes"]), (&closure["paths"], &closure["bytes"]), "{is}");
    is = told(&ran, "sending took ");
    assert_eq!((&is["sentBytes"], &is["secondsLeft"]), (&closure["sentBytes"], &0.into()), "{is}");
    let ran = machines.push(&top, "--log-format json", &machines.records).ok();
    is = told(&ran, "nothing to send: the machine has");
    assert_eq!((&is["paths"], &is["closurePaths"], &is["closureBytes"]), (&0.into(), &20.into(), &closure["bytes"]));
    machines.assert_has(0, &top);
    machines.forget(0, &top);

    configure(&machines, "substituters =\ntrusted-public-keys =");
    let closure = machines.pushed(&top, &format!("--via '{url}' --sign-key key.sec"));
    assert_eq!(closure["sentPaths"], 0, "all comes through the cache");
    machines.assert_has(0, &top);
    machines.forget(0, &top);

    // Without the flag the machine trusts nobody's signature but its own keys'.
    let closure = machines.pushed(&top, &format!("--via '{url}'"));
    assert_eq!(closure["sentPaths"], 20, "what the machine does not trust is sent");
    machines.assert_has(0, &top);
    std::fs::remove_file(&cache).unwrap();
    let ran = machines.push(&top, "--via file:///proc/nixpipe-no-such", &machines.records);
    assert_eq!(ran.record()["error"], Value::Null, "nothing to do needs no cache: {}", ran.stdout);
    let other = machines.build(&noise("caches-other", 2, 1000));
    let ran = machines.push(&other, "--via file:///proc/nixpipe-no-such", &machines.records);
    assert_eq!(ran.record()["error"]["kind"], "copy", "{}", ran.stdout);
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_connection_that_waits_while_a_cache_is_written_to_is_kept_and_one_that_is_lost_is_made_anew() {
    let machines = Machines::new("idle", 1);
    let (first, second) = (machines.build(&noise("idle", 3, 1000)), machines.build(&noise("idle-more", 3, 1000)));
    // An sshd that wants signs of life, too.
    let wants =
        "set -e; cd /etc/ssh; { printf 'ClientAliveInterval 2\nClientAliveCountMax 2\n'; cat sshd_config; } > new
        mv new sshd_config; systemctl restart sshd";
    machines.ssh(0, wants).ok();
    let at = machines.path().display();
    let script = |top: &str| {
        format!(
            "mkdir -p bin; printf '#!/bin/sh\nsleep 12; exec %s \"$@\"\n' \"$(command -v nix)\" > bin/nix; chmod +x bin/nix
             PATH=$PWD/bin:$PATH nix-push --toplevel {top} --via file://{at}/cache"
        )
    };
    let push = |top: &str| machines.folder.sh(&script(top), machines.records[0].to_string());
    let before = machines.counted(0)[0];
    let record = push(&first).ok().record();
    assert_eq!(machines.counted(0)[0] - before, 1, "{record}");
    machines.assert_has(0, &first);

    let before = machines.counted(0)[0];
    // The parent of the machine's command is the sshd of this connection.
    let lose = "until grep -qsa -e 'nix-push[:]begun' /proc/[0-9]*/cmdline; do sleep 0.1; done
        sleep 2; for file in $(grep -lsa -e 'nix-push[:]begun' /proc/[0-9]*/cmdline); do kill -9 $(sed -n 's/^PPid:\t//p' ${file%/cmdline}/status); done";
    let record = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| push(&second));
        machines.ssh(0, lose).ok();
        pushing.join().unwrap().ok().record()
    });
    assert_eq!(machines.counted(0)[0] - before, 3, "it, the one that took it away, and its successor: {record}");
    machines.assert_has(0, &second);
}
