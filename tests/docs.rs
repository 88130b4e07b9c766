//! The pages are true: help and man pages name the same options, records shown fit the schema.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tests::{Folder, project};

const TOOLS: [(&str, &str); 7] = [
    ("nixos-ami", "nixos-ami/nixos-ami.1"),
    ("keygen", "keygen/keygen.1"),
    ("ec2-up", "ec2-up/ec2-up.1"),
    ("ec2-down", "ec2-up/ec2-down.1"),
    ("ec2-ls", "ec2-up/ec2-ls.1"),
    ("nix-push", "nix-push/nix-push.1"),
    ("nixos-switch", "nixos-switch/nixos-switch.1"),
];

/// The long options of a help text.
fn options(help: &str) -> Vec<String> {
    help.lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .map(|word| word.trim_end_matches(',').trim_start_matches("--").split('=').next().unwrap().to_string())
        .collect()
}

#[test]
fn help_and_page_name_the_same_options() {
    let folder = Folder::new("options");
    for (tool, page) in TOOLS {
        let help = options(&folder.sh(&format!("{tool} --help"), "").ok().stdout);
        assert!(help.contains(&"plan".to_string()), "{tool}: {help:?}");
        let text = std::fs::read_to_string(project().join(page)).unwrap_or_else(|_| panic!("no page {page}"));
        let tagged: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with(".It Fl "))
            .flat_map(|line| line.split_whitespace().filter(|word| word.starts_with('-')))
            .map(|word| word.trim_start_matches('-').to_string())
            .collect();
        for option in &help {
            assert!(tagged.contains(option), "{page} does not describe --{option}");
        }
        for option in &tagged {
            assert!(help.contains(option), "{page} describes --{option}, which {tool} does not have");
        }
    }
}

#[test]
fn pages_are_clean() {
    let folder = Folder::new("lint");
    for page in TOOLS.iter().map(|(_, page)| *page).chain(["machine-record/machine-record.5"]) {
        let ran = folder.sh(&format!("mandoc -T lint -W warning {}", project().join(page).display()), "");
        assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{page}");
    }
}

#[test]
fn help_shows_an_example_and_h_fits_a_screen() {
    let folder = Folder::new("help");
    for (tool, _) in TOOLS {
        let help = folder.sh(&format!("{tool} --help"), "").ok().stdout;
        assert!(help.contains("Example"), "{tool}");
        let short = folder.sh(&format!("COLUMNS=100 {tool} -h"), "").ok().stdout;
        assert!(short.lines().count() <= 60, "{tool}: {} lines", short.lines().count());
    }
}

/// Files that people read.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                pages(&path, found);
            }
        } else if name.ends_with(".md") || [".1", ".5", ".7"].iter().any(|end| name.ends_with(end)) {
            found.push(path);
        }
    }
}

/// Prints what does not fit a schema, of lines with a page and a record.
const FIT: &str = r#"
import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for shown in map(json.loads, sys.stdin):
    for error in validator.iter_errors(shown["record"]):
        print(shown["page"], error.json_path, error.message)
"#;

#[test]
fn records_shown_fit_the_schema() {
    let folder = Folder::new("schema");
    let schema = project().join("machine-record/machine-record-v1.schema.json");
    let mut found = Vec::new();
    pages(&project(), &mut found);
    let mut shown = Vec::new();
    for page in found {
        for line in std::fs::read_to_string(&page).unwrap().lines() {
            // A record in a page stands on a line of its own; in mdoc an escape may hide a quote.
            let line = line.trim().replace("\\(dq", "\"").replace("\\&", "");
            if line.starts_with("{\"") && line.ends_with('}') {
                let Ok(record) = serde_json::from_str::<Value>(&line) else {
                    panic!("{}: no JSON: {line}", page.display())
                };
                shown.push(json!({ "page": page, "record": record }).to_string());
            }
        }
    }
    assert!(!shown.is_empty(), "no record is shown anywhere");
    // Debian's validator: one from the crate registry would build the EC2 SDK a second time, for its features.
    let script = format!("/usr/bin/python3 -c '{FIT}' {}", schema.display());
    let ran = folder.sh(&script, shown.join("\n"));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
}

#[test]
fn ci_runs_the_readmes_test_command_word_for_word() {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let ci = std::fs::read_to_string(project().join(".ci/run")).unwrap();
    for command in ["scripts/demo", "scripts/test"] {
        assert!(
            readme.lines().any(|line| line.trim().trim_start_matches("$ ") == command),
            "README does not show {command}"
        );
    }
    assert!(ci.lines().any(|line| line.trim() == "scripts/test"), ".ci/run does not run scripts/test");
}
