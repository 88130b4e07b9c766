//! Systems that only a reboot brings: confirmed like any other, or the old one boots again.

use crate::machine::{KERNEL, Machine, said, toplevel};
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::sample;

fn booted(machine: &Machine) -> String {
    machine.ssh("readlink -f /run/booted-system").ok().stdout.trim().into()
}

/// Waits until the machine's console shows a word, at most so many seconds.
#[track_caller]
fn await_word(machine: &Machine, word: &str, seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !machine.cloud.run(&["console", &machine.id()]).contains(word) {
        assert!(Instant::now() < end, "the console does not show {word}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_new_kernel_is_booted_and_then_made_the_one_that_boots() {
    let machine = Machine::new("kernel");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();
    assert_eq!(said(&machine.switch(&old, "--reboot if-needed").ok()).0, "unchanged");
    let same = machine.push_greeter("same", "");
    let ran = machine.switch(&same, "--reboot if-needed").ok();
    assert_eq!((said(&ran).0.as_str(), &ran.record()["activation"]["rebooted"]), ("switched", &Value::Bool(false)));

    let kept = |record: &Value, text: &str, flags: &str, case: &str| {
        let ran = machine.switch(record, flags).ok();
        assert_eq!(said(&ran).0, "rebooted", "{case}: {}", ran.stderr);
        assert_eq!(ran.record()["activation"]["rebooted"], true);
        machine.assert_keeps(record, text, case);
        assert_eq!(booted(&machine), toplevel(record), "{case}");
        assert_eq!(said(&machine.switch(record, flags).ok()).0, "unchanged", "{case}, again");
        ran
    };
    let new = machine.push_greeter("new", KERNEL);
    let ran = machine.switch(&new, "--plan --reboot if-needed").ok();
    let plan = ran.record()["plan"].clone();
    assert!(plan.as_array().unwrap().iter().any(|entry| entry["action"] == "reboot"), "{plan}");
    let ran = kept(&new, "new", "--reboot if-needed --health 'systemctl is-active greeter'", "a new kernel");
    assert!(ran.stderr.contains("kernel"), "{}", ran.stderr);
    kept(&same, "same", "--reboot if-needed", "the old kernel");
    kept(&old, "old", "--reboot always", "a reboot that nothing needs");

    for (text, body) in [
        ("inhibited", "system.switch.inhibitors.dbus-implementation = \"broker\";"),
        ("interface", "system.extraSystemBuilderCmds = \"rm -f $out/init-interface-version; printf 'systemd 3' > $out/init-interface-version\";"),
    ]
    .into_iter()
    .take(sample(2, 1))
    {
        kept(&machine.push_greeter(text, body), text, "--reboot if-needed", text);
        machine.switch(&old, "--reboot if-needed").ok();
    }

    // Switched to without its reboot, or made the one that boots next: the way back is the system that was booted, and it is
    // what profile and boot entry name after it.
    for flags in ["", "--action boot"] {
        machine.switch(&new, flags).ok();
        let ran = machine.switch(&new, "--reboot if-needed --health false --confirm-timeout 3s");
        assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
        machine.assert_keeps(&old, "old", &format!("switch {flags}, and then a reboot that goes back"));
    }
    machine.switch(&new, "").ok();
    kept(&new, "new", "--reboot if-needed", "a reboot that was pending");

    let fails = "systemd.services.failing = { wantedBy = [ \"multi-user.target\" ]; serviceConfig.Type = \"oneshot\"; script = \"exit 7\"; };";
    let failing = machine.push_greeter("failing", fails);
    let ran = machine.switch(&failing, "--reboot always --allow-failed-units").ok();
    assert_eq!((said(&ran).0.as_str(), &ran.record()["activation"]["rebooted"]), ("units-failed", &Value::Bool(true)));
    machine.assert_keeps(&failing, "failing", "a unit fails at the boot and may");
}

#[test]
fn a_reboot_that_nobody_confirms_is_undone_by_another() {
    let machine = Machine::new("undone");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();
    let fails = "systemd.services.failing = { wantedBy = [ \"multi-user.target\" ]; serviceConfig.Type = \"oneshot\"; script = \"exit 7\"; };";
    let mount = "systemd.enableEmergencyMode = lib.mkForce true; fileSystems.\"/data\" = { device = \"/var/missing.img\"; fsType = \"ext4\"; options = [ \"loop\" ]; };";
    for (more, flags, case) in [
        ("services.openssh.enable = lib.mkForce false;", "", "no sshd after the reboot"),
        ("", "--health false", "a health check fails after the reboot"),
        (fails, "", "a unit fails at the boot"),
        (mount, "", "emergency.target at the boot"),
    ]
    .into_iter()
    .take(sample(4, 2))
    {
        let new = machine.push_greeter("new", &format!("{KERNEL} {more}"));
        let flags = format!("--reboot if-needed --confirm-timeout 4s --connect-timeout 5s {flags}");
        let ran = machine.switch(&new, &flags);
        assert_eq!(said(&ran), ("rolled-back".into(), "rolled-back".into()), "{case}: {}", ran.stderr);
        assert_eq!(ran.record()["activation"]["rebooted"], true, "{case}");
        machine.assert_keeps(&old, "old", case);
        assert_eq!(booted(&machine), toplevel(&old), "{case}");
    }

    // A kernel that does not get far: the power is turned off and on, and the old one boots.
    let dead = machine.push_greeter(
        "dead",
        &format!("{KERNEL} system.extraSystemBuilderCmds = \"printf '#!/bin/sh\\\\nexit 1\\\\n' > $out/init\";"),
    );
    let child = machine.begin(&dead, "--reboot if-needed --connect-timeout 5s");
    await_word(&machine, "Kernel panic", 120);
    machine.power_cycle();
    let output = child.wait_with_output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["activation"]["outcome"], "rolled-back", "{record}");
    machine.assert_keeps(&old, "old", "the new system panics");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_boot_loader_that_starts_the_new_system_again_does_not_hold_the_machine() {
    let machine = Machine::new("again");
    let old = machine.push_greeter("old", "");
    machine.switch(&old, "").ok();
    // At the menu somebody chooses the new system each time, and in the second case it is always in the menu.
    let stubborn = |saved: &str| {
        format!(
            "{KERNEL} systemd.services.stubborn = {{
                wantedBy = [ \"multi-user.target\" ];
                serviceConfig = {{ Type = \"oneshot\"; RemainAfterExit = true; }};
                script = \"PATH=/run/current-system/sw/bin; ! grep -q nixpipe /boot/grub/grub.cfg || {saved}\";
                preStop = ''
                    PATH=/run/current-system/sw/bin
                    [ ! -e /var/menu ] || cp /var/menu /boot/grub/grub.cfg
                    name=$(sed -n \"s/^submenu .\\(.*Profile 'nixpipe'\\).*/\\1/p\" /boot/grub/grub.cfg)
                    [ -z \"$name\" ] || grub-editenv /boot/grub/grubenv set next_entry=\"$name\"
                '';
            }};"
        )
    };
    let flags = "--reboot if-needed --health false --confirm-timeout 3s";
    let new = machine.push_greeter("new", &stubborn("true"));
    let ran = machine.switch(&new, flags);
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    assert!(ran.stderr.contains("the boot loader has started"), "{}", ran.stderr);
    machine.assert_keeps(&old, "old", "the boot loader starts the new system again");

    let new = machine.push_greeter("new", &stubborn("cp /boot/grub/grub.cfg /var/menu"));
    let ran = machine.switch(&new, flags);
    assert_eq!(said(&ran), (String::new(), "activation".into()), "{}", ran.stderr);
    assert!(ran.stderr.contains("the boot loader starts the new system although"), "{}", ran.stderr);
    let state = machine.state();
    assert_eq!((state.running, state.profile, state.entry), (toplevel(&new), toplevel(&old), toplevel(&old)));
    // Nobody holds it any more.
    machine.switch(&old, "").ok();
    machine.ssh("rm /var/menu; grub-editenv /boot/grub/grubenv unset next_entry").ok();
    machine.assert_keeps(&old, "old", "the boot loader always starts the new system");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_reboot_that_is_disturbed_ends_in_one_of_two_systems() {
    let machine = Machine::new("disturbed");
    let systems = [(machine.push_greeter("one", ""), "one"), (machine.push_greeter("two", KERNEL), "two")];
    machine.switch(&systems[0].0, "").ok();
    let flags = "--reboot if-needed --confirm-timeout 20s";
    let start = Instant::now();
    machine.switch(&systems[1].0, flags).ok();
    let whole = start.elapsed();
    let points = sample(20, 1);
    for what in ["client killed", "power cut"] {
        for point in 0..points {
            let running = machine.state().running;
            let (record, text) = systems.iter().find(|(record, _)| toplevel(record) != running).unwrap();
            let after = whole.mul_f64(1.1 * (point as f64 + 0.5) / points as f64);
            let case = format!("{what} after {:.2} s of {:.2} s of a reboot", after.as_secs_f64(), whole.as_secs_f64());
            let mut child = machine.begin(record, flags);
            std::thread::sleep(after);
            if what == "power cut" {
                machine.power_cycle();
            } else {
                child.kill().unwrap();
            }
            child.wait().unwrap();
            let again = || machine.switch(record, &format!("{flags} --lock-timeout 120s"));
            let mut ran = again();
            // In the middle of its reboot it cannot be reached, and that is what is said.
            for _ in 0..5 {
                if ["unreachable", "timeout"].contains(&said(&ran).1.as_str()) {
                    machine.wait();
                    ran = again();
                }
            }
            // It may have been about to go back when it was asked again.
            let ran = if said(&ran).1 == "rolled-back" { machine.switch(record, flags) } else { ran };
            assert_eq!(ran.status, 0, "{case}: {}", ran.stderr);
            machine.assert_keeps(record, text, &case);
        }
    }
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_crash_in_the_last_step_of_a_reboot_is_followed_by_no_other() {
    let machine = Machine::new("laststep");
    // What clears the notes away hangs; then the power is cut.
    let hangs = "environment.systemPackages = [ (lib.hiPrio (pkgs.writeShellScriptBin \"rm\" ''
        case \"$*\" in */deploy.old) echo clearing away > /dev/console; exec sleep infinity ;; esac
        exec ${pkgs.coreutils}/bin/rm \"$@\"'')) ];";
    let old = machine.push_greeter("old", hangs);
    machine.switch(&old, "").ok();
    let new = machine.push_greeter("new", KERNEL);
    assert_eq!(said(&machine.switch(&new, "--reboot if-needed").ok()).0, "rebooted");
    await_word(&machine, "clearing away", 60);
    machine.power_cycle();
    // The way back has nothing to go by any more: had it begun, it would reboot, and again after that.
    let unit = machine.ssh("systemctl show --value -p ActiveState nixpipe-boot").ok().stdout;
    assert_eq!(unit, "inactive\n");
    let state = machine.state();
    assert_eq!((state.running, state.entry), (toplevel(&new), toplevel(&new)));
    machine.switch(&new, "").ok();
    let next = machine.push_greeter("next", "");
    machine.switch(&next, "--reboot if-needed").ok();
    machine.assert_keeps(&next, "next", "a crash in the last step of a reboot");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_crash_in_the_last_step_of_going_back_does_not_hold_the_machine() {
    let machine = Machine::new("lastback");
    // The account of the deployment is not written the first time; then the power is cut.
    let hangs = "environment.systemPackages = [ (lib.hiPrio (pkgs.writeShellScriptBin \"cp\" ''
        case \"$*\" in */last.new)
            if [ ! -e /var/hung ]; then : > /var/hung; sync; echo hanging > /dev/console; exec sleep infinity; fi ;;
        esac
        exec ${pkgs.coreutils}/bin/cp \"$@\"'')) ];";
    let old = machine.push_greeter("old", hangs);
    machine.switch(&old, "").ok();
    let new = machine.push_greeter("new", KERNEL);
    let mut child = machine.begin(&new, "--reboot if-needed --health false --confirm-timeout 3s");
    await_word(&machine, "hanging", 120);
    child.kill().unwrap();
    child.wait().unwrap();
    machine.power_cycle();
    let next = machine.push_greeter("next", "");
    let ran = machine.switch(&next, "--reboot if-needed --lock-timeout 60s").ok();
    assert!(["switched", "rebooted"].contains(&said(&ran).0.as_str()), "{}", ran.stderr);
    machine.assert_keeps(&next, "next", "a crash in the last step of going back");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_reboot_without_a_way_back_must_be_asked_for_by_name() {
    let machine = Machine::new("unprotected");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", KERNEL);
    machine.switch(&old, "").ok();
    // The unit of the way back would not be seen.
    let covers = machine.push_greeter(
        "covers",
        &format!("{KERNEL} system.extraSystemBuilderCmds = \"ln -s /nix/store $out/etc-metadata-image\";"),
    );
    let ran = machine.switch(&covers, "--reboot if-needed");
    assert_eq!(said(&ran), ("refused".into(), "activation".into()), "{}", ran.stderr);
    assert!(ran.stderr.contains("the new system covers /etc"), "{}", ran.stderr);
    // What is there does not outlive the reboot.
    machine.ssh("mkdir -p /var/lib/nixpipe && mount -t tmpfs none /var/lib").ok();
    let ran = machine.switch(&new, "--reboot if-needed");
    assert_eq!(said(&ran), ("refused".into(), "activation".into()), "{}", ran.stderr);
    assert!(ran.stderr.contains("--reboot-unprotected"), "{}", ran.stderr);
    machine.assert_keeps(&old, "old", "a reboot without a way back");
    let special =
        machine.push_greeter("special", "specialisation.child.configuration.environment.etc.child.text = \"\";");
    let ran = machine.switch(&special, "--specialisation child --reboot always --reboot-unprotected");
    assert_eq!(said(&ran), ("refused".into(), "activation".into()), "its parent would boot: {}", ran.stderr);
    let secrets = machine.folder.path().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("it"), "is here").unwrap();
    let health = "--health 'systemctl is-active greeter' --health 'grep -q here /run/keys/it' --confirm-timeout 15s";
    let flags = format!("--reboot if-needed --reboot-unprotected --secrets secrets --keep-generations 1 {health}");
    let ran = machine.switch(&new, &flags).ok();
    assert_eq!(said(&ran).0, "rebooted", "{}", ran.stderr);
    assert!(ran.stderr.contains("deleted old generations: 1;"), "{}", ran.stderr);
    assert_eq!(machine.ssh("cat /run/keys/it").ok().stdout, "is here");
    assert_eq!(said(&machine.switch(&new, &flags).ok()).0, "unchanged");
    machine.assert_keeps(&new, "new", "a reboot without a way back that was asked for");
    let back = format!("--rollback --to {} --reboot always --reboot-unprotected", toplevel(&old));
    assert_eq!(said(&machine.switch(&new, &back).ok()).0, "rebooted");
    machine.assert_keeps(&old, "old", "a way back that is a reboot without one");
}
