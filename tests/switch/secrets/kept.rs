//! Secrets that a reboot or a power cut concerns: on a disk they stay, in memory they are put back.

use super::*;
use crate::machine::{KERNEL, toplevel};

#[test]
fn secrets_on_a_disk_survive_a_power_cut_and_those_unconfirmed_do_not() {
    let machine = Machine::new("disk");
    let secrets = Secrets::new(&machine.folder, "web-disk");
    secrets.set("a", "one");
    let system = machine.push_greeter("old", "");
    let flags = "--secrets web-{name} --secrets-dir /persist/keys";
    machine.switch(&system, flags).ok();
    assert_eq!(
        machine.ssh("stat -Lc '%a %U %G' /persist/keys /persist/keys/a").ok().stdout,
        "750 root keys\n640 root keys\n"
    );
    machine.power_cycle();
    assert_has(&machine, &secrets, "/persist/keys");
    assert_eq!(said(&machine.switch(&system, flags).ok()).0, "unchanged");

    secrets.set("a", "two");
    secrets.set("b", "two");
    let mut child = machine.begin(&system, &format!("{flags} --health 'touch /tmp/in-the-window; false'"));
    while machine.ssh("rm /tmp/in-the-window").status != 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_has(&machine, &secrets, "/persist/keys");
    child.kill().unwrap();
    child.wait().unwrap();
    machine.power_cycle();
    let unsettled = json!(["secrets that were not confirmed"]);
    assert_eq!(machine.switch(&system, "--status").ok().record()["status"]["left"], unsettled);
    // The next run puts back what nobody confirmed, whatever else it is to do.
    machine.switch(&system, "").ok();
    assert_eq!(
        machine.ssh("cat /persist/keys/a; ls -A /persist/keys /persist/keys/.nixpipe | wc -l").ok().stdout.trim(),
        "one7"
    );
    machine.switch(&system, flags).ok();
    assert_has(&machine, &secrets, "/persist/keys");
    machine.assert_keeps(&system, "old", "a power cut with unconfirmed secrets");

    // What stays as it failed is not confirmed.
    let put_back = |case: &str| {
        machine.switch(&system, "").ok();
        assert_eq!(
            machine.ssh("cat /persist/keys/a; ls -A /persist/keys/.nixpipe | wc -l").ok().stdout,
            "two2\n",
            "{case}"
        );
        machine.assert_keeps(&system, "old", case);
    };
    secrets.set("a", "three");
    let broken = machine.push_greeter("broken", "system.activationScripts.broken = \"false\";");
    let ran = machine.switch(&broken, &format!("{flags} --no-auto-rollback"));
    assert_eq!(said(&ran).1, "activation", "{}", ran.stderr);
    assert_eq!(machine.switch(&system, "--status").ok().record()["status"]["left"], unsettled);
    put_back("secrets of a system that failed and stayed");

    // A loss of power between profile and boot entry.
    let new = machine.push_greeter("new", "");
    let (old, new) = (toplevel(&system), toplevel(&new));
    machine
        .ssh(&format!(
            "set -e; cd /persist/keys/.nixpipe; cp -a $(readlink set) later; rm -f later/a; echo later > later/a
             ln -s $(readlink set) committing; ln -s {new} system; ln -sfn later set
             printf '%s\\n' {new} \"$(readlink /nix/var/nix/profiles/system)\" {old} '' > /var/lib/nixpipe/commit-pending
             nix-env -p /nix/var/nix/profiles/system --set {new}"
        ))
        .ok();
    put_back("a crash between profile and boot entry, with secrets");
    // A folder of somebody else's is closed to nobody.
    machine.ssh("mkdir -m 755 /var/theirs && touch /var/theirs/file").ok();
    let ran = machine.switch(&system, "--secrets web-{name} --secrets-dir /var/theirs");
    assert_eq!(said(&ran), ("refused".into(), "conflict".into()), "{}", ran.stderr);
    assert_eq!(machine.ssh("stat -c '%a %G' /var/theirs").ok().stdout, "755 root\n");
    machine.assert_keeps(&system, "old", "a folder for secrets that is somebody else's");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn secrets_on_a_disk_go_with_the_system_that_boots() {
    let machine = Machine::new("bootdisk");
    let secrets = Secrets::new(&machine.folder, "s");
    secrets.set("a", "one");
    let reader = "systemd.services.reader = { wantedBy = [ \"multi-user.target\" ];
        serviceConfig = { Type = \"oneshot\"; RemainAfterExit = true; }; script = \"cp /var/keys/a /var/read\"; };";
    let flags = "--secrets s --secrets-dir /var/keys --reboot if-needed --confirm-timeout 10s";
    let old = machine.push_greeter("old", reader);
    machine.switch(&old, flags).ok();
    let new = machine.push_greeter("new", &format!("{KERNEL} {reader}"));
    secrets.set("a", "two");
    let ran = machine.switch(&new, &format!("{flags} --health 'grep -q two /var/read' --health false"));
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    assert_eq!(
        machine.ssh("cat /var/keys/a /var/read").ok().stdout,
        "oneone",
        "the old service started with the old one"
    );
    machine.assert_keeps(&old, "old", "secrets on a disk and a reboot that goes back");

    // Their owner comes with the new system.
    let owner = "users.users.alice = { isSystemUser = true; group = \"alice\"; extraGroups = [ \"keys\" ]; }; users.groups.alice = { };
        systemd.services.hers = { wantedBy = [ \"multi-user.target\" ]; serviceConfig = { User = \"alice\"; Type = \"oneshot\"; RemainAfterExit = true; }; script = \"cat /var/keys/hers\"; };";
    for (text, way) in [("alice", "--reboot if-needed"), ("alone", "--reboot if-needed --reboot-unprotected")] {
        machine.switch(&old, flags).ok();
        if text == "alone" {
            machine.ssh("mkdir -p /var/lib/nixpipe && mount -t tmpfs none /var/lib").ok();
        }
        let mut owned = machine.push_greeter(text, &format!("{KERNEL} {owner}"));
        owned["secrets"] = json!({ "hers": { "path": "s/a", "owner": "alice", "group": "alice" } });
        let ran = machine.switch(&owned, &format!("--secrets-dir /var/keys {way} --health 'systemctl is-active hers'"));
        assert_eq!(said(&ran), ("rebooted".into(), String::new()), "{text}: {}", ran.stderr);
        assert_eq!(machine.ssh("stat -Lc '%a %U %G' /var/keys/hers").ok().stdout, "640 alice alice\n");
        machine.assert_keeps(&owned, text, "a secret's owner comes with a reboot");
        machine.power_cycle();
        machine.switch(&old, flags).ok();
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn secrets_in_memory_are_back_after_a_reboot_before_anybody_judges() {
    let machine = Machine::new("refill");
    let secrets = Secrets::new(&machine.folder, "s");
    secrets.set("a", "one\n");
    let system = machine.push_greeter(
        "old",
        "systemd.services.needs = { wantedBy = [ \"multi-user.target\" ]; serviceConfig = { Type = \"oneshot\"; RemainAfterExit = true; }; script = \"cat /run/keys/a\"; };",
    );
    machine.switch(&system, "--secrets s").ok();
    let health = "--health 'systemctl is-active needs' --health 'cat /run/keys/a'";
    let ran = machine.switch(&system, &format!("--secrets s --reboot always {health}")).ok();
    assert_eq!(said(&ran).0, "rebooted", "{}", ran.stderr);
    assert_eq!(ran.record()["activation"]["failedUnits"], json!([]));
    assert_has(&machine, &secrets, "/run/keys");
    machine.assert_keeps(&system, "old", "secrets after a reboot");

    // The session ends after it has put them back and before what had failed without them was started again.
    let slow = machine.push_greeter(
        "slow",
        "systemd.services.needs = { wantedBy = [ \"multi-user.target\" ]; serviceConfig = { Type = \"oneshot\"; RemainAfterExit = true; }; script = \"cat /run/keys/a\"; };
         systemd.services.slow = { wantedBy = [ \"multi-user.target\" ]; serviceConfig = { Type = \"oneshot\"; RemainAfterExit = true; }; script = \"sleep 5\"; };",
    );
    let flags = "--secrets s --reboot always";
    let mut child = machine.begin(&slow, flags);
    let end = Instant::now() + Duration::from_secs(60);
    let ended = "[ -e /var/lib/nixpipe/deploy/refilled ] && pkill -KILL -P $(pgrep -o -f 'sshd: root@notty')";
    while machine.ssh(ended).status != 0 {
        assert!(Instant::now() < end, "the secrets did not come back");
    }
    child.wait().unwrap();
    let ran = machine.switch(&slow, flags);
    assert!(["rebooted", "unchanged"].contains(&said(&ran).0.as_str()), "{}", ran.stderr);
    assert_eq!(ran.record()["activation"]["failedUnits"], json!([]));
    machine.ssh("systemctl is-active needs").ok();
    machine.assert_keeps(&slow, "slow", "the session ended while secrets came back");
    let system = slow;
    assert_eq!(said(&machine.switch(&system, "--secrets s").ok()).0, "unchanged");

    // The new system has no room for them: said once, and the reason of its end.
    let narrow = "systemd.services.narrow = { wantedBy = [ \"sysinit.target\" ]; unitConfig.DefaultDependencies = false;
        serviceConfig.Type = \"oneshot\"; path = [ pkgs.util-linux ]; script = \"mkdir -p /run/keys; mount -t tmpfs -o size=100k none /run/keys\"; };";
    let narrow = machine.push_greeter("narrow", narrow);
    secrets.set("b", random(3_000_000));
    let ran = machine.switch(&narrow, "--secrets s --reboot always --confirm-timeout 12s");
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    let message = ran.record()["error"]["message"].as_str().unwrap().to_string();
    assert!(message.contains("the secrets did not arrive whole in /run/keys"), "{message}");
    assert_eq!(ran.stderr.matches(": not confirmed: ").count(), 1, "{}", ran.stderr);
    machine.assert_keeps(&system, "slow", "no room for the secrets after a reboot");
}
