//! Several machines in one process of Nix: each comes to what it comes to alone.

use crate::fleet::{evaluations, fleet, peak, records, toplevel};
use std::collections::BTreeMap;
use tests::{Folder, Ran};

/// One evaluator at a time, so that those that wait are evaluated together.
const TOGETHER: &str = "nix-push -v --plan --eval-jobs 1 --eval-memory 4G -j 6";

fn processes(ran: &Ran) -> usize {
    ran.stderr.lines().filter(|line| line.contains(": nix-instantiate --eval")).count()
}

fn plans(ran: &Ran) -> BTreeMap<String, String> {
    let records = ran.records().into_iter().filter(|record| record["error"].is_null());
    records.map(|record| (record["name"].as_str().unwrap().into(), toplevel(&record))).collect()
}

fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(100));
}

#[test]
fn machines_that_wait_are_evaluated_in_one_process_and_each_as_if_alone() {
    let module =
        "networking.hostName = machine.name; environment.etc.role.text = import (./roles + \"/${machine.role}.nix\");";
    let folder = fleet("together", module);
    folder.sh("mkdir roles; for i in a b; do echo \"\\\"$i\\\"\" > roles/$i.nix; done", "").ok();
    settle();
    let input = records(6, |i| format!("\"role\":\"{}\"", if i % 2 == 0 { "a" } else { "b" }));
    let ran = folder.sh(&format!("{TOGETHER} c.nix"), &input).ok();
    assert_eq!(evaluations(&ran), 6);
    assert!(processes(&ran) < evaluations(&ran), "{}", ran.stderr);
    let all = plans(&ran);
    for line in input.lines() {
        let alone = plans(&folder.sh("nix-push --plan --no-eval-cache c.nix", line).ok());
        assert!(alone.iter().all(|(name, toplevel)| all[name] == *toplevel), "{alone:?}");
    }
    // What one of them looked at is known for each: for the next run, and until it changes.
    let again = |words: &str| {
        settle();
        let ran = folder.sh("nix-push -v --plan c.nix", &input).ok();
        assert_eq!(words.is_empty(), evaluations(&ran) == 0, "{words}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        plans(&ran)
    };
    assert_eq!(again(""), all);
    folder.sh("echo '\"c\"' > roles/b.nix", "").ok();
    let changed = again("roles/b.nix has changed");
    for (name, toplevel) in &all {
        let has_b = name[1..].parse::<usize>().unwrap() % 2 == 1;
        assert_eq!(changed[name] != *toplevel, has_b, "{name}");
    }
    assert_eq!(again(""), changed);
    folder
        .sh("touch roles/x.nix; sed -i 's/networking.hostName/networking.domain = \"example.org\"; &/' c.nix", "")
        .ok();
    let changed_all = again("c.nix has changed");
    assert!(changed.iter().all(|(name, toplevel)| changed_all[name] != *toplevel));
}

#[test]
fn one_that_fails_among_others_has_its_own_trace_and_they_their_systems() {
    let module = "networking.hostName = machine.name;
        environment.etc.role.text = if machine.role == 7 then builtins.trace \"seven\" 7 else machine.role;";
    let folder = fleet("together-bad", module);
    let input = records(6, |i| format!("\"role\":{}", if i == 3 { "7" } else { "\"db\"" }));
    for flags in ["", "--no-eval-cache"] {
        let ran = folder.sh(&format!("{TOGETHER} {flags} c.nix"), &input);
        assert_eq!((ran.status, plans(&ran).len()), (1, 5), "{}", ran.stderr);
        let bad = ran.records().into_iter().find(|record| record["name"] == "m3").unwrap();
        assert_eq!(bad["error"]["kind"], "evaluation", "{bad}");
        let errors: Vec<_> = ran.stderr.lines().filter(|line| line.contains("nix: error:")).collect();
        assert!(!errors.is_empty() && errors.iter().all(|line| line.contains(" m3: ")), "{errors:?}");
        // What it says before it fails is said by its own process alone.
        let said: Vec<_> = ran.stderr.lines().filter(|line| line.contains("trace: seven")).collect();
        assert!(said.len() == 1 && said.iter().all(|line| line.contains(" m3: ")), "{said:?}");
    }
}

#[test]
fn what_nix_says_is_said_for_each_machine() {
    // The file is read once for all machines of a process.
    let folder = fleet("together-said", "networking.hostName = machine.name; networking.domain = import ./said.nix;");
    folder.sh("echo 'builtins.trace \"warning: an old option\" \"example.org\"' > said.nix", "").ok();
    settle();
    let input = records(6, |i| format!("\"x\":{i}"));
    for _ in 0..2 {
        let ran = folder.sh(&format!("{TOGETHER} c.nix"), &input).ok();
        for name in plans(&ran).keys() {
            let said = format!(" {name}: nix: trace: warning: an old option");
            assert!(ran.stderr.lines().any(|line| line.contains(&said)), "{name}: {}", ran.stderr);
        }
    }
}

#[test]
fn what_is_built_for_one_keeps_nobody_apart() {
    let module = format!(
        "networking.hostName = machine.name; environment.etc.made.text = import (derivation {{ name = \"made\"; system = builtins.currentSystem;
           builder = \"/bin/sh\"; args = [ \"-c\" \"echo hello; echo '\\\"${{machine.name}} {}\\\"' > $out\" ]; }});",
        std::process::id()
    );
    let folder = fleet("together-built", &module);
    let input = records(6, |i| format!("\"x\":{i}"));
    let ran = folder.sh(&format!("{TOGETHER} c.nix"), &input).ok();
    assert_eq!((evaluations(&ran), ran.stderr.matches(": nix: building '").count()), (6, 6), "{}", ran.stderr);
    assert!(processes(&ran) < 4, "{}", ran.stderr);
}

#[test]
fn machines_that_are_too_much_together_are_evaluated_each_alone() {
    let module = "networking.hostName = machine.name; nixpipe.evaluation.megabytes = machine.megabytes;";
    let folder = fleet("together-large", module);
    // The first shows what one takes; what others take after it is found out.
    let input = records(5, |i| format!("\"megabytes\":{}", if i == 0 { 10 } else { 200 }));
    let (all, ran) = peak(&folder, 0.1, "-v --eval-memory 350M --eval-jobs 1 -j 5", &input);
    assert!(all <= 385, "{all} MiB of 350");
    let records = std::fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(records.lines().filter(|line| line.contains("\"plan\"")).count(), 5, "{records}");
    assert!(evaluations(&ran) > 5, "nobody had to begin again: {}", ran.stderr);
    let other = |words: &str| ran.stderr.contains(words);
    assert!(!other("starts again, alone") && !other("takes more than --eval-memory"), "{}", ran.stderr);
}

/// A Nix whose process of several machines is ended from outside, when the first of them is done.
fn mortal(folder: &Folder) {
    let script = r#"mkdir bin; cat > bin/nix-instantiate <<END
#!/bin/sh
[ "\$1" = --eval ] || exec $(command -v nix-instantiate) "\$@"
cat > in.\$\$
mkfifo err.\$\$
$(command -v nix-instantiate) "\$@" < in.\$\$ 2> err.\$\$ & nix=\$!
while IFS= read -r line; do
  printf '%s\n' "\$line" >&2
  case \$line in
  *nixpipe-done\ 0*) ! grep -q '^"{' in.\$\$ || { kill -9 \$nix; echo x >> killed; kill -9 \$\$; } ;;
  esac
done < err.\$\$
wait \$nix
END
chmod +x bin/nix-instantiate"#;
    folder.sh(script, "").ok();
}

#[test]
fn whom_a_process_that_is_ended_does_not_answer_is_evaluated_again() {
    let folder = fleet("together-killed", "networking.hostName = machine.name;");
    mortal(&folder);
    let input = records(6, |i| format!("\"x\":{i}"));
    let ran = folder.sh(&format!("PATH=$PWD/bin:$PATH {TOGETHER} --no-eval-cache c.nix"), &input).ok();
    let killed = std::fs::read_to_string(folder.path().join("killed")).unwrap().lines().count();
    assert!((1..6).contains(&killed), "{killed}: {}", ran.stderr);
    assert_eq!(plans(&ran), plans(&folder.sh("nix-push --plan --no-eval-cache c.nix", &input).ok()));
}
