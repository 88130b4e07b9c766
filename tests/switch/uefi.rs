//! A computer whose whole boot is real: firmware, systemd-boot, kernel and initrd, in a processor of software.

use crate::machine::{KERNEL, Machine, said, toplevel};
use serde_json::{Value, json};

/// A login takes a computer seconds, and minutes where others are at work: that is not what is asked here.
const SLOW: &str = "--connect-timeout 3m --confirm-timeout 10m --reboot-timeout 15m --return-timeout 10m";

fn booted(machine: &Machine) -> String {
    machine.ssh("readlink -f /run/booted-system").ok().stdout.trim().into()
}

#[test]
#[ignore = "long: scripts/test --all"]
fn systemd_boot_tries_the_new_system_once() {
    let machine = Machine::uefi("uefi");
    let computer = machine.computer.as_ref().unwrap();
    // The image's own entry is not NixOS's: the first switch writes that, and the power is cut.
    let old = machine.push_greeter("old", "");
    machine.switch(&old, SLOW).ok();
    machine.power_cycle();
    machine.assert_keeps(&old, "old", "systemd-boot boots what was switched to");
    assert_eq!(booted(&machine), toplevel(&old));

    let new = machine.push_greeter("new", KERNEL);
    let ran = machine.switch(&new, &format!("{SLOW} --action boot --reboot if-needed")).ok();
    assert_eq!((said(&ran).0.as_str(), &ran.record()["activation"]["rebooted"]), ("rebooted", &Value::Bool(true)));
    machine.assert_keeps(&new, "new", "a new kernel by systemd-boot's one-time entry");
    assert_eq!(booted(&machine), toplevel(&new));
    // And from then on.
    machine.power_cycle();
    machine.assert_keeps(&new, "new", "the next boot after that");
    assert_eq!(booted(&machine), toplevel(&new));

    // Its kernel finds no init and panics, which ends in a reset.
    let dead = "system.extraSystemBuilderCmds = \"printf '#!/bin/sh\\\\nexit 1\\\\n' > $out/init\";";
    let dead = machine.push_greeter("dead", dead);
    let ran = machine.switch(&dead, &format!("{SLOW} --action boot --reboot if-needed"));
    assert_eq!(said(&ran), ("rolled-back".into(), "rolled-back".into()), "{}", ran.stderr);
    machine.assert_keeps(&new, "new", "a new system that panics under systemd-boot");
    assert_eq!(booted(&machine), toplevel(&new));

    // It starts, and nobody can log in; then somebody resets the machine.
    let deaf = "services.openssh.enable = lib.mkForce false;
        systemd.services.here = { wantedBy = [ \"multi-user.target\" ]; serviceConfig.Type = \"oneshot\"; script = \"echo the new one runs > /dev/console\"; };";
    let deaf = machine.push_greeter("deaf", deaf);
    let before = computer.said();
    let child = machine.begin(&deaf, &format!("{SLOW} --action boot --reboot if-needed"));
    computer.await_word(before, "the new one runs");
    machine.power_cycle();
    let output = child.wait_with_output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["activation"]["outcome"], "rolled-back", "{record}");
    machine.assert_keeps(&new, "new", "a new system without a login that is reset under systemd-boot");

    // The firmware's own default is what boots, whatever the loader's file says.
    let entry = format!("$(grep -l init={}/init *.conf | sed 1q)", toplevel(&old));
    machine.ssh(&format!("cd /boot/loader/entries && bootctl set-default {entry}")).ok();
    let status = machine.switch(&new, &format!("{SLOW} --status")).ok().record()["status"].clone();
    assert_eq!((&status["bootEntry"], &status["matches"]), (&json!(toplevel(&old)), &json!(false)), "{status}");
    // It could never become what boots.
    let ran = machine.switch(&dead, SLOW);
    assert_eq!(said(&ran).1, "conflict", "{}", ran.stderr);
    machine.ssh("bootctl set-default ''").ok();
    let status = machine.switch(&new, &format!("{SLOW} --status")).ok().record()["status"].clone();
    assert_eq!(status["bootEntry"], json!(toplevel(&new)), "{status}");
}
