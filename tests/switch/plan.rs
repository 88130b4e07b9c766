//! Looking first: what the plan names is what then happens, and looking changes nothing.

use crate::machine::{Machine, said, toplevel};
use serde_json::{Value, json};

fn service(name: &str, says: &str) -> String {
    format!(
        "systemd.services.{name} = {{ wantedBy = [ \"multi-user.target\" ]; stopIfChanged = false; script = \"echo {says}; exec sleep infinity\"; }};"
    )
}

#[test]
fn the_plan_names_units_packages_and_a_reboot_and_writes_nothing() {
    let machine = Machine::new("plan");
    let old =
        format!("{} {} environment.systemPackages = [ pkgs.psmisc ];", service("changes", "old"), service("goes", "x"));
    let new = format!(
        "{} {} environment.systemPackages = [ pkgs.iputils pkgs.fish ]; boot.kernelPackages = pkgs.linuxPackages_latest;",
        service("changes", "new"),
        service("comes", "x")
    );
    let old = machine.push_greeter("old", &old);
    machine.switch(&old, "").ok();
    let mut new = machine.push_greeter("old", &new);
    std::fs::write(machine.folder.path().join("key"), "x").unwrap();
    new["secrets"] = json!({ "token": { "path": "key", "restart": ["greeter.service"] } });

    let written = "find /etc /boot /bin /var/lib /run/keys /run/nixpipe /nix/store /nix/var/nix/profiles /nix/var/nix/gcroots \
         -path /var/lib/systemd -prune -o -newer /tmp/before -print";
    machine.ssh("sleep 1; touch /tmp/before").ok();
    let ran = machine.switch(&new, "--plan").ok();
    assert_eq!(machine.ssh(written).ok().stdout, "", "looking has written something");
    let record = ran.record();
    let plan: Vec<&Value> = record["plan"].as_array().unwrap().iter().collect();
    let find = |action: &str, resource: &str| {
        let found = plan.iter().find(|entry| entry["action"] == action && entry["resource"] == resource);
        found.unwrap_or_else(|| panic!("no {action} of {resource} in {plan:#?}"))
    };
    assert_eq!(find("update", "system/plan")["details"], json!({ "from": toplevel(&old), "to": toplevel(&new) }));
    find("restart", "unit/changes.service");
    find("stop", "unit/goes.service");
    find("start", "unit/comes.service");
    find("restart", "unit/greeter.service");
    find("create", "secret/token");
    find("delete", "package/psmisc");
    let added = find("create", "package/iputils");
    assert_eq!(added["details"]["to"], json!(["20221126"]));
    let size = machine
        .ssh(&format!("nix-store -qR {} | grep -e -iputils-20221126$ | xargs nix-store -q --size", toplevel(&new)));
    assert_eq!(added["details"]["bytesAfter"].to_string(), size.ok().stdout.trim());
    let kernel = find("update", "package/linux");
    assert_eq!((&kernel["details"]["from"], &kernel["details"]["to"]), (&json!(["6.12.57"]), &json!(["6.18.3"])));
    assert!(find("reboot", "machine/plan")["details"]["for"].as_array().unwrap().contains(&json!("kernel")));
    for line in [
        "plan: + unit/comes.service (start:",
        "plan: - unit/goes.service (stop:",
        "plan: -/+ unit/changes.service (restart:",
        "plan: + package/iputils (create: 20221126, +",
        "plan: ~ package/linux (update: 6.12.57 -> 6.18.3, ",
        "; a reboot is needed",
    ] {
        assert!(ran.stderr.contains(line), "{line}\n{}", ran.stderr);
    }

    machine.ssh("sleep 1; touch /tmp/before").ok();
    let dry = machine.switch(&new, "--action dry-activate").ok();
    assert_eq!(said(&dry).0, "dry");
    assert!(dry.stderr.contains("+ unit/comes.service"), "{}", dry.stderr);
    assert_eq!(machine.ssh(written).ok().stdout, "", "dry-activate has written something");

    // What was planned is what happens.
    let ids = "for unit in changes greeter; do systemctl show --value -p InvocationID $unit; done";
    let before = machine.ssh(ids).ok().stdout;
    machine.switch(&new, "").ok();
    let after = machine.ssh(ids).ok().stdout;
    for (before, after) in before.lines().zip(after.lines()) {
        assert_ne!(before, after);
    }
    assert_eq!(
        machine.ssh("systemctl is-active comes; systemctl is-active goes; true").ok().stdout,
        "active\ninactive\n"
    );
    let again = machine.switch(&new, "--plan").ok();
    assert_eq!(again.record()["plan"], Value::Null, "{}", again.stderr);

    // A secret alone is a plan, too, and the system is not in it.
    machine.folder.sh("echo y >key", "").ok();
    let ran = machine.switch(&new, "--plan").ok();
    let entries = ran.record()["plan"].clone();
    let entries: Vec<_> =
        entries.as_array().unwrap().iter().map(|entry| entry["resource"].as_str().unwrap().to_string()).collect();
    assert!(
        entries.contains(&"secret/token".into()) && !entries.iter().any(|entry| entry.starts_with("system/")),
        "{entries:?}"
    );

    // What would not even begin is no plan.
    let vetoed = machine.push_greeter("new", "system.preSwitchChecks.no = \"echo it may not >&2; false\";");
    let refused = |flags: &str| {
        let ran = machine.switch(&vetoed, flags);
        let error = ran.record()["error"].clone();
        (error["kind"].as_str().unwrap().to_string(), error["message"].as_str().unwrap().to_string())
    };
    for flags in ["--plan", "--action dry-activate"] {
        let (kind, message) = refused(flags);
        assert_eq!(kind, "activation");
        assert!(message.starts_with("the new system would refuse to start: it may not"), "{message}");
    }
    machine
        .ssh(
            "systemd-run --quiet --unit=theirs \
             $(command -v flock) /run/nixos/switch-to-configuration.lock $(command -v sleep) 60",
        )
        .ok();
    let locked = ("locked".to_string(), "another switch-to-configuration holds NixOS's own lock".to_string());
    assert_eq!(refused("--plan"), locked);
    machine.ssh("systemctl stop theirs").ok();
}
