//! The past: generations are listed, gone back to, deleted; garbage collections break nothing.

use crate::machine::{Machine, said, toplevel};
use serde_json::{Value, json};

fn numbers(ran: &tests::Ran, mark: &str) -> Vec<u64> {
    let record = ran.record();
    let list = record["generations"].as_array().unwrap();
    list.iter().filter(|one| one[mark] == true).map(|one| one["generation"].as_u64().unwrap()).collect()
}

/// Expects every path of the running system to be there, and no root to be left but nix-push's.
#[track_caller]
fn assert_intact(machine: &Machine, case: &str) {
    let ran = machine.ssh(
        "for path in $(nix-store -qR /run/current-system /nix/var/nix/profiles/system); do [ -e $path ] || echo gone: $path; done
         ls -A /nix/var/nix/gcroots/nixpipe | grep -vx pushed; true",
    );
    assert_eq!(ran.ok().stdout, "", "{case}");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn old_generations_are_listed_and_deleted_only_when_asked() {
    let machine = Machine::new("past");
    let names = ["one", "two", "three", "four", "five"];
    let systems = names.map(|name| machine.push_greeter(name, ""));
    for system in &systems[..4] {
        machine.switch(system, "").ok();
    }
    let ran = machine.switch(&systems[3], "--list-generations").ok();
    let record = ran.record();
    let list = record["generations"].as_array().unwrap();
    // The first is the image's own.
    let all: Vec<_> = list.iter().map(|one| one["generation"].as_u64().unwrap()).collect();
    assert_eq!(all, [1, 2, 3, 4, 5]);
    for mark in ["current", "running", "boots"] {
        assert_eq!(numbers(&ran, mark), [5], "{mark}");
    }
    assert_eq!(numbers(&ran, "booted"), [1]);
    assert_eq!(list[4]["toplevel"], json!(toplevel(&systems[3])));
    assert!(list[4]["date"].as_str().unwrap().ends_with('Z') && list[4]["nixosVersion"].is_string());
    assert!(record["activation"].is_null(), "looking is no activation");

    // The newest two stay, and the one that was booted.
    let ran = machine.switch(&systems[4], "--keep-generations 2").ok();
    assert_eq!(said(&ran).0, "switched");
    assert!(ran.stderr.contains("deleted old generations"), "{}", ran.stderr);
    machine.assert_keeps(&systems[4], "five", "old generations deleted");
    let ran = machine.switch(&systems[4], "--list-generations").ok();
    let list: Vec<_> =
        ran.record()["generations"].as_array().unwrap().iter().map(|one| one["generation"].as_u64().unwrap()).collect();
    assert_eq!(list, [1, 5, 6]);
    for gone in &systems[..3] {
        assert_ne!(machine.ssh(&format!("nix-store --check-validity {}", toplevel(gone))).status, 0);
        assert_ne!(
            machine.ssh(&format!("grep -q {} /boot/grub/grub.cfg", toplevel(gone))).status,
            0,
            "a menu of what is gone"
        );
    }
    assert_intact(&machine, "after a garbage collection");

    // So does one of which a specialisation was booted.
    let bright = machine.push_greeter("bright", "specialisation.dim.configuration.environment.etc.dim.text = \"\";");
    machine.switch(&bright, "").ok();
    machine.switch(&systems[4], "").ok();
    let booted = "readlink -e /run/booted-system > /run/booted; ln -sfn";
    machine.ssh(&format!("{booted} $(readlink -e {}/specialisation/dim) /run/booted-system", toplevel(&bright))).ok();
    machine.switch(&systems[3], "--keep-generations 1").ok();
    assert_eq!(machine.ssh(&format!("nix-store --check-validity {}", toplevel(&bright))).status, 0);
    machine.ssh("ln -sfn $(cat /run/booted) /run/booted-system").ok();
    machine.switch(&systems[4], "--keep-generations 2").ok();

    // Again: nothing to do. And with one wished, the one before stays all the same.
    let ran = machine.switch(&systems[4], "--keep-generations 2").ok();
    assert!(said(&ran).0 == "unchanged" && !ran.stderr.contains("deleted"), "{}", ran.stderr);
    machine.switch(&systems[4], "--keep-generations 1").ok();
    machine.switch(&systems[4], "--rollback").ok();
    machine.assert_keeps(&systems[3], "four", "back after old generations were deleted");
    machine.power_cycle();
    machine.assert_keeps(&systems[3], "four", "a power cut after that");

    // The first run after a boot has nothing to switch, and deletes all the same.
    machine.switch(&systems[4], "").ok();
    machine.power_cycle();
    let ran = machine.switch(&systems[4], "--keep-generations 1").ok();
    assert!(said(&ran).0 == "unchanged" && ran.stderr.contains("deleted old generations"), "{}", ran.stderr);

    // Where the boot menu cannot be written.
    let newest = ["six", "seven", "eight"].map(|name| {
        let system = machine.push_greeter(name, "");
        machine.switch(&system, "").ok();
        system
    });
    machine.ssh("set -e; mount --bind /boot /boot; mount -o remount,bind,ro /boot").ok();
    let ran = machine.switch(&newest[2], "--keep-generations 1").ok();
    assert!(ran.stderr.contains("old generations were not all deleted: the boot menu could"), "{}", ran.stderr);
    machine.ssh("umount /boot").ok();
    machine.assert_keeps(&newest[2], "eight", "a boot menu that cannot be written");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn going_back_is_as_safe_as_going_on() {
    let machine = Machine::new("back");
    let (old, new) = (machine.push_greeter("old", ""), machine.push_greeter("new", ""));
    machine.switch(&old, "").ok();
    machine.switch(&new, "").ok();
    for flags in ["--rollback".to_string(), "--rollback --to 2".into(), format!("--rollback --to {}", toplevel(&old))] {
        let ran = machine.switch(&new, &format!("{flags} --health false --confirm-timeout 3s"));
        assert_eq!(said(&ran), ("rolled-back".into(), "rolled-back".into()), "{flags}: {}", ran.stderr);
        machine.assert_keeps(&new, "new", &format!("not confirmed: {flags}"));
    }
    // A record of ec2-ls is enough to go back by.
    let mut bare = new.clone();
    bare.as_object_mut().unwrap().remove("closure");
    let plan = machine.switch(&bare, "--plan --rollback").ok().record()["plan"].clone();
    assert_eq!(plan[0]["details"], json!({ "from": toplevel(&new), "to": toplevel(&old) }), "{plan}");
    machine.switch(&bare, "--rollback").ok();
    machine.assert_keeps(&old, "old", "back");

    // Status, against the record and what is wished of secrets.
    std::fs::write(machine.folder.path().join("key"), "x").unwrap();
    let mut wished = old.clone();
    wished["secrets"] = json!({ "a": "key" });
    let status = |record: &Value| machine.switch(record, "--status").ok().record()["status"].clone();
    let found = status(&wished);
    assert_eq!(
        (&found["matches"], &found["secretsMissing"], &found["left"]),
        (&json!(true), &json!(["a"]), &json!([]))
    );
    assert_eq!(
        (&found["running"], &found["bootEntry"], &found["profile"]),
        (&json!(toplevel(&old)), &json!(toplevel(&old)), &json!(toplevel(&old)))
    );
    assert_eq!(found["rebootFor"], json!([]));
    assert_eq!(status(&new)["matches"], json!(false));
    machine.switch(&wished, "").ok();
    assert_eq!(status(&wished)["secretsMissing"], json!([]));
    machine.folder.sh("echo y >key", "").ok();
    assert_eq!(status(&wished)["secretsChanged"], json!(["a"]));

    machine
        .ssh(&format!(
            "printf '%s\\n' {} system-3-link {} '' > /var/lib/nixpipe/commit-pending; echo greeter.service >/run/nixos/start-list",
            toplevel(&new),
            toplevel(&old)
        ))
        .ok();
    let found = status(&wished);
    assert_eq!((&found["matches"], found["left"].as_array().unwrap().len()), (&json!(false), 2), "{found}");
    machine.switch(&old, "").ok();
    assert_eq!(status(&old)["left"], json!([]));
    machine.assert_keeps(&old, "old", "what a crash left is settled");

    // A generation that the commit takes again is not its own to delete.
    let newest = "ls -dv /nix/var/nix/profiles/system-*-link | tail -n 1 | xargs readlink";
    machine.ssh(&format!("nix-env -p /nix/var/nix/profiles/system --set {}", toplevel(&new))).ok();
    machine.ssh("nix-env -p /nix/var/nix/profiles/system --rollback").ok();
    machine.ssh("set -e; mount --bind /boot /boot; mount -o remount,bind,ro /boot").ok();
    let ran = machine.switch(&new, "");
    machine.ssh("umount /boot").ok();
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    assert_eq!(machine.ssh(newest).ok().stdout.trim(), toplevel(&new), "its generation was deleted");
    machine.assert_keeps(&old, "old", "a commit that fails, of a generation that was there");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn garbage_is_collected_at_any_moment() {
    let machine = Machine::new("garbage");
    let (old, new) = (machine.push_greeter("old", ""), machine.push_greeter("new", ""));
    machine.switch(&old, "").ok();
    let collect = || {
        machine.ssh("systemd-run --quiet --unit=collector sh -c 'PATH=/run/current-system/sw/bin; while :; do nix-store --gc; done'").ok();
    };
    let stop = || {
        machine.ssh("systemctl stop collector").ok();
    };
    collect();
    machine.switch(&new, "").ok();
    stop();
    machine.assert_keeps(&new, "new", "garbage is collected all the time");
    assert_intact(&machine, "switched");
    let other = machine.push_greeter("other", "");
    collect();
    assert_eq!(said(&machine.switch(&other, "--health 'sleep 2; false' --confirm-timeout 3s")).0, "rolled-back");
    stop();
    machine.assert_keeps(&new, "new", "garbage is collected all the time, and the system goes back");
    assert_intact(&machine, "rolled back");
    // What was pushed is there until it is committed or replaced.
    machine.ssh(&format!("nix-store --check-validity {}", toplevel(&other))).ok();
    machine.switch(&other, "").ok();
    machine.assert_keeps(&other, "other", "what was pushed before");
    assert_intact(&machine, "committed");
    assert_eq!(machine.ssh("ls -A /nix/var/nix/gcroots/nixpipe").ok().stdout, "", "a root is left");
}
