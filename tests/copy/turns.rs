//! Round trips, counted by the network between nix-push and the machine.

use crate::machine::{Machines, noise};
use serde_json::Value;
use tests::project;

/// TCP's own is below what the network counts.
const CONNECT: u64 = 1;

#[test]
fn round_trips_are_as_few_as_the_manual_says_whatever_the_number_of_paths() {
    let page = std::fs::read_to_string(project().join("nix-push/nix-push.1")).unwrap().replace('\n', " ");
    for stated in [
        "at most 10 when there is nothing to do, 12 for a small change and for a whole system",
        "it is 2 more, and 1 more when there is nothing to do.",
        "It takes no more round trips than without.",
    ] {
        assert!(page.contains(stated), "{stated}");
    }
    let machines = Machines::new("turns", 1);
    // With a way to go, what is sent without waiting for an answer is not taken for a round trip.
    machines.cloud.run(&["delay", "20", machines.records[0]["instance"]["id"].as_str().unwrap()]);
    let open_ssh = std::env::var_os("NIXPIPE_TEST_SSH").is_some();
    if !open_ssh {
        cases(&machines, "", 300, 12, 10);
    }
    cases(&machines, if open_ssh { "" } else { "--ssh ssh" }, 10, 14, 11);
}

/// Pushes of closures of `paths` paths and more, each in at most `send` round trips, and in `nothing` where there is nothing to do.
fn cases(machines: &Machines, flags: &str, paths: usize, send: u64, nothing: u64) {
    // What comes in two pieces, or before what was to go with the question, counts twice for the network: on a busy computer
    // that can happen to one run, so the best of three is what it takes.
    let tries = 0..3;
    let few = |most: u64, case: &str, build: &dyn Fn(usize) -> String, check: &dyn Fn(&Value)| {
        let mut seen = Vec::new();
        for at in tries.clone() {
            let top = build(at);
            let before = machines.counted(0);
            let closure = machines.pushed(&top, flags);
            let after = machines.counted(0);
            assert_eq!(after[0] - before[0], 1, "one connection");
            check(&closure);
            machines.assert_has(0, &top);
            let (counted, said) = (after[1] - before[1] + CONNECT, closure["roundTrips"].as_u64().unwrap());
            // Where the system is known before the facts, 1 more asks for it with them.
            assert!(said <= most, "{case} {flags}: {closure}");
            seen.push((counted, said));
            // What the record says is what the network saw, but for the greetings, which may cross each other. OpenSSH's client
            // is a program for each command: what several ask at a time may look like one after the other.
            let beside = if nothing > 10 { 3 } else { 0 };
            if counted <= most + beside && said <= counted + 2 {
                return;
            }
        }
        panic!("{case} {flags}: counted, and in the record, of at most {most}: {seen:?}");
    };
    let build = |at: usize, paths: usize| machines.build(&noise(&format!("turns-{send}-{at}"), paths, 100));

    few(send, "new paths", &|at| build(at, paths), &|closure| {
        assert_eq!((&closure["sentPaths"], &closure["paths"]), (&paths.into(), &paths.into()));
    });
    few(send, "5 of many paths", &|at| build(0, paths + 5 + 5 * at), &|closure| assert_eq!(closure["sentPaths"], 5));
    let large = |version: usize| {
        machines.build(&format!(
            "path \"turns-large\" [ ] \"open(out, 'wb').write(random.Random(1).randbytes(200000) + b'{send}-{version}')\""
        ))
    };
    machines.pushed(&large(0), flags);
    few(send, "a difference", &|at| large(1 + at), &|closure| {
        assert!(closure["savedBytes"].as_u64().unwrap() > 100_000, "{closure}");
    });
    let there = large(1);
    machines.pushed(&there, flags);
    few(nothing, "nothing to do", &|_| there.clone(), &|closure| {
        assert_eq!((&closure["sentPaths"], &closure["compressedBytes"]), (&0.into(), &0.into()));
    });
}
