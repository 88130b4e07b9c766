//! Several machines at once: none waits for another's evaluation, and what is equal is done once.

use crate::machine::Machines;
use serde_json::{Value, json};

/// Programs before Nix's own that note their arguments, and do `more` with what an evaluation is given in `$in`.
fn noted(machines: &Machines, more: &str) {
    let script = format!(
        r#"mkdir bin; for i in nix-instantiate nix-store; do cat > bin/$i <<END
#!/bin/sh
printf '%s\n' "$i \$*" >> $PWD/asked
case " \$* " in
*" --eval "*) in=$PWD/in.\$\$; cat > \$in; {more}; exec $(command -v $i) "\$@" < \$in;;
esac
exec $(command -v $i) "\$@"
END
done; chmod +x bin/*"#
    );
    machines.folder.sh(&script, "").ok();
}

/// How often a program was run so since the last time.
fn asked(machines: &Machines) -> (usize, usize) {
    let text = machines.folder.sh("cat asked; rm asked", "").ok().stdout;
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    (count("nix-instantiate --eval"), count("nix-store --realise"))
}

fn records(machines: &Machines, more: impl Fn(usize) -> Value) -> String {
    let with = |(at, record): (usize, &Value)| {
        let mut record = record.clone();
        record.as_object_mut().unwrap().extend(more(at).as_object().unwrap().clone());
        format!("{record}\n")
    };
    machines.records.iter().enumerate().map(with).collect()
}

fn module(text: &str) -> String {
    let once = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!(
        "{{ ... }}: {{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
          environment.etc.unique.text = \"{text} {once}\"; }}"
    )
}

#[test]
fn no_machine_waits_for_anothers_evaluation_and_what_is_equal_is_done_once() {
    let machines = Machines::new("stream", 2);
    // It goes on when the other machine is through.
    noted(&machines, "! grep -q slow.nix \\$in || until [ -e go ]; do sleep 0.1; done");
    let push = "PATH=$PWD/bin:$PATH timeout 100 nix-push";
    for place in ["here", "machine"] {
        machines.write("fast.nix", &module("fast"));
        machines.write("slow.nix", &module("slow"));
        let input = records(&machines, |at| json!({ "configuration": (["slow.nix", "fast.nix"][at]) }));
        let command =
            format!("rm -f go; {push} --build-on {place} | while read -r line; do echo \"$line\"; touch go; done");
        let ran = machines.folder.sh(&command, &input).ok();
        let done = ran.records();
        assert_eq!((&done[0]["configuration"], done.len()), (&json!("fast.nix"), 2), "{}", ran.stderr);
        for record in done {
            assert_eq!(record["closure"]["built"], true, "{record}");
            assert!(record["closure"]["sentPaths"].as_u64().unwrap() > 0, "{record}");
        }
        asked(&machines);
    }

    // One configuration: one evaluation, one build.
    machines.write("same.nix", &module("same"));
    let toplevels = |ran: tests::Ran| -> Vec<Value> {
        ran.records().iter().map(|record| record["closure"]["toplevel"].clone()).collect()
    };
    let all = toplevels(machines.folder.sh(&format!("{push} same.nix"), records(&machines, |_| json!({}))).ok());
    assert_eq!((all.len(), &all[0], asked(&machines)), (2, &all[1], (1, 1)));
    // Two that come to the same system.
    machines.write("one.nix", &module("equal"));
    machines.folder.sh("(echo; cat one.nix) > other.nix", "").ok();
    let input = records(&machines, |at| json!({ "configuration": (["one.nix", "other.nix"][at]) }));
    let all = toplevels(machines.folder.sh(push, &input).ok());
    assert_eq!((all.len(), &all[0], asked(&machines)), (2, &all[1], (2, 1)));
}

#[test]
fn what_all_need_and_cannot_be_built_is_built_once() {
    let machines = Machines::new("once", 3);
    let text = module("once").replace("{ ... }:", "{ config, machine, pkgs, ... }:").replace(
        "environment",
        "networking.hostName = machine.name;
         environment.etc.shared.source = pkgs.runCommand \"shared\" { } ''
           # ${config.environment.etc.unique.text}
           echo >> ${toString ./.}/tries; sleep 1; echo no >&2; exit 3'';
         environment",
    );
    machines.write("fails.nix", &text);
    // One after the other, and while others wait for it.
    for jobs in ["-j 1", "-j 3"] {
        let ran =
            machines.folder.sh(&format!("rm -f tries; nix-push {jobs} fails.nix"), records(&machines, |_| json!({})));
        assert_eq!((ran.status, ran.records().len()), (1, 3), "{}", ran.stderr);
        for record in ran.records() {
            assert_eq!(record["error"]["kind"], "build", "{record}");
            let hint = record["error"]["hint"].as_str().unwrap();
            assert!(hint.contains("--read-log /nix/store/") && hint.ends_with("-shared.drv"), "{record}");
        }
        let tries = std::fs::read_to_string(machines.folder.path().join("tries")).unwrap();
        assert_eq!(tries.lines().count(), 1, "{jobs}: {}", ran.stderr);
        assert_eq!(ran.stderr.matches("-shared.drv has failed for once-").count(), 2, "{}", ran.stderr);
    }
}
