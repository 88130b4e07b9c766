//! A record that comes by again: what an earlier run wrote is not taken for what this one comes to.

use crate::build::{built, module};
use crate::machine::{Machines, toplevel};
use serde_json::{Value, json};
use tests::Folder;

/// A tool's entries of a plan.
fn of<'a>(record: &'a Value, tool: &str) -> Vec<&'a Value> {
    record["plan"].as_array().into_iter().flatten().filter(|entry| entry["tool"] == tool).collect()
}

#[test]
fn a_push_that_fails_leaves_no_closure_of_before() {
    let folder = Folder::new("again-fails");
    tests::cloud();
    // What nobody listens at is not where anybody could switch.
    let record = r#"{"name":"a","ssh":{"host":"127.0.0.1","port":1,"hostKeys":["ssh-ed25519 AAAA"]},
        "closure":{"toplevel":"/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system","sentPaths":1,"phases":{"root":1}}}"#;
    for (push, kind) in [
        ("nix-push --hermetic nowhere.nix", "input"),
        ("nix-push --expr '{ }: abort \"no\"'", "evaluation"),
        ("nix-push --plan --expr '{ }: abort \"no\"'", "evaluation"),
        ("nix-push --hermetic system.nix", "unreachable"),
    ] {
        let system = "{ config.system.build.toplevel = derivation { name = \"nixos-system-a\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; }; }";
        std::fs::write(folder.path().join("system.nix"), system).unwrap();
        let ran = folder.sh(&format!("{push} | nixos-switch --retry"), record);
        let record = ran.record();
        let error = &record["error"];
        assert_eq!((&error["tool"], &error["kind"]), (&json!("nix-push"), &json!(kind)), "{push}: {error}");
        let arrived = record.pointer("/closure/sentPaths").is_some_and(|paths| !paths.is_null());
        assert!(!arrived && record["activation"].is_null(), "{push}: {record}");
        assert_eq!(record.get("closure").is_some(), kind == "unreachable", "{push}: {record}");
    }
}

#[test]
fn a_plan_is_about_the_system_that_would_be_sent() {
    let machines = Machines::new("again", 1);
    let pipe = |place: &str, file: &str| format!("nix-push --plan {place} {file} | nixos-switch --plan");
    for name in ["old", "new", "there"] {
        machines.write(&format!("{name}.nix"), &module(name, &built(&format!("echo {name} > $out"))));
    }
    let old = machines.run("nix-push old.nix | nixos-switch", &json!({})).ok();
    // A section that is written again keeps its place.
    let again = machines.folder.sh("nix-push old.nix", &old.stdout).ok().stdout;
    let [closure, activation] = ["closure", "activation"].map(|name| again.find(&format!("\"{name}\":")).unwrap());
    assert!(closure < activation, "{again}");

    // The configuration has changed since.
    let planned = machines.folder.sh(&pipe("", "new.nix"), &old.stdout).ok();
    let record = planned.record();
    assert_eq!(of(&record, "nix-push").iter().map(|entry| &entry["action"]).collect::<Vec<_>>(), ["build", "send"]);
    let closure = &record["closure"];
    assert!(closure["drv"].is_string() && closure["sentPaths"].is_null(), "{closure}");
    let [update] = of(&record, "nixos-switch")[..] else { panic!("{record}") };
    assert_eq!(update["details"], json!({ "from": toplevel(&old), "to": closure["toplevel"] }));
    assert!(update["reason"].as_str().unwrap().starts_with("the machine does not have it yet;"), "{update}");
    assert!(!planned.stderr.contains("nothing to do") && !planned.stderr.contains("0 to start"), "{}", planned.stderr);
    assert_eq!(planned.record()["activation"], old.record()["activation"]);

    // The machine has it: what happens is known, also where the record has not been there, or the system is not here.
    let new = machines.push("new.nix", &json!({})).ok();
    assert_eq!(toplevel(&new), closure["toplevel"].as_str().unwrap(), "what was planned is what is sent");
    machines.push("--build-on machine there.nix", &json!({})).ok();
    for (place, file, actions) in [("", "new.nix", &[][..]), ("--build-on here", "there.nix", &[json!("build")])] {
        let planned = machines.run(&pipe(place, file), &json!({})).ok();
        let record = planned.record();
        assert_eq!(of(&record, "nix-push").iter().map(|entry| entry["action"].clone()).collect::<Vec<_>>(), actions);
        assert!(planned.stderr.contains("nothing to send: the machine has "), "{}", planned.stderr);
        assert_eq!(of(&record, "nixos-switch")[0]["reason"], "runs and boots it", "{record}");
    }
}

#[test]
fn a_machine_without_an_address_is_one_that_is_made_or_started_first() {
    let folder = Folder::new("again-address");
    let plan = "built=$(nix-store --add $PWD); nix-push --plan --toplevel $built | nixos-switch --plan";
    for (record, reason) in [
        (r#"{"name":"a","ssh":{"jump":"bastion"}}"#, "1 of 1 paths are missing: "),
        (r#"{"name":"a","instance":{"id":"i-1"},"ssh":{"jump":"bastion"}}"#, "known once the machine runs"),
        (r#"{"name":"a","instance":{"id":"i-1"}}"#, "known once the machine runs"),
    ] {
        let planned = folder.sh(plan, record).ok().record();
        let [send] = of(&planned, "nix-push")[..] else { panic!("{planned}") };
        assert!(send["reason"].as_str().unwrap().starts_with(reason), "{send}");
        assert_eq!(of(&planned, "nixos-switch")[0]["reason"], "known after apply", "{planned}");
    }
}
