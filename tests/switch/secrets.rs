//! Secrets arrive whole, where they belong and nowhere else, and go back with the system.

use crate::machine::{Machine, said};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::{Folder, sample};

mod kept;

const NAMES: [&str; 8] =
    ["plain", "with a space", "it's \"quoted\" $(x)", "two\nlines\n", "ümlaut-日本", ".hidden", "-dash", "empty"];

/// A folder of secrets on this side.
struct Secrets(PathBuf);

impl Secrets {
    fn new(folder: &Folder, name: &str) -> Secrets {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Secrets(path)
    }
    fn set(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), content).unwrap();
    }
}

/// True if the machine has exactly the files of this folder, byte for byte; else what both have.
fn compare(machine: &Machine, secrets: &Secrets, folder: &str) -> Result<(), (String, String)> {
    let sums = |prefix: &str, folder: &str| {
        format!(
            "{prefix} cd {folder} && for f in * .[!.]*; do [ -f \"$f\" ] && printf '%s ' \"$f\" | od -An -c && sha256sum <\"$f\"; done"
        )
    };
    let ours = machine.folder.sh(&sums("", &secrets.0.display().to_string()), "").stdout;
    let theirs = machine.ssh(&sums("", folder)).stdout;
    assert!(!ours.is_empty());
    if theirs == ours { Ok(()) } else { Err((theirs, ours)) }
}

#[track_caller]
fn assert_has(machine: &Machine, secrets: &Secrets, folder: &str) {
    assert_eq!(compare(machine, secrets, folder), Ok(()));
}

/// Anything but secrets, so that no place of the machine holds it by chance.
fn random(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    bytes
}

fn word() -> String {
    random(20).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks at the arguments and the environment of every process, here and in the machines, until
/// it is stopped; true if `word` was seen.
fn seen_in_processes(word: &str, until: &AtomicBool) -> bool {
    let mut seen = false;
    while !until.load(Ordering::SeqCst) {
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            for file in ["cmdline", "environ"] {
                let bytes = std::fs::read(process.path().join(file)).unwrap_or_default();
                seen |= bytes.windows(word.len()).any(|window| window == word.as_bytes());
            }
        }
    }
    seen
}

/// Runs `work` while processes are looked at.
fn watched<T>(word: &str, work: impl FnOnce() -> T) -> (bool, T) {
    let until = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| seen_in_processes(word, &until));
        let result = work();
        until.store(true, Ordering::SeqCst);
        (watcher.join().unwrap(), result)
    })
}

#[test]
fn a_secret_is_where_it_belongs_and_nowhere_else() {
    let machine = Machine::new("secrets");
    let system = machine.push_greeter("old", "");
    let secrets = Secrets::new(&machine.folder, "secrets");
    let planted = word();
    for name in NAMES {
        secrets.set(name, if name == "empty" { String::new() } else { format!("{name} {planted}\n") });
    }
    secrets.set("big", random(10_000_000));

    // The watcher sees what there is to see.
    let (seen, _) = watched(&planted, || machine.ssh(&format!("sh -c 'sleep 2; : {planted}'")).ok());
    assert!(seen, "the watcher is blind");

    // Modes are looked at from the first byte on.
    machine
        .ssh("systemd-run --quiet --unit=modes sh -c 'while :; do find /run/keys -type f -printf \"%m %u %g\\n\"; done | sort -u >/tmp/modes'")
        .ok();
    let (seen, ran) = watched(&planted, || machine.switch(&system, "-v --secrets secrets").ok());
    assert!(!seen, "the secret was seen in a process");
    assert_eq!(said(&ran).0, "switched");
    assert!(!ran.stdout.contains(&planted) && !ran.stderr.contains(&planted), "{}", ran.stderr);
    assert_has(&machine, &secrets, "/run/keys");
    machine.assert_keeps(&system, "old", "with secrets");
    machine
        .ssh("systemctl kill --kill-who=all --signal=SIGTERM modes; sleep 0.3; pkill -f '[f]ind /run/keys'; true")
        .ok();

    let found = machine.ssh(&format!(
        "grep -rlF {planted} /run/keys/ | wc -l
         grep -rlF {planted} /run/nixpipe /var/lib/nixpipe /var/log /etc /tmp /root /home /var/tmp /nix/var/nix/gcroots
         journalctl --no-pager | grep -cF {planted}
         grep -rlF {planted} $(nix-store -qR /run/current-system) | head"
    ));
    let lines: Vec<&str> = found.stdout.lines().collect();
    assert!(lines[0].parse::<usize>().unwrap() >= NAMES.len() - 1, "{lines:?}");
    assert_eq!(lines[1..], ["0"], "the secret turned up elsewhere");
    let modes = machine
        .ssh("find /run/keys/ -type f -printf '%m %u %g\\n' | sort -u; stat -c '%a %U %G' /run/keys")
        .ok()
        .stdout;
    assert_eq!(modes, "400 root root\n750 root keys\n");

    let before = machine.ssh("ls -lR --full-time /run/keys /run/nixpipe/last").ok().stdout;
    let ran = machine.switch(&system, "--secrets secrets").ok();
    assert_eq!(said(&ran).0, "unchanged");
    assert_eq!(machine.ssh("ls -lR --full-time /run/keys /run/nixpipe/last").ok().stdout, before);
    // Nothing said of secrets is no wish to have none.
    assert_eq!(said(&machine.switch(&system, "").ok()).0, "unchanged");
    assert_has(&machine, &secrets, "/run/keys");

    // One changes: it alone is sent.
    secrets.set("plain", word());
    let ran = machine.switch(&system, "--secrets secrets").ok();
    assert_eq!(said(&ran).0, "switched");
    assert!(ran.stderr.contains("sending secrets: \"plain\"\n"), "{}", ran.stderr);
    assert_has(&machine, &secrets, "/run/keys");

    // One goes, and what others put there stays.
    std::fs::remove_file(secrets.0.join("big")).unwrap();
    machine.ssh("echo mine >/run/keys/other; ln -s nowhere /run/keys/link").ok();
    assert_eq!(said(&machine.switch(&system, "--secrets secrets").ok()).0, "switched");
    assert_eq!(
        machine.ssh("cat /run/keys/other; readlink /run/keys/link; rm /run/keys/other /run/keys/link").ok().stdout,
        "mine\nnowhere\n"
    );
    assert_has(&machine, &secrets, "/run/keys");

    machine.ssh("echo mine >/run/keys/taken").ok();
    secrets.set("taken", "ours");
    let ran = machine.switch(&system, "--secrets secrets");
    assert_eq!(said(&ran).1, "conflict", "{}", ran.stderr);
    assert!(ran.stderr.contains("\"taken\""), "{}", ran.stderr);
    assert_eq!(machine.ssh("cat /run/keys/taken; rm /run/keys/taken").ok().stdout, "mine\n");
    std::fs::remove_file(secrets.0.join("taken")).unwrap();
    assert_has(&machine, &secrets, "/run/keys");
    machine.assert_keeps(&system, "old", "secrets come and go");
}

/// Services that note which secret they were started with.
const READERS: &str = "
    systemd.services.reader = { wantedBy = [ \"multi-user.target\" ]; script = \"cat /run/keys/a >>/tmp/reader; exec sleep infinity\"; };
    systemd.services.bystander = { wantedBy = [ \"multi-user.target\" ]; script = \"echo started >>/tmp/bystander; exec sleep infinity\"; };";

#[test]
fn units_are_restarted_when_their_secret_changed_and_go_back_with_it() {
    let machine = Machine::new("restart");
    let secrets = Secrets::new(&machine.folder, "s");
    secrets.set("a", "one\n");
    secrets.set("b", "one\n");
    let with = |mut record: Value| {
        record["secrets"] = json!({
            "a": { "path": "s/a", "restart": ["reader.service"], "mode": "0440", "group": "keys" },
            "b": "s/b"
        });
        record
    };
    let old = with(machine.push_greeter("old", READERS));
    let ran = machine.switch(&old, "").ok();
    assert_eq!(said(&ran).0, "switched", "{}", ran.stderr);
    assert_eq!(
        machine.ssh("stat -Lc '%a %U %G' /run/keys/a /run/keys/b").ok().stdout,
        "440 root keys\n400 root root\n"
    );
    assert_eq!(
        machine.ssh("cat /tmp/reader /tmp/bystander").ok().stdout,
        "one\nstarted\n",
        "started once, with the secret"
    );

    secrets.set("a", "two\n");
    assert_eq!(said(&machine.switch(&old, "").ok()).0, "switched");
    assert_eq!(
        machine.ssh("cat /tmp/reader /tmp/bystander").ok().stdout,
        "one\ntwo\nstarted\n",
        "one restart, of the one"
    );
    secrets.set("b", "two\n");
    assert_eq!(said(&machine.switch(&old, "").ok()).0, "switched");
    assert_eq!(machine.ssh("cat /tmp/reader").ok().stdout, "one\ntwo\n", "another secret");

    // The activation fails: the secrets of before are back, and the unit runs with them.
    let broken = with(machine.push_greeter("new", &format!("{READERS} system.activationScripts.broken = \"false\";")));
    secrets.set("a", "three\n");
    assert_eq!(said(&machine.switch(&broken, "")).0, "rolled-back");
    assert_eq!(machine.ssh("cat /run/keys/a; ls -A /run/keys/.nixpipe | wc -l").ok().stdout, "two\n2\n");
    machine.assert_keeps(&old, "old", "secrets go back after a failed activation");

    // A health check fails, and the secrets alone had changed.
    assert_eq!(said(&machine.switch(&old, "--health false --confirm-timeout 3s")).0, "rolled-back");
    assert_eq!(machine.ssh("cat /run/keys/a; tail -n 1 /tmp/reader").ok().stdout, "two\ntwo\n");
    machine.assert_keeps(&old, "old", "secrets go back after a failed health check");

    // The unit does not start with the new secret.
    let picky = "systemd.services.reader.preStart = \"if [ \\\"$(cat /run/keys/a)\\\" = bad ]; then exit 1; fi\";";
    let picky = with(machine.push_greeter("picky", &format!("{READERS} {picky}")));
    machine.switch(&picky, "").ok();
    secrets.set("a", "bad\n");
    let ran = machine.switch(&picky, "");
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    assert_eq!(ran.record()["activation"]["failedUnits"], json!(["reader.service"]), "{}", ran.stderr);
    assert_eq!(machine.ssh("cat /run/keys/a; systemctl is-active reader").ok().stdout, "three\nactive\n");
    machine.assert_keeps(&picky, "picky", "secrets go back when a unit fails with them");

    // There is no such unit, now or before.
    secrets.set("a", "three\n");
    let mut nowhere = picky.clone();
    nowhere["secrets"]["b"] = json!({ "path": "s/b", "restart": ["nowhere.service"], "group": "keys" });
    let ran = machine.switch(&nowhere, "");
    assert_eq!(said(&ran).0, "rolled-back", "{}", ran.stderr);
    let message = ran.record()["error"]["message"].as_str().unwrap().to_string();
    assert!(message.ends_with("units failed: nowhere.service"), "{message}");
    machine.assert_keeps(&picky, "picky", "a secret's unit is not there");

    // Its user comes with the new system.
    secrets.set("a", "three\n");
    let mut owned = machine.push_greeter(
        "owned",
        "users.users.alice = { isSystemUser = true; group = \"alice\"; extraGroups = [ \"keys\" ]; }; users.groups.alice = { };
         systemd.services.hers = { wantedBy = [ \"multi-user.target\" ]; serviceConfig = { User = \"alice\"; Type = \"oneshot\"; RemainAfterExit = true; }; script = \"cat /run/keys/hers\"; };",
    );
    owned["secrets"] = json!({ "hers": { "path": "s/a", "owner": "alice", "group": "alice" } });
    let ran = machine.switch(&owned, "").ok();
    assert_eq!(said(&ran).0, "switched", "{}", ran.stderr);
    assert_eq!(
        machine.ssh("stat -Lc '%a %U %G' /run/keys/hers; systemctl is-active hers; ls /run/keys").ok().stdout,
        "400 alice alice\nactive\nhers\n"
    );

    let mut nobody = owned.clone();
    nobody["secrets"]["hers"]["owner"] = json!("bob");
    let ran = machine.switch(&nobody, "");
    assert_eq!(said(&ran).0, "rolled-back");
    assert!(ran.stderr.contains("bob:alice"), "{}", ran.stderr);
    assert_eq!(machine.ssh("stat -Lc '%a %U %G' /run/keys/hers").ok().stdout, "400 alice alice\n");
    for wrong in [
        json!({"x": {"path": "s/a", "user": "root"}}),
        json!({"x": "s/nowhere"}),
        json!({"x/y": "s/a"}),
        json!({"x": 7}),
    ] {
        nobody["secrets"] = wrong.clone();
        assert_eq!(said(&machine.switch(&nobody, "")).1, "input", "{wrong}");
    }
    machine.assert_keeps(&owned, "owned", "a secret's owner");
}

#[test]
fn secrets_that_find_no_room_are_not_in_part_there() {
    let machine = Machine::new("nospace");
    let secrets = Secrets::new(&machine.folder, "s");
    secrets.set("a", "one");
    let system = machine.push_greeter("old", "");
    let flags = "--secrets s --secrets-dir /var/keys";
    machine.ssh("mkdir -p /var/keys; mount -t tmpfs -o size=200k none /var/keys").ok();
    machine.switch(&system, flags).ok();
    let refused = |kind: &str| {
        let ran = machine.switch(&system, flags);
        assert_eq!(said(&ran).1, kind, "{}", ran.stderr);
        let there =
            machine.ssh("cd /var/keys; cat *; ls -A . .nixpipe .nixpipe/set/ | wc -l; readlink .nixpipe/before").stdout;
        assert_eq!(there, "one10\n", "{kind}: {}", ran.stderr);
        machine.assert_keeps(&system, "old", kind);
        ran
    };
    // More than the channel's window holds: it is still being sent when the machine refuses.
    secrets.set("b", random(5_000_000));
    refused("copy");
    // Room for the files and not for all the links to them.
    for name in ["b", "c", "d"] {
        secrets.set(name, "two");
    }
    machine.ssh("cd /var/keys; mount -o remount,nr_inodes=$(($(df --output=iused . | tail -n 1) + 8)) .").ok();
    let ran = refused("rolled-back");
    assert!(ran.stderr.contains("is /var/keys full?"), "{}", ran.stderr);
    machine.ssh("mount -o remount,nr_inodes=0 /var/keys").ok();
    machine.switch(&system, flags).ok();
    assert_has(&machine, &secrets, "/var/keys");
}

#[test]
#[ignore = "long: scripts/test --all"]
fn a_set_of_secrets_is_whole_or_none() {
    let machine = Machine::new("sets");
    let system = machine.push_greeter("old", "");
    let sets = ["one", "two"].map(|name| {
        let secrets = Secrets::new(&machine.folder, name);
        for number in 0..5 {
            secrets.set(&format!("{name}-{number}"), random(1_000_000));
            secrets.set(&format!("both-{number}"), random(1_000));
        }
        secrets
    });
    machine.switch(&system, "--secrets one").ok();
    let start = std::time::Instant::now();
    machine.switch(&system, "--secrets two").ok();
    let whole = start.elapsed();
    let mut has = 1;
    let points = sample(20, 2);
    for point in 0..points {
        let new = 1 - has;
        let flags = format!("--secrets {} --confirm-timeout 2s", ["one", "two"][new]);
        let mut child = machine.begin(&system, &flags);
        std::thread::sleep(whole.mul_f64((point as f64 + 0.3) / points as f64));
        child.kill().unwrap();
        child.wait().unwrap();
        // It goes back by itself, once, maybe while it is looked at.
        let found = (0..3).any(|_| sets.iter().any(|set| compare(&machine, set, "/run/keys").is_ok()));
        assert!(found, "point {point}: neither set is there");
        let case = format!("client killed while secrets change, point {point}");
        machine.switch_again(&system, &format!("--secrets {}", ["one", "two"][new]), &case);
        assert_has(&machine, &sets[new], "/run/keys");
        machine.assert_keeps(&system, "old", &case);
        has = new;
    }
}
