//! Systems that do not work: the old one must come back, by itself.

use crate::machine::{Machine, said};
use serde_json::Value;
use tests::sample;

fn rolled_back(machine: &Machine, old: &Value, new: &Value, flags: &str, case: &str) -> String {
    let ran = machine.switch(new, flags);
    assert_eq!(said(&ran), ("rolled-back".into(), "rolled-back".into()), "{case}: {}", ran.stderr);
    machine.assert_keeps(old, "old", case);
    ran.record()["error"]["message"].as_str().unwrap().into()
}

#[test]
fn a_system_that_does_not_work_is_rolled_back() {
    let machine = Machine::new("broken");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();

    let fails = "systemd.services.failing = { wantedBy = [ \"multi-user.target\" ]; serviceConfig.Type = \"oneshot\"; script = \"echo the end of it; exit 7\"; };";
    let new = machine.push_greeter("new", fails);
    let message = rolled_back(&machine, &old, &new, "", "a unit fails");
    assert!(message.contains("failing.service") && message.contains("the end of it"), "{message}");

    let ran = machine.switch(&new, "--allow-failed-units").ok();
    assert_eq!(said(&ran), ("units-failed".into(), String::new()));
    assert_eq!(ran.record()["activation"]["failedUnits"], serde_json::json!(["failing.service"]));
    machine.assert_keeps(&new, "new", "a unit fails and may");
    machine.switch(&old, "").ok();
    let ran = machine.switch(&new, "--no-auto-rollback");
    assert_eq!(said(&ran), ("units-failed".into(), "activation".into()));
    machine.assert_keeps(&new, "new", "a unit fails and the system is to stay");
    machine.switch(&old, "").ok();

    let hangs = "systemd.services.hanging = { wantedBy = [ \"multi-user.target\" ]; serviceConfig = { Type = \"oneshot\"; TimeoutStartSec = \"infinity\"; }; script = \"sleep infinity\"; };";
    let new = machine.push_greeter("new", hangs);
    let message = rolled_back(&machine, &old, &new, "--activation-timeout 4s", "a unit hangs");
    assert!(message.contains("did not end within 4 s"), "{message}");

    let new = machine.push_greeter(
        "new",
        &once("systemctl stop nixpipe-rescue.timer; systemctl kill --signal=KILL nixpipe-activate.service; sleep 5"),
    );
    let message = rolled_back(&machine, &old, &new, "", "the activation is killed, and its rescuer's timer stopped");
    assert!(message.contains("was cut short"), "{message}");

    let new = machine.push_greeter("new", "system.activationScripts.broken = \"false\";");
    rolled_back(&machine, &old, &new, "", "the activation script fails");

    let mount = "fileSystems.\"/bad\" = { device = \"/dev/nothing\"; fsType = \"ext4\"; options = [ \"x-systemd.device-timeout=1s\" ]; };
        systemd.services.panicking = { wantedBy = [ \"multi-user.target\" ]; unitConfig = { OnFailure = \"emergency.target\"; OnFailureJobMode = \"replace-irreversibly\"; }; serviceConfig.Type = \"oneshot\"; script = \"exit 1\"; };";
    let new = machine.push_greeter("new", mount);
    rolled_back(&machine, &old, &new, "--confirm-timeout 3s", "emergency.target");
}

#[test]
fn what_a_switch_says_is_held_against_the_machine() {
    let machine = Machine::new("judged");
    let pair = |text: &str| {
        let service = |more: &str| {
            format!(
                "{{ wantedBy = [ \"multi-user.target\" ]; environment.TEXT = \"{text}\"; script = \"exec sleep infinity\"; {more} }}"
            )
        };
        let atop = "requires = [ \"base.service\" ]; after = [ \"base.service\" ]; reloadIfChanged = true;";
        format!("systemd.services.base = {}; systemd.services.atop = {};", service(""), service(atop))
    };
    let veto = "system.preSwitchChecks.veto = \"[ ! -e /run/veto ]\";";
    let old = machine.push_greeter("old", &format!("{} {veto}", pair("old")));
    machine.switch(&old, "").ok();

    // The status tells of the units alone. The old system's own checks have no say in the way back.
    let both = "systemd.services.failing = { wantedBy = [ \"multi-user.target\" ]; serviceConfig.Type = \"oneshot\"; script = \"exit 7\"; };
        system.activationScripts.broken = \"touch /run/veto; false\";";
    let new = machine.push_greeter("new", both);
    let message = rolled_back(&machine, &old, &new, "--allow-failed-units", "a unit fails, and the activation script");
    assert!(message.contains("the activation failed with status 4"), "{message}");
    machine.ssh("rm /run/veto").ok();

    let new = machine.push_greeter("new", "systemd.services.greeter.requires = [ \"nowhere.service\" ];");
    let message = rolled_back(&machine, &old, &new, "", "a unit that cannot even be tried");
    assert!(message.contains("units failed: greeter.service"), "{message}");

    // The last unit to be reloaded had stopped with another, and is started.
    let new = machine.push_greeter("new", &format!("{} {veto}", pair("new")));
    machine.switch(&new, "").ok();
    assert_eq!(machine.ssh("stat -c %s /run/nixos/reload-list; systemctl is-active atop").ok().stdout, "0\nactive\n");
    machine.assert_keeps(&new, "new", "an empty list is left");
    assert_eq!(said(&machine.switch(&new, "").ok()).0, "unchanged");
    machine.switch(&old, "").ok();
    machine.assert_keeps(&old, "old", "an empty list was there");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_system_that_cannot_be_entered_or_kept_is_rolled_back() {
    let mut machine = Machine::new("unkept");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();

    let new = machine.push_greeter("new", "services.openssh.enable = lib.mkForce false;");
    rolled_back(&machine, &old, &new, "--confirm-timeout 3s", "sshd is gone");

    let new = machine.push_greeter("new", "services.openssh.ports = [ 2222 ];");
    rolled_back(&machine, &old, &new, "--confirm-timeout 3s", "sshd listens at another port");

    // Full at the moment of the commit: the check at the beginning cannot see it.
    let fills = "systemd.services.filler = { wantedBy = [ \"multi-user.target\" ]; serviceConfig.Type = \"oneshot\"; script = \"dd if=/dev/zero of=/boot/filler bs=4k || true\"; };";
    let new = machine.push_greeter("new", fills);
    let message = rolled_back(&machine, &old, &new, "", "/boot gets full");
    assert!(message.contains("boot entry"), "{message}");
    let other = machine.push_greeter("other", "");
    assert_eq!(said(&machine.switch(&other, "")).1, "limit");
    // The installer of systemd-boot makes room first.
    machine.ssh("mv /boot/grub /root; mkdir /boot/loader && : > /boot/loader/loader.conf").ok();
    let ran = machine.switch(&other, "--plan").ok();
    assert!(ran.stderr.contains("are free in /boot: there may be no room for the new kernel"), "{}", ran.stderr);
    machine.ssh("rm -r /boot/loader; mv /root/grub /boot").ok();
    machine.ssh("rm /boot/filler").ok();
    machine.assert_keeps(&old, "old", "/boot is full");

    // The log fills the place where everything of the deployment is.
    machine.ssh("mount -o remount,size=$(($(df -k --output=used /run | tail -n 1) + 2500))k /run").ok();
    let fills = "system.activationScripts.noise = \"head -c 9000000 /dev/zero | tr '\\\\0' x | fold; true\";";
    let new = machine.push_greeter("new", fills);
    rolled_back(&machine, &old, &new, "", "the log fills /run");
    machine.ssh("mount -o remount,size=50% /run").ok();

    // A disk without room for the profile's next generation, seen only when it is needed.
    let fills = once(
        "cd /nix/var/nix/profiles; mkdir -p /run/full; mount -t tmpfs -o nr_inodes=$(($(find . | wc -l))) none /run/full; \
         cp -a . /run/full; mount --bind /run/full /nix/var/nix/profiles",
    );
    let new = machine.push_greeter("new", &fills);
    let message = rolled_back(&machine, &old, &new, "", "the store gets full");
    assert!(message.contains("boot entry"), "{message}");
    machine.ssh("umount /nix/var/nix/profiles /run/full").ok();
    machine.assert_keeps(&old, "old", "the store is no longer full");

    // The switch ends the session, too: all that is left is the address of the proof.
    let moves = "systemd.services.ends = { wantedBy = [ \"multi-user.target\" ]; serviceConfig = { Type = \"oneshot\"; RemainAfterExit = true; };
        script = \"/run/current-system/sw/bin/pkill -KILL -f '[r]oot@notty' || true; sleep 1\"; };
        services.openssh.ports = [ 2222 ];";
    let new = machine.push_greeter("new", moves);
    let host = new["ssh"]["host"].as_str().unwrap();
    let ran = machine.switch(&new, &format!("--confirm-timeout 20s --confirm-via {host}:2222"));
    assert_eq!(said(&ran), ("switched".into(), String::new()), "{}", ran.stderr);
    assert!(ran.stderr.contains("the machine goes on by itself, looking again"), "{}", ran.stderr);
    machine.listens_at(2222);
    machine.assert_keeps(&new, "new", "sshd listens at another port, and is asked there");
}

/// A service that runs a script once.
fn once(script: &str) -> String {
    format!(
        "systemd.services.once = {{ wantedBy = [ \"multi-user.target\" ]; path = [ pkgs.findutils pkgs.iproute2 pkgs.nftables pkgs.systemd pkgs.util-linux ];
           serviceConfig = {{ Type = \"oneshot\"; RemainAfterExit = true; }}; script = \"{script}\"; }};"
    )
}

#[test]
#[ignore = "long: scripts/test --all"]
fn what_the_old_system_cannot_repair_is_undone_by_a_reboot() {
    let machine = Machine::new("reboot");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();
    // Activating the old system undoes none of these.
    for (script, case) in [
        ("ip link set lo down", "the network is down"),
        ("mount -t tmpfs none /root", "root's keys are gone"),
        (
            "nft 'add table inet shut; add chain inet shut in { type filter hook input priority 0; }; add rule inet shut in tcp dport 22 tcp flags & (syn | ack) == syn drop'",
            "the firewall lets no new login in",
        ),
    ]
    .into_iter()
    .take(sample(3, 1))
    {
        let new = machine.push_greeter("new", &once(script));
        let ran = machine.switch(&new, "--confirm-timeout 3s --return-timeout 4s --connect-timeout 5s");
        assert_eq!(said(&ran), ("rolled-back".into(), "rolled-back".into()), "{case}: {}", ran.stderr);
        assert_eq!(ran.record()["activation"]["rebooted"], true, "{case}: {}", ran.stderr);
        machine.assert_keeps(&old, "old", case);
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn an_activation_that_ignores_sigterm_is_killed() {
    let machine = Machine::new("stubborn");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();
    let stubborn = "system.activationScripts.stubborn = \"trap '' TERM; while :; do sleep 1; done\";";
    let new = machine.push_greeter("new", stubborn);
    let message = rolled_back(&machine, &old, &new, "--activation-timeout 4s", "an activation that ignores SIGTERM");
    assert!(message.contains("did not end within 4 s"), "{message}");
    let left = machine.ssh(&format!("grep -lz {} /proc/[0-9]*/cmdline", crate::machine::toplevel(&new))).stdout;
    assert_eq!(left, "", "processes of the activation are left");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_slow_activation_is_no_failure() {
    let machine = Machine::new("slow");
    let seconds = sample(90, 15);
    let new = machine.push_greeter("new", &format!(
        "systemd.services.slow = {{ wantedBy = [ \"multi-user.target\" ]; serviceConfig = {{ Type = \"oneshot\"; RemainAfterExit = true; TimeoutStartSec = \"infinity\"; }}; script = \"sleep {seconds}\"; }};"
    ));
    let child = machine.begin(&new, "--confirm-timeout 10s");
    machine.ssh("until ls /run/nixos | grep -q list; do sleep 0.1; done").ok();
    let status = machine.switch(&new, "--status").ok().record()["status"].clone();
    assert!(status["deployment"].as_str().unwrap().contains(", activating, "), "{status}");
    assert_eq!(status["left"], serde_json::json!([]), "nothing was cut short");
    let output = child.wait_with_output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["activation"]["outcome"], "switched", "{record}");
    machine.assert_keeps(&new, "new", "a slow activation");

    // The end of a long log is heard by the login that confirms.
    let loud = machine.push_greeter("loud", "system.activationScripts.noise = \"seq 100000\";");
    let ran = machine.switch(&loud, "--confirm-timeout 40s").ok();
    assert_eq!(said(&ran).0, "switched");
    assert!(ran.stderr.contains(": 100000\n"), "it was not heard to its end");
    machine.assert_keeps(&loud, "loud", "an activation that says a lot");
}
