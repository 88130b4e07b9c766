//! The Nix of Debian 12 and the newest that Debian has, as either side of a push.

use crate::machine::{Machines, nix_push, noise};
use tests::project;

const FOLDER: &str = "/var/lib/nixpipe-cloud/newest-nix";

#[test]
#[ignore = "long: scripts/test --all"]
fn old_and_new_nix_understand_each_other() {
    let machines = Machines::new("versions", 2);
    let make = project().join("tests/copy/newest-nix");
    machines.folder.sh(&format!("{} {FOLDER}", make.display()), "").ok();
    let version = machines.folder.sh(&format!("{FOLDER}/bin/nix --version"), "").ok().stdout;
    assert!(version.contains("(Nix) 2."), "{version}");

    // The first machine gets the new Nix in the place of its own.
    let archive = machines.path().join("newest.nar");
    machines.folder.sh(&format!("nix-store --dump {FOLDER} > {}", archive.display()), "").ok();
    let restore = format!("mkdir -p $(dirname {FOLDER}) && nix-store --restore {FOLDER}");
    machines.ssh_input(0, &restore, &std::fs::read(&archive).unwrap()).ok();
    let replace =
        format!("set -e; mount --bind {FOLDER}/bin/nix $(readlink -f $(command -v nix-store)); nix-store --version");
    let there = machines.ssh(0, &replace).ok().stdout;
    assert!(version.trim().ends_with(there.trim().rsplit(' ').next().unwrap()), "{there}");

    let top = machines.build(&noise("versions", 12, 30_000));
    let more = machines.build(&noise("versions", 14, 30_000));
    // A store of its own for the new Nix here: it may change what the old one must read.
    let root = machines.path().join("root");
    let paths = machines.closure(&more).join(" ");
    let import = format!(
        "mkdir -p {0}; nix-store --export {paths} | NIX_REMOTE='local?root={0}' PATH={FOLDER}/bin:$PATH nix-store --import > /dev/null",
        root.display()
    );
    machines.folder.sh(&import, "").ok();
    let new =
        format!("export NIX_REMOTE='local?root={}' PATH={FOLDER}/bin:$PATH; nix-store --version >&2;", root.display());
    for (at, here, case) in [(0, "", "old to new"), (0, &*new, "new to new"), (1, &*new, "new to old")] {
        for (top, sent) in [(&top, 12), (&more, 2), (&more, 0)] {
            let script = format!("{here} {} --toplevel {top}", nix_push());
            let record = machines.folder.sh(&script, machines.records[at].to_string()).ok().record();
            assert_eq!(record["closure"]["sentPaths"], sent, "{case}");
            machines.assert_has(at, top);
        }
        machines.forget(at, &more);
    }
    machines.ssh(0, "umount $(readlink -f $(command -v nix-store))").ok();
    for at in [0, 1] {
        machines.assert_store_is_sound(at, "old and new");
    }
    machines.folder.sh(&format!("chmod -R u+w {}", root.display()), "").ok();
}
