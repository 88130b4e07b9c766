//! What is refused, what is only looked at, and the ways that are not `switch`.

use crate::machine::{Machine, said, toplevel};
use serde_json::{Value, json};
use tests::sample;

/// What a deployment before left in the record.
fn activation(current: &str, machine_id: &str) -> Value {
    json!({
        "action": "switch", "outcome": "switched", "previous": null, "current": current, "generation": 1,
        "bootId": null, "machineId": machine_id, "rebooted": false, "failedUnits": [], "seconds": 1.0
    })
}

#[test]
fn what_is_refused_changes_nothing() {
    let machine = Machine::new("guards");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();
    let before = machine.ssh("cat /run/nixpipe/last/vars").ok().stdout;
    let refused = |record: &Value, flags: &str, kind: &str| {
        let ran = machine.switch(record, flags);
        assert_eq!((ran.status, said(&ran).1.as_str()), (1, kind), "{}", ran.stderr);
        machine.assert_keeps(&old, "old", &format!("refused: {kind}"));
        ran
    };

    let ran = machine.switch(&old, "").ok();
    assert_eq!(said(&ran).0, "unchanged");
    assert_eq!(machine.ssh("cat /run/nixpipe/last/vars").ok().stdout, before, "unchanged writes nothing");

    let mut wrong = new.clone();
    wrong["instance"]["id"] = json!("i-0123456789abcdef0");
    refused(&wrong, "", "wrong-machine");

    let mut other_key = new.clone();
    other_key["ssh"]["hostKeys"] =
        json!(["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"]);
    refused(&other_key, "", "host-key");

    let mut absent = new.clone();
    absent["closure"]["toplevel"] = json!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-nowhere");
    refused(&absent, "", "not-found");

    let mut no_system = new.clone();
    no_system["closure"]["toplevel"] = json!(machine.ssh("readlink -f /run/current-system/sw").ok().stdout.trim());
    refused(&no_system, "", "input");

    for (body, words) in [
        ("system.extraSystemBuilderCmds = \"printf aarch64-linux > $out/system\";", "is for aarch64-linux"),
        (
            "boot.loader.grub = { device = lib.mkForce \"nodev\"; efiSupport = lib.mkForce true; };",
            "boots by UEFI only, the machine by BIOS",
        ),
        (
            "environment.etc.fstab.text = lib.mkForce \"/dev/disk/by-label/nowhere / ext4 defaults 0 1\\n\";",
            "has no /dev/disk/by-label/nowhere",
        ),
    ] {
        let ran = refused(&machine.push_greeter("new", body), "", "input");
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }

    // A machine that is no instance is known by its machine-id.
    let id = machine.ssh("cat /etc/machine-id").ok().stdout.trim().to_string();
    let mut elsewhere = new.clone();
    elsewhere.as_object_mut().unwrap().remove("instance");
    elsewhere["activation"] = activation(&toplevel(&old), "0123456789abcdef0123456789abcdef");
    refused(&elsewhere, "", "wrong-machine");
    elsewhere["closure"] = old["closure"].clone();
    elsewhere["activation"] = activation(&toplevel(&old), &id);
    assert_eq!(said(&machine.switch(&elsewhere, "").ok()).0, "unchanged");

    refused(&new, &format!("--expect-current {}", toplevel(&new)), "conflict");
    let mut expects = new.clone();
    expects["activation"] = activation(&toplevel(&new), &id);
    refused(&expects, "", "conflict");
    refused(&new, "--specialisation nowhere", "not-found");

    machine
        .ssh("systemd-run --quiet --unit=holder $(command -v flock) /run/nixos/switch-to-configuration.lock $(command -v sleep) 900")
        .ok();
    refused(&new, "--lock-timeout 1s", "locked");
    machine.ssh("systemctl stop holder").ok();

    let inhibited = machine.push_greeter("new", "system.switch.inhibitors.dbus-implementation = \"broker\";");
    refused(&inhibited, "", "activation");
    let interface = machine.push_greeter("new", "system.extraSystemBuilderCmds = \"rm -f $out/init-interface-version; printf 'systemd 3' > $out/init-interface-version\";");
    let ran = refused(&interface, "", "activation");
    assert!(ran.stderr.contains("--action boot"), "{}", ran.stderr);
    let check = machine.push_greeter("new", "system.preSwitchChecks.never = \"echo not today; exit 1\";");
    let ran = refused(&check, "", "activation");
    for words in ["not today\n", "the new system refused to start: switch-to-configuration ended with status 1"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }

    let ran = machine.switch(&new, "--plan").ok();
    let plan = ran.record()["plan"].clone();
    assert!(plan.as_array().unwrap().iter().any(|entry| entry["resource"] == "unit/greeter.service"), "{plan}");
    let ran = machine.switch(&new, "-v --action dry-activate").ok();
    assert_eq!(said(&ran).0, "dry");
    assert!(ran.stderr.contains("would activate the configuration"), "{}", ran.stderr);
    let ran = machine.switch(&new, "--status").ok();
    assert!(ran.stderr.contains("(not the record's)"), "{}", ran.stderr);
    machine.assert_keeps(&old, "old", "looked at");
    boot_entries_are_read(&machine, &old, &toplevel(&new));
    what_boots_whatever_is_switched_to(&machine, &new, &toplevel(&old));
    machine.assert_keeps(&old, "old", "other boot menus");
}

/// What a machine lacks for a switch, one thing after another; afterwards it is as it was.
#[test]
#[ignore = "long: scripts/test --all"]
fn what_a_machine_cannot_do_is_told_with_what_helps() {
    let machine = Machine::new("cannot");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();
    machine.folder.sh("mkdir s; echo x > s/a", "").ok();
    let instead = |program: &str, script: &str| {
        format!(
            "printf '#!/bin/sh\n{script}\n' > /run/instead; chmod 755 /run/instead; mount --bind /run/instead $(readlink -e /run/current-system/sw/bin/{program})"
        )
    };
    let restored = |program: &str| format!("umount $(readlink -e /run/current-system/sw/bin/{program})");
    let holder = "systemd-run --quiet --unit=holder $(command -v flock) /run/nixpipe/lock $(command -v sleep) 900";
    let menu = "rm -rf /boot/grub /boot/loader; mv /boot/kept /boot/grub";
    for (before, flags, kind, words, after) in [
        (
            holder,
            "--lock-timeout 1s",
            "locked",
            "another deployment is being set up on the machine",
            "systemctl stop holder",
        ),
        ("rm -r /run/nixpipe; : > /run/nixpipe", "", "internal", "cannot make /run/nixpipe", "rm /run/nixpipe"),
        (
            "mkdir /run/nixpipe; mount -t tmpfs -o size=100k none /run/nixpipe",
            "",
            "internal",
            "cannot prepare the switch: see the messages above",
            "umount /run/nixpipe",
        ),
        (&instead("systemd-run", "exit 1"), "", "internal", "cannot arm the rescuers: see", ":"),
        (":", "--action boot", "internal", "cannot start the job: see", &restored("systemd-run")),
        (
            "mkdir -p /run/keys; mount -t tmpfs -o ro none /run/keys",
            "--secrets s",
            "input",
            "cannot keep secrets in /run/keys",
            "umount /run/keys",
        ),
        (
            "mount -t tmpfs -o nr_inodes=2 none /run/keys",
            "--secrets s",
            "internal",
            "cannot make a set of secrets in /run/keys/.nixpipe",
            "umount /run/keys",
        ),
        (
            "cp -a /boot/grub /boot/kept; rm /boot/grub/grub.cfg",
            "--reboot always",
            "activation",
            "by itself: its boot loader is not known",
            ":",
        ),
        (
            "grep -v next_entry /boot/kept/grub.cfg > /boot/grub/grub.cfg",
            "--reboot always",
            "activation",
            "by itself: its GRUB has no one-time entry",
            "cp /boot/kept/grub.cfg /boot/grub",
        ),
        (
            &instead("findmnt", "echo btrfs /dev/sda"),
            "--reboot always",
            "activation",
            "by itself: GRUB cannot write where /boot is",
            &restored("findmnt"),
        ),
        (
            "rm -r /boot/grub; mkdir /boot/loader; : > /boot/loader/loader.conf",
            "--reboot always",
            "activation",
            "by itself: bootctl cannot reach the firmware",
            menu,
        ),
    ] {
        machine.ssh(&format!("set -e; {before}")).ok();
        let ran = machine.switch(&new, flags);
        assert_eq!((ran.status, said(&ran).1.as_str()), (1, kind), "{words}: {}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("hint: "), "{words}: {}", ran.stderr);
        machine.ssh(&format!("set -e; {after}")).ok();
    }
    machine.assert_keeps(&old, "old", "all that a machine cannot do");

    // Nobody tells which instance it is.
    machine.ssh("mount --bind /dev/null $(readlink -e /sys/class/dmi/id/board_asset_tag)").ok();
    let ran = machine.switch(&old, "").ok();
    assert!(ran.stderr.contains("warning: the machine does not tell its instance id"), "{}", ran.stderr);

    // Nitro's board does; a Xen instance's metadata service does, to the curl that NixOS has.
    let curl = machine.push_greeter("curl", "environment.systemPackages = [ pkgs.curl ];");
    machine.switch(&curl, "").ok();
    let ran = machine.switch(&curl, "").ok();
    assert_eq!(said(&ran).0, "unchanged", "{}", ran.stderr);
    assert!(!ran.stderr.contains("warning: "), "{}", ran.stderr);
    let mut other = curl.clone();
    other["instance"]["id"] = "i-00000000000000000".into();
    let ran = machine.switch(&other, "");
    assert_eq!(said(&ran).1, "wrong-machine", "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("this is {}", machine.id())), "{}", ran.stderr);
}

/// What boots is read as the loader's own files say it, whichever loader it is.
fn boot_entries_are_read(machine: &Machine, record: &Value, entry: &str) {
    let menu = format!("linux /kernels/k init={entry}/init loglevel=4\n");
    let loader = |default: &str, file: &str| {
        format!(
            "mkdir -p /boot/loader/entries; printf 'timeout 5\ndefault {default}\n' > /boot/loader/loader.conf; \
             printf '{menu}' > '/boot/loader/entries/{file}'"
        )
    };
    let grub = |default: &str| {
        format!(
            "printf 'set default=\"${{next_entry}}\"\nset default={default}\nmenuentry a {{\n{menu}}}\n' > /boot/grub/grub.cfg"
        )
    };
    let named = Value::from(entry);
    let moved = |to: &str| format!("mv /boot/grub /boot/no-grub; mkdir -p {to}; mv /boot/loader {to}");
    for (files, boots) in [
        (loader("nixos-generation-5.conf", "nixos-generation-5.conf"), &named),
        (loader("nixos-generation-5", "nixos-generation-5+2-1.conf"), &named),
        (loader("nixos-generation-6.conf", "nixos-generation-5.conf"), &Value::Null),
        // The ESP is elsewhere, or it has the file and /boot the entries.
        (format!("{}; {}", loader("nixos-generation-5.conf", "nixos-generation-5.conf"), moved("/efi")), &named),
        (format!("{}; {}", loader("nixos-generation-5.conf", "nixos-generation-5.conf"), moved("/boot/efi")), &named),
        (
            format!(
                "{}; mv /boot/grub /boot/no-grub; mkdir -p /efi/loader/entries; mv /boot/loader/loader.conf /efi/loader",
                loader("nixos-generation-5.conf", "nixos-generation-5.conf")
            ),
            &named,
        ),
        // A pattern is the newest that it fits, and one that has failed too often comes last.
        (
            format!(
                "{}; cd /boot/loader/entries; echo init=/nix/store/a/init > nixos-generation-9.conf",
                loader("nixos-*", "nixos-generation-10.conf")
            ),
            &named,
        ),
        (
            format!(
                "{}; cd /boot/loader/entries; echo init=/nix/store/a/init > nixos-generation-9+0-3.conf",
                loader("nixos-*", "nixos-generation-8+2-1.conf")
            ),
            &named,
        ),
        (loader("nixos-*\npreferred nixos-generation-5.conf", "nixos-generation-5+3.conf"), &named),
        (
            format!(
                "{}; cd /boot/loader/entries; echo init=/nix/store/a/init > nixos-generation-6+0-3.conf",
                loader("nixos-*\npreferred nixos-generation-6.conf", "nixos-generation-5.conf")
            ),
            &named,
        ),
        (loader("@saved", "nixos-generation-5.conf"), &Value::Null),
        (grub("0"), &named),
        (grub("\"00\""), &named),
        // What a former loader has left elsewhere.
        (format!("mkdir -p /efi/loader; echo default x > /efi/loader/loader.conf; {}", grub("0")), &named),
        (grub("2"), &Value::Null),
        (grub("saved"), &Value::Null),
        (
            format!(
                "mv /boot/grub /boot/no-grub; mkdir -p /boot/extlinux; printf '{menu}' > /boot/extlinux/extlinux.conf"
            ),
            &named,
        ),
    ] {
        machine.ssh(&format!("set -e; mv /boot/grub /boot/kept; cp -a /boot/kept /boot/grub; {files}")).ok();
        let ran = machine.switch(record, "--status").ok();
        assert_eq!(ran.record()["status"]["bootEntry"], *boots, "{files}\n{}", ran.stderr);
        machine
            .ssh("rm -rf /boot/grub /boot/no-grub /boot/loader /boot/extlinux /boot/efi /efi; mv /boot/kept /boot/grub")
            .ok();
    }
}

/// systemd-boot may be told to start what was booted last: no switch changes that.
fn what_boots_whatever_is_switched_to(machine: &Machine, record: &Value, last: &str) {
    machine
        .ssh(&format!(
            "set -e; mount -t tmpfs none /sys/firmware; mkdir -p /sys/firmware/efi/efivars /efi/loader/entries
             cd /sys/firmware/efi/efivars
             printf '\\7\\0\\0\\0'nixos-generation-5.conf > LoaderEntryLastBooted-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
             printf '\\7\\0\\0\\0systemd-boot 252' > LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
             echo 'default @saved' > /efi/loader/loader.conf
             echo 'options init={last}/init' > /efi/loader/entries/nixos-generation-5.conf"
        ))
        .ok();
    let ran = machine.switch(record, "");
    assert_eq!(said(&ran), ("refused".into(), "conflict".into()), "{}", ran.stderr);
    assert!(ran.stderr.contains("starts what was booted last, nixos-generation-5.conf"), "{}", ran.stderr);
    machine.ssh("umount /sys/firmware; rm -r /efi").ok();
}

#[test]
fn other_ways_than_switch() {
    let machine = Machine::new("ways");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    machine.switch(&old, "").ok();

    // The same record may run twice, and then make its system the one that boots.
    let mut from_old = new.clone();
    from_old["activation"] = activation(&toplevel(&old), machine.ssh("cat /etc/machine-id").ok().stdout.trim());
    for _ in 0..2 {
        machine.switch(&from_old, "--action test").ok();
        let state = machine.state();
        assert_eq!((state.running, state.entry), (toplevel(&new), toplevel(&old)));
    }
    machine.switch(&from_old, "").ok();
    machine.assert_keeps(&new, "new", "test, and then switch, by one record");
    machine.switch(&old, "").ok();

    let ran = machine.switch(&new, "--action test").ok();
    assert_eq!(said(&ran).0, "switched");
    let state = machine.state();
    assert_eq!((state.running, state.entry), (toplevel(&new), toplevel(&old)));
    machine.power_cycle();
    machine.assert_keeps(&old, "old", "test, and a power cut");

    let ran = machine.switch(&new, "--action boot").ok();
    assert_eq!(said(&ran).0, "booted-next");
    let state = machine.state_after(25);
    assert_eq!((state.running, state.entry, state.left), (toplevel(&old), toplevel(&new), String::new()));
    assert_eq!(said(&machine.switch(&new, "--action boot").ok()).0, "unchanged");
    machine.power_cycle();
    machine.assert_keeps(&new, "new", "boot, and a power cut");

    let ran = machine.switch(&old, "--rollback").ok();
    assert_eq!(said(&ran).0, "switched", "{}", ran.stderr);
    machine.assert_keeps(&old, "old", "back to the generation before");
    let number = ran.record()["activation"]["generation"].as_u64().unwrap();
    machine.switch(&old, &format!("--rollback --to {}", number + 1)).ok();
    machine.assert_keeps(&new, "new", "to a generation by its number");
    machine.switch(&new, &format!("--rollback --to {}", toplevel(&old))).ok();
    machine.assert_keeps(&old, "old", "to a store path");
    assert_eq!(said(&machine.switch(&old, "--rollback --to 999")).1, "not-found");

    // A login shell that talks, and does not end its line.
    machine.ssh("printf 'printf \"stage=done\\\\nerror=no Welcome \"\\n' > /root/.bashrc").ok();
    let ran = machine.switch(&old, "").ok();
    assert_eq!(said(&ran).0, "unchanged", "{}", ran.stderr);
    assert_eq!(ran.record()["activation"]["current"], toplevel(&old));
    machine.switch(&new, "").ok();
    machine.switch(&old, "").ok();
    machine.ssh("cat /root/.bashrc; rm /root/.bashrc").ok();
    machine.assert_keeps(&old, "old", "a login shell that talks");

    let special =
        machine.push_greeter("special", "specialisation.child.configuration.environment.etc.child.text = \"here\";");
    machine.switch(&special, "--specialisation child").ok();
    let state = machine.state();
    assert_eq!(
        (state.entry.as_str(), state.profile.as_str()),
        (toplevel(&special).as_str(), toplevel(&special).as_str())
    );
    assert_eq!(machine.ssh("cat /etc/child").ok().stdout, "here");
    assert_eq!(said(&machine.switch(&special, "").ok()).0, "unchanged", "a specialisation is its system");

    let shells = "users.users.root.shell = pkgs.fish; environment.binsh = \"${pkgs.dash}/bin/dash\";
        environment.systemPackages = [
          pkgs.fish
          (lib.hiPrio (pkgs.runCommandLocal \"dash-as-sh\" { } \"mkdir -p $out/bin; ln -s ${pkgs.dash}/bin/dash $out/bin/sh\"))
        ];";
    let fish = machine.push_greeter("fish", shells);
    let ran = machine.switch(&fish, "").ok();
    assert!(!ran.stderr.contains("was not confirmed"), "a specialisation is of the system that boots: {}", ran.stderr);
    machine.assert_keeps(&fish, "fish", "fish becomes root's shell, and dash is sh");
    let links = machine.ssh("readlink -f /bin/sh /run/current-system/sw/bin/sh").ok().stdout;
    assert_eq!(links.matches("/bin/dash\n").count(), 2, "{links}");
    let ran = machine.switch(&old, "--health false --confirm-timeout 2s");
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    machine.assert_keeps(&fish, "fish", "fish is root's shell, dash is sh, and a health check fails");
    machine.switch(&old, "").ok();
    machine.assert_keeps(&old, "old", "fish is root's shell, and dash is sh");

    let sshd = machine.push_greeter("sshd", "services.openssh.settings.MaxAuthTries = 5;");
    machine.switch(&sshd, "").ok();
    machine.assert_keeps(&sshd, "sshd", "sshd is restarted");
}

/// What boots by `--action boot` was not confirmed by anybody: should anything fail now, it must not boot.
#[test]
fn what_nobody_has_confirmed_does_not_boot() {
    let machine = Machine::new("unproven");
    let old = machine.push_greeter("old", "");
    let unproven = machine.push_greeter("unproven", "");
    let other = machine.push_greeter("other", "");
    machine.switch(&old, "").ok();

    for (wished, flags, collected) in
        [(&unproven, "", false), (&other, "", false), (&unproven, "--action test", false), (&unproven, "", true)]
            .into_iter()
            .take(sample(4, 2))
    {
        let case = format!("boot, and then a switch to {} {flags} that fails", toplevel(wished));
        assert_eq!(said(&machine.switch(&unproven, "--action boot").ok()).0, "booted-next");
        if collected {
            machine.ssh("nix-env -p /nix/var/nix/profiles/system --delete-generations old").ok();
        }
        let ran = machine.switch(wished, &format!("{flags} --health false --confirm-timeout 3s"));
        assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
        assert!(ran.stderr.contains("boots already, and was not confirmed"), "{}", ran.stderr);
        machine.assert_keeps(&old, "old", &case);
    }

    let inhibited = machine.push_greeter("inhibited", "system.switch.inhibitors.dbus-implementation = \"broker\";");
    machine.switch(&inhibited, "--action boot").ok();
    let boots = |running: &Value, boots: &Value, case: &str| {
        let state = machine.state_after(25);
        let wished = toplevel(boots);
        assert_eq!((state.running, state.profile, state.entry), (toplevel(running), wished.clone(), wished), "{case}");
    };
    assert_eq!(said(&machine.switch(&inhibited, "")).1, "activation");
    boots(&old, &inhibited, "a refusal takes nothing back");
    machine.switch(&unproven, "--action boot").ok();
    machine.switch(&unproven, "--action test").ok();
    boots(&unproven, &unproven, "a test takes nothing back");
    machine.switch(&other, "--action test").ok();
    machine.switch(&old, "--action test").ok();
    machine.switch(&unproven, "").ok();
    machine.assert_keeps(&unproven, "unproven", "boot, and then switch");
    // What boots next was confirmed before a test was booted, and stays what boots.
    machine.switch(&other, "--action test --reboot always").ok();
    let ran = machine.switch(&old, "--health false --confirm-timeout 3s");
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    boots(&other, &unproven, "a test that was booted, and a switch that goes back");
}

/// Somebody has switched the machine by other means since a commit was cut short: what it notes is of the past.
#[test]
#[ignore = "long: scripts/test --all"]
fn a_commit_that_was_cut_short_long_ago_changes_nothing() {
    let machine = Machine::new("longago");
    let old = machine.push_greeter("old", "");
    let new = machine.push_greeter("new", "");
    let third = machine.push_greeter("third", "");
    machine.switch(&old, "").ok();
    let (old, new, mended) = (toplevel(&old), toplevel(&new), toplevel(&third));
    machine.ssh("readlink /nix/var/nix/profiles/system > /var/lib/nixpipe/link").ok();
    machine.switch(&third, "").ok();
    let note = format!("printf '%s\\n' {new} $(cat /var/lib/nixpipe/link) {old} '' > /var/lib/nixpipe/commit-pending");
    machine.ssh(&format!("{note}; rm /var/lib/nixpipe/link")).ok();
    let next = machine.push_greeter("next", "");
    let ran = machine.switch(&next, "--health false --confirm-timeout 2s");
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    machine.assert_keeps(&third, "third", &format!("a note of the past, when {mended} runs"));
}
