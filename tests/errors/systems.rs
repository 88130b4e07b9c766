//! Configurations and systems that cannot be pushed.

use crate::says;
use tests::{Folder, cloud};

#[test]
fn a_secret_that_cannot_be_one_is_named() {
    let folder = Folder::new("odd-secrets");
    let machine =
        |more: &str| format!(r#"{{"name":"a","ssh":{{"host":"127.0.0.1","port":1,"hostKeys":["x"]}}{more}}}"#);
    folder.sh("mkdir -p folders/inner odd; echo > one; echo > odd/$'\\xff'", "").ok();
    for (flags, more, words) in [
        ("--secrets absent", "", &["cannot read the secrets in absent: No such file"][..]),
        ("--secrets folders", "", &["folders/inner is no file", "hint: a secret is one file"]),
        ("--secrets odd", "", &["is not UTF-8"]),
        (
            "",
            r#","secrets":{"key":{"path":"one","mode":"rw"}}"#,
            &["cannot use the secret \"key\"", "not a mode of three octal digits"],
        ),
        (
            "",
            r#","secrets":{"key":{"path":"one","owner":"a b"}}"#,
            &["neither the name nor the number of a user or group"],
        ),
        (
            "",
            r#","secrets":{"key":{"path":"one","restart":["nginx"]}}"#,
            &["is not the name of a unit, such as nginx.service"],
        ),
        ("", r#","secrets":{"key":["one"]}"#, &["cannot use the secret \"key\"", "neither a path nor an object"]),
        ("", r#","secrets":{"../key":"one"}"#, &["it cannot be the name of a file there"]),
        (
            "",
            r#","wish":{"action":"swich"}"#,
            &["cannot use the record's `wish.action`: \"swich\"", "hint: it is switch, boot"],
        ),
    ] {
        says(&folder, &format!("nixos-switch --status {flags}"), &machine(more), 1, words);
    }
}

#[test]
fn what_cannot_be_pushed_is_told_before_any_machine_is_asked() {
    cloud();
    let folder = Folder::new("systems");
    folder.sh("echo '{ }' > configuration.nix; echo nonsense > sign; mkdir empty", "").ok();
    let key = "SHA256:HnASBmKSSgnTGtyrojxTIRh1amvuoWaTDCy0o2PKkM8";
    let machine = format!(r#"{{"name":"a","ssh":{{"host":"127.0.0.1","port":1,"hostKeys":["{key}"]}}}}"#);
    let gone = "/nix/store/00000000000000000000000000000000-gone";
    for (command, words) in [
        ("nix-push", &["no configuration", "hint: name one, as in: nix-push configuration.nix"][..]),
        ("nix-push absent.nix", &["cannot read the configuration", "absent.nix: No such file"]),
        ("nix-push --flake ./absent", &["cannot read the flake ./absent"]),
        ("nix-push --toplevel absent", &["cannot use the system absent"]),
        ("nix-push --toplevel /etc", &["/etc is no path of the Nix store"]),
        (&format!("nix-push --plan --toplevel {gone}"), &["-gone is not in the local store"]),
        ("nix-push --sign-key absent configuration.nix", &["cannot read the signing key absent"]),
        (
            "nix-push --sign-key sign configuration.nix",
            &["sign is no secret signing key", "hint: make one with: nix-store"],
        ),
        (
            "tool=$(command -v nix-push); PATH=empty $tool configuration.nix",
            &["cannot run nix-instantiate", "hint: install Nix"],
        ),
    ] {
        says(&folder, command, &machine, 1, words);
    }
}
