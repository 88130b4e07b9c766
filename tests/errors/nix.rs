//! A Nix that is another one, or damaged: programs of its names that do one thing differently.

use crate::says;
use tests::{Folder, cloud};

/// A program that stands before Nix's own of the same name, and does `script` where `when` fits its arguments.
fn before(folder: &Folder, program: &str, when: &str, script: &str) {
    let text = format!(
        "mkdir -p bin; real=$(command -v {program}); printf '%s\\n' '#!/bin/sh' 'case \" $* \" in' '{when})' '{script}' ';; esac' \
         \"exec $real \\\"\\$@\\\"\" > bin/{program}; chmod 755 bin/{program}"
    );
    folder.sh(&text, "").ok();
}

const MACHINE: &str = r#"{"name":"a","ssh":{"host":"127.0.0.1","port":1,"hostKeys":["SHA256:HnASBmKSSgnTGtyrojxTIRh1amvuoWaTDCy0o2PKkM8"]}}"#;

#[test]
fn an_evaluation_that_nix_does_not_end_well_is_told_apart() {
    cloud();
    let folder = Folder::new("odd-evaluations");
    let configuration = "{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ]; environment.etc.odd.text = \"odd\"; }";
    std::fs::write(folder.path().join("configuration.nix"), configuration).unwrap();
    let plan = "PATH=$PWD/bin:$PATH nix-push --plan --no-eval-cache configuration.nix";
    // What is evaluated comes on stdin.
    let evaluation = "*\" - \"";
    for (script, words) in [
        ("kill -9 $$", &["nix-instantiate was ended by signal 9", "hint: if memory ran out, give --eval-jobs 1"][..]),
        ("echo nonsense; exit", &["cannot understand what nix-instantiate printed", "hint: nix-push is tested with"]),
        ("exit 1", &["configuration.nix: Nix said nothing", "hint: is the Nix on the PATH whole?"]),
        ("echo error: odd >&2; exit 1", &["configuration.nix: odd", "hint: -v shows Nix's whole trace"]),
        (
            "echo error: attribute machine missing | sed \"s/machine/\\x27machine\\x27/\" >&2; exit 1",
            &["attribute 'machine' missing", "hint: `machine` reaches a system that is made with a nixpkgs of 21.11"],
        ),
        (
            "echo error: attribute getFlake missing | sed \"s/getFlake/\\x27getFlake\\x27/\" >&2; exit 1",
            &["'getFlake'", "hint: this Nix is too old for flakes: 2.4 was the first"],
        ),
    ] {
        before(&folder, "nix-instantiate", evaluation, script);
        says(&folder, plan, MACHINE, 1, words);
    }
    before(&folder, "nix-instantiate", evaluation, "echo error: odd >&2; exit 1");
    says(&folder, &plan.replace("--plan", "--plan -v"), MACHINE, 1, &["hint: Nix's trace above says where"]);
    let dead =
        "mkdir dead; touch dead/nix-instantiate; tool=$(command -v nix-push); PATH=$PWD/dead $tool --plan --expr '{ }'";
    says(&folder, dead, MACHINE, 1, &["cannot run nix-instantiate: Permission denied", "hint: is it a program that"]);
    folder.sh("rm bin/nix-instantiate", "").ok();
    // More than there may be: it goes on, and says so.
    let words = ["warning: this evaluation alone takes more than --eval-memory: ", " of 1 MiB", ": + closure/"];
    says(&folder, &plan.replace("--plan", "--plan --eval-memory 1M"), MACHINE, 1, &words);
    let gone = "mkdir -p gone; cd gone; rmdir ../gone; nix-push --plan --expr '{ }'";
    says(&folder, gone, MACHINE, 1, &["hint: "]);
}

#[test]
fn a_local_store_that_answers_oddly_is_told_of() {
    cloud();
    let folder = Folder::new("odd-stores");
    // A system that nobody has built.
    let configuration = format!(
        "{{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ]; environment.etc.odd.text = \"{}\"; }}",
        std::process::id()
    );
    std::fs::write(folder.path().join("configuration.nix"), configuration).unwrap();
    let plan = "PATH=$PWD/bin:$PATH nix-push --plan configuration.nix";
    // The daemon's own process is asked first what is to be built.
    before(&folder, "nix-daemon", "*", "exit 1");
    let greeting = r"\\313\\356\\122\\124\\0\\0\\0\\0";
    // What is wrong with it, in Nix's own words.
    let built = "built=$(nix-store --add configuration.nix)";
    for (user, words) in [
        (
            "NIX_REMOTE=unix://$PWD/nowhere",
            ["nix-store said: cannot connect to socket at '", "hint: start Nix's daemon, for example with systemctl"],
        ),
        (
            "cp $(command -v nix-push) .; chmod 755 .; setpriv --reuid 65534 --regid 65534 --clear-groups ./",
            ["cannot use the local store: nix-store said: ", "hint: this user may not write to the store"],
        ),
    ] {
        let joint = if user.ends_with('/') { "" } else { " " };
        says(&folder, &format!("{built}; {user}{joint}nix-push --plan --toplevel $built"), MACHINE, 1, &words);
    }
    for (when, script, words) in [
        (
            "*--serve*",
            "head -c 16 > /dev/null; echo error: the database is odd >&2; exit",
            "cannot use the local store: nix-store said: the database is odd",
        ),
        (
            "*--serve*",
            "head -c 16 > /dev/null; echo this is not the store; exit",
            "not the greeting of nix-store --serve: 0x",
        ),
        (
            "*--serve*",
            &format!("head -c 16 > /dev/null; printf \"{greeting}\\\\1\\\\1\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\"; exit"),
            "its protocol is of version 0x101, which is not known",
        ),
        ("*--serve*", "head -c 16 > /dev/null; exit", "nix-store ended in the middle of an answer"),
        ("*--dry-run*", "echo error: no such thing >&2; exit 1", "cannot plan /nix/store/"),
    ] {
        before(&folder, "nix-store", when, script);
        says(&folder, plan, MACHINE, 1, &[words, "hint: "]);
    }
}
