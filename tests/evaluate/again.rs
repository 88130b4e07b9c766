//! A record that comes by again: what an earlier run wrote is not taken for what this one comes to.

use serde_json::json;
use tests::Folder;

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
