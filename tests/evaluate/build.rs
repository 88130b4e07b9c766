//! Where a system is built, and what is said of it.

use crate::machine::{Machines, toplevel};
use serde_json::json;
use tests::Folder;

/// What no earlier run can have built: the store outlives the tests.
fn once() -> u128 {
    static ONCE: std::sync::OnceLock<u128> = std::sync::OnceLock::new();
    *ONCE.get_or_init(|| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos())
}

pub fn module(name: &str, more: &str) -> String {
    format!(
        "{{ pkgs, ... }}: {{ imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
          system.stateVersion = \"20.09\"; environment.etc.unique.text = \"{name} {}\"; {more} }}",
        once()
    )
}

/// A path that takes a word with each line that it says while it is built.
pub fn built(script: &str) -> String {
    format!("environment.etc.made.source = pkgs.runCommand \"made\" {{ }} ''\n# {}\n{script}'';", once())
}

/// The flag that makes a machine build for this Nix, over ssh.
fn builder(machines: &Machines, at: usize, system: &str) -> String {
    let record = &machines.records[at];
    let key = machines.folder.path().join(record["keyPair"]["privateKeyFile"].as_str().unwrap());
    let host_key =
        machines.folder.sh("base64 -w0", format!("{}\n", record["ssh"]["hostKeys"][0].as_str().unwrap())).ok().stdout;
    let host = record["ssh"]["host"].as_str().unwrap();
    let program = "remote-program=/run/current-system/sw/bin/nix-store";
    format!("--builders 'ssh://root@{host}?{program} {system} {} 1 1 - - {host_key}'", key.display())
}

#[test]
fn each_place_to_build() {
    let machines = Machines::new("build", 2);
    let here = |path: &str| machines.folder.sh(&format!("nix-store --check-validity {path}"), "").status == 0;
    let there =
        |machine: usize, path: &str| machines.ssh(machine, &format!("nix-store --check-validity {path}")).status == 0;

    machines.write("here.nix", &module("here", &built("echo hello from here; echo 1 > $out")));
    let ran = machines.push("here.nix", &json!({})).ok();
    assert!(here(&toplevel(&ran)) && there(0, &toplevel(&ran)));
    assert_eq!(ran.record()["closure"]["built"], true);

    machines.write(
        "there.nix",
        &module(
            "there",
            // The words of a push that another one's build makes.
            &built(
                "echo hello from $(cat /proc/sys/kernel/hostname); echo nix-push:late; echo nix-push:rooted; sleep 1; echo 1 > $out",
            ),
        ),
    );
    let planned = machines.push("--plan --build-on machine there.nix", &json!({})).ok();
    assert!(planned.stderr.contains("t3.micro has at most 1 GiB"), "{}", planned.stderr);
    let planned = planned.record()["plan"].clone();
    let ran = machines.push("-v --build-on machine --log-format json there.nix", &json!({})).ok();
    let resource = toplevel(&ran).replace("/nix/store/", "closure/");
    assert_eq!((&planned[0]["resource"], &planned[0]["action"]), (&json!(resource), &json!("build")));
    assert!(planned[0]["reason"].as_str().unwrap().starts_with("on the machine; as seen from here, "), "{planned}");
    let sent = ran.record()["closure"].clone();
    let details = json!({ "paths": sent["sentPaths"], "bytes": sent["sentBytes"] });
    assert_eq!((&planned[1]["action"], &planned[1]["details"]), (&json!("send"), &details), "{planned}");
    assert!(machines.push("--plan --build-on machine there.nix", &json!({})).ok().record()["plan"].is_null());
    assert!(!here(&toplevel(&ran)) && there(0, &toplevel(&ran)));
    assert_eq!(ran.record()["closure"]["built"], true);
    assert!(ran.stderr.contains("t3.micro has at most 1 GiB"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hello from"), "the log comes back\n{}", ran.stderr);
    assert!(ran.stderr.contains("building on the machine took"), "{}", ran.stderr);
    // What was pushed before stays when the next one cannot be built.
    machines.write("fails.nix", &module("there", &built("exit 3")));
    assert_eq!(machines.push("-q --build-on machine fails.nix", &json!({})).status, 1);
    let kept = machines.ssh(0, "readlink /nix/var/nix/gcroots/nixpipe/pushed").stdout;
    assert_eq!(kept.trim(), toplevel(&ran));

    // The second machine builds for this Nix.
    machines.write("builder.nix", &module("builder", &built("echo hello from the builder; echo 1 > $out")));
    let builder = builder(&machines, 1, "x86_64-linux");
    let ran = machines.push(&format!("-v --option max-jobs 0 {builder} builder.nix"), &json!({})).ok();
    assert!(here(&toplevel(&ran)) && there(0, &toplevel(&ran)));
    let made = format!("nix-store --check-validity $(readlink -f {}/etc/made)", toplevel(&ran));
    let made = machines.folder.sh(&made.replace("nix-store --check-validity", "echo"), "").ok().stdout;
    assert!(there(1, made.trim()), "the builder built it\n{}", ran.stderr);

    // Nobody builds: none can be reached, or none is of the system.
    machines.write("nobody.nix", &module("nobody", &built("echo 1 > $out")));
    for (builders, words) in [("ssh://root@127.0.0.99 x86_64-linux", "cannot build on"), ("", "unable to start")] {
        let flags = format!("--option max-jobs 0 --build-on here --builders '{builders}' nobody.nix");
        let error = machines.push(&flags, &json!({})).record()["error"].clone();
        assert_eq!(error["kind"], "build", "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains("--build-on machine"), "{error}");
    }
}

#[test]
fn what_cannot_be_built_here_is_built_on_the_machine() {
    let machines = Machines::new("auto", 1);
    // The packages of the small nixpkgs are made here alone, so the system has none.
    let text = format!(
        "{{ system, ... }}: {{ config.system.build.toplevel = derivation {{ inherit system; name = \"nixos-system-auto\";
          builder = \"/bin/sh\"; args = [ \"-c\" \"echo {} > $out\" ]; }}; }}",
        std::process::id()
    );
    machines.write("auto.nix", &text);
    let arm = json!({ "system": "aarch64-linux" });
    let refused = machines.push("--build-on here --hermetic auto.nix", &arm);
    assert_eq!(refused.status, 1);
    assert!(refused.record()["error"]["hint"].as_str().unwrap().contains("--build-on machine"), "{}", refused.stderr);
    // The machine is none of that kind: it is told that it is.
    machines.ssh(0, "(cat /etc/nix/nix.conf; echo extra-platforms = aarch64-linux) > /root/nix.conf; mount --bind /root/nix.conf /etc/nix/nix.conf").ok();
    let ran = machines.push("--hermetic auto.nix", &arm).ok();
    let valid = format!("nix-store --check-validity {}", toplevel(&ran));
    assert_eq!(ran.record()["closure"]["built"], true);
    assert_ne!(machines.folder.sh(&valid, "").status, 0);
    machines.ssh(0, &valid).ok();
    // Where a builder takes that system, it is built for here.
    machines.write("builder.nix", &text.replace("echo", "echo by the builder"));
    let ran = machines.push(&format!("{} --hermetic builder.nix", builder(&machines, 0, "aarch64-linux")), &arm).ok();
    machines.folder.sh(&format!("nix-store --check-validity {}", toplevel(&ran)), "").ok();
    // What is here is copied, whoever could build it.
    let delete = format!("rm /nix/var/nix/gcroots/nixpipe/pushed; nix-store --delete {}", toplevel(&ran));
    machines.ssh(0, &delete).ok();
    assert!(
        machines.push("--plan --hermetic builder.nix", &arm).ok().record()["plan"][0]["details"]["bytes"].is_number()
    );
    let closure = machines.push("--hermetic builder.nix", &arm).ok().record()["closure"].clone();
    assert_eq!((&closure["built"], &closure["sentPaths"]), (&json!(false), &json!(1)));
    // The configuration says what is built, and not the record, which has the image's system or none.
    for (name, more) in [("own", json!({})), ("unsaid", json!({ "ami": null, "system": null }))] {
        let own = text.replace("{ system, ... }", "{ ... }").replace("inherit system", "system = \"aarch64-linux\"");
        machines.write("own.nix", &own.replace("echo", &format!("echo {name}")));
        let ran = machines.push("--hermetic own.nix", &more).ok();
        let valid = format!("nix-store --check-validity {}", toplevel(&ran));
        assert_ne!(machines.folder.sh(&valid, "").status, 0);
        machines.ssh(0, &valid).ok();
    }
    // A Nix that builds nothing, and has nobody who does.
    machines.write("none.nix", &text.replace("echo", "echo none"));
    let none = "NIX_CONFIG=\"$NIX_CONFIG\"$'\\nmax-jobs = 0' nix-push --builders '' --hermetic none.nix";
    let ran = machines.run(none, &json!({})).ok();
    machines.ssh(0, &format!("nix-store --check-validity {}", toplevel(&ran))).ok();
    // A machine of this kind is built for here.
    let ran = machines.push("--hermetic auto.nix", &json!({})).ok();
    machines.folder.sh(&format!("nix-store --check-validity {}", toplevel(&ran)), "").ok();
}

#[test]
fn a_build_that_fails_shows_its_last_lines_and_how_to_see_the_rest() {
    let machines = Machines::new("fails", 1);
    machines.write("bad.nix", &module("bad", &built("for i in $(seq 30); do echo line $i; done; exit 3")));
    for (place, quiet) in [("here", ""), ("machine", ""), ("here", "-q"), ("machine", "-q")] {
        let ran = machines.push(&format!("{quiet} --build-on {place} bad.nix"), &json!({}));
        assert_eq!(ran.status, 1);
        let error = &ran.record()["error"];
        assert_eq!(error["kind"], "build", "{error}");
        assert!(ran.stderr.contains("line 30"), "{}", ran.stderr);
        let hint = error["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("--read-log /nix/store/") && hint.contains("-made.drv"), "{place}: {error}");
    }
    // A store that is full.
    let system = |system: &str, script: &str| {
        format!(
            "{{ config.system.build.toplevel = derivation {{ name = \"nixos-system-{}\"; system = \"{system}\"; builder = \"/bin/sh\";
              args = [ \"-c\" \"{script}\" ]; }}; }}",
            once()
        )
    };
    machines.write("full.nix", &system("x86_64-linux", "/bin/cat /dev/zero > $out"));
    let error = machines.run(&format!("{SMALL} nix-push --hermetic full.nix'"), &json!({})).record()["error"].clone();
    assert_eq!(error["kind"], "build", "{error}");
    assert!(error["hint"].as_str().unwrap().contains("nix-collect-garbage"), "{error}");

    // A user whose options the daemon does not take.
    machines.write("untrusted.nix", &system("aarch64-linux", "echo 1 > $out"));
    let key = machines.records[0]["keyPair"]["privateKeyFile"].as_str().unwrap();
    let own = machines.folder.path().join("home/key");
    let command = format!(
        "mkdir home && cp {key} home/key && cp $(command -v nix-push) home && chown -R 65534:65534 home && chmod 755 .
         NIX_DAEMON_SOCKET_PATH=$PWD/socket nix-daemon 2>daemon.log & daemon=$!
         trap 'kill $daemon' EXIT; until [ -S socket ]; do sleep 0.1; done
         HOME=$PWD/home NIX_REMOTE=unix://$PWD/socket setpriv --reuid 65534 --regid 65534 --clear-groups \
         home/nix-push --build-on here --option extra-platforms aarch64-linux --hermetic untrusted.nix"
    );
    let more = json!({ "system": "aarch64-linux", "keyPair": { "name": "own", "publicKey": machines.records[0]["keyPair"]["publicKey"], "privateKeyFile": own, "algorithm": "ed25519" } });
    let ran = machines.run(&command, &more);
    let error = &ran.record()["error"];
    assert!(error["hint"].as_str().unwrap_or_default().contains("trusted-users"), "{error}\n{}", ran.stderr);
}

#[test]
fn what_takes_longer_than_it_may_is_ended() {
    let machines = Machines::new("late", 1);
    machines.write("slow.nix", &module("slow", &built("sleep 600")));
    let busy =
        "let l = builtins.genList (x: x) 100000; sum = builtins.foldl' (a: b: a + b); in sum 0 (map (x: sum x l) l)";
    machines.write("busy.nix", busy);
    // A server that never answers: git has a helper wait for it, which outlives Nix.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a.git", server.local_addr().unwrap());
    machines.write("fetch.nix", &format!("import (builtins.fetchGit {{ url = \"{url}\"; }})"));
    for (flags, what) in [
        ("--eval-timeout 1s busy.nix", "evaluating took longer than --eval-timeout allows, 1 s"),
        ("--eval-timeout 2s fetch.nix", "evaluating took longer than --eval-timeout allows, 2 s"),
        ("--build-timeout 2s --build-on here slow.nix", "took longer than --build-timeout allows, 2 s"),
        (
            "--build-timeout 2.5s --build-on machine slow.nix",
            "on the machine took longer than --build-timeout allows, 2.5 s",
        ),
    ] {
        let began = std::time::Instant::now();
        let ran = machines.push(flags, &json!({}));
        let error = &ran.record()["error"];
        assert_eq!(error["kind"], "timeout", "{}", ran.stderr);
        assert!(error["message"].as_str().unwrap().ends_with(what), "{error}");
        assert!(error["hint"].as_str().unwrap().ends_with("or see with -v what takes so long"), "{error}");
        assert!(began.elapsed().as_secs() < 60, "{flags}");
    }
    // Machines that wait for one evaluation do not wait for the next ones, each as long.
    let same = (0..4).map(|i| format!("{{\"name\":\"m{i}\"}}\n")).collect::<String>();
    let ran = machines.folder.sh("nix-push --plan --eval-timeout 3s busy.nix", same);
    let evaluated = ran.stderr.lines().filter(|line| line.contains(": evaluating ") && line.ends_with("busy.nix"));
    assert_eq!((ran.status, evaluated.count()), (1, 1), "{}", ran.stderr);
    assert!(ran.records().iter().all(|record| record["error"]["kind"] == "timeout"), "{}", ran.stdout);
    assert_eq!(ran.records().len(), 4);
}

#[test]
fn a_plan_says_what_would_be_built_and_sent_and_does_neither() {
    let machines = Machines::new("plan", 1);
    machines.write("plan.nix", &module("plan", &built("echo 1 > $out")));
    let planned = machines.push("--plan plan.nix", &json!({})).ok().record();
    let plan = planned["plan"].as_array().unwrap();
    assert_eq!((&plan[0]["action"], &plan[1]["action"]), (&json!("build"), &json!("send")));
    let path = plan[0]["resource"].as_str().unwrap().replace("closure/", "/nix/store/");
    assert_ne!(machines.folder.sh(&format!("nix-store --check-validity {path}"), "").status, 0);
    assert!(
        plan[0]["details"]["build"].as_array().unwrap().iter().any(|drv| drv.as_str().unwrap().ends_with("-made.drv"))
    );
    machines
        .folder
        .sh(&format!("nix-store --realise {}", plan[0]["details"]["build"].as_array().unwrap().last().unwrap()), "")
        .ok();
    let planned = machines.push("--plan plan.nix", &json!({})).ok().record();
    let sends = &planned["plan"][0];
    assert_eq!(sends["action"], "send");
    assert_ne!(machines.ssh(0, &format!("nix-store --check-validity {path}")).status, 0);
    // A machine that is yet to be made lacks all.
    let fresh = machines.folder.sh("nix-push --plan plan.nix", r#"{"name":"fresh"}"#).ok().record()["plan"][0].clone();
    let closure = machines.push("plan.nix", &json!({})).ok().record()["closure"].clone();
    assert_eq!((&fresh["details"]["paths"], &fresh["details"]["bytes"]), (&closure["paths"], &closure["bytes"]));
    assert_eq!(
        (&sends["details"]["paths"], &sends["details"]["bytes"]),
        (&closure["sentPaths"], &closure["sentBytes"])
    );
    assert!(machines.push("--plan plan.nix", &json!({})).ok().record()["plan"].is_null(), "nothing is to be done");
    what_a_cache_of_the_configuration_has_is_fetched(&machines);
}

fn what_a_cache_of_the_configuration_has_is_fetched(machines: &Machines) {
    machines.folder.sh("nix-store --generate-binary-cache-key test-1 secret public", "").ok();
    let public = std::fs::read_to_string(machines.folder.path().join("public")).unwrap();
    let text = |name: &str, settings: &str| {
        format!(
            "{{ config = {{ nix.settings = {{ {settings} }};
               system.build.toplevel = derivation {{ name = \"nixos-system-{name}-{}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\";
                 args = [ \"-c\" \"/bin/dd if=/dev/zero of=$out bs=1M count=3\" ]; }}; }}; }}",
            once()
        )
    };
    let cache = machines.folder.path().join("cache");
    let keys = format!("trusted-public-keys = [ \"{}\" ];", public.trim());
    machines.write("cached.nix", &text("here", &format!("substituters = [ \"file://{}\" ]; {keys}", cache.display())));
    let built = toplevel(&machines.push("--hermetic cached.nix", &json!({})).ok());
    let nix = "nix --extra-experimental-features nix-command";
    let copy =
        |path: &str| format!("{nix} store sign -k $PWD/secret {path} && {nix} copy --to file://$PWD/cache {path}");
    machines.folder.sh(&format!("{} && nix-store --delete {built}", copy(&built)), "").ok();
    let planned = machines.push("--plan --hermetic cached.nix", &json!({})).ok().record()["plan"][0].clone();
    let mut details = planned["details"].clone();
    let bytes = ["downloadBytes", "unpackedBytes"].map(|name| details[name].take().as_u64().unwrap());
    assert!(bytes[0] < bytes[1] && bytes[1].abs_diff(3 << 20) < 1 << 14, "{planned}");
    let rest = json!({ "build": [], "fetch": [built], "downloadBytes": null, "unpackedBytes": null });
    assert_eq!(details, rest);
    let ran = machines.push("-v --hermetic cached.nix", &json!({})).ok();
    assert!(ran.stderr.contains(&format!("copying path '{built}' from 'file://")), "{}", ran.stderr);
    // So it is by a machine that builds for itself.
    let settings = format!("extra-substituters = \"file:///root/cache\"; extra-{keys}");
    machines.write("there.nix", &text("there", &settings));
    let planned =
        machines.push("--plan --build-on here --hermetic there.nix", &json!({})).ok().record()["plan"].clone();
    let built = planned[0]["resource"].as_str().unwrap().replace("closure/", "/nix/store/");
    let realise = format!("nix-store --realise {}", planned[0]["details"]["build"][0]);
    let pack = "find cache -type f | while read -r file; do
        echo \"mkdir -p $(dirname $file); base64 -d > $file << END\"; base64 $file; echo END; done";
    let pack = format!("rm -r cache; {realise} >&2 && {} >&2 && {pack}", copy(&built));
    let unpack = machines.folder.sh(&pack, "").ok().stdout;
    machines.ssh(0, &format!("cd /root\n{unpack}")).ok();
    let ran = machines.push("-v --build-on machine --hermetic there.nix", &json!({})).ok();
    assert!(ran.stderr.contains(&format!("copying path '{built}' from 'file:///root/cache")), "{}", ran.stderr);
}

/// A store of 3 MiB in the place of this computer's; a quote ends the command.
const SMALL: &str = "unshare --mount bash -c 'mkdir -p nix && mount -t tmpfs -o size=3m none nix && mkdir nix/store && mount --bind nix /nix &&";

#[test]
fn what_is_missing_here_has_a_message_and_a_hint() {
    let folder = Folder::new("missing");
    tests::cloud();
    std::fs::write(folder.path().join("c.nix"), module("missing", "")).unwrap();
    std::fs::write(folder.path().join("bare.nix"), "{ }").unwrap();
    let large = "{ config.system.build.toplevel = derivation { name = \"nixos-system-large\"; system = \"x86_64-linux\"; builder = \"/bin/sh\";
        x = builtins.toFile \"x\" (builtins.concatStringsSep \"\" (builtins.genList toString 900000)); }; }";
    std::fs::write(folder.path().join("large.nix"), large).unwrap();
    for (command, kind, words) in [
        ("NIX_PATH= nix-push --plan c.nix", "evaluation", "--nixpkgs PATH"),
        (
            "nix-push --plan --expr '{ imports = [ <nixpkgs/nixos/amazon-imge.nix> ]; }'",
            "evaluation",
            "--find-file nixpkgs)?",
        ),
        ("nix-push --plan --expr '{ imports = [ <stable/x.nix> ]; }'", "evaluation", "with -I stable=PATH"),
        (
            "mkdir -p bin; ln -sf $(command -v nix-push) bin; PATH=$PWD/bin nix-push --plan c.nix",
            "not-found",
            "install Nix",
        ),
        ("nix-push --plan bare.nix", "evaluation", "amazon-image.nix"),
        (
            "mkdir old; printf '#!/bin/sh\n[ \"$1\" = --version ] && exec echo \"nix-instantiate (Nix) 2.2\"\necho no >&2; exit 1\n' \
             > old/nix-instantiate; chmod +x old/*; PATH=$PWD/old:$PATH nix-push --plan c.nix",
            "evaluation",
            "this computer's Nix is 2.2",
        ),
        (&format!("{SMALL} nix-push --plan --hermetic large.nix'"), "evaluation", "nix-collect-garbage"),
        ("nix-push --plan --hermetic nowhere.nix", "input", "nowhere.nix"),
        ("nix-push --plan --hermetic c.nix", "evaluation", "named without --hermetic"),
        ("nix-push --plan --hermetic bare.nix", "evaluation", "it is no NixOS system"),
        (
            "mkdir f; echo '{ outputs = _: { nixosConfigurations = { db = 1; web = 1; }; }; }' > f/flake.nix; nix-push --plan --flake f",
            "evaluation",
            "it has no nixosConfigurations.a; it has: db, web",
        ),
        ("git init -q f; nix-push --plan f#web", "evaluation", "git add"),
        ("nix-push --plan --flake nixpkgs", "input", "flake:nixpkgs"),
        ("nix-push --plan --flake path:bin/..", "evaluation", "is that the folder"),
        ("nix-push --plan --flake 'path:/a b'", "evaluation", "%20 for a space"),
        (
            "cp -r f 'f g'; rm -rf 'f g/.git'; nix-push --plan --flake 'f g'",
            "evaluation",
            "rename it, or make it a git repository",
        ),
        (
            "cd 'f g'; git init -q; git add .; git -c user.name=a -c user.email=a@b.org commit -qm a; echo >> flake.nix; nix-push --plan --flake .",
            "input",
            "commit them, or rename",
        ),
        (
            "echo '{ machine, ... }: { imports = [ machine.x ]; }' > m.nix; echo 'import <nixpkgs/nixos> { configuration = ./m.nix; }' > h.nix; nix-push --plan --hermetic h.nix",
            "evaluation",
            "does it use `machine`?",
        ),
    ] {
        let ran = folder.sh(command, r#"{"name":"a"}"#);
        let error = &ran.record()["error"];
        assert_eq!(error["kind"], kind, "{command}: {error}");
        assert!(error.to_string().contains(words), "{command}: {error}");
        let once = ran.stderr.matches(": evaluating ").count() < 2;
        assert!(once || !command.contains("flake"), "evaluated twice: {}", ran.stderr);
    }
}

#[test]
fn what_a_machine_needs_to_come_back_is_warned_of() {
    let folder = Folder::new("warned");
    tests::cloud();
    let image = "imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];";
    let version = "system.stateVersion = \"20.09\";";
    let record = |mode: &str| {
        format!(
            r#"{{"name":"a","ami":{{"id":"ami-0","name":null,"release":"25.11","region":"r","system":"x86_64-linux","type":"hvm-ebs","creationDate":null,"deprecationTime":null,"bootMode":"{mode}","source":"ec2"}}}}"#
        )
    };
    for (module, mode, words) in [
        (format!("{image} {version}"), "uefi", "say ec2.efi = true"),
        (format!("{image} {version} ec2.efi = true;"), "legacy-bios", "leave ec2.efi out"),
        (image.to_string(), "legacy-bios", "no system.stateVersion"),
        (
            format!("{version} fileSystems.\"/\".device = \"/dev/x\"; boot.loader.grub.device = \"/dev/x\";"),
            "legacy-bios",
            "no ssh server",
        ),
    ] {
        std::fs::write(folder.path().join("c.nix"), format!("{{ {module} }}")).unwrap();
        let ran = folder.sh("nix-push --plan --no-eval-cache c.nix", record(mode)).ok();
        assert!(ran.stderr.contains(words), "{words}\n{}", ran.stderr);
    }
    std::fs::write(folder.path().join("c.nix"), format!("{{ {image} {version} }}")).unwrap();
    let ran = folder.sh("nix-push --plan --no-eval-cache c.nix", record("legacy-bios")).ok();
    assert!(!ran.stderr.contains("the configuration") && !ran.stderr.contains("the image boots"), "{}", ran.stderr);
}
