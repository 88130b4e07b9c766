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
        // What the record says is what the network saw, but for the windows of SSH, and for a greeting that
        // comes before or after the other side's.
        assert!(said.abs_diff(counted) <= 1, "counted {counted}, in the record {said}");
        (counted, said, closure)
    };

    let cold = machines.build(&noise("turns-cold", 300, 100));
    let (counted, said, closure) = turns(&|| machines.pushed(&cold, ""));
    assert_eq!((&closure["sentPaths"], &closure["paths"]), (&300.into(), &300.into()));
    assert!(counted <= 13 && said <= 12, "300 new paths: {counted}, in the record {said}");
    machines.assert_has(0, &cold);

    let small = machines.build(&noise("turns-cold", 305, 100));
    let (counted, said, closure) = turns(&|| machines.pushed(&small, ""));
    assert_eq!(closure["sentPaths"], 5);
    assert!(counted <= 13 && said <= 12, "5 of 305 paths: {counted}, in the record {said}");

    let (counted, said, closure) = turns(&|| machines.pushed(&small, ""));
    assert_eq!((&closure["sentPaths"], &closure["compressedBytes"]), (&0.into(), &0.into()));
    assert!(counted <= 11 && said <= 10, "nothing to do: {counted}, in the record {said}");
    machines.assert_has(0, &small);
}
