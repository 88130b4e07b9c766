//! The examples and `scripts/deploy`, run as they stand.

use crate::transcripts::{Machines, copy};
use tests::project;

/// The lines of a shell script in YAML: those below `run: |` that are indented further.
fn steps(yaml: &str) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    let mut inside = false;
    for line in yaml.lines() {
        inside = inside && (line.starts_with("          ") || line.is_empty());
        if inside {
            *steps.last_mut().unwrap() += &format!("{}\n", line.trim_start_matches("          "));
        } else if line.trim() == "run: |" {
            (inside, _) = (true, steps.push(String::new()));
        }
    }
    steps
}

#[test]
fn the_examples_deploy_as_they_stand() {
    let machines = Machines::new("examples");
    let folder = &machines.0;

    // The Makefile: machines are targets, records their stamps.
    copy("examples/make", folder.path());
    let ran = folder.sh("make -j2", "").ok();
    assert!(ran.stderr.contains("web-2: switched"), "{}", ran.stderr);
    let records = folder.sh("cat deployed/*.json", "").ok().records();
    let outcomes: Vec<_> = records.iter().map(|record| record["activation"]["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["switched", "switched"]);
    assert_eq!(records[1]["instance"]["type"], "t3.small");
    assert!(folder.sh("make", "").ok().stdout.contains("Nothing to be done"));
    // A machine whose pipe fails leaves no stamp.
    machines.write("machines/bad.json", r#"{"name":"bad","release":"99.99","region":"eu-central-1"}"#);
    let ran = folder.sh("make", "");
    assert_ne!(ran.status, 0);
    assert!(!folder.path().join("deployed/bad.json").exists(), "{}", ran.stderr);
    folder.sh("rm machines/bad.json; make plan", "").ok();

    // The pipe as one script finds the same machines, with the same keys.
    let deploy = project().join("scripts/deploy");
    let deploy = deploy.display();
    for words in ["--plan all configuration.nix", "all configuration.nix --health true --plan"] {
        folder.sh(&format!("cat machines/*.json > all; {deploy} {words}"), "").ok();
        assert!(!folder.path().join("all.deployed").exists(), "{words}");
    }
    folder.sh(&format!("{deploy} all configuration.nix --health true"), "").ok();
    let records = folder.sh("cat all.deployed", "").ok().records();
    assert!(records.iter().all(|record| record["activation"]["outcome"] == "unchanged"), "{records:?}");
    assert_eq!(folder.sh(&format!("{deploy}"), "").status, 2);
    // What a run does not get to is known as before, until it is no longer in the file.
    folder.sh("jq -c . all > lines; (head -n 1 lines; echo oops; tail -n +2 lines) > all", "").ok();
    let deployed = |status: i32| {
        let ran = folder.sh(&format!("{deploy} all configuration.nix"), "");
        assert_eq!(ran.status, status, "{}", ran.stderr);
        let mut names: Vec<_> = folder.sh("cat all.deployed", "").ok().records();
        names.retain(|record| record["activation"]["outcome"] == "unchanged");
        names.iter().map(|record| record["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(deployed(2), ["web-1", "web-2"]);
    folder.sh("head -n 1 lines > all", "").ok();
    assert_eq!(deployed(0), ["web-1"]);
    // What cannot be read is kept beside.
    folder.sh("echo '{' >> all.deployed", "").ok();
    assert_eq!(deployed(0), ["web-1"]);
    assert!(folder.sh("tail -n 1 all.deployed.old; ls", "").ok().stdout.starts_with("{\n"));
    folder.sh("mv lines all", "").ok();
    folder.sh("make down", "").ok();
    assert_eq!(folder.sh("ec2-ls", "").ok().stdout, "");

    // The CI job and the timer start from what the account has, and one key.
    folder.sh("nixos-ami < all | keygen | ec2-up > /dev/null && mv id_ed25519 key", "").ok();
    let yaml = std::fs::read_to_string(project().join("examples/ci/deploy.yml")).unwrap();
    let steps = steps(&yaml);
    assert_eq!(steps.len(), 3);
    // What `shell: bash` means there; without it, a pipe would end well whatever its first tools did.
    assert!(yaml.contains("\n    shell: bash\n"));
    for step in &steps {
        folder.sh(&format!("export DEPLOY_KEY=\"$(cat key)\"\nset -eo pipefail\n{step}"), "").ok();
    }
    let records = folder.sh("cat deployed.json", "").ok().records();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["activation"]["outcome"] == "switched"), "{records:?}");
    assert!(folder.sh("cat plan.json", "").ok().records().iter().all(|record| record["plan"].is_array()));

    let unit = std::fs::read_to_string(project().join("examples/timer/nixpipe-deploy.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    // The unit's own places, as systemd would make them.
    let command = line.replace("/home/deploy/.ssh/id_ed25519", "id_ed25519");
    folder.sh(&format!("export STATE_DIRECTORY=$PWD\n{command}"), "").ok();
    let records = folder.sh("cat deployed.json", "").ok().records();
    assert!(records.iter().all(|record| record["activation"]["outcome"] == "unchanged"), "{records:?}");
}

#[test]
fn systemd_takes_the_units() {
    let folder = tests::Folder::new("units");
    copy("examples/timer", folder.path());
    let ran = folder.sh("systemd-analyze verify --man=no ./nixpipe-deploy.timer ./nixpipe-deploy.service", "").ok();
    assert!(!ran.stderr.contains("nixpipe-deploy"), "{}", ran.stderr);
}
