//! What the tools say when something is wrong.

use crate::TOOLS;
use std::path::Path;
use tests::{Folder, project};

#[test]
fn an_unknown_flag_is_answered_with_the_near_one() {
    let folder = Folder::new("near");
    for (tool, wrong, near) in [
        ("nixos-ami", "--relaese", "--release"),
        ("keygen", "--from-agnet", "--from-agent"),
        ("ec2-up", "--instance-typ", "--instance-type"),
        ("ec2-down", "--deploymnt", "--deployment"),
        ("ec2-ls", "--al-regions", "--all-regions"),
        ("nix-push", "--build-no", "--build-on"),
        ("nixos-switch", "--rolback", "--rollback"),
    ] {
        let ran = folder.sh(&format!("{tool} {wrong}"), "");
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:?}");
        // Of several tools in a pipe, it says which.
        assert!(ran.stderr.starts_with(&format!("{tool}: ")), "{}", ran.stderr);
        assert!(ran.stderr.contains(wrong) && ran.stderr.contains(&format!("'{near}'")), "{}", ran.stderr);
    }
}

#[test]
fn a_wrong_value_is_answered_with_the_right_ones() {
    let folder = Folder::new("values");
    for (command, words) in [
        ("keygen --type dsa", &["ed25519", "rsa"][..]),
        ("nix-push --build-on there", &["auto", "here", "machine"]),
        ("nixos-switch --action swich", &["'switch'"]),
        ("nixos-switch --confirm-timeout 1d", &["90s", "10m"]),
        ("nixos-ami --name ../x", &["letters, digits and hyphens"]),
    ] {
        let ran = folder.sh(command, "");
        assert_eq!(ran.status, 2, "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{command}: {word}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_record_without_a_section_names_the_tool_to_run_first() {
    let folder = Folder::new("sections");
    for (tool, record, section, first) in [
        ("nix-push configuration.nix", r#"{"name":"a"}"#, "ssh", "ec2-up"),
        ("nix-push configuration.nix", r#"{"name":"a","ssh":{"jump":"j"}}"#, "ssh", "ec2-up"),
        (
            "nixos-switch",
            r#"{"name":"a","ssh":{"host":"192.0.2.1","hostKeys":["SHA256:HnASBmKSSgnTGtyrojxTIRh1amvuoWaTDCy0o2PKkM8"]}}"#,
            "closure",
            "nix-push",
        ),
        ("ec2-up", r#"{"name":"a","region":"eu-central-1"}"#, "ami", "nixos-ami"),
        ("nixos-ami | ec2-up", r#"{"name":"a","region":"eu-central-1","release":"20.09"}"#, "keyPair", "keygen"),
    ] {
        tests::cloud();
        std::fs::write(folder.path().join("configuration.nix"), "{ }").unwrap();
        let ran = folder.sh(tool, record);
        assert_eq!(ran.status, 1, "{ran:?}");
        let error = ran.record()["error"].to_string();
        assert!(error.contains(&format!("`{section}`")) && error.contains(&format!("run {first} first")), "{error}");
    }
}

/// The first words of every message in the sources, with the file they stand in.
fn messages(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            messages(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for (index, start) in ["Failure::new(", ".hint("].iter().flat_map(|start| text.match_indices(start)) {
                // The message is the first literal of the call, if it has one.
                let call = &text[index + start.len()..];
                let call = &call[..call.find(";\n").unwrap_or(call.len())];
                if let Some(literal) = call.split('"').nth(1).filter(|literal| literal.contains(' ')) {
                    found.push((path.display().to_string(), literal.into()));
                }
            }
        }
    }
}

#[test]
fn messages_are_in_lower_case_and_end_without_a_full_stop() {
    let mut found = Vec::new();
    for tool in ["machine-record", "machine-ssh", "nixos-ami", "keygen", "ec2-up", "nix-push", "nixos-switch"] {
        messages(&project().join(tool).join("src"), &mut found);
    }
    assert!(found.len() > 100, "{}", found.len());
    // What is written with a capital everywhere.
    let names = ["Name", "AWS", "EC2", "IAM", "IMDS", "Nix", "NixOS", "SSH", "OpenSSH", "RSA"];
    for (file, message) in found {
        let word = message.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let capital = word.chars().next().is_some_and(char::is_uppercase);
        assert!(!capital || names.contains(&word), "{file}: {message}");
        assert!(!message.ends_with('.') || message.ends_with("..."), "{file}: {message}");
    }
}

#[test]
fn every_tool_explains_what_it_cannot_read() {
    let folder = Folder::new("malformed");
    for (tool, _) in TOOLS.iter().filter(|(tool, _)| *tool != "ec2-ls") {
        let tool = if *tool == "nix-push" { "nix-push x.nix" } else { tool };
        for (input, words) in
            [("{\"name\":\"a\"", "line 1"), ("[]", "line 1"), ("{\"name\":\"a\",\n\"name\":\"b\"}", "line 2")]
        {
            let ran = folder.sh(tool, input);
            assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{tool}: {ran:?}");
            assert!(ran.stderr.contains("stdin: ") && ran.stderr.contains(words), "{tool}: {}", ran.stderr);
        }
        let ran = folder.sh(tool, r#"{"version":2,"name":"a"}"#);
        let error = ran.record()["error"].clone();
        let text = error["message"].as_str().unwrap();
        assert!(text.contains('2') && text.contains('1'), "both versions are named: {error}");
        assert!(error["hint"].is_string(), "{error}");
    }
}
