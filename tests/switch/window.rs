//! Things that happen between activation and confirmation. A health command is the way in: it runs
//! on the machine at that very time.

use crate::machine::{Machine, client, said, toplevel};
use std::time::{Duration, Instant};

/// The token of the last deployment, as the machine knows it.
fn last_token(machine: &Machine) -> String {
    machine.ssh(". /run/nixpipe/last/vars; echo $token").ok().stdout.trim().into()
}

#[test]
fn what_happens_inside_the_window_loses_nothing() {
    let machine = Machine::new("window");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();
    let back = |flags: &str, case: &str| {
        let timeout = if flags.contains("--confirm-timeout") { "" } else { "--confirm-timeout 3s" };
        let ran = machine.switch(&new, &format!("{timeout} {flags}"));
        assert_eq!(said(&ran).0, "rolled-back", "{case}: {}", ran.stderr);
        machine.assert_keeps(&old, "old", case);
        ran
    };

    let ran = back("--health false --confirm-timeout 10s", "a health check fails");
    assert!(ran.stderr.contains("not healthy yet: false: status 1\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("within 10 s; not healthy: false: status 1\n"), "{}", ran.stderr);

    // Whatever it thinks of SIGTERM, and however much it says: it is no reason for a reboot.
    // On the way the session that could confirm is taken down, word for word.
    let keeps = "cp /proc/$(sed -n \"s/^PPid:[^0-9]*//p\" /proc/$PPID/status)/cmdline /root/stale";
    for (check, words) in [
        ("trap \"\" TERM; while :; do sleep 1; done", "it did not end within"),
        ("head -c 20000000 /dev/zero | tr \"\\0\" x; false", ": xxxx"),
        ("kill -9 $$", "status 137"),
    ] {
        let ran = back(&format!("--health '{keeps}; {check}'"), check);
        assert_eq!(ran.record()["activation"]["rebooted"], false, "{check}");
        assert!(ran.stderr.contains(words) && ran.stderr.len() < 20_000, "{check}: {}", ran.stderr);
    }

    let token = last_token(&machine);
    let ran = back(
        &format!(
            "--health 'for job in commit rescue reboot; do sh /run/nixpipe/deploy/job.sh $job {token}; done; \
             mv /run/nixpipe/deploy/armed-{token} /run/nixpipe/deploy/confirmed-{token}; \
             xargs -0 -a /root/stale env | grep -x stage=done; false'"
        ),
        "a stale confirmation",
    );
    assert!(ran.stderr.contains("; not healthy: ") && ran.stderr.contains(": stage=done\n"), "{}", ran.stderr);

    back("--health 'nix-collect-garbage -d; false'", "garbage is collected");
    // It took the generations, and what was pushed is still there.
    machine.ssh(&format!("nix-store --check-validity {}", toplevel(&new))).ok();

    back(
        "--health 'systemd-run --quiet $(command -v flock) /run/nixos/switch-to-configuration.lock $(command -v sleep) 6; sleep 5; false'",
        "the rescuer finds NixOS's lock held",
    );

    let ran =
        back("--confirm-timeout 30s --health 'systemctl reboot; sleep 20; false'", "the machine reboots by itself");
    assert_eq!(ran.record()["activation"]["rebooted"], true);

    back(
        "--health 'systemctl daemon-reexec; systemctl stop \"nixpipe-win*\"; false'",
        "systemd is executed anew, and the window's timer stopped",
    );

    // What a check leaves behind is not waited for.
    let start = Instant::now();
    let ran = machine.switch(&new, "--health 'systemctl is-active greeter; sleep 200 &'").ok();
    assert_eq!(said(&ran).0, "switched");
    assert!(start.elapsed() < Duration::from_secs(100), "{}", ran.stderr);
    machine.assert_keeps(&new, "new", "deployed again after it was rolled back");

    // A check of several lines is one answer.
    let ran = machine.switch(&new, "--health 'true\nerror=$(echo internal it is not)'").ok();
    assert_eq!(said(&ran), ("unchanged".into(), String::new()), "{}", ran.stderr);

    // On a machine that has nothing to be done, what is to hold is asked for all the same.
    let ran = machine.switch(&new, "--health true --health 'echo it is ill; false' --confirm-timeout 1s");
    assert_eq!(said(&ran), ("unchanged".into(), "activation".into()), "{}", ran.stderr);
    assert!(ran.record()["error"]["message"].as_str().unwrap().contains("it is ill"), "{}", ran.stdout);
    machine.assert_keeps(&new, "new", "an unchanged system that is ill");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn what_somebody_else_switched_to_in_the_window_stays() {
    let machine = Machine::new("meanwhile");
    let [old, new, other] = ["old", "new", "other"].map(|text| machine.push_greeter(text, ""));
    machine.switch(&old, "").ok();
    let mut child = machine.begin(&new, "--health 'touch /run/in-the-window; false' --confirm-timeout 8s");
    while machine.ssh("rm /run/in-the-window").status != 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let other_top = toplevel(&other);
    machine.ssh(&format!("set -e; nix-env -p /nix/var/nix/profiles/system --set {other_top}; {other_top}/bin/switch-to-configuration switch")).ok();
    let end = Instant::now() + Duration::from_secs(60);
    while machine.ssh("[ -e /run/nixpipe/deploy ]").status == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
    }
    machine.assert_keeps(&other, "other", "somebody else's switch in the window");
    let ran = machine.switch(&new, "").ok();
    assert_eq!(said(&ran).0, "switched");
    machine.assert_keeps(&new, "new", "after somebody else's switch in the window");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn what_somebody_else_is_switching_to_is_not_gone_back_from() {
    let machine = Machine::new("theirs");
    let slow = |when: &str| {
        format!(
            "systemd.services.slow = {{ wantedBy = [ \"multi-user.target\" ]; {when} script = \"exec sleep infinity\"; }};"
        )
    };
    let old = machine.push_greeter("old", &slow("preStop = \"sleep 12\";"));
    machine.switch(&old, "").ok();
    let new = machine.push_greeter("new", &slow("preStart = \"sleep 20\";"));
    machine.ssh(&format!("systemd-run --quiet --unit=theirs {}/bin/switch-to-configuration test", toplevel(&new))).ok();
    // It gives up when the other one is half-way: what runs is what was wished.
    let ran = machine.switch(&new, "--lock-timeout 16s");
    assert_eq!(said(&ran), ("refused".into(), "locked".into()), "{}", ran.stderr);
    machine.ssh("while systemctl -q is-active theirs; do sleep 0.2; done").ok();
    assert_eq!(machine.state().running, toplevel(&new), "theirs has ended undisturbed");
    assert_eq!(said(&machine.switch(&new, "").ok()).0, "switched");
    machine.assert_keeps(&new, "new", "after somebody else's switch to the same");
}

#[test]
fn a_kept_connection_of_the_users_proves_nothing() {
    let machine = Machine::new("master");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();
    let new = machine.push_greeter("new", "services.openssh.enable = lib.mkForce false;");
    let ssh = machine.folder.path().join(".ssh");
    std::fs::create_dir_all(&ssh).unwrap();
    std::fs::write(ssh.join("config"), "Host *\nControlMaster auto\nControlPath ~/.ssh/%C\nControlPersist 300\n")
        .unwrap();
    machine.ssh("true").ok();
    let record = &new["ssh"];
    let (host, key) = (record["host"].as_str().unwrap(), new["keyPair"]["privateKeyFile"].as_str().unwrap());
    let ssh = format!(
        "ssh -F .ssh/config -o ControlPath=$PWD/.ssh/%C -o UserKnownHostsFile=known_hosts -i {key} root@{host}"
    );
    machine.folder.sh(&format!("{ssh} true"), "").ok();
    machine.folder.sh(&format!("{ssh} -O check"), "").ok();
    let ran = machine.switch(&new, "--confirm-timeout 3s");
    assert_eq!(said(&ran), ("rolled-back".into(), "rolled-back".into()), "{}", ran.stderr);
    machine.folder.sh(&format!("{ssh} -O exit"), "");
    machine.assert_keeps(&old, "old", "a ControlMaster in the user's ssh config");
}

#[test]
fn a_commit_that_was_cut_short_is_settled() {
    let machine = Machine::new("pending");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();
    let cut = |record: &serde_json::Value, more: &str| {
        let (old, new) = (toplevel(&old), toplevel(record));
        machine
            .ssh(&format!(
                "set -e; mkdir -p /var/lib/nixpipe
                 printf '%s\\n' {new} \"$(readlink /nix/var/nix/profiles/system)\" {old} '' > /var/lib/nixpipe/commit-pending
                 nix-env -p /nix/var/nix/profiles/system --set {new}; {more} sync"
            ))
            .ok();
        machine.power_cycle();
    };
    cut(&new, "");
    assert_eq!(machine.state().running, toplevel(&old));
    let ran = machine.switch(&old, "").ok();
    assert_eq!(said(&ran).0, "switched", "{}", ran.stderr);
    machine.assert_keeps(&old, "old", "a crash between profile and boot entry, undone");

    cut(&new, &format!("{}/bin/switch-to-configuration boot;", toplevel(&new)));
    assert_eq!(machine.state().running, toplevel(&new));
    // A note that never got its name is no commit; that and the rest of a reboot are cleared away where there is nothing else to do.
    machine.switch(&new, "").ok();
    machine
        .ssh(
            "mkdir -p /var/lib/nixpipe/deploy.old /etc/systemd/system.control
             touch /var/lib/nixpipe/commit-pending.new /etc/systemd/system.control/nixpipe-boot.service",
        )
        .ok();
    machine.switch(&new, "").ok();
    machine.assert_keeps(&new, "new", "a crash after the boot entry, finished");
}

#[test]
fn a_session_that_dies_while_it_sets_up_is_begun_anew() {
    let machine = Machine::new("setup");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();
    machine
        .ssh(
            "set -e; run=$(readlink -e /run/current-system/sw/bin/systemd-run); cp $run /run/systemd-run
             printf '#!/bin/sh\ncase \"$*\" in *nixpipe-rescue*) umount -l %s; kill -9 $PPID; exit 1 ;; esac\nexec /run/systemd-run \"$@\"\n' $run > /run/deadly
             chmod 755 /run/deadly; mount --bind /run/deadly $run",
        )
        .ok();
    std::fs::write(machine.folder.path().join("new.json"), new.to_string()).unwrap();
    let ran = machine.folder.sh(&format!("timeout 120 nixos-switch {} < new.json", client()), "").ok();
    assert_eq!(said(&ran).0, "switched", "{}", ran.stderr);
    assert!(ran.stderr.contains("the machine goes on by itself, looking again"), "{}", ran.stderr);
    machine.assert_keeps(&new, "new", "the session is killed while it sets up");
}

/// The programs of the system that ran when somebody came are gone when the turn is theirs.
#[test]
fn tools_are_those_of_the_system_that_runs_when_the_lock_is_had() {
    let machine = Machine::new("tools");
    let old =
        machine.push_greeter("old", "environment.systemPackages = [ (pkgs.writeShellScriptBin \"only-old\" \"\") ];");
    let other = machine.push_greeter("other", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();
    machine.ssh("systemd-run --quiet --unit=holder $(command -v flock) /run/nixpipe/lock $(command -v sleep) 900").ok();
    let child = machine.begin(&new, "");
    machine
        .ssh(&format!(
            "set -e; old=$(readlink -e /run/current-system/sw/bin)
             until pgrep -fx 'flock -w 61 9'; do sleep 0.1; done
             nix-env -p /nix/var/nix/profiles/system --set {0}; {0}/bin/switch-to-configuration switch
             mount -t tmpfs none $old; systemctl stop holder",
            toplevel(&other)
        ))
        .ok();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    machine.assert_keeps(&new, "new", "a collector takes the tools of the system that ran");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn deployers_at_once_take_turns() {
    let machine = Machine::new("turns");
    let names = ["a", "b", "c", "d", "e"];
    let systems = names.map(|name| machine.push_greeter(name, ""));
    // So slow that the first two both find no folder, and both make it.
    machine
        .ssh(
            "set -e; mkdir=$(readlink -e /run/current-system/sw/bin/mkdir); cp $mkdir /run/mkdir
             printf '#!/bin/sh\nsleep 1\nexec /run/mkdir \"$@\"\n' > /run/slow; chmod 755 /run/slow
             mount --bind /run/slow $mkdir; [ ! -e /run/nixpipe ]",
        )
        .ok();
    for count in [2, 5] {
        let children: Vec<_> =
            systems[..count].iter().map(|record| machine.begin(record, "--lock-timeout 600s")).collect();
        let mut switched = 0;
        for child in children {
            let output = child.wait_with_output().unwrap();
            let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(record["error"], serde_json::Value::Null, "{record}");
            switched += usize::from(record["activation"]["outcome"] == "switched");
        }
        assert!(switched >= count - 1);
        if count == 2 {
            machine.ssh("umount $(readlink -e /run/current-system/sw/bin/mkdir)").ok();
        }
        let running = machine.state().running;
        let last = systems.iter().position(|record| toplevel(record) == running).unwrap();
        machine.assert_keeps(&systems[last], names[last], &format!("{count} deployers at once"));
    }
    // The same system twice: the second joins the first.
    let children = [machine.begin(&systems[0], ""), machine.begin(&systems[0], "")];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    machine.assert_keeps(&systems[0], "a", "two deployers of one system");
    // Who waits is told for whom. It is waited for the same system, too, if it was to be proved otherwise: who joins confirms.
    let child = machine.begin(&systems[1], "--health false --confirm-timeout 10s");
    machine.ssh("until [ -e /run/nixpipe/deploy ]; do sleep 0.1; done").ok();
    let ran = machine.switch(&systems[2], "--lock-timeout 1s");
    assert_eq!(said(&ran).1, "locked", "{}", ran.stderr);
    for words in ["waiting for the deployment of ", "another deployment holds the machine: "] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let ran = machine.switch(&systems[1], "").ok();
    assert_eq!(said(&ran).0, "switched", "{}", ran.stderr);
    let output = child.wait_with_output().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["activation"]["outcome"], "rolled-back", "{record}");
    machine.assert_keeps(&systems[1], "b", "another was waited for");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_machine_that_answers_and_does_not_get_on_is_not_waited_for_for_ever() {
    let machine = Machine::new("ending");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();
    std::fs::write(machine.folder.path().join("new.json"), new.to_string()).unwrap();
    let limited =
        |flags: &str| machine.folder.sh(&format!("timeout 200 nixos-switch {} {flags} < new.json", client()), "");

    // Somebody logs in to the system that came back, notes it and dies.
    machine
        .ssh(
            "set -e; mv=$(readlink -e /run/current-system/sw/bin/mv); cp $mv /run/mv
             printf '#!/bin/sh\nd=/run/nixpipe/deploy\ncase \"$*\" in */restored) for f in $d/expired-*; do /run/mv $f $d/returned-${f##*-}; done ;; esac\nexec /run/mv \"$@\"\n' > /run/dies
             chmod 755 /run/dies; mount --bind /run/dies $mv",
        )
        .ok();
    let ran = limited("--health false --confirm-timeout 4s");
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    machine.ssh("umount $(readlink -e /run/current-system/sw/bin/mv)").ok();
    machine.assert_keeps(&old, "old", "who had logged in has died");

    // Somebody holds NixOS's lock, so the boot entry is not yet written.
    let holds = "systemd-run --quiet $(command -v flock) /run/nixos/switch-to-configuration.lock $(command -v sleep) 80; sleep 1";
    let ran = limited(&format!(
        "--health '{holds}' --activation-timeout 17s --confirm-timeout 8s --return-timeout 1s --reboot-timeout 1s"
    ));
    assert_eq!(said(&ran), (String::new(), "timeout".into()), "{}", ran.stderr);
    for words in ["is still writing the boot entry after", "hint: the machine goes on by itself"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    limited(&format!("--health '{holds}'")).ok();
    machine.assert_keeps(&new, "new", "a boot entry that takes its time");
}
