//! The pages: clean, and true to the schema.

use crate::TOOLS;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tests::{Folder, project};

#[test]
fn pages_are_clean() {
    let folder = Folder::new("lint");
    for page in TOOLS.iter().map(|(_, page)| *page).chain(["machine-record/machine-record.5", "docs/nixpipe.7"]) {
        let path = project().join(page);
        let ran = folder.sh(&format!("mandoc -T lint {}", path.display()), "");
        // Which other pages are there is this computer's business.
        let told: Vec<_> = ran
            .stdout
            .lines()
            .filter(|line| !["manual not found", "mandoc.db"].iter().any(|known| line.contains(known)))
            .collect();
        assert_eq!(told, [""; 0], "{page}");
        // Debian's man: what is too wide for a terminal of 80 columns falls apart there.
        let ran = folder.sh(&format!("groff -mdoc -Tutf8 -rLL=78n -w break -z {}", path.display()), "");
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{page}");
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

fn read_schema() -> Value {
    let text = std::fs::read_to_string(project().join("machine-record/machine-record-v1.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
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
fn machine_record_5_describes_every_member_of_the_schema() {
    let schema: Value = read_schema();
    let page = std::fs::read_to_string(project().join("machine-record/machine-record.5")).unwrap();
    let words: Vec<&str> = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    let mut members: Vec<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    for definition in schema["$defs"].as_object().unwrap().values() {
        members.extend(definition["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
        let kinds = definition["oneOf"].as_array().into_iter().flatten();
        members.extend(kinds.filter_map(|kind| kind["const"].as_str()).map(String::from));
    }
    assert!(members.len() > 60, "{members:?}");
    let missing: Vec<_> = members.iter().filter(|member| !words.contains(&member.as_str())).collect();
    assert!(missing.is_empty(), "machine-record.5 does not name {missing:?}");
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
