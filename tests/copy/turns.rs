//! Round trips, counted by the network between nix-push and the machine.

use crate::machine::{Machines, noise};

/// TCP's own is below what the network counts.
const CONNECT: u64 = 1;

#[test]
fn round_trips_are_as_few_as_the_manual_says_whatever_the_number_of_paths() {
    let machines = Machines::new("turns", 1);
    let turns = |push: &dyn Fn() -> serde_json::Value| {
        let before = machines.counted(0);
        let closure = push();
        let after = machines.counted(0);
        assert_eq!(after[0] - before[0], 1, "one connection");
        let counted = after[1] - before[1] + CONNECT;
        let said = closure["roundTrips"].as_u64().unwrap();
        (counted, said, closure)
    };

    // What comes in two pieces, or before what was to go with the question, counts twice: on a busy computer that can happen to
    // one run, so the best of three is what it takes.
    let tries = 0..3;
    let few = |most: u64, case: &str, push: &dyn Fn(usize) -> (u64, u64, String)| {
        let mut seen = Vec::new();
        for at in tries.clone() {
            let (counted, said, top) = push(at);
            machines.assert_has(0, &top);
            seen.push((counted, said));
            // What the record says is what the network saw, but for the windows of SSH, and for a greeting that
            // comes before or after the other side's.
            if counted <= most + CONNECT && said <= most && said.abs_diff(counted) <= 1 {
                return;
            }
        }
        panic!("{case}: counted, and in the record: {seen:?}");
    };
    let build = |at: usize, paths: usize| machines.build(&noise(&format!("turns-{at}"), paths, 100));

    few(12, "300 new paths", &|at| {
        let cold = build(at, 300);
        let (counted, said, closure) = turns(&|| machines.pushed(&cold, ""));
        assert_eq!((&closure["sentPaths"], &closure["paths"]), (&300.into(), &300.into()));
        (counted, said, cold)
    });
    few(12, "5 of some 300 paths", &|at| {
        let small = build(0, 305 + 5 * at);
        let (counted, said, closure) = turns(&|| machines.pushed(&small, ""));
        assert_eq!(closure["sentPaths"], 5);
        (counted, said, small)
    });
    few(10, "nothing to do", &|_| {
        let small = build(0, 305);
        let (counted, said, closure) = turns(&|| machines.pushed(&small, ""));
        assert_eq!((&closure["sentPaths"], &closure["compressedBytes"]), (&0.into(), &0.into()));
        (counted, said, small)
    });
}
