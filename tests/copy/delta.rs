//! Only what changed: differences to older versions, and what becomes of them where they cannot be had.

use crate::machine::Machines;
use crate::relay::{Relay, Rule};
use serde_json::Value;
use tests::sample;

/// A closure in versions: a large path, one that grows, and small ones, all under one system.
struct Versions<'a> {
    machines: &'a Machines,
    /// Another in each run: a test damages paths of the local store.
    name: String,
}

impl<'a> Versions<'a> {
    fn new(machines: &'a Machines, name: &str) -> Self {
        Versions { machines, name: format!("{name}-{}", std::process::id()) }
    }

    /// Of `large` MB that do not compress, a few bytes depend on the version.
    fn build(&self, version: u32, large: u32) -> String {
        let name = &self.name;
        let expression = format!(
            r#"let
              version = "{version}";
              file = size: "r = random.Random(1)\ndata = bytearray(r.randbytes(${{toString size}}))\n"
                + "data[len(data) // 2:len(data) // 2] = b'version ' + b'${{version}} ' * 200\n"
                + "os.mkdir(out)\nopen(out + '/data', 'wb').write(data)\n"
                + "open(out + '/needs', 'w').write(os.environ['references'])";
              library = path "{name}-library-1.${{version}}" [ ] (file ({large} * 1000000));
              small = i: path "{name}-unit-${{toString i}}" [ library ] (file (2000 + i));
            in path "{name}-system" (map small [ 1 2 3 4 5 6 7 8 9 ]) (file 100000)"#
        );
        self.machines.build(&expression)
    }
}

/// What the machine's zstd is called with; a test puts a script of its own before it.
const ZSTD: &str = "PATH=/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:$PATH; zstd=$(readlink -f \"$(command -v zstd)\")\n";

/// Replaces the machine's zstd by a script, in which `$real` is what it was.
fn replace_zstd(machines: &Machines, script: &str) {
    let text = format!(
        "{ZSTD} cp \"$zstd\" /run/real-zstd && cat > /run/zstd <<'END'\n#!/bin/sh\nreal=/run/real-zstd\n{script}\nEND\n\
         chmod +x /run/zstd && mount --bind /run/zstd \"$zstd\""
    );
    machines.ssh(0, &text).ok();
}

fn restore_zstd(machines: &Machines) {
    machines.ssh(0, &format!("{ZSTD} umount \"$zstd\"")).ok();
}

fn number(closure: &Value, member: &str) -> u64 {
    closure[member].as_u64().unwrap_or_else(|| panic!("{member}: {closure}"))
}

/// Expects that differences went, and far less than everything.
#[track_caller]
fn assert_differences(closure: &Value) {
    let [sent, compressed, saved] =
        ["sentBytes", "compressedBytes", "savedBytes"].map(|member| number(closure, member));
    assert!(compressed * 50 < sent && saved * 2 > sent, "{closure}");
}

/// Expects that everything went whole.
#[track_caller]
fn assert_whole(closure: &Value) {
    let [sent, compressed, saved] =
        ["sentBytes", "compressedBytes", "savedBytes"].map(|member| number(closure, member));
    assert!(compressed * 2 > sent && saved == 0, "{closure}");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn only_what_changed_is_sent_and_whatever_stands_in_its_way_the_system_arrives() {
    let machines = Machines::new("delta", 1);
    let versions = Versions::new(&machines, "delta");
    let first = versions.build(1, 3);
    let closure = machines.pushed(&first, "");
    assert_whole(&closure);

    // A difference, and the same round trips as without.
    let second = versions.build(2, 3);
    let before = machines.counted(0);
    let closure = machines.pushed(&second, "");
    let after = machines.counted(0);
    assert_differences(&closure);
    assert!(after[2] - before[2] < number(&closure, "sentBytes") / 20, "{before:?} {after:?}");
    machines.assert_has(0, &second);

    let whole = machines.pushed(&versions.build(3, 3), "--delta off");
    assert_whole(&whole);
    assert!(closure["roundTrips"].as_u64() <= whole["roundTrips"].as_u64(), "{closure} {whole}");

    // A zstd that is too old is not asked for any.
    replace_zstd(
        &machines,
        "case $1 in -V) echo '*** zstd command line interface 64-bits v1.4.4, by Yann Collet ***';; *) exec $real \"$@\";; esac",
    );
    assert_whole(&machines.pushed(&versions.build(4, 3), ""));
    restore_zstd(&machines);

    // One that says far too much is not listened to.
    replace_zstd(&machines, "head -c 3000000 /dev/zero | tr '\\0' x");
    let error = machines.push(&versions.build(4, 3), "", &machines.records[..1]).record()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("far more than was asked for"), "{error}");
    restore_zstd(&machines);

    // One that says that it can and then fails is found out.
    replace_zstd(&machines, "case \"$*\" in *patch-from*) echo cannot >&2; exit 1;; *) exec $real \"$@\";; esac");
    let fifth = versions.build(5, 3);
    let ran = machines.push(&fifth, "", &machines.records[..1]).ok();
    assert!(ran.stderr.contains("the rest goes whole"), "{}", ran.stderr);
    assert_eq!(number(&ran.record()["closure"], "savedBytes"), 0);
    machines.assert_has(0, &fifth);
    restore_zstd(&machines);

    // A machine without memory to spare.
    let memory = |kib: u64| {
        let script = format!("echo 'MemAvailable: {kib} kB' > /run/meminfo && mount --bind /run/meminfo /proc/meminfo");
        machines.ssh(0, &script).ok();
    };
    memory(100_000);
    assert_whole(&machines.pushed(&versions.build(6, 3), ""));
    machines.ssh(0, "umount /proc/meminfo").ok();

    // With 128 MiB free zstd may have 16 MiB for block and reference, beside some for itself.
    memory(131_072);
    let large = versions.build(7, 30);
    assert_whole(&machines.pushed(&large, "--delta off"));
    let bound = "scope=$(sed -n 's,.*/\\(run-[^/]*[.]scope\\)$,\\1,p' /proc/self/cgroup | head -n 1)
        case \"$*\" in *patch-from*) systemctl show --property MemoryMax $scope >> /run/bound;; esac";
    replace_zstd(&machines, &format!("{bound}; ulimit -d 40960; exec $real \"$@\""));
    let larger = versions.build(8, 30);
    assert_differences(&machines.pushed(&larger, ""));
    machines.assert_has(0, &larger);
    restore_zstd(&machines);
    // The whole of it is held to what it may take: zstd, two references, and programs.
    let bounds = machines.ssh(0, "sort -u /run/bound").ok().stdout;
    assert_eq!(bounds.trim(), format!("MemoryMax={}", (3 * 16 + 64) << 20));
    machines.ssh(0, "umount /proc/meminfo").ok();

    // An older version that is not what it was on the machine: its bytes do not become anybody's.
    let library = machines.closure(&larger).into_iter().find(|path| path.contains("-library-")).unwrap();
    let spoil = format!(
        "mount -o remount,rw,bind /nix/store; chmod u+w {library}/data && printf x | dd of={library}/data bs=1 seek=1000 conv=notrunc 2>&1"
    );
    machines.ssh(0, &spoil).ok();
    let ninth = versions.build(9, 30);
    let ran = machines.push(&ninth, "", &machines.records[..1]).ok();
    assert!(ran.stderr.contains("the rest goes whole"), "{}", ran.stderr);
    machines.assert_has(0, &ninth);

    // One that is damaged here: what it has lost is in the difference.
    let library = machines.closure(&ninth).into_iter().find(|path| path.contains("-library-")).unwrap();
    let damage = |how: &str| machines.folder.sh(&format!("chmod u+w {library}/data; {how}"), "").ok();
    damage(&format!("printf x | dd of={library}/data bs=1 seek=1000 conv=notrunc"));
    let tenth = versions.build(10, 30);
    machines.pushed(&tenth, "");
    machines.assert_has(0, &tenth);
    machines.pushed(&ninth, "");
    damage(&format!("truncate --size=-1000 {library}/data"));
    let eleventh = versions.build(11, 30);
    assert_differences(&machines.pushed(&eleventh, ""));
    machines.assert_has(0, &eleventh);

    // An older version that is no longer here: there is nothing to compare with.
    let gone = machines.closure(&ninth).into_iter().filter(|path| path.contains(&versions.name));
    let delete = format!("nix-store --delete {}", gone.collect::<Vec<_>>().join(" "));
    machines.pushed(&ninth, "");
    machines.folder.sh(&delete, "").ok();
    assert_whole(&machines.pushed(&versions.build(12, 3), ""));

    let left = machines.ssh(0, "ls -A /var/tmp | grep nix-push; systemctl list-units --all --no-legend 'run-*.scope'");
    assert_eq!(left.stdout.trim(), "");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn differences_that_are_cut_off_anywhere_are_sent_again_and_nothing_is_left() {
    let machines = Machines::new("torn", 1);
    let versions = Versions::new(&machines, "torn");
    machines.pushed(&versions.build(0, 4), "");
    let points = sample(20, 2);
    let whole = {
        let relay = Relay::new(machines.address(0), Rule::default());
        let top = versions.build(1, 4);
        assert_differences(&machines.push(&top, "", &[machines.record_at(relay.port)]).ok().record()["closure"]);
        relay.to_machine()
    };
    for point in 0..points {
        let top = versions.build(2 + point as u32, 4);
        let cut_after = Some(whole * (point as u64 + 1) / (points as u64 + 1));
        let relay = Relay::new(machines.address(0), Rule { cut_after, ..Rule::default() });
        let ran = machines.push(&top, "", &[machines.record_at(relay.port)]);
        assert_eq!(ran.status, 1, "cut after {cut_after:?} of {whole}: {}", ran.stderr);
        machines.pushed(&top, "");
        machines.assert_has(0, &top);
    }
    machines.assert_store_is_sound(0, "after the cuts");

    // Of the same names, and nothing in common but the alphabet.
    let name = &versions.name;
    let other = |version: u32| {
        let at = |size: usize| {
            format!(
                "\"r = random.Random('{version}-${{toString i}}')\\nopen(out, 'w').write(' '.join('%x' % r.randrange(1 << 16) for _ in range({size})))\""
            )
        };
        let (small, large) = (at(20_000), at(1_000_000));
        machines.build(&format!(
            "let at = i: path \"{name}-other-${{toString i}}\" [ ] (if i == 0 then {large} else {small});
             in path \"{name}-others\" (map at [ 0 1 2 3 4 5 6 7 8 9 10 11 12 ]) \"open(out, 'w').write(os.environ['references'])\""
        ))
    };
    // Many small files that are much like each other, and each version's hashes are its own.
    let units = |version: u32| {
        machines.build(&format!(
            r#"let
              hash = text: i: builtins.substring 0 32 (builtins.hashString "sha256" "{version}-${{text}}-${{toString i}}");
              tools = i: builtins.concatStringsSep ":" (builtins.genList (j: "/nix/store/${{hash "tool" (i * 10 + j)}}-tool/bin") 10);
              unit = i: builtins.toFile "{name}-unit-${{toString i}}.service"
                "[Service]\nEnvironment=\"PATH=${{tools (i - i / 60 * 60)}}\"\nExecStart=/nix/store/${{hash "start" i}}-start\n";
            in path "{name}-units" (builtins.genList unit 400) "open(out, 'w').write(os.environ['references'])""#
        ))
    };
    for (old, new, paths) in [(other(1), other(2), 14), (units(1), units(2), 401)] {
        machines.pushed(&old, "");
        let differences = number(&machines.pushed(&new, ""), "compressedBytes");
        machines.assert_has(0, &new);
        machines.forget(0, &new);
        machines.pushed(&old, "");
        let closure = machines.pushed(&new, "--delta off");
        assert_eq!(closure["sentPaths"], paths, "{closure}");
        let whole = number(&closure, "compressedBytes");
        assert!(differences * 100 <= whole * 103, "{differences} for {whole}");
    }
    assert_eq!(machines.ssh(0, "ls -A /var/tmp | grep nix-push; true").ok().stdout.trim(), "");
}
